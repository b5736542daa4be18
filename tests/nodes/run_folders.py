"""Run folders made by code, and the pack's routes asked without a ComfyUI."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.files import sha256_file
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import Base, Paths, Run, State, create_run
from cocktail.trainer.settings.run_settings import RunSettings

DEVICE = {"name": "cpu", "title": "CPU", "total": 2, "free": 1}
HTML = "<img src=x onerror=alert(1)> 🍸"


class Anything:
    """Stands for ComfyUI's `io`: each of its names is a class that takes everything."""

    def __getattr__(self, name: str) -> type:
        def take(self: object, *arguments: object, **options: object) -> None:
            pass

        made = type(name, (), {"__init__": take, "Input": type("Input", (), {"__init__": take})})
        made.Output = made.Input
        setattr(self, name, made)
        return made


def pretend_comfyui(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pack find a ComfyUI's folders below `folder`, with a checkpoint base.safetensors that
    is none. Nothing is started.
    """
    checkpoints = folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "base.safetensors").write_bytes(b"weights")

    def full_path(kind: str, name: str) -> str | None:
        path = folder / "models" / kind / name
        return str(path) if path.is_file() else None

    folder_paths = types.SimpleNamespace(
        get_output_directory=lambda: str(folder / "output"),
        get_user_directory=lambda: str(folder / "user"),
        get_temp_directory=lambda: str(folder / "temp"),
        get_input_directory=lambda: str(folder / "input"),
        get_folder_paths=lambda kind: [str(folder / "models" / kind)],
        get_filename_list=lambda kind: [],
        get_full_path=full_path,
        models_dir=str(folder / "models"),
        base_path=str(folder),
        folder_names_and_paths={},
    )
    comfy = types.ModuleType("comfy")
    comfy.__path__ = [str(folder)]
    samplers = types.ModuleType("comfy.samplers")
    samplers.KSampler = types.SimpleNamespace(SAMPLERS=["euler"], SCHEDULERS=["normal"])
    comfy.samplers = samplers
    latest = types.SimpleNamespace(io=Anything(), ui=Anything(), ComfyExtension=object)
    for name, module in {
        "folder_paths": folder_paths,
        "comfy": comfy,
        "nodes": types.SimpleNamespace(NODE_CLASS_MAPPINGS={}),
        "comfy.samplers": samplers,
        "comfy_api": types.SimpleNamespace(latest=latest),
        "comfy_api.latest": latest,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    from cocktail.nodes import supervisor
    from cocktail.nodes.host import sharing

    monkeypatch.setattr(sharing, "devices", lambda: [DEVICE])
    monkeypatch.setattr(supervisor, "check_sd15", lambda path: None)
    monkeypatch.setattr(supervisor, "watch", lambda: None)
    monkeypatch.setattr(supervisor, "training_device", lambda: "cpu")


def make_run(here: Path, name: str = "one", status: str = "stopped", **settings: Any) -> Run:
    """A run of that status, with settings over the defaults and four epochs."""

    def pair(key: str, split: str) -> Pair:
        return Pair(key, f"{key}.png", key * 64, 64, 64, HTML, split=split)

    pairs = (pair("a", "train"), pair("b", "validation"), pair("c", "validation"))
    base = here / "models" / "checkpoints" / "base.safetensors"
    run = create_run(
        here / "output" / "cocktail" / "runs",
        name,
        Base("base.safetensors", str(base), sha256_file(base)),
        Dataset("few", "x", pairs),
        RunSettings.from_json({"epochs": 4, **settings}),
        Paths(str(here / "models" / "checkpoints" / "cocktail"), "tokenizer", "cache"),
    )
    run.write_state(State(status))
    return run


def with_checkpoints(run: Run, *epochs: int) -> None:
    """Give a run checkpoints of these epochs, of ten steps each."""
    folder = Path(run.paths.checkpoints)
    folder.mkdir(parents=True)
    for epoch in epochs:
        name = f"{run.name}-e{epoch:03d}-s{epoch * 10:06d}.safetensors"
        os.link(run.base.path, folder / name)
        Lines(run.folder / "metrics.jsonl").append(
            {"kind": "checkpoint", "epoch": epoch, "step": epoch * 10, "time": 0.0, "file": name}
        )


def ask(method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict]:
    """Status and JSON of an answer of the pack's routes."""
    (answered,) = ask_all([(method, path, body)], **headers)
    return answered


def ask_all(requests: Iterable[tuple[str, str, object]], **headers: str) -> list[tuple[int, Any]]:
    """Status and JSON of every answer of the pack's routes, asked one after another. NaN and the
    infinities are no JSON. A POST without a body gets {}; bytes are sent as they are.
    """
    from cocktail.nodes import routes

    def constant(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    async def all_of_them() -> list[tuple[int, Any]]:
        table, app, answers = web.RouteTableDef(), web.Application(), []
        routes.add(table)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as client:
            for method, path, body in requests:
                options = {"data": body, "headers": headers} if isinstance(body, bytes) else {}
                if not options and method == "POST":
                    options = {"json": {} if body is None else body}
                answer = await client.request(method, URL(path, encoded=True), **options)
                text = (await answer.read()).decode(errors="replace")
                is_json = answer.content_type == "application/json"
                value = json.loads(text, parse_constant=constant) if is_json else text
                answers.append((answer.status, value))
        return answers

    return asyncio.run(all_of_them())


def get(path: str) -> dict:
    """The JSON of a GET that is answered."""
    status, value = ask("GET", path)
    assert status == 200, value
    return value


def post(path: str, body: object = None, status: int = 200) -> dict:
    """The JSON of a POST, {} by default, that is answered with this status."""
    found, value = ask("POST", path, body)
    assert found == status, value
    assert status == 200 or set(value) == {"error"}
    return value
