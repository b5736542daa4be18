"""Single files: what they are, and which tensor of a module is which of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail.merge import content as merge_content
from cocktail.trainer.checkpoints import _is_same
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.model import content, layout
from cocktail.trainer.model.layout import check_sd15, fault
from cocktail.trainer.model.networks import (
    _check_finite,
    build_unet,
    build_vae,
    load_model,
    load_vae,
)
from cocktail.trainer.model.networks import sd15_shapes as built_shapes
from cocktail.trainer.model.single_file import (
    TEXT_ENCODER,
    UNET,
    VAE,
    Level,
    family_of,
    read_shapes,
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
    assert family_of(read_shapes(lora)).name == "a LoRA"
    with pytest.raises(TrainerError, match="is a LoRA"):
        check_sd15(lora)


def test_a_truncated_file_is_refused_in_words(tmp_path):
    path = tmp_path / "torn.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TrainerError, match=r"torn\.safetensors.*truncated"):
        check_sd15(path)


def test_a_pickle_is_refused_before_it_is_opened(tmp_path):
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(TrainerError, match="not a .safetensors file but a pickled") as error:
        check_sd15(path)
    assert "`python -m merge prune old.ckpt old.safetensors`" in str(error.value)
    path.rename(tmp_path / "old v1.safetensors")
    with pytest.raises(TrainerError, match=r"Rename it to old v1\.ckpt") as error:
        check_sd15(tmp_path / "old v1.safetensors")
    assert "`python -m merge prune 'old v1.ckpt' 'old v1.safetensors'`" in str(error.value)


OTHER_CONTENT = {
    "an empty file": b"",
    "a web page": b"<!DOCTYPE html><html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 42\n",
    "a GGUF file": b"GGUF" + bytes(90),
    "a zip archive": b"PK\x03\x04" + bytes(90),
    "a text. ": b"Access denied. Please log in.\n",
}


@pytest.mark.parametrize("what", OTHER_CONTENT)
@pytest.mark.parametrize("name", ["x.safetensors", "x.sft", "x.ckpt"])
def test_a_file_of_another_content_is_told_by_it(tmp_path, what, name):
    (tmp_path / name).write_bytes(OTHER_CONTENT[what])
    with pytest.raises(TrainerError, match="x.* is not a .safetensors file but") as error:
        check_sd15(tmp_path / name)
    assert what in str(error.value) and "claims" not in str(error.value)


def test_a_safetensors_file_of_another_name_is_to_be_renamed(tmp_path, tiny_base):
    (tmp_path / "a.ckpt").write_bytes(tiny_base.read_bytes())
    with pytest.raises(TrainerError, match=r"a\.ckpt is a safe.* Rename it to a\.safetensors"):
        check_sd15(tmp_path / "a.ckpt")


def test_the_trainer_and_the_merge_engine_tell_files_apart_alike():
    ours, theirs = (Path(str(module.__file__)).read_text() for module in (content, merge_content))
    assert ours == theirs


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainerError, match="no file gone.safetensors"):
        check_sd15(tmp_path / "gone.safetensors")


def bare(shape: tuple[int, ...]) -> list[int]:
    return [side for side in shape if side != 1]


@pytest.mark.parametrize("file", ["full size", "tiny"])
def test_a_whole_base_has_the_tensors_that_the_libraries_modules_have(file, tiny_base):
    shapes = built_shapes() if file == "full size" else read_shapes(tiny_base)
    wanted = dict(layout.sd15_tensors(shapes))
    assert {n: bare(s) for n, s in wanted.items()} == {n: bare(s) for n, s in shapes.items()}
    assert fault(shapes) == ""


ATTENTION = VAE + "encoder.mid.attn_1."
FC1 = TEXT_ENCODER + "encoder.layers.5.mlp.fc1.weight"
LAYER = TEXT_ENCODER + "encoder.layers."
VOCABULARY = TEXT_ENCODER + "embeddings.token_embedding.weight"
BLOCK = UNET + "input_blocks.5.0.in_layers.0.weight"
OUT = UNET + "input_blocks.4.0.out_layers.3.weight"
SCALE = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight_scale"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({ATTENTION + "q.weight": None, ATTENTION + "to_to_q.weight": (512, 512, 1, 1)}, "to_to_q"),
        ({UNET + "out.2.bias": None}, "out.2.bias is missing"),
        ({VAE + "encoder.conv_in.weight": None}, "encoder.conv_in.weight is missing"),
        ({VAE + "encoder.": None}, "encoder.down.0.block.0.conv1.weight is missing"),
        ({VAE + "decoder.up.1.": None}, "decoder.up.1.block.0.norm1.weight is missing"),
        ({VOCABULARY: (49409, 768)}, "has the shape [49409, 768], not [49408, 768]"),
        ({FC1: None}, f"{FC1} is missing"),
        ({TEXT_ENCODER + "encoder.layers.5.": None}, "encoder.layers.5"),
        ({BLOCK: None}, f"{BLOCK} is missing"),
        ({OUT: None}, f"{OUT} is missing"),
        ({UNET + "input_blocks.11.": None}, "input_blocks.11.0.in_layers.0.weight is missing"),
        ({SCALE: (1,)}, f"{SCALE} has no place"),
        ({LAYER + "99999999.x": (1,)}, "encoder.layers.99999999.x has no place"),
        ({UNET + "input_blocks." + "9" * 5000 + ".0": (1,)}, "has no place"),
        ({LAYER + "9999.x": (1,)}, "encoder.layers.12.self_attn.q_proj.weight is missing"),
    ],
)
def test_a_base_that_is_not_whole_is_refused_with_the_name_of_the_tensor(change, words):
    shapes = built_shapes()
    for name, shape in change.items():
        if shape is None:
            shapes = {other: s for other, s in shapes.items() if not other.startswith(name)}
        else:
            shapes[name] = shape
    assert words in fault(shapes)


def test_every_tensor_that_is_read_is_missed(tiny_base):
    shapes = read_shapes(tiny_base)
    for name in shapes:
        assert fault({other: shape for other, shape in shapes.items() if other != name}), name


def test_what_is_only_copied_may_be_there_and_novelais_names_are_read(tiny_base, tmp_path):
    tensors = load_file(tiny_base)
    for name in [name for name in tensors if name.startswith(TEXT_ENCODER)]:
        short = name.replace("text_model.", "")
        tensors[short] = tensors.pop(name)
    tensors["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    tensors["model_ema.decay"] = torch.ones(1)
    tensors[VAE + "loss.logvar"] = torch.zeros(1)
    save_file(tensors, tmp_path / "novelai.safetensors")
    check_sd15(tmp_path / "novelai.safetensors")
    load_model(tmp_path / "novelai.safetensors")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8])
def test_whole_numbers_without_scales_are_refused(tiny_base, tmp_path, kind):
    tensors = load_file(tiny_base)
    name = UNET + "out.2.weight"
    tensors[name] = tensors[name].to(kind)
    save_file(tensors, tmp_path / "base.safetensors")
    with pytest.raises(TrainerError, match=f"quantised in a way that cannot be read: {name}"):
        check_sd15(tmp_path / "base.safetensors")


@pytest.mark.parametrize(
    ("name", "load", "value"),
    [
        (UNET + "out.2.weight", load_model, float("nan")),
        (TEXT_ENCODER + "final_layer_norm.bias", load_model, float("inf")),
        (VAE + "quant_conv.weight", load_vae, float("nan")),
    ],
)
def test_a_number_that_is_none_is_the_bases_fault(tiny_base, tmp_path, name, load, value):
    tensors = load_file(tiny_base)
    tensors[name].view(-1)[0] = value
    save_file(tensors, tmp_path / "base.safetensors")
    with pytest.raises(TrainerError, match=f"base.safetensors is damaged: {name} holds NaN or inf"):
        load(tmp_path / "base.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_number_that_is_none_is_found_wherever_it_stands(dtype, value):
    sound = torch.linspace(-1e4, 1e4, 1000).to(dtype)
    _check_finite(Path("a"), {"sound": sound, "none": sound[:0], "whole": torch.arange(3)})
    for place in (0, 1, 500, 998, 999):
        broken = sound.clone()
        broken[place] = value
        with pytest.raises(TrainerError, match="a is damaged: broken holds NaN or infinity"):
            _check_finite(Path("a"), {"sound": sound, "broken": broken})


def test_checkpoints_are_compared_bit_by_bit_wherever_they_lie_in_memory():
    numbers = torch.arange(33, dtype=torch.float16)
    for start, end in ((0, 32), (0, 33), (1, 33), (4, 32), (0, 0)):
        part = numbers[start:end]
        assert _is_same(part, part.clone()) and _is_same(part.clone(), part)
        for place in range(len(part)):
            other = part.clone()
            other.view(torch.int16)[place] ^= 1
            assert not _is_same(part, other)
    assert not _is_same(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert _is_same(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not _is_same(torch.zeros(4), torch.zeros(2, 2))
