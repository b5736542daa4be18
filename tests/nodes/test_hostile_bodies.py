"""Whatever is sent to our routes, and whatever lies in the folders that they read, the answer is a
word and no accident of the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cocktail.nodes.grid.engine.feed.fed_grid import FORMAT, Order
from cocktail.nodes.host.http import answer
from cocktail.trainer import notes
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.sharing import set_policy

from ..grid.drawn import Drawn, draw_grid, drawn_plan
from ..spoiled import ODD, spoiled
from .run_folders import ask_all, make_run

SPEC = Path(__file__).parents[2] / "web" / "openapi.json"
NAMES = (
    *("x", "..", "%2e%2e", "a%00b", "con", "%ff", "one", "x" * 100, "%F0%9F%98%80", "a%20b", "-1"),
)
ASKED = ("", "-1", "1e9", "\u0663", "9" * 30, "null", "x", "true", "NaN")
BODIES = (
    *(b"", b"{", b"[]", b"null", b"\xff"),
    *(b'{"a":' * 2000, b"[" * 100_000, b'{"a": NaN}', b"1" * 5000),
)
HEADERS = ({}, {"Content-Type": "application/json; charset=latin-99"}, {"Content-Type": "text/x"})
WORDS = (
    *("name", "plan", "workflow", "axes", "target", "values", "fixed", "rules", "output", "format"),
    *("servers", "in_flight", "save_as", "settings", "epochs", "step", "pinned", "title", "set"),
    *("prompts", "policy", "label", "key", "loras", "seed", "sampler", "recipe", "batch_size"),
    *("class_type", "inputs", "_meta", "labels", "search", "cells", "with_checkpoints"),
)
PLAN: dict[str, Any] = {
    "name": "hostile",
    "workflow": {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0},
        },
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    },
    "axes": [{"target": "1.color", "values": "1, 2"}],
}


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def odd(chance: random.Random, depth: int = 0) -> Any:
    """A JSON value that nobody would send by accident."""
    kind = chance.random()
    if depth < 4 and kind > 0.8:
        return [odd(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    if depth < 4 and kind > 0.5:
        names = (chance.choice(WORDS) for _ in range(chance.randint(0, 5)))
        return {name: odd(chance, depth + 1) for name in names}
    plain = (None, True, 0, -1, 1e308, 10**17, "", "../x", "\ud800", "a" * 5000, "\0", "*", "1-5")
    return chance.choice((*plain, deep(400), {"": None}, "[1]", "con", ".hidden"))


def mutated(chance: random.Random) -> dict[str, Any]:
    """A plan in which something is replaced, added or left out."""
    whole = place = json.loads(json.dumps(PLAN))
    while True:
        key = chance.choice([*place, "new"]) if isinstance(place, dict) else 0
        inner = place.get(key) if isinstance(place, dict) else place[key]
        if not (isinstance(inner, dict | list) and inner and chance.random() < 0.7):
            break
        place = inner
    if isinstance(place, dict) and chance.random() < 0.2:
        place.pop(key, None)
    else:
        place[key] = odd(chance)
    return whole


def status(comfy, path: str, body: bytes | None, headers: dict[str, str]) -> int:
    given = {"Content-Type": "application/json", **headers} if body is not None else {}
    request = urllib.request.Request(comfy.url + path, body, given)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("method", ["get", "post"])
def test_every_route_answers_hostile_requests_in_words(comfy, method):
    chance = random.Random(method)
    for path, operations in json.loads(SPEC.read_text(encoding="utf-8"))["paths"].items():
        for _ in range(5 if method in operations else 0):
            named = re.sub(r"\{[^}]*\}", lambda _: chance.choice(NAMES), path)
            query = urllib.parse.urlencode({chance.choice(WORDS): chance.choice(ASKED)})
            body = None
            if method == "post":
                sent = json.dumps(odd(chance)).encode()
                body = sent if chance.random() < 0.7 else chance.choice(BODIES)
            found = status(comfy, f"{named}?{query}", body, chance.choice(HEADERS))
            assert found < 500, (named, query, body)


def test_every_plan_that_is_a_little_wrong_is_answered_in_words(comfy):
    chance = random.Random(7)
    for _ in range(150):
        body = json.dumps({"plan": mutated(chance), "cells": True}).encode()
        assert status(comfy, "/cocktail/grids/plan", body, {}) < 500, body[:1000]


ROUNDS = 1000 if os.environ.get("COCKTAIL_ALL") else 60


def received(here: Path) -> list[Path]:
    """Folders of every kind, each named "one" and each with a sound one beside it; the files of
    "one" that routes read.
    """
    cocktail = here / "output" / "cocktail"
    for name in ("one", "sound"):
        run = make_run(here, name)
        notes.rename(run.folder, "title")
        set_policy(run, run.settings.sharing)
        (run.folder / "process.json").write_text('{"pid": 1, "started": 1.0, "device": "cpu"}')
        for step in (1, 2, 3):
            metrics = Lines(run.folder / "metrics.jsonl")
            place = {"epoch": step, "step": step, "time": float(step)}
            metrics.append({"kind": "step", **place, "loss": 1.0, "learning_rate_unet": 1e-6})
            metrics.append({"kind": "validation", **place, "loss": 0.5, "validation_loss": 0.5})
            metrics.append({"kind": "checkpoint", **place, "file": f"{name}.safetensors"})
            levels = {key: [0.9 / step, 0.5] for key in "bc"}
            pairs = {key: losses[0] for key, losses in levels.items()}
            line = {**place, "pairs": pairs, "levels": levels}
            Lines(run.folder / "validation.jsonl").append(line)
        store = cocktail / "grids" / name
        plan = replace(drawn_plan(checkpoints=2), name=name)
        failing = plan.cells[0].key
        draw_grid(plan, store, Drawn(fails=lambda cell, key=failing: cell.key == key))
        keys = [plan.cells[n].key for n in (1, 2)]
        vote = {"kind": "vote", "id": "1" * 32, "judge": "me", "shown": keys, "order": keys[:1]}
        Lines(store / "votes.jsonl").append({**vote, "bad": False, "time": 1.0})
        fed = {"format": FORMAT, **vars(Order(("this",), state="paused")), "plan": plan.to_json()}
        (store / "feed.json").write_text(json.dumps(fed))
        members = [
            {"run": run, "setting": setting, "value": value, "label": run}
            for run, setting, value in ((name, "", None), ("absent", "epochs", 3))
        ]
        sweep = {"format": 1, "base": "b", "dataset": "d", "settings": {}, "members": members}
        captions = {
            "format": 1,
            "id": "0" * 64,
            "settings": {"model": "m"},
            "dataset": {"name": "d"},
        }
        for kind, file, said in (("sweeps", "sweep", sweep), ("captions", "job", captions)):
            (cocktail / kind / name).mkdir(parents=True)
            (cocktail / kind / name / f"{file}.json").write_text(json.dumps(said))
    (cocktail / "captions" / "one" / "state.json").write_text('{"status": "stopped"}')
    kinds = (".json", ".jsonl", ".parquet")
    found = [path for path in cocktail.glob("*/one/**/*") if path.suffix in kinds]
    assert len(found) >= 15
    return sorted(found)


def every_get(names: dict[str, str]) -> list[str]:
    """The paths of all GET routes that only read folders."""
    asked = []
    for path, operations in json.loads(SPEC.read_text(encoding="utf-8"))["paths"].items():
        if "get" in operations and path not in ("/cocktail/devices", "/cocktail/view"):
            asked.append(re.sub(r"\{([^}]*)\}", lambda part: names[part[1]], path))
    queries = ("curve?x=epoch", "curve?x=time", "settings?compare=sound", "table?format=csv")
    return [
        *asked,
        *(f"/cocktail/runs/one/{query}" for query in (*queries, "table?format=markdown")),
        "/cocktail/runs/sound/settings?compare=one",
        "/cocktail/runs?deleted=true",
        "/cocktail/grids/one/votes/question?judge=me&count=4",
        "/cocktail/grids/one/votes/ranking?by=judge",
        "/cocktail/grids/one/states?after=1",
    ]


@pytest.mark.more_with_all("1000 damaged folders instead of 60")
def test_every_route_answers_in_words_whatever_lies_in_the_folders(here):
    chance, files = random.Random(11), received(here)
    key = next(here.glob("output/cocktail/grids/one/cells/*/*.png")).stem
    paths = every_get({"name": "one", "key": key, "id": "b"})
    sound = [path.replace("/one", "/sound") for path in paths if "/one" in path]
    sound += ["/cocktail/runs", "/cocktail/grids", "/cocktail/sweeps", "/cocktail/captions"]
    before = dict(zip(paths + sound, answers(paths + sound), strict=True))
    well = [path for path in sound if before[path] == 200]
    assert len(well) >= 18, before
    for turn in range(ROUNDS):
        file = files[turn % len(files)]
        kept = file.read_bytes()
        how = chance.random()
        if how < 0.85 and file.suffix != ".parquet":
            lines = kept.decode().splitlines() if file.suffix == ".jsonl" else [kept.decode()]
            at = chance.randrange(len(lines))
            spoilt = spoiled(chance, lines[at], chance.choice(ODD))
            lines[at] = " ".join(spoilt.split("\n")) if file.suffix == ".jsonl" else spoilt
            file.write_text("\n".join([*lines, ""]))
        else:
            file.unlink()
            pipe = how > 0.93 and hasattr(os, "mkfifo")
            os.mkfifo(file) if pipe else file.write_bytes(kept[: chance.randrange(len(kept))])
        told = dict(zip(paths + well, answers(paths + well), strict=True))
        wrong = {path: told[path] for path in paths if told[path] >= 500}
        wrong |= {path: told[path] for path in well if told[path] != 200}
        assert not wrong, (file, wrong, file.is_file() and file.read_bytes()[:3000])
        file.unlink()
        file.write_bytes(kept)


def answers(paths: list[str]) -> list[int]:
    return [status for status, _ in ask_all([("GET", path, None) for path in paths])]


def test_a_file_that_is_deleted_meanwhile_is_told_of_in_words(tmp_path):
    told = asyncio.run(answer((tmp_path / "state.json").read_bytes))
    assert told.status == 400 and "state.json is no longer there" in str(told.text)
