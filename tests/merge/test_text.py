"""Recipes written by people: what they mean, what is refused, and that what is printed is read
back.
"""

from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocktail.merge.blocks import BlockWeights, block_weights, parse_rules
from cocktail.merge.errors import MergeError
from cocktail.merge.presets import PRESETS, preset
from cocktail.merge.recipe import (
    BlockSum,
    Ingredient,
    Parts,
    add_difference,
    flatten,
    ingredients,
    method,
    weighted_sum,
)
from cocktail.merge.recipe_json import from_json, to_json
from cocktail.merge.text import name_finder, parse, to_text

A, B, C, D = (Ingredient(name) for name in ("vodka", "epic", "dream", "v3"))


@pytest.mark.parametrize(
    "text",
    [
        "0.6 vodka + 0.2 epic + 0.2 dream",
        "60% vodka + 20% epic + 20% dream",
        "3/5 vodka+1/5*epic + 1/5 dream",
        "60 vodka + 20 epic + 20 dream",
    ],
)
def test_60_20_20_in_every_spelling(text):
    assert parse(text) == weighted_sum([(A, 60), (B, 20), (C, 20)])


def test_differences_and_parentheses():
    assert parse("vodka + 0.5 (epic - dream)") == add_difference(A, B, C, 0.5)
    assert parse("vodka + (epic - dream) - 0.25 (v3 - dream)") == add_difference(
        add_difference(A, B, C, 1), D, C, -0.25
    )
    nested = parse("0.6 (0.5 vodka + 0.5 epic + 0.5 (v3 - dream)) + 0.4 dream")
    assert dict(flatten(nested)) == {
        A: Fraction(3, 10),
        B: Fraction(3, 10),
        D: Fraction(3, 10),
        C: Fraction(1, 10),
    }
    assert parse("0.3 vodka + 0.9 epic - 0.2 dream") == weighted_sum([(A, 3), (B, 9), (C, -2)])


def test_block_weights_stand_in_brackets():
    assert parse("mix(vodka, 0.5 epic + 0.5 dream, [GRAD_V])") == BlockSum(
        A, weighted_sum([(B, 1), (C, 1)]), preset("GRAD_V")
    )
    assert parse("mix(vodka, epic, [SDXL GRAD_V])") == BlockSum(A, B, preset("GRAD_V", "SDXL"))
    values = [0.1] + [0.5] * 25
    rules = parse_rules("OUT03-OUT05:attn2:0.25", "SD1.5")
    text = (
        f"vodka + [{', '.join(map(str, values))}; TIME 0.75; OUT03-OUT05:attn2:0.25] (epic - dream)"
    )
    assert parse(text) == add_difference(A, B, C, block_weights(values, time=0.75, rules=rules))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at 'the end'"),
        ("vodka +", "at 'the end'"),
        ("0.6 vodka + 0.2 epic", "add up to 0.8"),
        ("vodka epic", "at 'epic'"),
        ("vodka - epic", "difference alone"),
        ("0.5 (vodka - epic)", "made only of differences"),
        ("(vodka", r"'\)' is expected here"),
        ("vodka & epic", "at '& epic'"),
        ("[GRAD_V] vodka + epic", "belong before a difference"),
        ("mix(vodka, epic, [GRAD_X])", "There is no preset 'GRAD_X'"),
        ("mix(vodka, epic, [0, 1])", "2 block weights"),
        ("mix(vodka, epic, [NO GRAD_V])", "there is no layout 'NO'. Choose one of SD1.5, SDXL.$"),
        ("1/0 vodka", "not a share"),
        ("(" * 500 + "vodka" + ")" * 500, "nested"),
        ("a" * 200_000, "longer than"),
    ],
)
def test_what_is_no_recipe_is_refused_where_it_is_wrong(text, message):
    with pytest.raises(MergeError, match=message):
        parse(text)


def test_names_are_found_without_folder_and_ending():
    find = name_finder(
        [
            "cocktail/vodka.safetensors",
            "x/epic.safetensors",
            "y/epic.safetensors",
            "512 v.safetensors",
        ]
    )
    assert parse('0.5 vodka + 0.5 "512 v"', find) == weighted_sum(
        [(Ingredient("cocktail/vodka.safetensors"), 1), (Ingredient("512 v.safetensors"), 1)]
    )
    assert parse("x/epic", find) == Ingredient("x/epic.safetensors")
    with pytest.raises(MergeError, match=r"x/epic.safetensors or y/epic.safetensors"):
        parse("epic", find)
    with pytest.raises(MergeError, match="Did you mean vodka"):
        parse("votka", find)


