"""Attention backends are a matter of speed and memory: losses and gradients agree."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from diffusers import UNet2DConditionModel

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.loss import Schedule, pair_losses
from cocktail.trainer.model.attention import set_attention
from cocktail.trainer.settings.groups import LossSettings


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
    )


def losses_and_gradients(unet, mask: torch.Tensor | None):
    draw = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, 2, 4, 16, 16, generator=draw).unbind(0)
    text = torch.randn(2, 154, 32, generator=draw)
    settings = LossSettings()
    levels = torch.tensor([20, 700])
    losses = pair_losses(
        unet, latents, noise, levels, text, settings, Schedule(settings, "cpu"), mask
    )
    unet.zero_grad()
    losses.sum().backward()
    return losses.detach(), {name: p.grad.clone() for name, p in unet.named_parameters()}


@pytest.mark.parametrize("masked", [False, True])
def test_sliced_attention_gives_the_losses_and_gradients_of_sdpa(unet, masked):
    mask = torch.ones(2, 154)
    mask[0, 77:] = 0
    found = {}
    for kind in ("sdpa", "sliced", "sdpa"):
        set_attention(unet, kind)
        processors = {type(p).__name__ for p in unet.attn_processors.values()}
        assert processors == {"SlicedAttnProcessor" if kind == "sliced" else "AttnProcessor2_0"}
        result = losses_and_gradients(unet, mask if masked else None)
        if kind in found:
            assert torch.equal(found[kind][0], result[0]), "going back changes no bit"
        found[kind] = result
    (losses, gradients), (others, other_gradients) = found["sdpa"], found["sliced"]
    assert torch.allclose(losses, others, rtol=1e-5)
    for name, gradient in gradients.items():
        difference = (gradient - other_gradients[name]).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-6, name


def test_xformers_that_is_not_there_is_missed_before_the_run_starts(unet):
    if importlib.util.find_spec("xformers") is not None:
        pytest.skip("xformers is installed here")
    with pytest.raises(TrainerError, match="xformers is not installed"):
        set_attention(unet, "xformers")
