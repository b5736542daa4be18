"""Which tensor belongs to which block, what presets say, and that the engine gives every block its
own share.
"""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cocktail.merge.blocks import (
    LAYOUTS,
    block_weights,
    by_group,
    parse_rules,
    parse_values,
    slot_of,
    values_text,
)
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.errors import MergeError
from cocktail.merge.presets import (
    PRESETS,
    curves,
    preset,
    read_own_presets,
    read_presets,
    read_weights,
    save_preset,
)
from cocktail.merge.recipe import BlockSum, Ingredient, add_difference, weighted_sum
from cocktail.merge.recipe_json import recipe_hash, to_json
from cocktail.merge.text import parse

from .conftest import TEXT, UNET

A, B = Ingredient("a"), Ingredient("b")


@pytest.mark.parametrize(
    ("name", "sd15", "sdxl"),
    [
        ("input_blocks.0.0.weight", "IN00", "IN00"),
        ("input_blocks.11.0.in_layers.0.bias", "IN11", "BASE"),
        ("middle_block.1.proj_in.weight", "M00", "M00"),
        ("output_blocks.1.0.emb_layers.1.weight", "OUT01", "OUT01"),
        ("output_blocks.3.1.transformer_blocks.0.attn1.to_out.0.weight", "OUT03", "OUT03"),
        ("out.2.bias", "OUT11", "OUT08"),
        ("time_embed.0.weight", "TIME", "TIME"),
        ("label_emb.0.0.weight", "TIME", "TIME"),
    ],
)
def test_tensors_of_the_unet_are_in_the_blocks_of_the_field(name, sd15, sdxl):
    assert (slot_of(UNET + name, "SD1.5"), slot_of(UNET + name, "SDXL")) == (sd15, sdxl)


def test_all_else_is_base():
    for name in (TEXT + "final_layer_norm.bias", "first_stage_model.out.2.bias", "model_ema.x"):
        assert slot_of(name, "SD1.5") == "BASE"


def test_25_values_are_the_blocks_and_26_begin_with_base():
    values = parse_values("[" + ", ".join(str(n) for n in range(26)) + "]")
    weights = block_weights(values)
    assert (
        weights.base,
        weights.by_slot["IN00"],
        weights.by_slot["M00"],
        weights.by_slot["OUT11"],
    ) == (0, 1, 13, 25)
    assert weights.time == 1, "the time embedding follows IN00"
    assert (
        block_weights(values[1:]).base == 0 and block_weights(values[1:]).blocks == weights.blocks
    )
    assert block_weights(values[:20]).layout == "SDXL"
    assert block_weights(values, base=0.5, time=0.25).of(UNET + "time_embed.2.bias") == Fraction(
        1, 4
    )
    for wrong in (values[:24], [], [*values, 1], [*values[:25], "much"]):
        with pytest.raises(MergeError, match="block weight"):
            block_weights(wrong)


def test_rules_are_those_of_supermerger_and_the_last_that_holds_wins():
    rules = parse_rules(
        "OUT03-OUT05:attn2 attn1.to_out:0.5\nNOT M00:ATTENTION:1,OUT04:NOT attn:0.2", "SD1.5"
    )
    weights = block_weights([0] * 25, rules=rules)
    out3, out4, middle = (
        UNET + block for block in ("output_blocks.3.1.", "output_blocks.4.1.", "middle_block.1.")
    )
    assert weights.of(out3 + "transformer_blocks.0.attn2.to_k.weight") == 1
    assert weights.of(out4 + "proj_in.weight") == Fraction(1, 5)
    assert weights.of(middle + "transformer_blocks.0.attn2.to_k.weight") == 0
    assert block_weights([0] * 25, rules=rules[:1]).of(
        out3 + "transformer_blocks.0.attn1.to_out.0.bias"
    ) == Fraction(1, 2)
    for wrong, message in (
        ("OUT03:attn", "not a rule"),
        ("OUT12:attn:1", "has no block 'OUT12'"),
        ("::x", "not the value"),
    ):
        with pytest.raises(MergeError, match=message):
            parse_rules(wrong, "SD1.5")


def test_presets_are_those_of_the_field():
    def blocks(name, layout="SD1.5"):
        return [float(value) for value in preset(name, layout).blocks]

    assert blocks("GRAD_V")[:3] == [1, 0.9166666667, 0.8333333333] and blocks("GRAD_V")[12] == 0
    assert blocks("GRAD_A") == [pytest.approx(1 - value) for value in blocks("GRAD_V")]
    assert blocks("WRAP12") == [1] * 6 + [0] * 13 + [1] * 6
    assert blocks("MID12_50").count(0.5) == 14
    assert blocks("OUT12_5")[11:14] == [0, 0.5, 1]
    assert blocks("SMOOTHSTEP")[6] == pytest.approx(0.15625)
    assert blocks("TRUE_CUBIC_HERMITE")[12] == 0.520833
    assert blocks("COSINE")[0] == 1 and blocks("COSINE")[24] == 0
    assert preset("2SMOOTHSTEP") == preset("SMOOTHSTEP*2")
    assert preset("HALF_R_SMOOTHSTEP") == preset("R_SMOOTHSTEP/2")
    assert (
        blocks("GRAD_V", "SDXL")[0] == blocks("GRAD_V", "SDXL")[18] == 1
        and blocks("GRAD_V", "SDXL")[9] == 0
    )
    assert [name for name in PRESETS if preset(name).base] == ["ALL_B"]
    with pytest.raises(MergeError, match="no preset 'X'"):
        preset("X")


