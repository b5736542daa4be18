"""Text encoders and VAEs of other families, and tensors in no part of a checkpoint."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from cocktail.merge.checkpoint import bind_to_files, make_checkpoint, notes_of
from cocktail.merge.errors import MergeError
from cocktail.merge.reading import open_checkpoint
from cocktail.merge.text import parse
from cocktail.merge.whole_parts import faults_of
from cocktail.trainer.model.layout import sd15_tensors as real_sd15

from .conftest import TEXT, UNET, sd15_tensors

VAE = "first_stage_model."
EMBEDDING = TEXT + "embeddings.token_embedding.weight"
FIRST = UNET + "input_blocks.0.0.weight"


def without(tensors, *prefixes):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def only(tensors, prefix):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def whole(seed):
    """A checkpoint whose text encoder (of one layer) and VAE (of two narrow levels) have every
    tensor of SD1.5's, by the names and shapes that the trainer reads.
    """
    made = {
        name: torch.full(shape, float(seed)).half()
        for name, shape in sorted(WHOLE.items())
        if name != EMBEDDING
    }
    return sd15_tensors(seed) | made


def real_parts(*widths):
    """The names and shapes of SD1.5's text encoder, of one layer, and of its VAE, with a level of
    each of these widths.
    """
    hints = {
        f"{UNET}input_blocks.1.0.in_layers.0.weight": (1,),
        f"{UNET}input_blocks.1.0.out_layers.3.weight": (1,),
        f"{TEXT}encoder.layers.0.mlp.fc1.weight": (1,),
    }
    hints |= {f"{VAE}encoder.down.{n}.block.0.conv1.weight": (w,) for n, w in enumerate(widths)}
    return {name: s for name, s in real_sd15(hints) if name.startswith((TEXT, VAE))}


WHOLE = real_parts(4, 6)


def half(*shape):
    return torch.ones(shape, dtype=torch.float16)


@pytest.fixture
def mix(tmp_path, write):
    def run(text, **files):
        for name, tensors in files.items():
            write(name, tensors)
        bound = bind_to_files(parse(text), lambda name: tmp_path / f"{name}.safetensors")
        out = tmp_path / "out.safetensors"
        out.unlink(missing_ok=True)
        make_checkpoint(bound, out, "fp32")
        return load_file(out), open_checkpoint(out).metadata, " ".join(notes_of(bound, "fp32"))

    return run


CLIP_OF_SDXL = "conditioner.embedders.0.transformer.text_model."
SDXL_TEXT = {
    CLIP_OF_SDXL + "embeddings.token_embedding.weight": half(9, 768),
    "conditioner.embedders.1.model.token_embedding.weight": half(9, 1280),
}
SD2_TEXT = {"cond_stage_model.model.token_embedding.weight": half(9, 1024)}
UNET_ONLY = without(sd15_tensors(2), "cond_stage_model.", VAE)


@pytest.mark.parametrize(
    "other, why",
    [
        (SDXL_TEXT, "of SDXL"),
        (SD2_TEXT, "of Stable Diffusion 2"),
        (UNET_ONLY, "no text encoder in f"),
        ({"text_model.embeddings.token_embedding.weight": half(9, 1280)}, "of the SDXL refiner"),
        (without(sd15_tensors(2), TEXT + "final_layer"), "final_layer_norm.bias is missing"),
        ({EMBEDDING: half(98, 768), TEXT + "final_layer_norm.bias": half(768)}, r"\[98, 768\]"),
    ],
)
def test_a_text_encoder_of_another_kind_is_refused_with_the_reason(mix, other, why):
    with pytest.raises(MergeError, match=why):
        mix("vodka with text_encoder f", vodka=sd15_tensors(1), f=other)


def test_a_file_of_clip_l_alone_is_read(mix):
    text = only(sd15_tensors(2), TEXT)
    bare = {name.removeprefix("cond_stage_model.transformer."): t for name, t in text.items()}
    made, _, told = mix("vodka with text_encoder f", vodka=sd15_tensors(1), f=bare)
    assert torch.equal(made[EMBEDDING], text[EMBEDDING].float())
    assert "the text encoder's prefix added" in told


@pytest.mark.parametrize(
    "other, why",
    [
        ({VAE + "decoder.conv_in.weight": half(512, 16, 3, 3)}, r"\[512, 16, 3, 3\]"),
        ({"decoder.conv_in.weight": half(512, 16, 3, 3)}, r"\[512, 16, 3, 3\]"),
        (without(only(sd15_tensors(2), VAE), VAE + "decoder.conv_out.bias"), "bias is missing"),
        (UNET_ONLY, "no VAE in f"),
    ],
)
def test_a_vae_of_another_kind_is_refused_with_the_reason(mix, other, why):
    with pytest.raises(MergeError, match=why):
        mix("vodka with vae f", vodka=sd15_tensors(1), f=other)


def test_a_vae_that_nobody_chose_is_looked_at_too(mix):
    with pytest.raises(MergeError, match="latents have another size"):
        wrong = {VAE + "post_quant_conv.weight": half(16, 16, 1, 1)}
        mix("0.5 a + 0.5 b", a=without(sd15_tensors(1), VAE), b=sd15_tensors(2) | wrong)


@pytest.mark.parametrize("part, prefix", [("text encoder", TEXT), ("vae", VAE)])
def test_a_base_without_a_part_gets_a_whole_one_or_none(mix, part, prefix):
    base, names = without(sd15_tensors(1), "cond_stage_model.", VAE), set(only(whole(2), prefix))
    asked = f"u with {part.replace(' ', '_')} b"
    made, _, told = mix(asked, u=base, b=whole(2))
    assert set(only(made, prefix)) == names and "not whole" not in told
    gone = sorted(names - {TEXT + "embeddings.token_embedding.weight"})[0]
    with pytest.raises(MergeError, match=f"of b is not whole: {gone.replace('.', '[.]')} is miss"):
        mix(asked, u=base, b=without(whole(2), gone))
    made, _, told = mix("0.5 u + 0.5 b", u=base, b=without(whole(2), gone))
    words = "of the result is not whole: the base has none, and in that of the others"
    assert f"{words} {gone} is missing." in told
    wrong = whole(2) | {gone: half(3, 5)}
    with pytest.raises(MergeError, match=rf"of b is not whole: {gone} is \[3, 5\], not \["):
        mix(asked, u=base, b=wrong)
    assert f"{words} {gone} is [3, 5], not [" in mix("0.5 u + 0.5 b", u=base, b=wrong)[2]


@pytest.mark.parametrize(
    "levels", [(128, 256, 512, 512), (4, 6), (4,)], ids=["full size", "narrow", "one level"]
)
def test_what_is_whole_is_what_the_trainer_reads(levels):
    """Of every tensor of SD1.5 it is told that it is missing or of another shape."""
    shapes = real_parts(*levels)
    for part, prefix in (("text encoder", TEXT), ("VAE", VAE)):
        own = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
        assert faults_of(part, own) == []
        matrices = {
            name: shape[:2] if shape[2:] == (1, 1) else shape for name, shape in own.items()
        }
        assert faults_of(part, matrices) == []
        for name in own.keys() - {EMBEDDING}:
            less = {other: shape for other, shape in own.items() if other != name}
            assert faults_of(part, less) == [f"{name} is missing"]
            bad = (*own[name][:-1], 1234567)
            told = faults_of(part, own | {name: bad})
            assert f"{name} is {list(bad)}, not {list(own[name])}" in told


def test_openclip_is_whole_with_every_tensor_of_its_layers():
    """By the shapes of OpenCLIP ViT-bigG/14's text half, which is SDXL's second one."""
    width, at = 1280, "conditioner.embedders.1.model."
    whole = {
        "token_embedding.weight": (49408, width), "positional_embedding": (77, width),
        "ln_final.weight": (width,), "ln_final.bias": (width,),
        "text_projection": (width, width), "logit_scale": (),
    }  # fmt: skip
    for number in (0, 1):
        layer = f"transformer.resblocks.{number}."
        whole |= {
            f"{layer}{name}.{end}": shape if end == "weight" else shape[:1]
            for end in ("weight", "bias")
            for name, shape in {
                "ln_1": (width,), "ln_2": (width,), "attn.out_proj": (width, width),
                "mlp.c_fc": (5120, width), "mlp.c_proj": (width, 5120),
            }.items()
        } | {
            f"{layer}attn.in_proj_weight": (3840, width), f"{layer}attn.in_proj_bias": (3840,),
        }  # fmt: skip
    whole = {at + name: shape for name, shape in whole.items()}
    assert faults_of("text encoder", whole) == []
    few = {name: whole[name] for name in whole if "resblocks.0" not in name and "_proj" not in name}
    faults = faults_of("text encoder", few)
    assert f"{at}transformer.resblocks.1.attn.in_proj_bias is missing" in faults
    assert len(faults) == 12 + 2 + 2 + 2
    wrong = f"{at}transformer.resblocks.1.mlp.c_proj.weight"
    told = [f"{wrong} is [5120, 1280], not [1280, 5120]"]
    assert faults_of("text encoder", whole | {wrong: (5120, width)}) == told


def test_what_the_result_has_not_is_told_and_nothing_else(mix):
    u, other = (without(sd15_tensors(n), "cond_stage_model.", VAE) for n in (1, 2))
    none = "The result has no {}: none of its ingredients has one."
    told = mix("0.5 u + 0.5 v", u=u, v=other)[2]
    assert none.format("VAE") in told and none.format("text encoder") in told
    told = mix("u with vae b", u=u, b=whole(2))[2]
    assert none.format("text encoder") in told and "mixed from the others" not in told


def test_families_have_the_right_article(mix):
    with pytest.raises(MergeError, match="text encoder of an SD1.5 checkpoint"):
        mix("vodka with text_encoder f", vodka=sd15_tensors(1), f=SD2_TEXT)


OUTSIDE = {
    "denoiser.sigmas": torch.rand(1000),
    "loss.discriminator.weight": half(4, 4),
    "optimizer.state.weight": torch.ones(4, dtype=torch.int64),
    "embedding_manager.placeholder": half(1, 768),
    "control_model.input_hint_block.0.bias": half(16),
}


def test_tensors_in_no_part_come_from_the_base_with_a_note(mix):
    made, _, told = mix("0.5 a + 0.5 b", a=sd15_tensors(1) | OUTSIDE, b=sd15_tensors(2))
    for name, tensor in OUTSIDE.items():
        assert made[name].dtype == tensor.dtype and torch.equal(made[name], tensor)
    assert "5 tensors in no part of a checkpoint are taken from a" in told


def test_those_of_another_than_the_base_are_left_out_with_a_note(mix):
    made, _, told = mix("0.5 a + 0.5 b", a=sd15_tensors(1), b=sd15_tensors(2) | OUTSIDE)
    assert not set(OUTSIDE) & set(made)
    assert "5 tensors in no part of a checkpoint are left out: a has none" in told


def test_a_missing_tensor_of_the_unet_is_still_refused(mix):
    with pytest.raises(MergeError, match=r"out\.2\.bias is missing in b"):
        mix("0.5 a + 0.5 b", a=sd15_tensors(1), b=without(sd15_tensors(2), UNET + "out.2.bias"))


def test_the_file_is_what_its_metadata_says_when_channels_are_only_subtracted(mix):
    wide = sd15_tensors(3)
    wide[FIRST] = half(320, 9, 3, 3)
    files = {"tune": sd15_tensors(1), "base": sd15_tensors(2), "inp": wide}
    made, metadata, told = mix("tune + 1 (base - inp)", **files)
    assert made[FIRST].shape == (320, 4, 3, 3)
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert '"is_inpainting": false' in metadata["sd_merge_recipe"]
    assert "The result takes 4 channels" in told
    made, metadata, told = mix("tune + 1 (inp - base)", **files)
    assert made[FIRST].shape == (320, 9, 3, 3)
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1-inpainting"
