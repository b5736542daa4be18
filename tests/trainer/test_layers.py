"""Which weights learn: exactly those get a gradient, and what lies below them costs no backward
pass.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.model.layers import trained_parameters
from cocktail.trainer.model.text import encode
from cocktail.trainer.settings.run_settings import RunSettings


def small_text_encoder(layers: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=100,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=2,
            eos_token_id=99,
        )
    )


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=32,
    )
    return unet, small_text_encoder(4)


def learning(parts, settings: dict) -> dict[str, list[str]]:
    """Names of the parameters that have a gradient after a pass; asserts that they are those that
    should learn.
    """
    unet, text_encoder = parts
    run = RunSettings.from_json(settings)
    chosen = trained_parameters(unet, text_encoder, run)
    unet.zero_grad()
    text_encoder.zero_grad()
    text = encode(text_encoder, torch.randint(0, 100, (1, 77)), run.clip_skip)
    unet(
        torch.randn(1, 4, 8, 8), torch.tensor([5]), encoder_hidden_states=text
    ).sample.sum().backward()
    found = {}
    for part, module in (("unet", unet), ("text_encoder", text_encoder)):
        reached = [name for name, p in module.named_parameters() if p.grad is not None]
        assert reached == list(chosen.get(part, {})), part
        found[part] = [name.removeprefix("text_model.") for name in reached]
    return found


def test_without_settings_everything_learns(parts):
    unet, text_encoder = parts
    found = learning(parts, {})
    assert len(found["unet"]) == len(list(unet.parameters()))
    assert len(found["text_encoder"]) == len(list(text_encoder.parameters()))


@pytest.mark.parametrize(("skip", "last"), [(1, 0), (2, 0), (3, 0), (1, 2), (2, 2), (2, 1)])
def test_layers_of_the_text_encoder_are_counted_from_the_last_that_is_used(parts, skip, last):
    found = learning(parts, {"clip_skip": skip, "layers": {"text_encoder_last_layers": last}})
    numbers = sorted(
        {int(n.split(".")[2]) for n in found["text_encoder"] if n.startswith("encoder.")}
    )
    used = 4 - (skip - 1)
    assert numbers == list(range(used - last if last else 0, used))
    assert any(n.startswith("final_layer_norm") for n in found["text_encoder"])
    assert any(n.startswith("embeddings") for n in found["text_encoder"]) == (last == 0)


def test_embeddings_and_final_norm_can_be_kept(parts):
    found = learning(parts, {"layers": {"freeze_embeddings": True, "freeze_final_norm": True}})
    assert {name.split(".")[0] for name in found["text_encoder"]} == {"encoder"}


@pytest.mark.parametrize(
    ("kind", "word"), [("attention", ".attentions."), ("cross attention", ".attn2.")]
)
def test_only_attention_of_the_unet_learns_when_asked(parts, kind, word):
    unet, _ = parts
    found = learning(parts, {"layers": {"unet_layers": kind}})
    assert found["unet"] == [name for name, _ in unet.named_parameters() if word in name]
    assert found["unet"]


def test_either_part_can_be_switched_off(parts):
    assert learning(parts, {"layers": {"train_unet": False}})["unet"] == []
    assert learning(parts, {"train_text_encoder": False})["text_encoder"] == []


def test_a_text_encoder_with_nothing_left_to_learn_is_refused(parts):
    unet, _ = parts
    with pytest.raises(TrainerError, match="All layers of the text encoder are frozen"):
        trained_parameters(
            unet,
            small_text_encoder(1),
            RunSettings.from_json(
                {
                    "clip_skip": 2,
                    "layers": {"freeze_embeddings": True, "freeze_final_norm": True},
                }
            ),
        )


def test_frozen_layers_below_take_no_part_in_the_backward_pass(parts):
    _, text_encoder = parts
    seen: list[int] = []
    core = getattr(text_encoder, "text_model", text_encoder)
    hooks = [
        layer.register_full_backward_hook(lambda *_, number=number: seen.append(number))
        for number, layer in enumerate(core.encoder.layers)
    ]
    try:
        learning(parts, {"layers": {"text_encoder_last_layers": 2}})
        assert sorted(seen) == [2, 3]
        seen.clear()
        learning(parts, {})
        assert sorted(seen) == [0, 1, 2, 3]
    finally:
        for hook in hooks:
            hook.remove()
