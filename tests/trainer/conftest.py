"""What the trainer's tests share: a checkpoint with hardly any weights, and trainings that start in
no time.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import save_file

from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.split import split
from cocktail.trainer.files import sha256_file
from cocktail.trainer.model.networks import build_text_encoder, build_unet, build_vae
from cocktail.trainer.model.single_file import (
    TEXT_ENCODER,
    UNET,
    VAE,
    Level,
    text_encoder_name,
    unet_name,
    vae_name,
)
from cocktail.trainer.runs import Base, Paths, Run, create_run
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.shapes import draw_shapes

from .training_process import train_quietly

TINY = RunSettings.from_json(
    {
        "resolution": 64,
        "bucket_step": 32,
        "epochs": 2,
        "batch_size": 2,
        "learning_rate": 1e-4,
        "text_encoder_learning_rate": 1e-5,
        "conditional_dropout": 0.2,
        "precision": "fp32",
        "validation_timesteps": 1,
        "save_every_epochs": 10,
        "validation": {"every_epochs": 0},
        "train_text_encoder": False,
        "layers": {"freeze_embeddings": True, "unet_layers": "cross attention"},
        "saving": {"resume_minutes": 1e-6},
    }
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A checkpoint with SD1.5's names and as few weights as its shapes allow."""
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny.safetensors", 1)


def make_tiny_base(path: Path, text_layers: int) -> Path:
    torch.manual_seed(0)
    levels, widths = (Level(320, 1, True),), (32, 32, 32, 32)
    tensors = {UNET + unet_name(n, levels): t for n, t in build_unet(levels).state_dict().items()}
    for name, tensor in build_text_encoder(text_layers).state_dict().items():
        tensors[TEXT_ENCODER + text_encoder_name(name)] = tensor
    for name, tensor in build_vae(widths).state_dict().items():
        tensors[VAE + vae_name(name, len(widths))] = tensor
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture
def make_tiny_run(tiny_runs):
    """Makes tiny runs that are gone after the test, because all of them together would fill the
    disk.
    """
    made = []

    def make(name: str, **settings) -> Run:
        made.append(tiny_runs(name, **settings))
        return made[-1]

    yield make
    for run in made:
        remove(run)


@functools.cache
def sha256_of(base: Path, time_ns: int) -> str:
    """The hash of a base that has this time."""
    return sha256_file(base)


def remove(run: Run) -> None:
    """Delete a run and its checkpoints."""
    shutil.rmtree(run.folder, ignore_errors=True)
    shutil.rmtree(run.paths.checkpoints, ignore_errors=True)


@pytest.fixture(scope="session")
def fork_training():
    """Starts a training in a process of its own, forked from one that has imported everything
    already.
    """
    if not hasattr(os, "fork"):
        pytest.skip("processes cannot be forked here; test_training.py kills real ones")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.training_imports"])

    def start(
        run: Run, disk_full_while: Path | None = None, room_bytes: int = 0
    ) -> multiprocessing.Process:
        process = context.Process(
            target=train_quietly,
            args=(str(run.folder), disk_full_while and str(disk_full_while), room_bytes),
        )
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def few_shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "shapes"
    draw_shapes(folder, count=8, seed=4)
    dataset, _ = load_folder(folder, "shapes", "first line", "stop", None, None)
    dataset = split(dataset, 0.25, 1)
    return replace(dataset, pairs=tuple(replace(p, flip=0.5) for p in dataset.pairs))


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory, few_shapes, tiny_base, tokenizer):
    """Makes run folders that share a cache; settings as JSON over TINY. Who makes one calls
    `remove` for it.
    """
    folder = tmp_path_factory.mktemp("tiny runs")

    def make(name: str, dataset=few_shapes, base=tiny_base, **settings) -> Run:
        return create_run(
            folder / "runs",
            name,
            Base(base.name, str(base), sha256_of(base, base.stat().st_mtime_ns)),
            dataset,
            RunSettings.from_json(TINY.to_json() | settings),
            Paths(str(folder / "checkpoints"), str(tokenizer), str(folder / "cache")),
        )

    return make


@pytest.fixture(scope="session")
def undisturbed(tiny_runs, fork_training):
    """A run with the settings TINY that is at its end, and to which nothing has happened."""
    run = tiny_runs("undisturbed")
    process = fork_training(run)
    process.join(600)
    assert process.exitcode == 0, run.log_tail()
    yield run
    remove(run)


@pytest.fixture
def alone():
    """What accelerate keeps of a training in this process, such as its precision, is gone before
    and afterwards.
    """
    _forget_trainings()
    yield
    _forget_trainings()


def _forget_trainings() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
