"""Ingredients that are not alike: what is missing, wider or called otherwise goes by rule, and the
result says so.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from cocktail.merge.blocks import block_weights
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint, notes_of
from cocktail.merge.errors import MergeError
from cocktail.merge.family import SD15, SD15_INPAINTING, SDXL, VAE_ONLY, Family, family_of
from cocktail.merge.key_names import with_usual_names
from cocktail.merge.matching import without
from cocktail.merge.recipe import BlockSum, Ingredient, Parts, add_difference, bind, weighted_sum
from cocktail.merge.recipe_json import from_json, load_json, recipe_hash, to_json
from cocktail.merge.safetensors_file import read_header
from cocktail.merge.text import parse, to_text

from .conftest import TEXT, UNET

A, B, C = (Ingredient(name) for name in "abc")
FIRST = UNET + "input_blocks.0.0.weight"
VAE = "first_stage_model."


@pytest.fixture
def cellar(tmp_path, write, sd15):
    """cellar(recipe, **tensors): the tensors of the recipe's file and its notes; a, b and c are
    ordinary unless they are given.
    """

    def mix(recipe, precision="fp32", **given):
        for seed, name in enumerate("abc", 1):
            write(name, given.get(name, sd15(seed)))
        bound = bind_to_files(recipe, lambda name: tmp_path / f"{name}.safetensors")
        path = tmp_path / "out.safetensors"
        path.unlink(missing_ok=True)
        make_checkpoint(bound, path, precision)
        return load_file(path), " ".join(notes_of(bound, precision))

    return mix


def part(tensors, *prefixes):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}


def wide(tensors, numbers, channels=9):
    more = numbers((320, channels - 4, 3, 3), 77, torch.float16)
    return tensors | {FIRST: torch.cat([tensors[FIRST], more], 1)}


def close(found, expected):
    return torch.allclose(found.double(), expected, rtol=1e-6, atol=0)


def test_a_missing_text_encoder_is_mixed_from_the_others(cellar, sd15):
    a, b, c = sd15(1), sd15(2), sd15(3)
    only_unet = part(b, UNET)
    made, notes = cellar(weighted_sum([(A, 50), (B, 30), (C, 20)]), b=only_unet)
    name = TEXT + "final_layer_norm.bias"
    assert close(made[name], (5 * a[name].double() + 2 * c[name].double()) / 7)
    name = UNET + "out.2.bias"
    assert close(
        made[name], 0.5 * a[name].double() + 0.3 * b[name].double() + 0.2 * c[name].double()
    )
    assert "b has no text encoder; it is mixed from the others." in notes
    assert "averaged copies" in notes


def test_a_difference_of_which_a_side_is_missing_adds_nothing(cellar, sd15):
    a = sd15(1)
    made, _ = cellar(add_difference(A, B, C, 0.5), c=part(sd15(3), UNET))
    for name in part(a, TEXT):
        if "position" not in name:
            assert torch.equal(made[name].half(), a[name]), name


def test_without_says_what_is_left_of_a_recipe():
    blocks = BlockSum(A, B, block_weights([0.5] * 25))
    assert without(A, [B]) == A and without(A, [A]) is None
    assert without(weighted_sum([(A, 1), (B, 1), (C, 2)]), [B]) == weighted_sum([(A, 1), (C, 2)])
    assert without(weighted_sum([(A, 2), (B, -1), (C, 0.5)]), [A]) == B
    assert without(blocks, [A]) == B and without(blocks, [B]) == A
    assert without(add_difference(A, B, C, 1), [B]) == A
    assert without(add_difference(A, B, C, 1), [A, C]) == B
    assert without(add_difference(A, B, C, 1), [A, B]) is None


def test_a_missing_vae_is_that_of_the_first_that_has_one(cellar, sd15):
    rest = {n: t for n, t in sd15(1).items() if not n.startswith(VAE)}
    made, notes = cellar(weighted_sum([(A, 1), (B, 1)]), a=rest)
    for name, tensor in part(sd15(2), VAE).items():
        assert torch.equal(made[name], tensor)
    assert "a has no VAE; the result has that of b." in notes
    made, _ = cellar(weighted_sum([(A, 1), (B, 1)]), a=rest, b=part(sd15(2), UNET, TEXT))
    assert not part(made, VAE)


def test_single_tensors_of_a_text_encoder_may_be_missing(cellar, sd15):
    name, ids = "cond_stage_model.logit_scale", TEXT + "embeddings.position_ids"
    a, b = sd15(1), sd15(2)
    del a[ids]
    b[name] = torch.tensor(4.6)
    made, notes = cellar(weighted_sum([(A, 3), (B, 1)]), a=a, b=b)
    assert torch.equal(made[name], b[name])
    assert made[ids].tolist() == [list(range(77))]
    said = f"lacks 1 tensors of the text encoder, which are mixed from the others: {name}."
    assert f"a {said}" in notes


@pytest.mark.parametrize("slot", "abc")
def test_the_well_known_inpainting_recipe_works_whichever_slot_holds_the_wide_model(
    cellar, sd15, numbers, slot
):
    files = {name: sd15(seed) for seed, name in enumerate("abc", 1)}
    files[slot] = wide(files[slot], numbers)
    a, b, c = (files[name][FIRST].double() for name in "abc")
    if slot == "c":
        made, notes = cellar(add_difference(A, B, C, 1), **files)
        expected = a + b - c[:, :4]
    else:
        made, notes = cellar(add_difference(A, B, C, 1), **files)
        more = (a if slot == "a" else b)[:, 4:]
        expected = torch.cat([a[:, :4] + (b[:, :4] - c), more], 1)
        assert f"The result takes 9 channels, as {slot}" in notes
    assert close(made[FIRST], expected)


@pytest.mark.parametrize("channels", [8, 9])
@pytest.mark.parametrize("slot", "ab")
def test_a_weighted_sum_keeps_the_additional_channels_unscaled(
    cellar, sd15, numbers, slot, channels
):
    files = {name: sd15(seed) for seed, name in enumerate("ab", 1)}
    files[slot] = wide(files[slot], numbers, channels)
    made, _ = cellar(weighted_sum([(A, 1), (B, 3)]), **files)
    a, b = (files[name][FIRST].double() for name in "ab")
    assert made[FIRST].shape == (320, channels, 3, 3)
    assert close(made[FIRST][:, :4], 0.25 * a[:, :4] + 0.75 * b[:, :4])
    assert torch.equal(made[FIRST][:, 4:].half(), files[slot][FIRST][:, 4:])


def test_the_widened_convolution_has_the_same_bytes_in_pieces_of_any_size(
    cellar, sd15, numbers, tmp_path, write
):
    from cocktail.merge.engine import write_file
    from cocktail.merge.plan import make_plan

    write("a", wide(sd15(1), numbers))
    write("b", sd15(2))
    bound = bind_to_files(weighted_sum([(A, 1), (B, 3)]), lambda n: tmp_path / f"{n}.safetensors")
    plan = make_plan(bound.recipe, bound.headers, "fp16")
    assert plan.family == SD15_INPAINTING
    for threads, elements in ((1, 1 << 18), (3, 1000)):
        write_file(plan, tmp_path / f"{elements}.safetensors", {}, threads, elements)
    made = [(tmp_path / f"{size}.safetensors").read_bytes() for size in (1 << 18, 1000)]
    assert made[0] == made[1]


def test_inpainting_and_pix2pix_do_not_mix(cellar, sd15, numbers):
    with pytest.raises(MergeError, match="additional channels mean different things"):
        cellar(
            weighted_sum([(A, 1), (B, 1)]), a=wide(sd15(1), numbers), b=wide(sd15(2), numbers, 8)
        )


def test_not_a_number_in_the_additional_channels_is_told(cellar, sd15, numbers):
    broken = wide(sd15(2), numbers)
    broken[FIRST][5, 7, 0, 0] = float("nan")
    with pytest.raises(MergeError, match=r"NaN or infinity: .*input_blocks\.0\.0\.weight in b"):
        cellar(weighted_sum([(A, 1), (B, 1)]), b=broken)


def test_not_a_number_in_the_vae_is_told(cellar, sd15):
    broken = sd15(1)
    broken[VAE + "decoder.conv_out.bias"][1] = float("inf")
    with pytest.raises(MergeError, match=r"NaN or infinity: .*conv_out\.bias in a"):
        cellar(weighted_sum([(A, 1), (B, 1)]), a=broken)


def test_novelai_names_are_read_as_the_usual_ones(cellar, sd15):
    a, b = sd15(1), sd15(2)
    old = {name.replace("transformer.text_model.", "transformer."): t for name, t in b.items()}
    assert old.keys() != b.keys()
    made, notes = cellar(weighted_sum([(A, 1), (B, 1)]), b=old)
    usual, _ = cellar(weighted_sum([(A, 1), (B, 1)]), a=a, b=b)
    assert made.keys() == usual.keys()
    assert all(torch.equal(made[name], usual[name]) for name in usual)
    assert "b: NovelAI's names of the text encoder (3 tensors)." in notes


NAMES = (
    ("q", "to_q", "query"),
    ("k", "to_k", "key"),
    ("v", "to_v", "value"),
    ("proj_out", "to_out.0", "proj_attn"),
)


@pytest.mark.parametrize("generation", [1, 2])
def test_diffusers_names_in_the_attention_of_a_vae_are_repaired(cellar, sd15, numbers, generation):
    attention = VAE + "decoder.mid.attn_1."
    values = {usual: numbers((8, 8), n, torch.float16) for n, (usual, *_) in enumerate(NAMES)}
    a = (
        sd15(1)
        | {f"{attention}{names[generation]}.weight": values[names[0]] for names in NAMES}
        | {attention + "group_norm.bias": torch.ones(8)}
    )
    made, notes = cellar(weighted_sum([(A, 1), (B, 1)]), a=a)
    for usual, value in values.items():
        assert torch.equal(made[f"{attention}{usual}.weight"], value[:, :, None, None])
    assert torch.equal(made[attention + "norm.bias"], torch.ones(8))
    assert "a: diffusers' names in the VAE (5 tensors)." in notes


DIFFUSERS_VAE = {
    "encoder.conv_in.weight": "encoder.conv_in.weight",
    "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (
        "encoder.down.1.block.0.nin_shortcut.weight"
    ),
    "encoder.down_blocks.0.downsamplers.0.conv.bias": "encoder.down.0.downsample.conv.bias",
    "encoder.mid_block.resnets.1.norm1.weight": "encoder.mid.block_2.norm1.weight",
    "encoder.mid_block.attentions.0.to_out.0.bias": "encoder.mid.attn_1.proj_out.bias",
    "decoder.up_blocks.0.resnets.2.conv1.weight": "decoder.up.3.block.2.conv1.weight",
    "decoder.up_blocks.3.resnets.0.conv2.bias": "decoder.up.0.block.0.conv2.bias",
    "decoder.up_blocks.1.upsamplers.0.conv.weight": "decoder.up.2.upsample.conv.weight",
    "decoder.conv_norm_out.weight": "decoder.norm_out.weight",
    "decoder.conv_in.weight": "decoder.conv_in.weight",
    "post_quant_conv.bias": "post_quant_conv.bias",
}


def test_a_whole_vae_in_the_layout_of_diffusers_is_read_as_the_original_one(write):
    header = read_header(write("vae", {name: torch.ones(2) for name in DIFFUSERS_VAE}))
    usual = with_usual_names(header)
    assert set(usual.tensors) == {VAE + name for name in DIFFUSERS_VAE.values()}
    assert family_of(usual) == VAE_ONLY
    for old, new in DIFFUSERS_VAE.items():
        assert usual.tensors[VAE + new].offset == header.tensors[old].offset


def test_a_unet_without_its_prefix_fits_a_checkpoint(cellar, sd15):
    bare = {name.removeprefix(UNET): tensor for name, tensor in part(sd15(2), UNET).items()}
    made, notes = cellar(weighted_sum([(A, 1), (B, 1)]), b=bare)
    usual, _ = cellar(weighted_sum([(A, 1), (B, 1)]))
    assert all(torch.equal(made[name], usual[name]) for name in part(usual, UNET))
    assert "b: the UNet's prefix added" in notes


def test_other_families_are_mixed_key_by_key(cellar):
    def flux(seed):
        torch.manual_seed(seed)
        names = ("double_blocks.0.img_attn.qkv.weight", "single_blocks.3.norm.key_norm.scale")
        return {name: torch.randn(6, 6) for name in names}

    made, _ = cellar(weighted_sum([(A, 1), (B, 3)]), a=flux(1), b=flux(2))
    a, b = flux(1), flux(2)
    assert made.keys() == a.keys()
    for name in a:
        assert close(made[name], 0.25 * a[name].double() + 0.75 * b[name].double())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_ingredients_of_any_type_mix(cellar, sd15, dtype):
    a, b = (
        sd15(1),
        {name: t.to(dtype) if t.is_floating_point() else t for name, t in sd15(2).items()},
    )
    name = UNET + "out.2.weight"
    assert b[name].isfinite().all() if dtype == torch.bfloat16 else b[name].float().isfinite().all()
    made, _ = cellar(weighted_sum([(A, 1), (B, 1)]), b=b)
    assert close(made[name], (a[name].double() + b[name].double()) / 2)


def sdxl(context=2048):
    tensors = {
        FIRST: torch.zeros(320, 4, 3, 3),
        UNET + "label_emb.0.0.weight": torch.zeros(4, 4),
        UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, context),
        "conditioner.embedders.1.model.ln_final.weight": torch.zeros(4),
    }
    return tensors


def test_families_are_told_apart(write, sd15, numbers):
    for tensors, family in (
        (sd15(1), SD15),
        (wide(sd15(1), numbers), SD15_INPAINTING),
        (sdxl(), SDXL),
        (sdxl(1280), "SDXL refiner"),
        ({"double_blocks.0.x": torch.zeros(2)}, "Flux"),
    ):
        found = family_of(with_usual_names(read_header(write("x", tensors))))
        assert found == family if isinstance(family, Family) else found.name == family
        write("x", {"again": torch.zeros(1)})


def test_sdxl_is_mixed_and_the_refiner_is_refused(cellar):
    made, _ = cellar(weighted_sum([(A, 1), (B, 1)]), a=sdxl(), b=sdxl())
    assert made.keys() == sdxl().keys()
    with pytest.raises(MergeError, match="a is SDXL, b is SDXL refiner"):
        cellar(weighted_sum([(A, 1), (B, 1)]), a=sdxl(), b=sdxl(1280))


def test_a_vae_is_taken_from_another_ingredient_byte_for_byte_or_blended_where_it_says_so(
    cellar, sd15
):
    mix = weighted_sum([(A, 1), (B, 1)])
    made, _ = cellar(Parts(mix, vae=C))
    for name, tensor in part(sd15(3), VAE).items():
        assert torch.equal(made[name], tensor)
    made, _ = cellar(Parts(mix, vae=weighted_sum([(B, 1), (C, 3)])))
    for name in part(sd15(3), VAE):
        expected = 0.25 * sd15(2)[name].double() + 0.75 * sd15(3)[name].double()
        assert made[name].dtype == torch.float16
        assert torch.allclose(made[name].double(), expected, rtol=2**-11, atol=2**-25)
    with pytest.raises(MergeError, match="There is no VAE in c"):
        cellar(Parts(mix, vae=C), c=part(sd15(3), UNET))


@pytest.mark.parametrize("prefix", ["", VAE])
def test_a_vae_file_is_baked_in(cellar, sd15, prefix):
    vae = {n.replace(VAE, prefix): t + 1 for n, t in part(sd15(3), VAE).items()}
    vae |= {f"{prefix}decoder.conv_in.weight": torch.ones(4), "loss.logvar": torch.ones(1)}
    made, _ = cellar(Parts(weighted_sum([(A, 1), (B, 1)]), vae=C), c=vae)
    assert {n: t.shape for n, t in part(made, VAE).items()} == {
        VAE + n.removeprefix(VAE): t.shape for n, t in vae.items() if "loss" not in n
    }
    for name, tensor in part(made, VAE).items():
        assert torch.equal(tensor, vae[name.replace(VAE, prefix)])
    assert "loss.logvar" not in made and torch.equal(made["betas"], sd15(1)["betas"])


def test_a_text_encoder_is_mixed_by_a_recipe_of_its_own(cellar, sd15):
    recipe = Parts(A, text_encoder=weighted_sum([(B, 1), (C, 1)]))
    made, _ = cellar(recipe)
    for name, tensor in sd15(1).items():
        if name.startswith(TEXT) and "position" not in name:
            assert close(made[name], (sd15(2)[name].double() + sd15(3)[name].double()) / 2)
        elif name.startswith((UNET, VAE)):
            assert torch.equal(made[name].to(tensor.dtype), tensor)


def test_recipes_with_parts_are_read_back_from_json_and_text():
    recipe = Parts(
        weighted_sum([(A, 1), (B, 3)]), text_encoder=weighted_sum([(B, 1), (C, 1)]), vae=C
    )
    text = "0.25 a + 0.75 b with text_encoder (0.5 b + 0.5 c) with vae c"
    assert to_text(recipe) == text and parse(text) == recipe
    assert load_json(json.dumps(to_json(recipe))) == recipe
    nested = Parts(weighted_sum([(recipe, 1), (A, 1)]), vae=B)
    assert parse(to_text(nested)) == nested and from_json(to_json(nested)) == nested
    assert to_text(nested) == f"0.5 ({text}) + 0.5 a with vae b"
    bound = bind(recipe, lambda name: name * 64)
    hashes = {recipe_hash(bound), recipe_hash(replace(bound, vae=None)), recipe_hash(bound.recipe)}
    assert len(hashes) == 3
    for wrong in (
        "a with",
        "a with unet b",
        "a with vae b with vae c",
        "a with vae (b - c)",
        "(a - b) with vae c",
    ):
        with pytest.raises(MergeError, match="cannot be read at"):
            parse(wrong)
    with pytest.raises(MergeError, match="\"unet\" is not known|'unet' is not known"):
        from_json({"kind": "parts", "recipe": to_json(A), "unet": to_json(B)})


def test_the_vae_chosen_inside_a_mix_is_the_mixs(cellar, sd15):
    made, _ = cellar(weighted_sum([(Parts(A, vae=C), 1), (B, 1)]))
    for name, tensor in part(sd15(3), VAE).items():
        assert torch.equal(made[name], tensor)


def test_buffers_without_a_dot_in_their_names_come_from_the_first_ingredient_alone(cellar, sd15):
    mark = {"strange": torch.tensor([])}
    made, _ = cellar(weighted_sum([(A, 1), (B, 1)]), a=sd15(1), b=sd15(2) | mark)
    assert "strange" not in made and torch.equal(made["betas"], sd15(1)["betas"])
    made, _ = cellar(weighted_sum([(A, 1), (B, 1)]), a=sd15(1) | mark, b=sd15(2))
    assert "strange" in made