def test_own_presets_are_read_from_a_file(tmp_path):
    file = tmp_path / "presets.tsv"
    assert read_presets(file) == {}
    file.write_text(
        "name\t" + ",".join(["0.5"] * 26) + "\n# note\nother: " + ",".join(["1"] * 25) + "\n",
        encoding="utf-8",
    )
    assert list(read_presets(file)) == ["name", "other"]
    file.write_text("name: 1, 2\n", encoding="utf-8")
    assert read_presets(file) == {}
    assert "Line 1 of presets.tsv" in read_own_presets(file).problems[0]


def test_a_list_pasted_from_another_tool_gives_its_good_lines_and_names_the_others(tmp_path):
    half, lora = ",".join(["0.5"] * 26), ",".join(["1"] * 17)
    file = tmp_path / "presets.tsv"
    file.write_text(
        f"preset_name\tpreset_weights\nMINE\t{half}\n   # indented: 1,2\nLORA:{lora}\n\n"
        f"EMPTY\t0.5,,{half}\nTHEIRS:{half}\nwords without weights\n",
        encoding="utf-8",
    )
    found = read_own_presets(file)
    assert list(found.weights) == ["MINE", "THEIRS"]
    told = [problem.split(" is ")[0] for problem in found.problems]
    assert told == [f"Line {number} of presets.tsv" for number in (4, 6, 8)]
    assert "These are 17 block weights" in found.problems[0]


NUMBERS = st.lists(st.sampled_from(["0", "0.5", "1", "1/3", "-0.25"]), min_size=25, max_size=26)


@settings(deadline=None)
@given(numbers=NUMBERS, separator=st.sampled_from([",", ", ", " ", "\n", " ,\n", "\t"]))
def test_every_way_to_write_a_list_gives_the_same_numbers(numbers, separator):
    expected = [Fraction(number) for number in numbers[-25:]]
    for text in (separator.join(numbers), f"[{separator.join(numbers)}]"):
        assert list(read_weights(text).blocks) == expected


@settings(deadline=None)
@given(numbers=NUMBERS, data=st.data())
def test_an_empty_field_is_named_and_shifts_nothing(numbers, data):
    index = data.draw(st.integers(0, len(numbers) - 2))
    numbers[index] = ""
    text = ",".join(numbers)
    for read in (read_weights, lambda t: parse(f"mix(a, b, [{t}])")):
        where = f"Block weight {index + 1} of {len(numbers)} is empty"
        with pytest.raises(MergeError, match=where):
            read(text)
    layout = ["BASE", *LAYOUTS["SD1.5"]][-len(numbers) :]
    with pytest.raises(MergeError, match=rf"\({layout[index]}\)"):
        read_weights(text)


def test_the_reported_list_is_refused_and_a_comma_at_the_end_is_not():
    text = "0.5,0,0.01,,0.03," + ",".join(["0.5"] * 21)
    with pytest.raises(MergeError, match=r"Block weight 4 of 26 is empty \(IN02\) after 0.01"):
        parse(f"mix(a, b, [{text}])")
    assert read_weights(",".join(["0.5"] * 25) + ",").blocks[24] == Fraction(1, 2)
    with pytest.raises(MergeError, match=r"block weight \(number 2 of 25\)"):
        block_weights(["1", "", *["0"] * 23])


@pytest.fixture
def cellar(write, sd15, tmp_path):
    for seed, name in enumerate("abc", 1):
        write(name, sd15(seed))

    def bind(recipe):
        return bind_to_files(recipe, lambda name: tmp_path / f"{name}.safetensors")

    return bind


def test_every_block_gets_its_share(cellar, tmp_path):
    values = [0] * 25
    values[1], values[12], values[16] = 0.25, 1, 0.75
    rules = parse_rules("OUT03:to_out:0", "SD1.5")
    weights = block_weights(values, base=0.5, time=0.1, rules=rules)
    make_checkpoint(cellar(BlockSum(A, B, weights)), tmp_path / "out.safetensors")
    made, a, b = (load_file(tmp_path / f"{name}.safetensors") for name in ("out", "a", "b"))
    expected = {
        UNET + "input_blocks.0.0.weight": 0,
        UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": 0.25,
        UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight": 1,
        UNET + "output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight": 0.75,
        UNET + "output_blocks.3.1.transformer_blocks.0.attn2.to_out.0.bias": 0,
        UNET + "time_embed.0.weight": 0.1,
        TEXT + "final_layer_norm.bias": 0.5,
    }
    for name, share in expected.items():
        x, y = a[name].double(), b[name].double()
        if share in (0, 1):
            assert torch.equal(made[name], (a, b)[share][name]), name
        assert torch.allclose(made[name].double(), x + share * (y - x), rtol=5e-4, atol=3e-8), name
    vae = "first_stage_model.decoder.conv_out.weight"
    assert torch.equal(made[vae], a[vae])


