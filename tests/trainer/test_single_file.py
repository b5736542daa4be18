"""Single files: what they are, and which tensor of a module is which of theirs."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.model.networks import build_unet, build_vae
from cocktail.trainer.model.single_file import (
    UNET,
    Level,
    check_sd15,
    family_of,
    inspect,
    unet_levels,
    unet_name,
    vae_name,
)

SD15 = (Level(320, 2, True), Level(640, 2, True), Level(1280, 2, True), Level(1280, 2, False))


def sd15_shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        unet = build_unet(SD15)
    return {UNET + unet_name(n, SD15): tuple(t.shape) for n, t in unet.state_dict().items()}


def test_the_full_unet_has_sd15s_686_names_and_its_levels_are_read_back():
    shapes = sd15_shapes()
    assert len(shapes) == 686
    assert unet_levels(shapes) == SD15
    for name, shape in {
        "time_embed.2.weight": (1280, 1280),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
        "out.2.weight": (4, 320, 3, 3),
    }.items():
        assert shapes[UNET + name] == shape


def test_the_vae_has_sd15s_248_names():
    with torch.device("meta"):
        vae = build_vae((128, 256, 512, 512))
    names = {vae_name(name, 4) for name in vae.state_dict()}
    assert len(names) == 248
    assert {
        "encoder.down.2.downsample.conv.weight",
        "decoder.up.3.upsample.conv.bias",
        "decoder.up.1.block.0.nin_shortcut.weight",
        "encoder.mid.attn_1.q.weight",
        "decoder.mid.attn_1.proj_out.bias",
        "quant_conv.weight",
    } <= names


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "SD1.5"),
        ({UNET + "input_blocks.0.0.weight": (320, 9, 3, 3)}, "SD1.5 inpainting"),
        ({UNET + "label_emb.0.0.weight": (1280, 2816)}, "SDXL"),
    ],
)
def test_families_are_told_apart_by_shapes(change, name):
    assert family_of(sd15_shapes() | change).name == name


def test_a_family_with_another_text_width_is_sd2():
    wide = {n: (s[0], 1024) if "attn2.to_k" in n else s for n, s in sd15_shapes().items()}
    assert family_of(wide).name == "Stable Diffusion 2"


def test_other_files_are_named_for_what_they_are(tmp_path):
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 4)}, lora)
    assert inspect(lora).name == "a LoRA"
    with pytest.raises(TrainerError, match="is a LoRA"):
        check_sd15(lora)


def test_a_truncated_file_is_refused_in_words(tmp_path):
    path = tmp_path / "torn.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TrainerError, match=r"torn\.safetensors.*truncated"):
        inspect(path)


def test_a_pickle_is_refused_before_it_is_opened(tmp_path):
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(TrainerError, match="not a .safetensors file"):
        inspect(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainerError, match="no file gone.safetensors"):
        inspect(tmp_path / "gone.safetensors")
