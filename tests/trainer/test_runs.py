"""Run folders without training: identity, names, paths and what is asked of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cocktail.trainer.checkpoints import checkpoint_file, prune_checkpoints
from cocktail.trainer.data.buckets import batches
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.job import LockLost, exclusive
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.jobs.lock import is_held
from cocktail.trainer.jobs.queue import Kind, Queue
from cocktail.trainer.journal import Journal
from cocktail.trainer.notes import pin, unchanged
from cocktail.trainer.optim.optimizers import optimizer_settings
from cocktail.trainer.optim.schedules import rate_factor
from cocktail.trainer.runs import Base, Paths, Run, create_run, extend, list_runs, run_identity
from cocktail.trainer.settings.groups import SCHEDULES
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


@pytest.mark.parametrize("epochs", [9, 10])
def test_two_that_make_a_run_of_one_name_at_once_get_one_run_or_a_refusal(
    tmp_path, monkeypatch, epochs
):
    save = Dataset.save

    def meanwhile(dataset, path):
        monkeypatch.setattr(Dataset, "save", save)
        make(tmp_path, settings=RunSettings(epochs=9))
        save(dataset, path)

    monkeypatch.setattr(Dataset, "save", meanwhile)
    if epochs == 9:
        assert make(tmp_path, settings=RunSettings(epochs=9)).settings.epochs == 9
    else:
        with pytest.raises(TrainerError, match="other pairs"):
            make(tmp_path, dataset=Dataset("few", "x", (pair(1), pair(3, "validation"))))
    assert Run.open(tmp_path / "one").settings.epochs == 9
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


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


def weighing(weight: float) -> Dataset:
    pairs = (dataclasses.replace(pair(n), weight=weight) for n in range(8))
    return dataclasses.replace(DATASET, pairs=(*pairs, pair(9, "validation")))


def test_a_run_whose_epochs_show_no_pair_is_refused(tmp_path):
    few = RunSettings(epochs=1)
    seeds = [s for s in range(20) if not shows(weighing(0.05), dataclasses.replace(few, seed=s))]
    seed = dataclasses.replace(few, seed=seeds[0])
    with pytest.raises(TrainerError, match=r"no step: .* 8 pairs to train on have 0\.4 altogether"):
        make(tmp_path, settings=seed, dataset=weighing(0.05))
    with pytest.raises(TrainerError, match="no step"):
        make(tmp_path, dataset=weighing(0.0))
    assert list(tmp_path.iterdir()) == []
    longer = dataclasses.replace(seed, epochs=1000)
    make(tmp_path, settings=longer, dataset=weighing(0.05))


def shows(dataset: Dataset, settings: RunSettings) -> bool:
    weights = {pair.id: pair.weight for pair in dataset.train}
    plans = [
        batches(dict.fromkeys(weights, (64, 64)), 2, settings.seed, epoch, weights)
        for epoch in range(settings.epochs)
    ]
    return any(plans)


def test_a_run_of_a_newer_format_is_refused(tmp_path):
    run = make(tmp_path)
    value = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    (run.folder / "run.json").write_text(json.dumps(value | {"format": 2}), encoding="utf-8")
    with pytest.raises(TrainerError, match="newer Cocktail"):
        Run.open(run.folder)
    for wrong in ({"format": None}, {"format": "2"}, {"format": 0}):
        (run.folder / "run.json").write_text(json.dumps(value | wrong), encoding="utf-8")
        with pytest.raises(TrainerError, match="is damaged: its format is"):
            Run.open(run.folder)
    (run.folder / "run.json").unlink()
    with pytest.raises(TrainerError, match="run.json is missing"):
        Run.open(run.folder)


def test_a_run_that_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    make(tmp_path)
    read, reads = Run.read, []
    monkeypatch.setattr(Run, "read", lambda folder: reads.append(folder.name) or read(folder))
    for _ in range(3):
        (run,) = list_runs(tmp_path)
    assert len(reads) <= 1, reads
    extend(run, RunSettings().epochs + 1)
    assert Run.open(run.folder).settings.epochs == RunSettings().epochs + 1
    (run.folder / "run.json").write_text("{")
    with pytest.raises(TrainerError, match="damaged"):
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
    ((folder, command, arguments, _),) = started
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


def test_nothing_can_be_pinned_between_the_look_of_the_pruner_and_its_deletion(
    tmp_path, monkeypatch
):
    paths = Paths(str(tmp_path / "checkpoints"), "tokenizer", "cache")
    settings = RunSettings.from_json({"saving": {"keep_last": 1}})
    run = create_run(tmp_path / "runs", "one", BASE, DATASET, settings, paths)
    files = [Path(run.paths.checkpoints, checkpoint_file(run, epoch, epoch)) for epoch in (1, 2, 3)]
    for epoch, file in enumerate(files, start=1):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
        line = {"kind": "checkpoint", "epoch": epoch, "step": epoch, "file": file.name}
        Lines(run.folder / "metrics.jsonl").append(line)
    with unchanged(run.folder):
        pin(run.folder, 1, True)
    unlink, held = Path.unlink, []

    def watched(self, *arguments, **options):
        if self in files:
            held.append(is_held(run.folder / "notes.lock"))
        unlink(self, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    prune_checkpoints(run)
    assert held == [True] and [file.exists() for file in files] == [True, False, True]
    assert not is_held(run.folder / "notes.lock")


def test_a_run_whose_notes_cannot_be_locked_goes_on_and_prunes_nothing(tmp_path, capsys):
    settings = RunSettings.from_json({"saving": {"keep_last": 1}})
    run = make(tmp_path, settings=settings)
    (run.folder / "notes.lock").mkdir()
    prune_checkpoints(run)
    assert "No checkpoint is pruned: notes.lock of one cannot be locked" in capsys.readouterr().err


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


UNTIL = {"decay_steps": 50}
WARM = {"warmup_steps": 4}


def add_checkpoint(run: Run, step: int) -> None:
    file = Path(run.paths.checkpoints) / f"step-{step}.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    line = {"kind": "checkpoint", "epoch": 2, "step": step, "file": file.name}
    (run.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")


@pytest.mark.parametrize("schedule", [one for one in SCHEDULES if one != "constant"])
@pytest.mark.parametrize(
    ("part", "kept"), [("unet_optimizer", "point"), ("text_encoder_optimizer", "checkpoint")]
)
def test_a_run_that_has_begun_a_schedule_over_its_length_gets_no_more_epochs(
    tmp_path, monkeypatch, schedule, part, kept
):
    monkeypatch.chdir(tmp_path)
    settings = RunSettings.from_json({"epochs": 2, part: {"schedule": schedule, **WARM}})
    run = make(tmp_path, settings=settings)
    run.write_state(dataclasses.replace(run.state(), status="stopped", step=5))
    extend(run, 3)  # nothing is kept of the steps that it did
    (run.folder / "resume" / "step-00000004").mkdir(parents=True)
    extend(run, 4)  # it has not left the warm-up
    run = Run.open(run.folder)
    run.write_state(dataclasses.replace(run.state(), status="finished", step=12))
    if kept == "point":
        (run.folder / "resume" / "step-00000012").mkdir(parents=True)
    else:
        add_checkpoint(run, 12)
    before = {file: file.read_bytes() for file in run.folder.rglob("*.*")}
    called = part.removesuffix("_optimizer").replace("_", " ")
    words = rf"cannot go on to 6 epochs: .*{called} \({schedule}"
    with pytest.raises(TrainerError, match=words):
        extend(run, 6)
    with pytest.raises(TrainerError, match=words):
        make(tmp_path, settings=dataclasses.replace(settings, epochs=6))
    assert {file: file.read_bytes() for file in run.folder.rglob("*.*")} == before


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unet_optimizer": {"schedule": "cosine", **UNTIL}},
        {"unet_optimizer": {"schedule": "linear", "end_share": 1.0}},
        {"train_text_encoder": False, "text_encoder_optimizer": {"schedule": "linear"}},
        {"layers": {"train_unet": False}, "unet_optimizer": {"schedule": "linear"}},
    ],
)
def test_a_run_whose_rates_do_not_depend_on_its_length_gets_more_epochs(tmp_path, changes):
    run = make(tmp_path, settings=RunSettings.from_json({"epochs": 2, **changes}))
    run.write_state(dataclasses.replace(run.state(), status="finished", step=12))
    (run.folder / "resume" / "step-00000012").mkdir(parents=True)
    assert extend(run, 4).state().status == "stopped"
    settings = run.settings
    for step in range(6):
        for part in ("unet", "text_encoder"):
            rates = [rate_factor(optimizer_settings(part, settings), step, n) for n in (12, 24)]
            assert rates[0] == rates[1] or not learns(part, settings)


def learns(part: str, settings: RunSettings) -> bool:
    return settings.layers.train_unet if part == "unet" else settings.train_text_encoder


def test_a_request_is_taken_once_and_an_unknown_one_refused(tmp_path):
    run = make(tmp_path)
    run.request("save")
    assert run.take_requests() == [{"command": "save"}]
    assert run.take_requests() == []
    with pytest.raises(TrainerError, match="a run understands: stop, save, pause, sample"):
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


def test_the_graph_of_a_run_that_was_given_more_epochs_is_told_what_to_do(tmp_path):
    extend(make(tmp_path, settings=RunSettings(epochs=10)), 20)
    with pytest.raises(TrainerError, match="set epochs to 20 here too, or take it with Open Run"):
        make(tmp_path, settings=RunSettings(epochs=10))
    with pytest.raises(TrainerError, match="Choose another name"):
        make(tmp_path, settings=RunSettings(epochs=10, seed=99))
