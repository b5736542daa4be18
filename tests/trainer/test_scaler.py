"""fp16 with its gradient scaler, which also runs on a CPU when it is given to a run of fp32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cocktail.trainer.journal import Journal
from cocktail.trainer.preparation import prepare
from cocktail.trainer.step import make_batches, take_step
from cocktail.trainer.training import Training
from cocktail.trainer.workers import Workers


@pytest.fixture
def begin(make_tiny_run, alone):
    """Makes runs that stand at their first step, both parts learning."""

    def make(name: str) -> Training:
        run = make_tiny_run(name, precision="fp32", train_text_encoder=True, ema={"decay": 0.9})
        return prepare(run, Journal(run, silent=True), Workers(run.settings))

    return make


def step(training: Training, number: int):
    return take_step(training, make_batches(training, training.plan(0)[number], number), number)


def bits(training: Training) -> dict[str, torch.Tensor]:
    return {
        f"{part}/{name}": parameter.detach().clone()
        for part, parameters in training.trained.items()
        for name, parameter in parameters.items()
    }


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_scale_is_taken_out_of_both_parts_again(begin):
    plain, scaled = begin("unscaled"), begin("scaled")
    scaled.workers.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    expected = [step(plain, number) for number in range(2)]
    found = [step(scaled, number) for number in range(2)]
    assert [r.gradient_norms for r in found] == [r.gradient_norms for r in expected]
    assert equal(bits(plain), bits(scaled)), "powers of two change no bit"


def test_gradients_that_overflow_move_nothing_and_lower_the_scale(begin):
    training = begin("overflow")
    training.pairs = {key: replace(p, loss_scale=100.0) for key, p in training.pairs.items()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    training.workers.accelerator.scaler = scaler
    before, mean = bits(training), {n: m.clone() for n, m in training.ema.mean.items()}
    assert step(training, 0).skipped
    assert equal(before, bits(training)) and equal(mean, training.ema.mean)
    assert scaler.get_scale() == 2.0**126
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**10})
    assert not step(training, 1).skipped
    assert not equal(before, bits(training))
