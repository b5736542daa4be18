"""Real training of the miniature in a process of its own, as ComfyUI starts it: exact, restartable, refusing nonsense."""

from __future__ import annotations

import json
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
from cocktail.trainer.config import RunSettings
from cocktail.trainer.data.folder import load_folder
from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.data.split import split
from cocktail.trainer.disk import check_disk, checkpoint_bytes
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import sha256_file
from cocktail.trainer.model import load_model
from cocktail.trainer.runs import Base, Paths, Run, create_run
from cocktail.trainer.shapes import draw_shapes
from cocktail.trainer.single_file import TEXT_ENCODER, UNET, VAE, read_shapes

SETTINGS = RunSettings(
    resolution=64,
    bucket_step=16,
    epochs=2,
    batch_size=4,
    learning_rate=3e-4,
    train_text_encoder=False,
    validation_timesteps=2,
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
    return start(run).wait(timeout=300)


def wait_for_step(run: Run, step: int, process: subprocess.Popen) -> None:
    """Until metrics.jsonl has that step, or the process is gone."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(line["kind"] == "step" and line["step"] >= step for line in run.metrics()):
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached:\n{run.log_tail()}")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].file)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_run_learns_and_leaves_the_vae_and_a_frozen_text_encoder_byte_for_byte(make_run):
    run = make_run("plain", epochs=3)
    assert train(run) == 0, run.log_tail()
    state = run.state()
    assert state.status == "finished"
    assert state.last_validation < 0.8 * state.first_validation
    assert [saved.epoch for saved in run.checkpoints()] == [1, 2, 3]
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


def test_what_does_not_fit_on_the_disk_is_not_begun(make_run, monkeypatch):
    run = make_run("large", epochs=10, save_every_epochs=4)
    base = Path(run.base.path)
    checkpoint, point = checkpoint_bytes(read_shapes(base), base.stat().st_size, run.settings)
    needed = 5 * checkpoint + 3 * point
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(TrainerError, match=r"may write 3\.3 GB"):
        check_disk(run)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed))
    check_disk(run)


@pytest.fixture
def varied(shapes) -> Dataset:
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
        for number, pair in enumerate(shapes.pairs)
    )
    return replace(shapes, pairs=pairs, caption_mix=(("caption", 0.5), ("tags", 0.5)))


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(make_run, varied):
    whole, killed = make_run("whole", dataset=varied), make_run("killed", dataset=varied)
    assert train(whole) == 0, whole.log_tail()
    steps = whole.state().step
    for step in (1, steps // 2 + 1, steps - 1):
        process = start(killed)
        wait_for_step(killed, step, process)
        process.kill()
        process.wait()
    assert train(killed) == 0, killed.log_tail()
    assert same(weights(whole), weights(killed))


def test_stopped_in_the_middle_of_an_epoch_it_goes_on_from_that_very_step(make_run):
    whole, stopped = make_run("whole"), make_run("stopped")
    assert train(whole) == 0, whole.log_tail()
    process = start(stopped)
    wait_for_step(stopped, 2, process)
    stopped.request("stop")
    assert process.wait(timeout=60) == 0
    assert stopped.state().status == "stopped"
    lines = len(stopped.metrics())
    assert train(stopped) == 0, stopped.log_tail()
    steps = [line["step"] for line in stopped.metrics() if line["kind"] == "step"]
    assert len(stopped.metrics()) > lines
    assert steps == list(range(1, whole.state().step + 1)), "no step is done twice or left out"
    assert same(weights(whole), weights(stopped))


def test_a_trained_text_encoder_with_clip_skip_moves_all_but_its_last_layer(make_run):
    run = make_run(
        "text",
        epochs=1,
        train_text_encoder=True,
        text_encoder_learning_rate=1e-4,
        clip_skip=2,
        weight_decay=0.0,
    )
    assert train(run) == 0, run.log_tail()
    base, trained = load_file(run.base.path), weights(run)
    embedding = TEXT_ENCODER + "embeddings.token_embedding.weight"
    assert not torch.equal(base[embedding], trained[embedding])
    last = TEXT_ENCODER + "encoder.layers.11."
    assert all(torch.equal(base[n], trained[n]) for n in base if n.startswith(last))


def test_a_loss_that_is_not_finite_stops_the_run_before_its_weights_are_touched(
    make_run, miniatures, tmp_path
):
    tensors = load_file(miniatures / "miniature_base.safetensors")
    tensors[UNET + "input_blocks.0.0.weight"].fill_(float("nan"))
    save_file(tensors, tmp_path / "nan.safetensors")
    run = make_run("nan", base=tmp_path / "nan.safetensors")
    assert train(run) == 1
    assert run.state().status == "failed"
    assert "nan" in run.state().message and "step 1" in run.state().message
    assert run.checkpoints() == []


def test_a_second_process_on_one_run_is_refused(make_run):
    run = make_run("once")
    first = start(run)
    try:
        wait_for_step(run, 1, first)
        assert train(run) == 1
        assert "Another process trains once" in run.log_tail()
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()


def test_a_torn_resume_point_is_passed_over_for_the_one_before(make_run):
    whole, torn = make_run("whole"), make_run("torn")
    assert train(whole) == 0 and train(torn) == 0
    newest = max((torn.folder / "resume").glob("step-*"))
    with (newest / "unet.safetensors").open("r+b") as file:
        file.truncate(1000)
    for saved in torn.checkpoints()[1:]:
        saved.file.unlink()
    assert train(torn) == 0, torn.log_tail()
    assert same(weights(whole), weights(torn))


def test_the_run_card_in_a_checkpoint_says_what_it_was_made_of(make_run, shapes):
    from safetensors import safe_open

    run = make_run("card", epochs=1)
    assert train(run) == 0, run.log_tail()
    with safe_open(run.checkpoints()[0].file, framework="pt") as file:
        card = json.loads(file.metadata()["cocktail.run"])
    assert card["base"]["sha256"] == sha256_file(Path(run.base.path))
    assert card["dataset"]["fingerprint"] == shapes.fingerprint
    assert card["settings"] == run.settings.to_json()
    assert card["epoch"] == 1
