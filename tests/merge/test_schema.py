"""The JSON Schema of recipes accepts and refuses what the reader of recipes does."""

from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cocktail.merge.blocks import block_weights, parse_rules
from cocktail.merge.errors import MergeError
from cocktail.merge.methods import METHODS
from cocktail.merge.presets import preset
from cocktail.merge.recipe import BlockSum, Ingredient, Parts, add_difference, method, weighted_sum
from cocktail.merge.recipe_json import from_json, to_json

from .test_text import methods, recipes, recipes_of_parts

A, B, C = (Ingredient(name) for name in ("vodka", "epic", "dream"))
ONLY_THE_READER_SEES = re.compile(
    r"The shares add up to 0\."
    r"|'[^']+' is not [\w ]+\. Write a number"
    r"|.* must be a (whole )?number from .*; it is (4\.5|-11)\.$"
)
"""What a schema cannot say: what shares add up to, and how large a number is that is written as a
text: "1/0", "1000001", "9/2" and "-11" among `NUMBERS`.
"""
NAMED = Ingredient("dream", "c" * 64)
WEIGHTS = block_weights([0.5] * 26, rules=parse_rules("OUT03:attn2:1/3,IN00:norm:0", "SD1.5"))
SOUND = [
    to_json(recipe)
    for recipe in (
        BlockSum(A, weighted_sum([(B, 1), (NAMED, 2)]), WEIGHTS),
        Parts(
            add_difference(A, B, NAMED, "1/3"), text_encoder=A, vae=weighted_sum([(A, 3), (B, -1)])
        ),
        add_difference(A, BlockSum(B, A, preset("GRAD_V", "SDXL")), B, preset("GRAD_V")),
        *(
            method(name, [A, B, NAMED][: 3 if known.more else len(known.operands)])
            for name, known in METHODS.items()
        ),
        method("ties", [A, B, A, NAMED], {"keep": WEIGHTS, "strength": "1/3"}),
        method("slerp", [A, Parts(B, vae=A)], {"share_of_b": preset("GRAD_V", "SDXL")}),
    )
]
JUNK = st.sampled_from(
    [
        None,
        True,
        "",
        " ",
        "much",
        "1/3",
        "0.25",
        1,
        2.5,
        [],
        {},
        [0.5],
        {"kind": "soup"},
        {"kind": "ingredient", "name": "a"},
        "OUT03:attn2:0.5",
        "OUT03:attn",
        "SD1.5",
        "SDXL",
        "slerp",
        "ties",
        "a" * 64,
        "A" * 64,
    ]
).map(copy.deepcopy)
NUMBERS = st.sampled_from(
    [
        0,
        1,
        2.5,
        -1,
        0.99,
        0.995,
        10,
        10.5,
        1_000_000,
        1_000_001,
        -1_000_001,
        "1/3",
        "1/0",
        "9/2",
        "-11",
        "1000001",
        ".5",
        "1e3",
        True,
    ]
)
FIELDS = st.sampled_from(
    [
        "kind",
        "name",
        "sha256",
        "parts",
        "weight",
        "recipe",
        "a",
        "b",
        "c",
        "multiplier",
        "share_of_b",
        "text_encoder",
        "vae",
        "method",
        "recipes",
        "settings",
        "layout",
        "base",
        "time",
        "blocks",
        "rules",
        "strength",
        "seed",
        "drop",
        "more",
    ]
)


@pytest.fixture(scope="module")
def schema(root):
    return Draft202012Validator(
        json.loads((root / "merge" / "recipe.schema.json").read_text(encoding="utf-8"))
    )


def containers(value):
    """Every object and list in a document that something can be changed in."""
    if value and isinstance(value, dict | list):
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from containers(child)


