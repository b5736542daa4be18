"""The JSON Schema of recipes says what the reader of recipes says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from cocktail.merge.errors import MergeError
from cocktail.merge.presets import preset
from cocktail.merge.recipe import BlockSum, Ingredient, weighted_sum
from cocktail.merge.recipe_json import from_json, to_json

from .test_text import methods, recipes, recipes_of_parts

A, B, C = (Ingredient(name) for name in ("vodka", "epic", "dream"))


@pytest.fixture(scope="module")
def schema(root):
    return Draft202012Validator(
        json.loads((root / "merge" / "recipe.schema.json").read_text(encoding="utf-8"))
    )


@settings(max_examples=40, deadline=None)
@given(recipe=recipes | recipes_of_parts | methods)
def test_the_json_schema_takes_what_is_written(schema, recipe):
    schema.validate(to_json(recipe))


def test_the_json_schema_refuses_what_is_refused_when_it_is_read(schema):
    good = to_json(BlockSum(A, weighted_sum([(B, 1), (C, 2)]), preset("GRAD_V")))
    blocks = good["share_of_b"]
    for wrong in (
        good | {"kind": "soup"},
        good | {"more": 1},
        good | {"a": {"kind": "ingredient", "name": " "}},
        good | {"a": {"kind": "ingredient", "name": "a", "sha256": "AB"}},
        good | {"b": {"kind": "weighted_sum", "parts": []}},
        good | {"b": {"kind": "weighted_sum", "parts": [{"weight": "much", "recipe": good["a"]}]}},
        good | {"share_of_b": 0.5},
        good | {"share_of_b": blocks | {"layout": "SDXL"}},
        good | {"share_of_b": blocks | {"blocks": [0.5] * 24}},
        good | {"share_of_b": blocks | {"rules": ["OUT03:attn"]}},
        {"kind": "parts", "text_encoder": good},
        {"kind": "parts", "recipe": good, "unet": good},
        {"kind": "parts", "recipe": good, "vae": None},
    ):
        assert not schema.is_valid(wrong), wrong
        with pytest.raises(MergeError):
            from_json(wrong)
    assert schema.is_valid(good) and from_json(good)
