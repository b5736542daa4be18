from __future__ import annotations

import json
from fractions import Fraction

import pytest

from cocktail.merge.errors import MergeError
from cocktail.merge.recipe import Ingredient, add_difference, bind, flatten, weighted_sum
from cocktail.merge.recipe_json import from_json, load_json, recipe_hash, to_json
from cocktail.merge.text import to_text

A, B, C, D = (Ingredient(f"{name}.safetensors") for name in ("vodka", "epic", "dream", "v3"))


def weights(recipe) -> dict[str, Fraction]:
    return {ingredient.name.split(".")[0]: weight for ingredient, weight in flatten(recipe)}


def hashes(name: str) -> str:
    return (name[0].encode().hex() * 32)[:64]


def test_60_20_20_is_exactly_60_20_20():
    recipe = weighted_sum([(A, 60), (B, 20), (C, 20)])
    assert weights(recipe) == {
        "vodka": Fraction(3, 5),
        "epic": Fraction(1, 5),
        "dream": Fraction(1, 5),
    }
    assert recipe == weighted_sum([(A, 0.6), (B, 0.2), (C, 0.2)])


def test_shares_in_tenths_are_the_tenths_a_person_means():
    assert weights(weighted_sum([(A, 0.1), (B, 0.2)])) == {
        "vodka": Fraction(1, 3),
        "epic": Fraction(2, 3),
    }


def test_a_mix_of_mixes_flattens_to_one_weight_per_ingredient():
    vodka = add_difference(weighted_sum([(A, 50), (B, 50)]), D, C, 0.5)
    cocktail = weighted_sum([(vodka, 60), (B, 20), (C, 20)])
    assert weights(cocktail) == {
        "vodka": Fraction(3, 10),
        "epic": Fraction(1, 2),
        "v3": Fraction(3, 10),
        "dream": Fraction(-1, 10),
    }


def test_an_ingredient_that_cancels_out_is_left_out():
    assert weights(add_difference(A, B, A, 1)) == {"epic": Fraction(1)}


def test_two_names_of_one_file_are_one_ingredient():
    recipe = bind(weighted_sum([(A, 1), (B, 1), (C, 2)]), lambda name: hashes("x"))
    assert weights(recipe) == {"vodka": Fraction(1)}


def test_a_share_of_zero_leaves_a_recipe_out():
    assert weighted_sum([(A, 1), (B, 0)]) == weighted_sum([(A, 7)])


@pytest.mark.parametrize("shares", [(0, 0), (1, -1), (-2, 1)])
def test_shares_without_a_total_are_refused(shares):
    with pytest.raises(MergeError, match="add up to 0"):
        weighted_sum(list(zip((A, B), shares, strict=True)))


@pytest.mark.parametrize(
    "share", [float("nan"), float("inf"), "much", "1/0", "1e999999999", None, True, 10**9, "9" * 99]
)
def test_what_is_not_a_number_is_refused(share):
    with pytest.raises(MergeError, match="not a share"):
        weighted_sum([(A, 1), (B, share)])


def test_json_gives_the_equal_recipe_back():
    third = weighted_sum([(A, 1), (B, 1), (C, 1)])
    recipe = add_difference(
        third, Ingredient("x", "0" * 64), weighted_sum([(D, 0.3), (A, 0.7)]), -0.25
    )
    assert load_json(json.dumps(to_json(recipe))) == recipe
    assert to_json(third)["parts"][0]["weight"] == "1/3"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be an object"),
        ({"kind": "soup"}, '"kind"'),
        ({"kind": "ingredient"}, '"name" is missing'),
        ({"kind": "ingredient", "name": ""}, "name of a checkpoint"),
        ({"kind": "ingredient", "name": "a", "sha256": "AB"}, "64 hexadecimal"),
        ({"kind": "ingredient", "name": "a", "path": "b"}, "'path' is not known"),
        ({"kind": "weighted_sum", "parts": []}, "one or more parts"),
        ({"kind": "weighted_sum", "parts": [{"recipe": {}}]}, '"weight" is missing'),
        (
            {"kind": "weighted_sum", "parts": [{"weight": 1, "recipe": {}}]},
            "Part 1 of the recipe must be",
        ),
        ({"kind": "add_difference", "a": {}, "b": {}, "c": {}}, '"multiplier" is missing'),
    ],
)
def test_json_that_is_no_recipe_is_refused_where_it_is_wrong(value, message):
    with pytest.raises(MergeError, match=message):
        from_json(value)


def test_json_that_is_nested_without_end_is_refused():
    deep = '{"kind":"weighted_sum","parts":[{"weight":1,"recipe":' * 100_000
    with pytest.raises(MergeError, match=r"nested|not JSON"):
        load_json(deep)
    value = to_json(A)
    for _ in range(200):
        value = {"kind": "weighted_sum", "parts": [{"weight": 1, "recipe": value}]}
    with pytest.raises(MergeError, match="nested"):
        load_json(json.dumps(value))


def test_text_is_what_a_person_would_write():
    assert to_text(weighted_sum([(A, 60), (B, 20), (C, 20)])) == "0.6 vodka + 0.2 epic + 0.2 dream"
    mix = weighted_sum([(A, 1), (B, 2)])
    assert to_text(add_difference(mix, D, C, 0.5)) == "(1/3 vodka + 2/3 epic) + 0.5 (v3 - dream)"
    same = weighted_sum([(Ingredient("x/a.safetensors"), 1), (Ingredient("y/a.safetensors"), 1)])
    assert to_text(same) == "0.5 x/a.safetensors + 0.5 y/a.safetensors"


def test_the_hash_follows_content_not_names():
    recipe = weighted_sum([(A, 60), (B, 40)])
    bound = bind(recipe, hashes)
    renamed = bind(weighted_sum([(Ingredient("v"), 0.6), (Ingredient("e"), 0.4)]), hashes)
    assert recipe_hash(bound) == recipe_hash(renamed)
    assert recipe_hash(bound) != recipe_hash(bind(recipe, lambda name: hashes("q" + name)))
    assert recipe_hash(bound) != recipe_hash(bind(weighted_sum([(A, 61), (B, 39)]), hashes))
    with pytest.raises(MergeError, match="no content hash"):
        recipe_hash(recipe)


def test_an_ingredient_that_changed_since_the_recipe_was_made_is_refused():
    bound = bind(weighted_sum([(A, 1), (B, 1)]), hashes)
    assert bind(bound, hashes) == bound
    with pytest.raises(MergeError, match=r"vodka\.safetensors is not the file"):
        bind(bound, lambda name: hashes("other"))