@st.composite
def documents(draw):
    """The JSON of a recipe with one or two changes: another value, a field less or more."""
    whole = {"recipe": copy.deepcopy(draw(st.sampled_from(SOUND)))}
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.sampled_from(list(containers(whole))))
        key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        change = draw(st.sampled_from(["other", "less", "more"]))
        if change == "other" or at is whole:
            is_number = isinstance(at[key], int | float) or at[key] == "1/3"
            at[key] = draw(NUMBERS | JUNK if is_number else JUNK)
        elif change == "less":
            del at[key]
        elif isinstance(at, list):
            at.append(copy.deepcopy(at[key]))
        else:
            at[draw(FIELDS)] = draw(JUNK)
    return whole["recipe"]


def refusal(document):
    try:
        from_json(document)
    except MergeError as error:
        return str(error)
    return None


def check_both(schema, document):
    """The schema and the reader say the same of a document."""
    said, is_valid = refusal(document), schema.is_valid(document)
    if is_valid and said:
        assert ONLY_THE_READER_SEES.match(said), (said, document)
    else:
        assert is_valid == (said is None), (said, document)


@settings(max_examples=40, deadline=None)
@given(recipe=recipes | recipes_of_parts | methods)
def test_what_is_written_is_valid(schema, recipe):
    schema.validate(to_json(recipe))


@pytest.mark.parametrize("sound", SOUND, ids=range(len(SOUND)))
def test_both_refuse_a_field_that_is_missing_or_unknown_or_of_another_kind(schema, sound):
    document = copy.deepcopy(sound)
    check_both(schema, document)
    assert refusal(document) is None
    for at in list(containers(document)):
        for key in list(at) if isinstance(at, dict) else [0]:
            value = at[key]
            for other in (None, True, "much", [], {"kind": "soup"}):
                at[key] = other
                check_both(schema, document)
            at[key] = value
        if isinstance(at, dict):
            check_both(schema, changed(document, at, at | {"more": 1}))
            for key in at:
                less = {field: value for field, value in at.items() if field != key}
                check_both(schema, changed(document, at, less))


def changed(document, at, other):
    """A copy of the document with `other` in the place of its object `at`."""
    if document is at:
        return other
    if isinstance(document, list):
        return [changed(child, at, other) for child in document]
    if isinstance(document, dict):
        return {key: changed(child, at, other) for key, child in document.items()}
    return document


@settings(max_examples=200, deadline=None)
@given(document=documents())
def test_both_accept_and_refuse_the_same_of_documents_with_two_changes(schema, document):
    check_both(schema, document)


@pytest.mark.parametrize("name", METHODS)
def test_both_know_how_many_recipes_a_method_takes_and_what_its_settings_may_be(schema, name):
    known = METHODS[name]
    least = len(known.operands)
    sides = [to_json(A)] * (least + 1)
    for count in range(1, least + 2):
        document = {"kind": "method", "method": name, "recipes": sides[:count]}
        is_right = count == least or (known.more and count > least)
        assert (refusal(document) is None) == is_right == schema.is_valid(document)
    sound = {"kind": "method", "method": name, "recipes": sides[:least]}
    for setting in known.settings:
        low, high = float(setting.low), float(setting.high)
        for value in (
            low,
            high,
            (low + high) / 2,
            low - 0.01,
            high + 0.01,
            (low + high) / 2 + 0.001,
        ):
            is_right = low <= value <= high and (not setting.is_whole or value.is_integer())
            document = sound | {"settings": {setting.name: value}}
            assert (refusal(document) is None) == is_right == schema.is_valid(document), document
        for value in (high, high + 0.01):
            blocks = {"layout": "SD1.5", "base": low, "time": value, "blocks": [value] * 25}
            document = sound | {"settings": {setting.name: blocks}}
            is_right = setting.by_block and value <= high
            assert (refusal(document) is None) == is_right == schema.is_valid(document), document
    assert refusal(sound | {"settings": {"soup": 1}})
    assert not schema.is_valid(sound | {"settings": {"soup": 1}})
