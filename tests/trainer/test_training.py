"""Training in a process of its own, as ComfyUI starts it: exact, restartable, refusing nonsense."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import cocktail.trainer as trainer
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.data.split import split
from cocktail.trainer.disk import check_disk, checkpoint_bytes
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import sha256_file
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.model.networks import load_model
from cocktail.trainer.model.single_file import TEXT_ENCODER, UNET, VAE, read_shapes
from cocktail.trainer.runs import Base, Paths, Run, create_run
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.shapes import draw_shapes

from .conftest import make_tiny_base
from .held import hold, hold_validation, let_go, let_validation_go

SETTINGS = RunSettings(
    resolution=64,
    bucket_step=16,
    epochs=2,
    batch_size=4,
    learning_rate=3e-4,
    train_text_encoder=False,
    validation_timesteps=2,
    precision="fp32",
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "shapes"
    draw_shapes(folder, count=20, seed=4)
    dataset, _ = load_folder(folder, "shapes", "first line", "stop", None, None)
    return split(dataset, 0.2, 1)


@pytest.fixture
def make_run(tmp_path, shapes, miniatures, tokenizer):
    """Makes run folders that share a cache; `settings` as keywords over SETTINGS."""

    def make(
        name: str,
        base: Path = miniatures / "miniature_base.safetensors",
        dataset: Dataset = shapes,
        **settings,
    ) -> Run:
        return create_run(
            tmp_path / "runs",
            name,
            Base(base.name, str(base), sha256_file(base)),
            dataset,
            RunSettings.from_json(SETTINGS.to_json() | settings),
            Paths(str(tmp_path / "checkpoints"), str(tokenizer), str(tmp_path / "cache")),
        )

    return make


def start(run: Run) -> subprocess.Popen:
    main = Path(trainer.__path__[0]) / "__main__.py"
    with (run.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(main), "run", str(run.folder)], stdout=log, stderr=log
        )


def train(run: Run) -> int:
    return start(run).wait(timeout=600)


def exit_status(process) -> int:
    """Of a forked training, when it has ended."""
    process.join(600)
    return process.exitcode


def wait_for(condition, process) -> None:
    """Until something is true, while a training is at work."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and alive(process):
        if condition():
            return
        time.sleep(0.02)
    assert condition(), "it never happened"


def alive(process) -> bool:
    return process.poll() is None if hasattr(process, "poll") else process.is_alive()


def wait_for_step(run: Run, step: int, process) -> None:
    """Until metrics.jsonl has that step."""

    def reached() -> bool:
        return any(line["kind"] == "step" and line["step"] >= step for line in run.metrics())

    wait_for(reached, process)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].file)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_run_learns_and_leaves_the_vae_and_a_frozen_text_encoder_byte_for_byte(make_run):
    run = make_run("plain")
    assert train(run) == 0, run.log_tail()
    state = run.state()
    assert state.status == "finished"
    assert state.last_validation < 0.8 * state.first_validation
    assert [saved.epoch for saved in run.checkpoints()] == [1, 2]
    assert state.best["loss"] == min(s.validation_loss for s in run.checkpoints())
    base, trained = load_file(run.base.path), weights(run)
    assert base.keys() == trained.keys()
    for name in base:
        kept = name.startswith((VAE, TEXT_ENCODER))
        assert torch.equal(base[name], trained[name]) == kept or name.endswith("bias"), name
    load_model(run.checkpoints()[-1].file)
    size = Path(run.base.path).stat().st_size
    checkpoint, point = checkpoint_bytes(read_shapes(Path(run.base.path)), size, run.settings)
    for saved in run.checkpoints():
        assert Path(saved.file).stat().st_size == pytest.approx(checkpoint, rel=0.01)
    kept = sum(file.stat().st_size for file in (run.folder / "resume").rglob("*") if file.is_file())
    assert kept == pytest.approx(point, rel=0.01)


def test_what_does_not_fit_on_the_disk_is_not_begun(make_tiny_run, monkeypatch):
    run = make_tiny_run("large", epochs=10, save_every_epochs=4)
    base = Path(run.base.path)
    checkpoint, point = checkpoint_bytes(read_shapes(base), base.stat().st_size, run.settings)
    needed = 5 * checkpoint + 3 * point
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(TrainerError, match=rf"may write {needed / 1e9:.1f} GB, but only"):
        check_disk(run)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed))
    check_disk(run)
    with pytest.raises(TrainerError, match="but only"):
        check_disk(run, cache_bytes=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed + 1))
    check_disk(run, cache_bytes=1)


