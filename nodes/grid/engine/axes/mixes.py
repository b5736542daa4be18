"""Axes of mixes: each value is a recipe, which is merged in memory when its cells are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from .....merge.blocks import BlockWeights
from .....merge.errors import MergeError
from .....merge.numbers import exact
from .....merge.presets import read_weights
from .....merge.recipe import BlockSum, Recipe, add_difference, weighted_sum
from .....merge.text import to_text
from .....trainer.files import canonical_json
from ..cell.mix import recipe_set
from ..errors import GridError
from . import lists
from .axis import Axis, Value, labelled

SHARE, MULTIPLIER, BLOCKS = "share of B", "multiplier of B - C", "block weights"
KINDS = (SHARE, MULTIPLIER, BLOCKS)
TARGETS = {SHARE: "merge ratio", MULTIPLIER: "add difference", BLOCKS: "block weights"}
"""What each kind of axis is called on sheets and in rules."""


def merge_axis(
    kind: str,
    text: str,
    a: Recipe,
    b: Recipe,
    c: Recipe | None = None,
    labels: str = "",
    layout: str = "SD1.5",
    own: Mapping[str, BlockWeights] | None = None,
) -> Axis:
    """The axis of mixes of `a` and `b`: by the share of B, the multiplier of B - C, or block
    weights.

    Shares and multipliers are numbers, lists or ranges (`lists.numbers`). Block weights are one set
    per line: the numbers, or the name of a preset, either for that layout or one of the person's
    `own`. With `c` they are multipliers of B - C. Raises GridError.
    """
    if kind == MULTIPLIER and c is None:
        raise GridError("The multiplier of B - C needs a recipe C. Link one.")
    if kind == SHARE and c is not None:
        raise GridError(
            "The share of B does not use C. Unlink it, or choose the multiplier of B - C."
        )
    found: dict[str, Value] = {}
    for number, line in lists.lines(text):
        try:
            parts = [line] if kind == BLOCKS else lists.numbers(line, whole=False)
            for part in parts:
                mix = _mix(kind, part, a, b, c, layout, own)
                value = Value(_label(kind, part), recipe_set(mix))
                if value.set["recipe"] in found:
                    raise GridError(f"{part!r} appears twice. Delete one of them.")
                found[value.set["recipe"]] = value
        except (GridError, MergeError) as error:
            raise GridError(f"Line {number} of the values: {error}") from None
    if not found:
        raise GridError(f"The {kind} axis has no values. Write one per line.")
    return Axis(TARGETS[kind], TARGETS[kind], tuple(labelled(list(found.values()), labels)))


def recipes_axis(recipes: Sequence[Recipe], labels: str = "") -> Axis:
    """The axis of these recipes. A recipe that is given twice is one value."""
    found = {}
    for recipe in recipes:
        value = Value(to_text(recipe), recipe_set(recipe))
        found.setdefault(canonical_json(value.set), value)
    return Axis("recipe", "recipe", tuple(labelled(list(found.values()), labels)))


def _mix(
    kind: str,
    text: str,
    a: Recipe,
    b: Recipe,
    c: Recipe | None,
    layout: str,
    own: Mapping[str, BlockWeights] | None,
) -> Recipe:
    if kind == SHARE:
        share = _exact(text, "a share of B")
        return weighted_sum([(a, 1 - share), (b, share)])
    if kind == MULTIPLIER and c is not None:
        return add_difference(a, b, c, _exact(text, "a multiplier"))
    weights = read_weights(text, layout, own=own)
    return BlockSum(a, b, weights) if c is None else add_difference(a, b, c, weights)


def _label(kind: str, text: str) -> str:
    if kind == BLOCKS:
        return text
    is_decimal = "/" not in text and "%" not in text
    return f"{'B' if kind == SHARE else 'B - C'} x {f'{float(text):g}' if is_decimal else text}"


def _exact(text: str, what: str) -> Fraction:
    """A number as recipes take it: 0.6, 3/5 or 60%."""
    number = text.removesuffix("%").rstrip()
    return exact(number, what) / (100 if number != text else 1)
