"""Run folders without training: identity, names, paths and what is asked of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cocktail.trainer.checkpoints import prune_checkpoints
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.job import LockLost, exclusive
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.jobs.queue import Kind, Queue
from cocktail.trainer.journal import Journal
from cocktail.trainer.runs import Base, Paths, Run, create_run, run_identity
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


def queue_of(runs_dir: Path) -> Queue:
    return Queue(runs_dir / ".queue", [Kind("run", runs_dir, "run.json", "run", Run.open)])


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


def test_a_run_that_waits_knows_how_many_epochs_it_will_have(tmp_path):
    run, queue = make(tmp_path), queue_of(tmp_path)
    queue.put("run", run, "cpu")
    assert (run.state().status, run.state().epochs) == ("queued", RunSettings().epochs)
    assert run.state().queued_at > 0


def test_a_run_is_started_with_the_paths_of_whoever_queues_it_not_those_in_its_folder(
    tmp_path, monkeypatch
):
    make(tmp_path)
    value = json.loads((tmp_path / "one" / "run.json").read_text(encoding="utf-8"))
    value["paths"] = {name: "/elsewhere" for name in value["paths"]}
    value["base"]["path"] = "/elsewhere/base.safetensors"
    (tmp_path / "one" / "run.json").write_text(json.dumps(value), encoding="utf-8")
    run, started = make(tmp_path), []
    monkeypatch.setattr(
        "cocktail.trainer.jobs.process.launch",
        lambda folder, lock, own_lock, *command: started.append((folder, *command)),
    )
    queue = queue_of(tmp_path)
    queue.put("run", run, "cpu", run.arguments())
    queue.tick()
    ((folder, command, arguments),) = started
    assert (folder, command) == (tmp_path / "one", "run")
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given == {
        "--base": BASE.path,
        "--checkpoints": str(Path(PATHS.checkpoints) / "one"),
        "--tokenizer": PATHS.tokenizer,
        "--cache": PATHS.cache,
    }


def test_only_plain_names_in_the_metrics_are_checkpoints(tmp_path):
    run = make(tmp_path / "runs").at({"checkpoints": str(tmp_path / "checkpoints")})
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/a.safetensors", "outside.safetensors"):
        (tmp_path / name).write_bytes(b"")
    for step, name in enumerate(("a.safetensors", "../outside.safetensors", 5, None)):
        line = {"kind": "checkpoint", "epoch": 1, "step": step, "file": name}
        Lines(run.folder / "metrics.jsonl").append(line)
    assert [saved.file.name for saved in run.checkpoints()] == ["a.safetensors"]
    run = dataclasses.replace(run, settings=RunSettings.from_json({"saving": {"keep_last": 1}}))
    prune_checkpoints(run)
    assert (tmp_path / "outside.safetensors").exists()


def test_lines_without_their_fields_are_no_validations_and_no_metrics(tmp_path):
    run = make(tmp_path)
    sound = {"kind": "validation", "epoch": 1, "step": 2, "loss": 0.5}
    for line in (sound, {}, {"kind": "validation"}, {**sound, "step": []}, {**sound, "kind": []}):
        Lines(run.folder / "metrics.jsonl").append(line)
    pairs = {"epoch": 1, "step": 2, "pairs": {"a": 0.5}}
    for line in (pairs, {}, {**pairs, "step": "2"}, *({**pairs, "pairs": p} for p in ({}, [], 1))):
        Lines(run.folder / "validation.jsonl").append(line)
    assert run.metrics() == [sound] and run.validations() == [pairs]
    assert run.checkpoints() == []


def test_a_run_in_a_folder_of_another_name_cannot_be_opened(tmp_path):
    folder = make(tmp_path).folder.rename(tmp_path / "other")
    with pytest.raises(TrainerError, match="The folder other holds the run one"):
        Run.open(folder)


def test_a_request_is_taken_once_and_an_unknown_one_refused(tmp_path):
    run = make(tmp_path)
    run.request("save")
    assert run.take_request() == "save"
    assert run.take_request() is None
    with pytest.raises(TrainerError, match="a run understands: stop, save"):
        run.request("format the disk")


def test_a_poll_of_metrics_reads_what_is_new(tmp_path):
    run = make(tmp_path)
    file = Lines(run.folder / "metrics.jsonl")
    assert run.metrics_from(0).lines == []
    file.append({"kind": "step", "step": 1})
    first = run.metrics_from(0)
    file.append({"kind": "step", "step": 2})
    assert [line["step"] for line in run.metrics_from(first.next).lines] == [2]


def test_a_training_whose_folder_was_taken_over_records_nothing_more(tmp_path):
    run = make(tmp_path)
    with exclusive(run) as lock:
        journal = Journal(run, lock)
        journal.record("step", 1, 1, loss=0.5)
        (run.folder / "process.lock").unlink()
        before = {file: file.read_bytes() for file in run.folder.rglob("*.json*")}
        with pytest.raises(LockLost):
            journal.record("step", 1, 2, loss=0.5)
        with pytest.raises(LockLost):
            journal.update(status="running")
        journal.close()
    assert {file: file.read_bytes() for file in run.folder.rglob("*.json*")} == before
