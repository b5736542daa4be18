"""Kill -9 at any moment, start again with the same command: the weights are those of the
undisturbed run, bit for bit.
"""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from cocktail.trainer.runs import Run
from cocktail.trainer.settings.groups import OPTIMIZERS

from .conftest import remove

KILLS = int(os.environ.get("COCKTAIL_RESUME_KILLS", "4"))
"""Kills of each optimizer's runs, at random moments."""
pytestmark = pytest.mark.more_with_all("20 kills instead of 4")


def finish(run: Run, process) -> None:
    process.join(600)
    assert process.exitcode == 0, run.log_tail()
    assert run.state().status == "finished"


def kill_at_random(run: Run, start, moments: random.Random, longest_s: float, kills: int) -> int:
    """Train a run to its end through up to `kills` kills; returns how many there were."""
    for kill in range(kills):
        process = start(run)
        process.join(moments.uniform(0, longest_s))
        if process.exitcode is not None:
            finish(run, process)
            return kill
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    finish(run, start(run))
    return kills


def end_point(run: Run) -> dict[str, torch.Tensor]:
    """The state of every component at the end of a run: weights and optimizers."""
    (point,) = (run.folder / "resume").glob("step-*")
    return {
        f"{file.stem}/{name}": tensor
        for file in point.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def checkpoint(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].file)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def trial(tiny_runs, start, optimizer: str) -> int:
    """Compare an undisturbed run with killed ones until there were enough kills; returns how many
    there were.
    """
    name = optimizer.replace(" ", "-")
    settings = {"unet_optimizer": {"optimizer": optimizer, "schedule": "cosine", "warmup_steps": 2}}
    began = time.monotonic()
    whole = tiny_runs(f"{name}-whole", **settings)
    finish(whole, start(whole))
    longest_s = 0.8 * (time.monotonic() - began)
    expected = end_point(whole), checkpoint(whole)
    remove(whole)
    moments, kills, runs = random.Random(optimizer), 0, 0
    while kills < KILLS:
        runs += 1
        killed = tiny_runs(f"{name}-killed-{runs}", **settings)
        kills += kill_at_random(killed, start, moments, longest_s, KILLS - kills)
        assert same(expected[0], end_point(killed))
        assert same(expected[1], checkpoint(killed))
        remove(killed)
    return kills


@pytest.fixture(scope="module")
def trials(request, tiny_runs, fork_training):
    """The trials of all optimizers that are asked for, as many at a time as there are cores.

    A run before them fills the cache of latents and embeddings, so that an undisturbed run takes no
    longer than a killed one.
    """
    first = tiny_runs("fills-the-cache")
    finish(first, fork_training(first))
    remove(first)
    asked = [
        item.callspec.params["optimizer"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {kind: pool.submit(trial, tiny_runs, fork_training, kind) for kind in asked}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(trials, optimizer):
    if optimizer == "adamw 8 bit":
        pytest.importorskip("bitsandbytes")
    assert trials[optimizer].result() >= KILLS
