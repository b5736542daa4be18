"""ComfyUI's side of a shared device, without a ComfyUI: its queue, its models, the routes."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import write_json
from cocktail.trainer.jobs.device import device_name, device_title, training_device
from cocktail.trainer.jobs.job import LOCK, exclusive
from cocktail.trainer.jobs.lock import Lock
from cocktail.trainer.runs import State
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.sharing import requests
from cocktail.trainer.workers import Workers

from ..trainer.test_runs import make

if "cocktail.nodes.finetune" not in sys.modules:
    package = types.ModuleType("cocktail.nodes.finetune")
    package.__path__ = [str(Path(__file__).parents[2] / "nodes" / "finetune")]
    sys.modules["cocktail.nodes.finetune"] = package

from cocktail.nodes import supervisor
from cocktail.nodes.finetune import sharing_routes
from cocktail.nodes.host import sharing


class Prompts:
    """Stands in for ComfyUI's queue."""

    def __init__(self, running=(), queued=()) -> None:
        self.running, self.queued, self.flags = list(running), list(queued), {}

    def get_current_queue_volatile(self):
        return self.running, self.queued

    def set_flag(self, name, value):
        self.flags[name] = value


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A ComfyUI's folders; its models are counted when they are unloaded."""
    folder_paths = types.SimpleNamespace(
        get_output_directory=lambda: str(tmp_path),
        get_user_directory=lambda: str(tmp_path / "user"),
        get_folder_paths=lambda kind: [str(tmp_path / "models" / kind)],
        get_full_path=lambda kind, name: None,
    )
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths)
    unloaded = []
    management = types.SimpleNamespace(
        unload_all_models=lambda: unloaded.append("models"),
        soft_empty_cache=lambda: unloaded.append("cache"),
    )
    comfy = types.SimpleNamespace(__path__=[str(tmp_path)], model_management=management)
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setattr(sharing_routes, "training_device", lambda: "cpu")
    monkeypatch.setattr(sharing, "_unload", threading.Event())
    management.unloaded = unloaded
    return tmp_path / "cocktail"


@pytest.mark.parametrize(
    ("running", "queued", "waits", "expected"),
    [
        ([], [], False, False),
        ([], ["a"], False, True),
        (["a"], [], False, True),
        (["a"], ["b"], False, True),
        (["a"], [], True, False),
        (["a"], ["b"], True, False),
    ],
)
def test_a_prompt_that_only_waits_and_what_is_queued_behind_it_use_nothing(
    running, queued, waits, expected
):
    prompts = Prompts(running, queued)
    if not waits:
        assert sharing.uses_device(prompts) == expected
        return
    with sharing.only_waits(), sharing.only_waits():
        assert sharing.uses_device(prompts) == expected
    assert sharing.uses_device(prompts) != expected


def test_models_are_unloaded_by_comfyuis_own_thread_for_a_run_that_asks(here):
    run, prompts, answered = make(here / "runs"), Prompts(), {}
    request = requests(here / ".queue") / "one.json"
    write_json(request, {"device": "cuda:x", "bytes": 5})
    with exclusive(run):
        sharing.answer_requests(prompts, "cuda:other", answered)
        assert prompts.flags == {}
        sharing.answer_requests(prompts, "cuda:x", answered)
        assert prompts.flags == {"unload_models": True}
        prompts.flags.clear()
        sharing.answer_requests(prompts, "cuda:x", answered)
        assert prompts.flags == {}, "asked again at once"
        with sharing.only_waits():
            sharing.answer_requests(prompts, "cuda:x", {})
            management = sys.modules["comfy.model_management"]
            assert prompts.flags == {} and management.unloaded == []
            sharing.unload_if_asked()
            sharing.unload_if_asked()
            assert management.unloaded == ["models", "cache"]
    sharing.answer_requests(prompts, "cuda:x", {})
    assert prompts.flags == {} and not request.exists(), "a dead run's request stays"


def test_a_request_that_is_no_json_holds_up_nobody(here):
    prompts = Prompts()
    folder = requests(here / ".queue")
    folder.mkdir(parents=True)
    (folder / "bad.json").write_text("{")
    sharing.answer_requests(prompts, "cuda:x", {})
    assert prompts.flags == {}