def test_equal_weights_in_all_blocks_are_the_plain_recipe(cellar, tmp_path):
    flat = block_weights([0.3] * 25, base=0.3)
    pairs = (
        (BlockSum(A, B, flat), weighted_sum([(A, 7), (B, 3)])),
        (add_difference(A, B, Ingredient("c"), flat), add_difference(A, B, Ingredient("c"), 0.3)),
    )
    for number, pair in enumerate(pairs):
        made = []
        for kind, recipe in enumerate(pair):
            path = tmp_path / f"{number}{kind}.safetensors"
            make_checkpoint(cellar(recipe), path)
            made.append(load_file(path))
        assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_weights_of_all_a_or_all_b_give_that_ingredient_bit_for_bit(cellar, tmp_path):
    for name, side in (("ALL_A", "a"), ("ALL_B", "b")):
        path = tmp_path / f"{name}.safetensors"
        make_checkpoint(cellar(BlockSum(A, B, preset(name))), path)
        made, given = load_file(path), load_file(tmp_path / f"{side}.safetensors")
        assert all(torch.equal(made[key], given[key]) for key in made)


def test_weights_for_another_kind_of_unet_are_refused(cellar, tmp_path):
    recipe = BlockSum(A, B, preset("GRAD_V", "SDXL"))
    with pytest.raises(MergeError, match=r"for SDXL, but the checkpoints are SD1\.5"):
        make_checkpoint(cellar(recipe), tmp_path / "out.safetensors")


def test_the_hash_tells_block_weights_apart_and_json_has_them_all(cellar):
    recipes = [
        BlockSum(A, B, block_weights([0.5] * 25, time=time, rules=parse_rules(rules, "SD1.5")))
        for time, rules in ((0.5, ""), (0.4, ""), (0.5, "M00:attn2:1"))
    ]
    assert len({recipe_hash(cellar(recipe).recipe) for recipe in recipes}) == 3
    assert json.dumps(to_json(recipes[2])).count("0.5") == 26


def test_plain_recipes_keep_the_hashes_they_had():
    """Merged files are found by these."""
    a, b, c = (Ingredient(name, name * 64) for name in "abc")
    assert recipe_hash(weighted_sum([(a, 60), (b, 20), (c, 20)])) == (
        "b5cf0e1e1754ee0ecc24c11faf78ce84d5682067ebeb50fb1b6d37b5a295f0cc"
    )
    assert recipe_hash(add_difference(a, b, c, 0.5)) == (
        "afc93b33b87b7c2045235f74cd32e81164b5dec8039ce2a2a22c54d98438e451"
    )


def test_own_presets_are_saved_and_never_overwritten(tmp_path):
    path = tmp_path / "cocktail" / "block_presets.txt"
    weights = read_weights("0.25, " + ", ".join(f"{n}/24" for n in range(25)))
    assert save_preset(path, "MINE", weights) and not save_preset(path, "MINE", weights)
    path.write_text(path.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    assert save_preset(path, "SDXL_MINE", preset("GRAD_A", "SDXL"))
    before = path.read_bytes()
    assert read_presets(path) == {"MINE": weights, "SDXL_MINE": preset("GRAD_A", "SDXL")}
    for name, other, words in (
        ("MINE", preset("GRAD_V"), "with different weights"),
        ("GRAD_V", weights, "is a built-in preset"),
        ("custom", weights, "means your own numbers"),
        ("1", weights, "cannot be the name of a preset"),
        ("A\tB", weights, "cannot be the name of a preset"),
        ("OTHER", read_weights("GRAD_V", rules="M00:attn:1"), "rules"),
        ("OTHER", read_weights("GRAD_V", time="0.5"), "time embedding"),
    ):
        with pytest.raises(MergeError, match=words):
            save_preset(path, name, other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("layout, third", [("SD1.5", 4), ("SDXL", 3)])
def test_groups_are_thirds_of_each_side_around_the_middle(layout, third):
    found = by_group([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 0.9, layout)
    expected = [Fraction(n, 10) for n in (1, 2, 3) for _ in range(third)] + [Fraction(4, 10)]
    expected += [Fraction(n, 10) for n in (5, 6, 7) for _ in range(third)]
    assert list(found.blocks) == expected and found.base == Fraction(9, 10)
    assert found.layout == layout and found.time == found.by_slot["IN00"]
    assert read_weights(values_text(found)) == found


def test_curves_hold_the_numbers_of_every_preset_exactly_and_ones_own_go_first():
    mine = read_weights(", ".join(["1/3"] * 25))
    found = curves({"MINE": mine, "GRAD_V": mine})
    assert found["MINE"] == found["GRAD_V"] == {"SD1.5": [0, *["1/3"] * 25]}
    for name in (*PRESETS, "2SMOOTHSTEP"):
        for layout, numbers in found[name].items():
            if name != "GRAD_V":
                assert read_weights(", ".join(map(str, numbers))) == preset(name, layout)
