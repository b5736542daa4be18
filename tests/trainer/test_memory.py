"""The memory estimate, against what optimizers and autograd really keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cocktail.trainer.model.memory import STATE_BYTES, estimate, lighter
from cocktail.trainer.model.networks import build_unet, text_encoder_on_meta
from cocktail.trainer.model.single_file import (
    TEXT_ENCODER,
    UNET,
    Level,
    text_encoder_name,
    unet_name,
)
from cocktail.trainer.optim.optimizers import make_part_optimizer
from cocktail.trainer.resume import flatten_state
from cocktail.trainer.settings.groups import OPTIMIZERS, OptimizerSettings
from cocktail.trainer.settings.run_settings import RunSettings

SD15 = (Level(320, 2, True), Level(640, 2, True), Level(1280, 2, True), Level(1280, 2, False))


@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if kind != "adafactor"])
def test_the_state_of_an_optimizer_is_as_large_as_said(kind):
    if kind == "adamw 8 bit":
        pytest.importorskip("bitsandbytes")
    parameter = torch.nn.Parameter(torch.randn(300, 200))
    optimizer = make_part_optimizer([parameter], OptimizerSettings(optimizer=kind), 1e-3, 0.0)
    parameter.grad = torch.randn(300, 200)
    optimizer.step()
    tensors, _ = flatten_state(optimizer.state_dict())
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert size / parameter.numel() == pytest.approx(STATE_BYTES[kind], rel=0.05)


@pytest.fixture(scope="module")
def unet_shapes_and_saved() -> tuple[dict, int]:
    """SD1.5's tensor shapes by their names in a file, and the bytes autograd saves at 512 px; no
    memory is taken.
    """
    saved: dict[int, tuple] = {}
    with FakeTensorMode():
        unet = build_unet(SD15).train()
        weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = (storage.nbytes(), storage)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            text = torch.randn(1, 77, 768)
            unet(torch.randn(1, 4, 64, 64), torch.tensor([5]), encoder_hidden_states=text)
        shapes = {UNET + unet_name(n, SD15): tuple(p.shape) for n, p in unet.named_parameters()}
    text_encoder = text_encoder_on_meta(12)
    for name, parameter in text_encoder.named_parameters():
        shapes[TEXT_ENCODER + text_encoder_name(name)] = tuple(parameter.shape)
    return shapes, sum(size for size, _ in saved.values())


FULL = {"precision": "fp32", "batch_size": 1}


def test_the_estimate_is_what_sd15_keeps(unet_shapes_and_saved):
    shapes, saved = unet_shapes_and_saved
    run = RunSettings.from_json({**FULL, "train_text_encoder": False})
    found = estimate(shapes, run)
    assert found.weights == 4 * (859_520_964 + 123_060_480)
    assert found.gradients == 4 * 859_520_964 and found.optimizer == 8 * 859_520_964
    assert found.activations == pytest.approx(saved, rel=0.03)
    both = estimate(shapes, RunSettings.from_json(FULL))
    assert both.optimizer == 8 * (859_520_964 + 123_060_480)
    assert estimate(shapes, RunSettings.from_json({**FULL, "ema": {"decay": 0.999}})).ema > 3.9e9


def test_every_proposal_needs_less_than_the_one_before(unet_shapes_and_saved):
    shapes, _ = unet_shapes_and_saved
    settings = replace(RunSettings(), batch_size=8)
    sizes = [estimate(shapes, settings).total]
    for words, proposal in lighter(settings):
        sizes.append(estimate(shapes, proposal).total)
        assert proposal.batch_size * proposal.data.accumulate == 8, words
    assert len(sizes) == 6 and sizes == sorted(sizes, reverse=True)