def ask(here, *calls):
    """(status, answer) of each call: (method, path, body)."""

    async def go():
        table, app = web.RouteTableDef(), web.Application()
        sharing_routes.add(table)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as client:
            found = []
            for method, path, body in calls:
                answer = await client.request(method, path, json=body)
                found.append((answer.status, await answer.json()))
            return found

    return asyncio.run(go())


POLICY = "/cocktail/runs/one/policy"


def test_a_policy_is_changed_by_name_and_seen_with_the_devices(here, monkeypatch):
    listed = [{"name": "cuda:1", "total": 24, "free": 2}, {"name": "cuda:2", "total": 8, "free": 8}]
    monkeypatch.setattr(sharing, "devices", lambda: listed)
    run = make(here / "runs")
    lock = Lock(run.folder / LOCK)
    assert lock.take()
    run.write_state(State("running"))
    write_json(run.folder / "process.json", {"pid": 1, "started": 1.0, "device": "cuda:1"})
    calls = [
        ("POST", POLICY, {"policy": "polite", "idle_s": 1}),
        ("POST", POLICY, {"idle_s": 9.5}),
        ("GET", "/cocktail/devices", None),
    ]
    (first, told), (second, _), (third, devices) = ask(here, *calls)
    lock.let_go()
    assert (first, second, third) == (200, 200, 200) and told["name"] == "one"
    rest = {"leave_gb": None, "idle_s": None, "runs": []}
    one = {"run": "one", "policy": "polite", "leave_gb": 2.0, "idle_s": 9.5}
    assert devices["devices"] == [
        {**listed[0], **one, "runs": [one]},
        {**listed[1], "run": None, "policy": None, **rest},
    ]


def test_all_runs_on_a_device_are_named(here, monkeypatch):
    monkeypatch.setattr(sharing, "devices", lambda: [{"name": "cpu", "total": 2, "free": 1}])
    locks = []
    for name in ("one", "two"):
        run = make(here / "runs", name=name)
        locks.append(Lock(run.folder / LOCK))
        assert locks[-1].take()
        run.write_state(State("running"))
        write_json(run.folder / "process.json", {"pid": 1, "started": 1.0, "device": "cpu"})
    ((_, answer),) = ask(here, ("GET", "/cocktail/devices", None))
    for lock in locks:
        lock.let_go()
    (device,) = answer["devices"]
    assert device["run"] == "one" and [run["run"] for run in device["runs"]] == ["one", "two"]


def test_a_gpu_is_told_by_the_name_of_its_card(monkeypatch):
    cards = [SimpleNamespace(uuid=f"0000-{n}", name=f"Card {n}") for n in range(2)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert device_title(device_name("cuda", 1)) == device_title("cuda:0000-1") == "Card 1"
    assert (device_title("cpu"), device_title("cuda:elsewhere")) == ("CPU", "cuda:elsewhere")
    device_title.cache_clear()


def test_a_pytorch_that_is_too_old_to_train_is_refused_in_words(monkeypatch):
    monkeypatch.delattr(torch, "accelerator")
    for begin in (training_device, lambda: Workers(RunSettings())):
        with pytest.raises(TrainerError, match="needs PyTorch 2.6 or newer; this is .*Update"):
            begin()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"policy": "rude"}, 400, "must be one of exclusive, share, polite"),
        ({"policy": "polite", "idle_s": -1}, 400, "must be between"),
        ({"politeness": 1}, 400, "Unknown in the body: politeness"),
        ({"policy": "share", "leave_gb": 23}, 409, "Sharing leaves 23 of 24.0 GB to others"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_in_words(here, monkeypatch, body, status, words):
    device = {"name": "cpu", "total": 24 * 10**9, "free": 1}
    monkeypatch.setattr(sharing, "devices", lambda: [device])
    monkeypatch.setattr(supervisor, "places", lambda run: {"base": "base.safetensors"})
    shapes = {"model.diffusion_model.a": (1000, 500_000)}
    monkeypatch.setattr(sharing_routes, "read_shapes", lambda path: shapes)
    make(here / "runs")
    ((found, answer),) = ask(here, ("POST", POLICY, body))
    assert found == status and words in answer["error"]


def test_a_finished_run_shares_nothing(here):
    make(here / "runs").write_state(State("finished"))
    calls = [("POST", POLICY, {"policy": "polite"}), ("POST", POLICY.replace("one", "two"), {})]
    (one, two) = ask(here, *calls)
    assert one[0] == 409 and "finished" in one[1]["error"]
    assert two[0] == 404
