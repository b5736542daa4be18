"""The running mean of the weights, against float64 arithmetic."""

from __future__ import annotations

import json

import pytest
import torch

from cocktail.trainer.model.ema import Ema
from cocktail.trainer.resume import flatten_state, restore_state
from cocktail.trainer.settings.groups import EmaSettings


def weights(step: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(step))


def make(**settings) -> tuple[Ema, torch.nn.Parameter]:
    parameter = torch.nn.Parameter(weights(-1 % 1000))
    return Ema({"unet": {"a": parameter}}, EmaSettings(**settings)), parameter


def walk(ema: Ema, parameter: torch.nn.Parameter, first: int, last: int) -> None:
    for step in range(first, last):
        with torch.no_grad():
            parameter.copy_(weights(step))
        ema.update(step)


@pytest.mark.parametrize("every", [1, 3])
def test_the_mean_warms_up_and_then_decays(every):
    ema, parameter = make(decay=0.6, every_steps=every)
    expected, updates = parameter.detach().double(), 0
    for step in range(30):
        walk(ema, parameter, step, step + 1)
        if (step + 1) % every == 0:
            decay = min((1 + updates) / (10 + updates), 0.6)
            expected = decay * expected + (1 - decay) * weights(step).double()
            updates += 1
    assert ema.updates == updates
    assert (ema.mean["unet/a"].double() - expected).abs().max() < 1e-6


def test_while_it_stands_for_the_weights_these_are_kept_bit_for_bit():
    ema, parameter = make(decay=0.9)
    walk(ema, parameter, 0, 5)
    kept = parameter.detach().clone()
    with pytest.raises(RuntimeError, match="on the way"), ema.swapped_in():
        assert torch.equal(parameter, ema.mean["unet/a"]) and not torch.equal(parameter, kept)
        raise RuntimeError("on the way")
    assert torch.equal(parameter, kept)


def test_it_goes_on_from_its_saved_state_bit_for_bit():
    whole, parameter = make(decay=0.99)
    walk(whole, parameter, 0, 20)
    first, moved = make(decay=0.99)
    walk(first, moved, 0, 10)
    tensors, rest = flatten_state(first.state_dict())
    saved = restore_state(
        {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(rest))
    )
    second, moved = make(decay=0.99)
    second.load_state_dict(saved)
    walk(second, moved, 10, 20)
    assert torch.equal(whole.mean["unet/a"], second.mean["unet/a"])
