"""Every optimizer goes on from its saved state as if nothing had happened."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.optimization import get_scheduler
from safetensors.torch import load_file, save_file

from cocktail.trainer.optim.optimizers import (
    effective_rate,
    evaluation_weights,
    make_part_optimizer,
)
from cocktail.trainer.optim.schedules import rate_factor
from cocktail.trainer.resume import flatten_state, restore_state
from cocktail.trainer.settings.groups import OPTIMIZERS, OptimizerSettings


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(1)
    shapes = [(33, 129), (7,), (5, 3, 3, 3), (64, 70)]
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def optimizer_of(kind: str, found: list[torch.nn.Parameter]):
    if kind == "adamw 8 bit":
        pytest.importorskip("bitsandbytes")
    rate = 1.0 if kind.startswith(("d-adapt", "prodigy")) else 1e-3
    return make_part_optimizer(found, OptimizerSettings(optimizer=kind), rate, 0.01)


def take_steps(optimizer, found: list[torch.nn.Parameter], first: int, last: int) -> None:
    """Gradients are a function of the step; the second parameter never gets one."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for number, parameter in enumerate(found):
            if number != 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.grad = parameter.detach() * 0.1 + noise
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_ten_steps_a_file_and_ten_steps_are_twenty_steps(kind, tmp_path):
    whole, halves = parameters(), parameters()
    take_steps(optimizer_of(kind, whole), whole, 0, 20)
    first = optimizer_of(kind, halves)
    take_steps(first, halves, 0, 10)
    tensors, rest = flatten_state(first.state_dict())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "state")
    second = optimizer_of(kind, halves)
    loaded = restore_state(load_file(tmp_path / "state"), json.loads(json.dumps(rest)))
    second.load_state_dict(loaded)
    take_steps(second, halves, 10, 20)
    for one, other in zip(whole, halves, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(parameters()[0], whole[0]), "it moves what has a gradient"
    assert torch.equal(parameters()[1], whole[1]), "it leaves alone what has none"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_makes_a_sum_of_squares_smaller(kind):
    found = parameters()
    optimizer = optimizer_of(kind, found)

    def loss() -> torch.Tensor:
        return sum(parameter.square().sum() for parameter in found)

    before = loss().item()
    for _ in range(60):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    with evaluation_weights(optimizer):
        assert loss().item() < before


def test_adaptive_optimizers_say_how_large_their_steps_are():
    for kind in OPTIMIZERS:
        found = parameters()
        optimizer = optimizer_of(kind, found)
        take_steps(optimizer, found, 0, 5)
        adaptive = kind.startswith(("d-adapt", "prodigy"))
        assert (effective_rate(optimizer) is not None) == adaptive, kind


def test_schedule_free_weights_come_back_bit_for_bit():
    found = parameters()
    optimizer = optimizer_of("schedule-free adamw", found)
    take_steps(optimizer, found, 0, 5)
    kept = [parameter.detach().clone() for parameter in found]
    with evaluation_weights(optimizer):
        assert not torch.equal(found[0], kept[0])
    assert all(torch.equal(p, k) for p, k in zip(found, kept, strict=True))


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        ("linear", "linear"),
        ("cosine", "cosine"),
        ("cosine with restarts", "cosine_with_restarts"),
    ],
)
def test_schedules_are_those_of_diffusers(schedule, theirs):
    settings = OptimizerSettings(schedule=schedule, warmup_steps=5, cycles=2)
    reference = get_scheduler(
        theirs,
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
        num_warmup_steps=5,
        num_training_steps=40,
        **({"num_cycles": 2} if "restarts" in schedule else {}),
    )
    for step in range(45):
        if schedule == "cosine" and step > 40:
            break  # theirs rises again after its end
        expected = reference.lr_lambdas[0](step)
        assert rate_factor(settings, step, 40) == pytest.approx(expected, abs=1e-12), step


def test_a_schedule_ends_at_its_share_and_stays_there():
    settings = OptimizerSettings(schedule="polynomial", power=2.0, end_share=0.1, decay_steps=10)
    assert [rate_factor(settings, step, 100) for step in (0, 5, 10, 50)] == pytest.approx(
        [1.0, 0.1 + 0.9 * 0.25, 0.1, 0.1]
    )
    assert rate_factor(OptimizerSettings(), 7, 10) == 1.0