@pytest.fixture
def varied(few_shapes) -> Dataset:
    """The pairs with everything that chance decides about them."""
    pairs = tuple(
        replace(
            pair,
            weight=(1.0, 1.5, 0.5)[number % 3],
            flip=0.5,
            captions={"tags": "drawn, flat, " + pair.caption.replace(" ", ", ")},
            shuffle_tags=True,
            keep_tags=1,
            tag_dropout=0.2,
            conditional_dropout=(None, 0.5)[number % 2],
        )
        for number, pair in enumerate(few_shapes.pairs)
    )
    return replace(few_shapes, pairs=pairs, caption_mix=(("caption", 0.5), ("tags", 0.5)))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.only_all)])
def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(
    make_tiny_run, fork_training, varied, precision
):
    whole = make_tiny_run("whole", dataset=varied, precision=precision)
    killed = make_tiny_run("killed", dataset=varied, precision=precision)
    assert exit_status(fork_training(whole)) == 0, whole.log_tail()
    steps = whole.state().step
    for step in (1, steps // 2 + 1, steps - 1):
        hold(killed.folder, step)
        process = fork_training(killed)
        wait_for_step(killed, step, process)
        process.kill()
        process.join()
    let_go(killed.folder)
    assert exit_status(fork_training(killed)) == 0, killed.log_tail()
    assert same(weights(whole), weights(killed))


def test_stopped_in_the_middle_of_an_epoch_it_goes_on_from_that_very_step(
    make_tiny_run, fork_training, undisturbed
):
    stopped = make_tiny_run("stopped")
    hold(stopped.folder, 2)
    process = fork_training(stopped)
    wait_for_step(stopped, 2, process)
    stopped.request("stop")
    let_go(stopped.folder)
    assert exit_status(process) == 0
    assert stopped.state().status == "stopped"
    lines = len(stopped.metrics())
    assert exit_status(fork_training(stopped)) == 0, stopped.log_tail()
    steps = [line["step"] for line in stopped.metrics() if line["kind"] == "step"]
    assert len(stopped.metrics()) > lines
    last = undisturbed.state().step
    assert steps == list(range(1, last + 1)), "no step is done twice or left out"
    assert same(weights(undisturbed), weights(stopped))


def test_a_trained_text_encoder_with_clip_skip_moves_all_but_its_last_layer(
    make_tiny_run, fork_training, tmp_path
):
    run = make_tiny_run(
        "text",
        base=make_tiny_base(tmp_path / "two layers.safetensors", 2),
        epochs=1,
        train_text_encoder=True,
        text_encoder_learning_rate=1e-4,
        clip_skip=2,
        weight_decay=0.0,
        layers={"freeze_embeddings": False},
        saving={"resume_minutes": 0.0},
    )
    assert exit_status(fork_training(run)) == 0, run.log_tail()
    base, trained = load_file(run.base.path), weights(run)
    for moved in ("embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.weight"):
        assert not torch.equal(base[TEXT_ENCODER + moved], trained[TEXT_ENCODER + moved])
    last = [name for name in base if name.startswith(TEXT_ENCODER + "encoder.layers.1.")]
    assert last and all(torch.equal(base[name], trained[name]) for name in last)


def test_stopped_in_the_middle_of_a_validation_it_measures_again_and_goes_on(
    make_tiny_run, fork_training
):
    whole = make_tiny_run("measured", validation_timesteps=4)
    stopped = make_tiny_run("unmeasured", validation_timesteps=4)
    assert exit_status(fork_training(whole)) == 0
    last = whole.state().step
    hold(stopped.folder, last)
    process = fork_training(stopped)
    wait_for_step(stopped, last, process)
    hold_validation(stopped.folder)
    let_go(stopped.folder)
    wait_for(lambda: "Validating" in stopped.state().message, process)
    assert stopped.state().step == last
    stopped.request("stop")
    let_validation_go(stopped.folder)
    assert exit_status(process) == 0
    assert stopped.state().status == "stopped"
    assert exit_status(fork_training(stopped)) == 0, stopped.log_tail()
    assert stopped.state().last_validation == whole.state().last_validation
    assert same(weights(whole), weights(stopped))


def test_a_loss_that_is_not_finite_stops_the_run_before_its_weights_are_touched(
    make_tiny_run, fork_training, few_shapes
):
    pairs = tuple(replace(pair, loss_scale=1e39) for pair in few_shapes.pairs)
    run = make_tiny_run("infinite", dataset=replace(few_shapes, pairs=pairs))
    assert exit_status(fork_training(run)) == 1
    assert run.state().status == "failed"
    assert "step 1 is not finite" in run.state().message and ".png (inf)" in run.state().message
    assert run.checkpoints() == []


@pytest.mark.parametrize("largest", [False, True])
def test_a_base_without_a_loss_is_blamed_itself_and_no_file_holds_nan(
    make_tiny_run, fork_training, tiny_base, tmp_path, largest
):
    tensors = load_file(tiny_base)
    weight = tensors[UNET + "input_blocks.0.0.weight"]
    if largest:
        tensors[UNET + "input_blocks.0.0.weight"] = torch.full(weight.shape, 3e38)
    else:
        weight.fill_(float("nan"))
    save_file(tensors, tmp_path / "odd.safetensors")
    run = make_tiny_run("odd", base=tmp_path / "odd.safetensors")
    assert exit_status(fork_training(run)) == 1
    state = run.state()
    assert state.status == "failed" and state.step == 0 and run.checkpoints() == []
    assert "odd.safetensors" in state.message and "the base itself" in state.message.lower()
    for file in run.folder.glob("*.json"):
        json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_second_process_on_one_run_is_refused(make_tiny_run, fork_training):
    run = make_tiny_run("once", epochs=1000)
    first = fork_training(run)
    try:
        wait_for_step(run, 1, first)
        assert exit_status(fork_training(run)) == 1
        assert "Another process works on the run once already" in run.log_tail()
        assert first.exitcode is None
    finally:
        first.kill()
        first.join()


def test_a_torn_resume_point_is_passed_over_for_the_one_before(
    make_tiny_run, fork_training, undisturbed
):
    torn = make_tiny_run("torn")
    hold(torn.folder, 4)
    process = fork_training(torn)
    wait_for_step(torn, 4, process)
    process.kill()
    process.join()
    let_go(torn.folder)
    points = sorted((torn.folder / "resume").glob("step-*"))
    assert len(points) == 2
    with (points[-1] / "unet.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert exit_status(fork_training(torn)) == 0, torn.log_tail()
    starts = [line["step"] for line in torn.metrics() if line["kind"] == "start"]
    assert starts == [0, int(points[0].name.removeprefix("step-"))]
    (told,) = [line["text"] for line in torn.metrics() if line["kind"] == "warning"]
    assert points[-1].name in told and f"from that of step {starts[1]}" in told
    assert told in torn.log_tail(60)
    assert same(weights(undisturbed), weights(torn))


def test_a_picture_that_goes_bad_is_skipped_and_named(
    make_tiny_run, fork_training, few_shapes, tmp_path
):
    folder = tmp_path / "pictures"
    shutil.copytree(few_shapes.root, folder)
    bad = few_shapes.train[0]
    (folder / bad.image).write_bytes(b"no picture any more")
    run = make_tiny_run(
        "bad", batch_size=2, dataset=replace(few_shapes, root=str(folder)), resolution=96
    )
    assert exit_status(fork_training(run)) == 0, run.log_tail()
    assert run.state().skipped == 1 and run.state().steps == 2 * 3, "two of five at a time"
    assert f"skipped: {bad.image}: it has changed" in run.log_tail(60)
    (line,) = Lines(run.folder / "skipped.jsonl").read().lines
    assert line["pair"] == bad.id and bad.image in line["reason"]


def test_more_epochs_continue_a_finished_run_as_if_it_had_been_longer_from_the_start(
    make_tiny_run, fork_training
):
    long, short = make_tiny_run("long", epochs=3), make_tiny_run("extended", epochs=1)
    assert exit_status(fork_training(long)) == 0 and exit_status(fork_training(short)) == 0
    extended = make_tiny_run("extended", epochs=3)
    assert extended.id == long.id and extended.state().status == "stopped"
    assert exit_status(fork_training(extended)) == 0, extended.log_tail()
    assert same(weights(long), weights(extended))
    with pytest.raises(TrainerError, match="epochs 3 there, 2 here"):
        make_tiny_run("extended", epochs=2)


def test_what_is_only_shown_or_saved_may_change_under_way(make_tiny_run):
    run = make_tiny_run("shown")
    samples = {"every_epochs": 1, "prompts": [{"prompt": "a red circle"}]}
    changed = make_tiny_run("shown", samples=samples)
    assert changed.id == run.id
    assert Run.open(run.folder).settings.samples.prompts[0].prompt == "a red circle"


def test_a_full_disk_pauses_the_run_until_there_is_room(make_tiny_run, fork_training, undisturbed):
    full = make_tiny_run("full")
    (full.folder / "full.txt").write_text("")
    process = fork_training(full, disk_full_while=full.folder / "full.txt")
    wait_for(lambda: full.state().status == "paused", process)
    assert "Make room" in full.state().message
    (full.folder / "full.txt").unlink()
    assert exit_status(process) == 0, full.log_tail()
    assert same(weights(undisturbed), weights(full))


def test_a_disk_that_is_full_while_pictures_are_encoded_pauses_the_run(
    make_tiny_run, fork_training
):
    # A resolution of its own: no other test has filled the cache with it.
    run = make_tiny_run("full-cache", epochs=1, resolution=160)
    (run.folder / "full.txt").write_text("")
    process = fork_training(run, disk_full_while=run.folder / "full.txt")
    wait_for(lambda: run.state().status == "paused", process)
    assert "Make room" in run.state().message and run.metrics() == []
    (run.folder / "full.txt").unlink()
    assert exit_status(process) == 0, run.log_tail()
    assert run.state().status == "finished" and run.state().skipped == 0
    assert not list(Path(run.paths.cache).rglob(".*"))


def test_samples_ema_and_every_other_extra_leave_the_weights_alone(
    make_tiny_run, fork_training, undisturbed
):
    extras = {
        "samples": {
            "every_steps": 4,
            "prompts": [{"prompt": "a red circle", "width": 64, "height": 64, "steps": 2}],
        },
        "ema": {"decay": 0.9},
        "validation": {"every_epochs": 1, "every_steps": 3, "train_share": 0.5},
        "saving": {"every_steps": 5, "keep_last": 1, "pinned_epochs": "1"},
    }
    full = make_tiny_run("with", **extras)
    assert exit_status(fork_training(full)) == 0
    assert same(weights(undisturbed), weights(full))
    lines = full.metrics()
    validations = [line for line in lines if line["kind"] == "validation"]
    assert all("train_loss" in line and "ema_loss" in line for line in validations)
    for line, record in zip(validations, full.validations(), strict=True):
        losses = {pair: sum(levels) / len(levels) for pair, levels in record["levels"].items()}
        assert losses == pytest.approx(record["pairs"], abs=2e-7)
        measured = [sum(levels) / len(levels) for levels in record["training"].values()]
        assert len(measured) == 3, "half of the six training pairs"
        assert sum(measured) / 3 == pytest.approx(line["train_loss"], abs=2e-7)
    drawn = [name for line in lines if line["kind"] == "samples" for name in line["files"]]
    assert drawn and all((full.folder / "samples" / name).is_file() for name in drawn)
    kept = {checkpoint.step for checkpoint in full.checkpoints()}
    assert max(kept) == full.state().step and full.state().best["step"] in kept
    mean = load_file(next(Path(full.paths.checkpoints).glob("*-ema.safetensors")))
    assert not same(mean, weights(full))


def test_the_run_card_in_a_checkpoint_says_what_it_was_made_of(
    make_tiny_run, fork_training, few_shapes
):
    from safetensors import safe_open

    run = make_tiny_run("card", epochs=1)
    assert exit_status(fork_training(run)) == 0, run.log_tail()
    with safe_open(run.checkpoints()[0].file, framework="pt") as file:
        card = json.loads(file.metadata()["cocktail.run"])
    assert card["base"]["sha256"] == run.base.sha256
    assert card["dataset"]["fingerprint"] == few_shapes.fingerprint
    assert card["settings"] == run.settings.to_json()
    assert card["epoch"] == 1
