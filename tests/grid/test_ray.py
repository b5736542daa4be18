"""Grids on a Ray cluster of this machine: two ComfyUIs that Ray keeps, whatever dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy
import psutil
import pytest

from cocktail.nodes.grid.engine.feed.ray_cluster import inherited

from ..comfy import Comfy
from .feeding import alone, axis, cell_pixels, ended, feed, plan_of
from .grids import folder_of, wait_for


@pytest.fixture
def settings(comfy: Comfy) -> Iterator[Any]:
    """Writes servers.json of the session's server."""
    file = comfy.base / "user" / "cocktail" / "servers.json"
    file.parent.mkdir(exist_ok=True)

    def write(**ray: Any) -> None:
        file.write_text(json.dumps({"ray": ray}))

    yield write
    file.unlink()


def ray_processes(comfy: Comfy, words: str) -> list[psutil.Process]:
    """The processes below the server that have these words in their command line."""
    found = []
    for process in psutil.Process(comfy.process.pid).children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def comfyuis(comfy: Comfy) -> list[psutil.Process]:
    return ray_processes(comfy, "cocktail-ray-")


@pytest.mark.only_all
def test_a_grid_on_two_workers_of_which_one_is_killed_is_the_undisturbed_one(
    comfy, workflow, settings
):
    settings(workers=2)
    plan = plan_of("ray", workflow, axis("KSampler.seed", "14 seeds"), axis("KSampler.cfg", 2, 5))
    folder = folder_of(comfy.base, "ray")
    answer = comfy.post("/cocktail/grids", {"plan": plan, "servers": "ray"})
    assert [*answer["servers"]] == ["Ray worker 1", "Ray worker 2"], answer

    def finished() -> list[str]:
        file = folder / "cells.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["key"] for line in lines if '"finished"' in line]

    # Every port of this Ray is on the loopback interface.
    wait_for(lambda: len(finished()) >= 2)
    below = psutil.Process(comfy.process.pid).children(recursive=True)
    ports = [c.laddr.ip for p in below for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert ports and {ip.removeprefix("::ffff:") for ip in ports} == {"127.0.0.1"}

    # The worker is killed, and later the ComfyUI of one: Ray has both started again, and repeats
    # what was out.
    for victims in (lambda: ray_processes(comfy, "ray::RayWorker"), lambda: comfyuis(comfy)):
        count = len(finished())
        wait_for(lambda count=count: len(finished()) >= count + 2)
        old = comfyuis(comfy)
        victim = wait_for(victims)[0]
        victim.kill()
        wait_for(lambda old=old: not all(process.is_running() for process in old))
    assert (found := ended(comfy, "ray"))["state"] == "finished", found
    assert (found["finished"], found["failed"]) == (28, 0)
    assert len(finished()) == len(set(finished())) == 28
    made = cell_pixels(comfy, "ray")
    for label in (next(iter(made)), [*made][-1]):
        seed, cfg = (float(words.split()[-1]) for words in label)
        by_hand = alone(comfy, workflow, {"5.seed": int(seed), "5.cfg": cfg})
        assert numpy.array_equal(made[label], by_hand)
    # With the grid its cluster has ended.
    wait_for(lambda: not ray_processes(comfy, "ray") and not comfyuis(comfy))

    # It is the same grid: what is there is not rendered again, wherever it is queued.
    assert feed(comfy, plan)["finished"] == 28 and len(finished()) == 28


@pytest.mark.only_all
def test_a_grid_that_is_cancelled_on_ray_goes_on_without_it(comfy, workflow, settings):
    settings(workers=1, gpus=0)
    workflow["5"]["inputs"]["steps"] = 8
    plan = plan_of("ray-cancelled", workflow, axis("KSampler.seed", "6 seeds"))
    comfy.post("/cocktail/grids", {"plan": plan, "servers": ["ray"]})
    wait_for(lambda: comfy.get("/cocktail/grids/ray-cancelled/feed")["finished"] >= 1)
    comfy.post("/cocktail/grids/ray-cancelled/cancel", {})
    stands = ended(comfy, "ray-cancelled")
    assert stands["state"] == "cancelled" and 1 <= stands["finished"] < 6 and not stands["failed"]
    wait_for(lambda: not comfyuis(comfy))
    assert feed(comfy, plan)["finished"] == 6


@pytest.mark.parametrize(
    ("ray", "words"),
    [
        ({"gpus": 1}, '"workers", the number of ComfyUIs'),
        ({"workers": 0}, 'workers of "ray" cannot be 0'),
        ({"workers": True}, 'workers of "ray" cannot be True'),
        ({"workers": 1, "gpus": -1}, 'gpus of "ray" cannot be -1'),
        ({"workers": 1, "arguments": "--cpu"}, 'arguments of "ray" cannot be'),
        ({"workers": 1, "adress": "x"}, "has no setting 'adress', only workers, address"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_are_named(comfy, workflow, settings, ray, words):
    settings(**ray)
    plan = plan_of("refused", workflow, axis("KSampler.cfg", 1))
    assert words in comfy.post("/cocktail/grids", {"plan": plan, "servers": "ray"})["error"]
    assert not folder_of(comfy.base, "refused").exists()


def test_without_the_owners_word_there_is_no_cluster(comfy, workflow):
    plan = plan_of("refused", workflow, axis("KSampler.cfg", 1))
    for servers in ("ray", ["this", "ray"]):
        answer = comfy.post("/cocktail/grids", {"plan": plan, "servers": servers})
        assert "No Ray cluster is allowed" in answer["error"]


@pytest.mark.parametrize(
    ("ray", "words"),
    [
        pytest.param(
            {"comfyui": "/nowhere"},
            "there is no ComfyUI in /nowhere on ",
            marks=pytest.mark.only_all,
        ),
        pytest.param(
            {"arguments": ["--no-such-switch"]},
            "unrecognized arguments: --no-such-switch",
            marks=pytest.mark.only_all,
        ),
        ({"address": "127.0.0.1:9"}, "Nothing answers at 127.0.0.1:9, the address of the Ray"),
        ({"address": "http://x"}, "'http://x' is not the address of a Ray cluster"),
        ({"address": "auto"}, "Could not find any running Ray instance"),
    ],
)
def test_a_cluster_that_cannot_work_stops_the_grid_with_the_reason(
    comfy, workflow, settings, ray, words
):
    settings(workers=1, **ray)
    plan = plan_of("ray-stopped", workflow, axis("KSampler.cfg", 1, 2))
    comfy.post("/cocktail/grids", {"plan": plan, "servers": "ray"})
    stands = ended(comfy, "ray-stopped")
    assert stands["state"] == "stopped" and not stands["finished"]
    assert stands["message"].startswith("2 cells are left: ") and words in stands["message"]
    assert words in stands["servers"]["Ray worker 1"]


def test_workers_get_the_arguments_of_this_comfyui_but_not_its_place():
    argv = [
        "--cpu",
        "--port",
        "8190",
        "--listen",
        "0.0.0.0,::",
        "--base-directory",
        "D",
        "--auto-launch",
        "--port=1",
    ]
    assert inherited(argv) == ["--cpu", "--base-directory", "D"]
