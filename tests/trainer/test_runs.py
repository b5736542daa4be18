"""Run folders and the queue, without training: identity, names, and what happens when a process is
gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs import process, queue
from cocktail.trainer.runs import Base, Paths, Run, create_run, list_runs, run_identity
from cocktail.trainer.settings.run_settings import RunSettings


def pair(number: int, split: str = "train") -> Pair:
    return Pair(
        f"id{number}", f"{number}.png", f"{number:064x}", 64, 64, f"caption {number}", 1.0, split
    )


DATASET = Dataset("few", "somewhere", (pair(1), pair(2), pair(3, "validation")))
PATHS = Paths("checkpoints", "tokenizer", "cache")
BASE = Base("base.safetensors", "base.safetensors", "a" * 64)


def make(runs_dir, name="one", settings=None, dataset=DATASET, base=BASE) -> Run:
    return create_run(runs_dir, name, base, dataset, settings or RunSettings(), PATHS)


def test_the_same_run_is_opened_again_and_not_made_twice(tmp_path):
    first = make(tmp_path)
    written = (tmp_path / "one" / "run.json").stat().st_mtime_ns
    assert make(tmp_path) == first
    assert (tmp_path / "one" / "run.json").stat().st_mtime_ns == written
    assert first.dataset().fingerprint == DATASET.fingerprint


def test_a_run_without_a_name_is_named_by_its_identity(tmp_path):
    run = make(tmp_path, name="")
    assert run.name == f"run-{run.id[:12]}"
    assert run.id == run_identity(BASE.sha256, DATASET.fingerprint, RunSettings())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": RunSettings(epochs=9)}, "epochs 10 there, 9 here"),
        (
            {"settings": RunSettings.from_json({"loss": {"min_snr_gamma": 5.0}})},
            "loss.min_snr_gamma 0.0 there, 5.0 here",
        ),
        (
            {"dataset": Dataset("few", "x", (pair(1), pair(4), pair(3, "validation")))},
            "other pairs",
        ),
        ({"base": Base("other.safetensors", "x", "b" * 64)}, "its base is base.safetensors"),
    ],
)
def test_a_taken_name_is_refused_with_what_differs(tmp_path, change, words):
    make(tmp_path)
    with pytest.raises(TrainerError, match=words):
        make(tmp_path, **change)


@pytest.mark.parametrize("name", ["..", "a/b", "a\\b", ".hidden", "x" * 65, "a b", "c:"])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(TrainerError, match="cannot name a run"):
        make(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_a_split_without_pairs_on_one_side_is_refused(tmp_path, missing):
    pairs = tuple(p for p in DATASET.pairs if p.split != missing)
    with pytest.raises(TrainerError, match="no pair"):
        make(tmp_path, dataset=Dataset("few", "somewhere", pairs))


def test_a_run_of_a_newer_format_is_refused(tmp_path):
    run = make(tmp_path)
    value = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    (run.folder / "run.json").write_text(json.dumps(value | {"format": 2}), encoding="utf-8")
    with pytest.raises(TrainerError, match="newer Cocktail"):
        Run.open(run.folder)


def test_the_run_queued_first_is_started_and_the_next_waits(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(queue, "start", lambda run: started.append(run.name))
    monkeypatch.setattr(queue, "is_alive", lambda run: run.name in started)
    for name in ("b", "a"):
        queue.enqueue(make(tmp_path, name))
    queue.tick(tmp_path)
    queue.tick(tmp_path)
    assert started == ["b"]
    assert {run.name: run.state().status for run in list_runs(tmp_path)} == {
        "a": "queued",
        "b": "preparing",
    }


def test_a_run_whose_process_is_gone_becomes_interrupted_and_can_be_queued_again(tmp_path):
    run = make(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    process.record(run, gone.pid)
    gone.wait()
    run.write_state(dataclasses.replace(run.state(), status="running", step=5))
    queue.tick(tmp_path)
    assert run.state().status == "interrupted" and run.state().step == 5
    queue.enqueue(run)
    assert run.state().status == "queued"


def test_a_pid_that_was_given_to_another_process_is_not_the_runs(tmp_path):
    run = make(tmp_path)
    process.record(run, os.getpid())
    assert process.is_alive(run)
    noted = json.loads((run.folder / "process.json").read_text(encoding="utf-8"))
    (run.folder / "process.json").write_text(
        json.dumps(noted | {"started": noted["started"] - 60}), encoding="utf-8"
    )
    assert not process.is_alive(run)


def test_a_request_is_taken_once_and_an_unknown_one_refused(tmp_path):
    run = make(tmp_path)
    run.request("stop")
    assert run.take_request() == "stop"
    assert run.take_request() is None
    with pytest.raises(TrainerError, match="Unknown command"):
        run.request("format the disk")
