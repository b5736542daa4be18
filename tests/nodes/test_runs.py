"""The life of a run in ComfyUI: it goes on without the page, the prompt and the server."""

from __future__ import annotations

import json
import shutil
import time

import psutil
import pytest

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.runs import Base, Paths, State, create_run

from ..comfy import ComfyError
from ..trainer.conftest import make_tiny_base
from .graphs import QUICK, fine_tune

PAIR = {"image": "a.png", "image_hash": "0" * 64, "width": 64, "height": 64, "caption": "a"}
LONG, COUNT = 12, 8
"""Epochs and pairs of a run that a test interferes with."""


@pytest.fixture(scope="module")
def base(comfy):
    """The name of a checkpoint that trains in no time."""
    file = comfy.base / "models" / "checkpoints" / "tiny-runs.safetensors"
    yield make_tiny_base(file, 1).name
    file.unlink()


def training(base, name, **settings):
    """Fine-tune the tiny checkpoint."""
    graph = fine_tune(
        name, COUNT, **{"batch_size": 4, "epochs": LONG, "save_every_epochs": LONG, **settings}
    )
    graph["base"]["inputs"]["checkpoint"] = base
    return graph


def run_of(comfy, name):
    return comfy.get(f"/cocktail/runs/{name}")


def wait_until(comfy, name, reached, timeout=600):
    """The run once `reached(run)`; polls, because a run's state is a file that another process
    writes.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        known = {run["name"]: run for run in comfy.get("/cocktail/runs")["runs"]}
        if name in known and reached(known[name]):
            return known[name]
        time.sleep(0.1)
    pytest.fail(f"{name} did not get there: {known.get(name)}")


def folder_of(comfy, name):
    return comfy.base / "output" / "cocktail" / "runs" / name


def noted_pid(comfy, name):
    return json.loads((folder_of(comfy, name) / "process.json").read_text(encoding="utf-8"))["pid"]


def held(comfy, name, step):
    """The process of a run, suspended at the end of a step: however slow a test is, the run is not
    at its end before `resume()`.
    """
    file = folder_of(comfy, name) / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not file.exists() or file.read_bytes().count(b'"kind": "step"') < step:
        assert time.monotonic() < deadline, comfy.log_tail()
        time.sleep(0.005)
    process = psutil.Process(noted_pid(comfy, name))
    process.suspend()
    assert run_of(comfy, name)["status"] == "running", "it was too fast to be held"
    return process


def test_a_run_outlives_interrupt_and_a_restart_of_comfyui(comfy, base):
    graph = training(base, "outlives")
    prompt = comfy.queue(graph)
    process = held(comfy, "outlives", 2)
    comfy.interrupt()
    with pytest.raises(ComfyError, match="interrupted"):
        comfy.wait(prompt)
    comfy.restart()
    assert process.is_running() and process.status() == psutil.STATUS_STOPPED
    process.resume()
    started = run_of(comfy, "outlives")["step"]
    outputs = comfy.run(graph)
    assert outputs["wait"]["cocktail"][0]["status"] == "finished"
    assert noted_pid(comfy, "outlives") == process.pid, "the process of the first queue did it all"
    metrics = comfy.get("/cocktail/runs/outlives/metrics")
    steps = [line["step"] for line in metrics["lines"] if line["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)) and started <= len(steps)
    after = f"/cocktail/runs/outlives/metrics?after={metrics['next']}"
    assert comfy.get(after) == {"lines": [], "next": metrics["next"]}
    files = run_of(comfy, "outlives")["checkpoints"]
    assert outputs["pick"]["cocktail"][0]["checkpoint"].replace("\\", "/") in {
        f"cocktail/outlives/{saved['file']}" for saved in files
    }
    other = training(base, "outlives", epochs=LONG - 1)
    with pytest.raises(ComfyError) as error:
        comfy.run(other)
    assert error.value.nodes.keys() == {"run"}
    assert "taken by another run (epochs 12 there, 11 here)" in str(error.value)


def test_runs_take_turns_and_a_stopped_or_killed_one_goes_on_when_queued_again(comfy, base):
    first = training(base, "first")
    second = training(base, "second", seed=9, epochs=1)
    prompt = comfy.queue(first)
    process = held(comfy, "first", 2)
    only = {key: second[key] for key in second if key not in ("wait", "pick")}
    queued = comfy.queue(only)
    comfy.post("/cocktail/runs/first/stop", {})
    process.resume()
    with pytest.raises(ComfyError, match="was stopped at step"):
        comfy.wait(prompt)
    comfy.wait(queued)
    wait_until(comfy, "second", lambda run: run["status"] == "finished")
    stopped_at = run_of(comfy, "first")["step"]
    prompt = comfy.queue(first)
    held(comfy, "first", stopped_at + 1).kill()
    with pytest.raises(ComfyError, match="was interrupted at step"):
        comfy.wait(prompt)
    assert comfy.run(first)["wait"]["cocktail"][0]["status"] == "finished"


def test_a_damaged_run_and_one_from_elsewhere_are_listed_and_stop_no_route(comfy):
    runs = comfy.base / "output" / "cocktail" / "runs"
    for name, state in (("damaged", "stopped"), ("received", "queued")):
        create_run(
            runs,
            name,
            Base("base.safetensors", "base.safetensors", "0" * 64),
            Dataset(
                "few",
                "x",
                (Pair(id="a", split="train", **PAIR), Pair(id="b", split="validation", **PAIR)),
            ),
            QUICK,
            Paths("checkpoints", "tokenizer", "cache"),
        ).write_state(State(state))
    (runs / "damaged" / "run.json").write_text('{"format": 1, "name": "dam')
    try:
        known = {run["name"]: run for run in comfy.get("/cocktail/runs")["runs"]}
        assert (known["damaged"]["status"], known["received"]["status"]) == (
            "unreadable",
            "stopped",
        )
        assert "run.json of damaged is damaged" in known["damaged"]["message"]
        assert "not queued on this ComfyUI" in known["received"]["message"]
        one = run_of(comfy, "damaged")
        assert (one["status"], one["checkpoints"]) == ("unreadable", [])
        assert "is damaged" in comfy.post("/cocktail/runs/damaged/stop", {})["error"]
    finally:
        for name in ("damaged", "received"):
            shutil.rmtree(runs / name)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/cocktail/runs/nothing/stop", "no run named nothing"),
        ("/cocktail/runs/..%2f..%2fx/stop", "cannot name a run"),
    ],
)
def test_a_route_takes_names_of_runs_only(comfy, path, words):
    assert words in comfy.post(path, {})["error"]


def test_a_change_needs_a_json_object(comfy):
    assert "JSON object" in comfy.post("/cocktail/runs/nothing/stop", [])["error"]