numbers = st.fractions(-3, 3, max_denominator=997)
names = st.sampled_from(["vodka", "epic mix", "512", "v3-final", "mix", 'od"d', "été"]).map(
    Ingredient
)
rules = st.sampled_from(
    ["", "OUT03-OUT06:attn2:0.5", "NOT IN01 M00:NOT norm:1/3,::1", ":ATTENTION:0"]
)


def drawn_weights(seed, layout, rule):
    """25 or 19 numbers from one seed, which is far quicker than drawing every one."""
    random = Random(seed)
    values = [Fraction(random.randint(-99, 299), random.randint(1, 97)) for _ in range(27)]
    count = 26 if layout == "SD1.5" else 20
    return block_weights(values[:count], time=values[26], rules=parse_rules(rule, layout))


weights = st.builds(drawn_weights, st.integers(0, 99), st.sampled_from(["SD1.5", "SDXL"]), rules)


def sums(recipes):
    return st.lists(
        st.tuples(recipes, st.fractions(0, 5, max_denominator=97).filter(bool)),
        min_size=1,
        max_size=4,
    ).map(weighted_sum)


recipes = st.recursive(
    names,
    lambda below: st.one_of(
        sums(below),
        st.builds(add_difference, below, below, below, st.one_of(numbers, weights)),
        st.builds(BlockSum, below, below, weights),
    ),
    max_leaves=8,
)
methods = st.recursive(
    recipes,
    lambda below: st.one_of(
        sums(below),
        st.builds(lambda a, b, c: method("ties", (a, b, c), {"keep": "1/3"}), below, below, below),
        st.builds(
            lambda a, b, share: method("slerp", (a, b), {"share_of_b": share}),
            below,
            below,
            st.fractions(0, 1, max_denominator=97),
        ),
        st.builds(Parts, below, below, st.none() | below),
    ),
    max_leaves=4,
)


others = st.none() | recipes
recipes_of_parts = st.recursive(
    st.builds(Parts, recipes, recipes, others) | st.builds(Parts, recipes, others, recipes),
    lambda below: (
        sums(below)
        | st.builds(BlockSum, below, below, weights)
        | st.builds(Parts, below, below, others)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(recipes | recipes_of_parts | methods)
def test_what_is_printed_is_read_back(recipe):
    assert parse(to_text(recipe)) == recipe
    assert from_json(to_json(recipe)) == recipe


@settings(max_examples=60, deadline=None)
@given(
    recipes,
    st.sampled_from(
        [
            "model.diffusion_model.out.2.bias",
            "model.diffusion_model.output_blocks.4.1.attn2.to_k.weight",
            "text",
        ]
    ),
)
def test_a_tree_is_the_sum_of_its_ingredients_step_by_step(recipe, tensor):
    """Evaluated with a number for each ingredient, once collapsed and once as the tree says."""
    leaves = list(dict.fromkeys(ingredients(recipe)))
    value = {leaf: Fraction(number**3 + 11, 7) for number, leaf in enumerate(leaves)}

    def number(weight):
        return weight.of(tensor) if isinstance(weight, BlockWeights) else weight

    def step(node):
        if isinstance(node, Ingredient):
            return value[node]
        if isinstance(node, BlockSum):
            share = number(node.share_of_b)
            return (1 - share) * step(node.a) + share * step(node.b)
        if hasattr(node, "parts"):
            return sum(part.weight * step(part.recipe) for part in node.parts)
        return step(node.a) + number(node.multiplier) * (step(node.b) - step(node.c))

    collapsed = flatten(recipe, tensor)
    assert sum(weight * value[ingredient] for ingredient, weight in collapsed) == step(recipe)
    assert sum(weight for _, weight in collapsed) == 1


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_found_by_its_name_in_a_text(name):
    for layout in ("SD1.5", "SDXL"):
        recipe = parse(f"mix(vodka, epic, [{layout} {name}])")
        assert isinstance(recipe, BlockSum) and recipe.share_of_b.layout == layout
