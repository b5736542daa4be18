"""Recipes as JSON: written, read and checked, and the hash of what a recipe makes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from .blocks import LAYOUTS, BlockWeights, block_weights, parse_rules
from .errors import MergeError, nearest
from .numbers import json_number, shown
from .recipe import (
    DEEPEST,
    LARGEST,
    BlockSum,
    Ingredient,
    Method,
    Parts,
    Recipe,
    WeightedSum,
    add_difference,
    children,
    given_parts,
    method,
    weighted_sum,
)

FORMAT = 1
MOST_MARKS = 500_000
"""Lists, objects and commas in a text: the largest recipes have a fifth of that."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def recipe_hash(recipe: Recipe) -> str:
    """Hex SHA-256 of the recipe's canonical form, which has content hashes in place of names: it
    says what the recipe makes.

    Raises MergeError if an ingredient is not bound to a file.
    """
    value = {"format": FORMAT, "recipe": _canonical(recipe)}
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _canonical(recipe: Recipe) -> dict[str, Any]:
    if isinstance(recipe, Ingredient):
        if recipe.sha256 is None:
            raise MergeError(f"{recipe.name} has no content hash yet. Its file must be read first.")
        return {"kind": "ingredient", "sha256": recipe.sha256}
    if isinstance(recipe, WeightedSum):
        parts = [{"recipe": _canonical(p.recipe), "weight": str(p.weight)} for p in recipe.parts]
        return {"kind": "weighted_sum", "parts": parts}
    if isinstance(recipe, BlockSum):
        a, b = (_canonical(child) for child in children(recipe))
        return {
            "kind": "block_sum",
            "a": a,
            "b": b,
            "share_of_b": _weights_json(recipe.share_of_b, str),
        }
    if isinstance(recipe, Parts):
        return {
            "kind": "parts",
            **{k: _canonical(child) for k, child in given_parts(recipe).items()},
        }
    if isinstance(recipe, Method):
        return _method_json(recipe, _canonical, str)
    a, b, c = (_canonical(child) for child in children(recipe))
    multiplier = _multiplier_json(recipe.multiplier, str)
    return {"kind": "add_difference", "a": a, "b": b, "c": c, "multiplier": multiplier}


def _multiplier_json(multiplier: Fraction | BlockWeights, number: Callable[[Fraction], Any]) -> Any:
    if isinstance(multiplier, BlockWeights):
        return _weights_json(multiplier, number)
    return number(multiplier)


def _weights_json(weights: BlockWeights, number: Callable[[Fraction], Any]) -> dict[str, Any]:
    """Block weights as JSON: numbers as `number` gives them, rules as `parse_rules` reads them."""
    value: dict[str, Any] = {
        "layout": weights.layout,
        "base": number(weights.base),
        "time": number(weights.time),
        "blocks": [number(block) for block in weights.blocks],
    }
    return {**value, "rules": [str(rule) for rule in weights.rules]} if weights.rules else value


def _method_json(
    recipe: Method, side: Callable[[Recipe], Any], number: Callable[[Fraction], Any]
) -> dict[str, Any]:
    settings = {name: _multiplier_json(value, number) for name, value in recipe.settings}
    recipes = [side(child) for child in recipe.recipes]
    return {"kind": "method", "method": recipe.method, "recipes": recipes, "settings": settings}


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a JSON value, which `from_json` turns back into an equal recipe."""
    if isinstance(recipe, Ingredient):
        value = {"kind": "ingredient", "name": recipe.name}
        return value if recipe.sha256 is None else {**value, "sha256": recipe.sha256}
    if isinstance(recipe, WeightedSum):
        parts = [
            {"weight": json_number(p.weight), "recipe": to_json(p.recipe)} for p in recipe.parts
        ]
        return {"kind": "weighted_sum", "parts": parts}
    if isinstance(recipe, BlockSum):
        a, b = (to_json(child) for child in children(recipe))
        share = _weights_json(recipe.share_of_b, json_number)
        return {"kind": "block_sum", "a": a, "b": b, "share_of_b": share}
    if isinstance(recipe, Parts):
        return {"kind": "parts", **{k: to_json(child) for k, child in given_parts(recipe).items()}}
    if isinstance(recipe, Method):
        return _method_json(recipe, to_json, json_number)
    a, b, c = (to_json(child) for child in children(recipe))
    multiplier = _multiplier_json(recipe.multiplier, json_number)
    return {"kind": "add_difference", "a": a, "b": b, "c": c, "multiplier": multiplier}


def from_json(value: Any) -> Recipe:
    """The recipe of a JSON value. Raises MergeError, which says where the value is wrong."""
    return _from_json(value, "the recipe", 1)


def _from_json(value: Any, where: str, depth: int) -> Recipe:
    if depth > DEEPEST:
        raise MergeError(f"The recipe is nested more than {DEEPEST} levels deep. Make it flatter.")
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "ingredient":
        _check_fields(value, where, ("kind", "name"), ("sha256",))
        name, sha256 = value["name"], value.get("sha256")
        if not isinstance(name, str) or not name.strip():
            raise MergeError(f'In {where}, "name" must be the name of a checkpoint.')
        if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
            raise MergeError(f'In {where}, "sha256" must be 64 hexadecimal digits in lower case.')
        return Ingredient(name, sha256)
    if kind == "weighted_sum":
        _check_fields(value, where, ("kind", "parts"))
        if not isinstance(value["parts"], list) or not value["parts"]:
            raise MergeError(f'In {where}, "parts" must be a list of one or more parts.')
        if len(value["parts"]) > LARGEST:
            raise MergeError(f"In {where} are more than {LARGEST:,} parts. Merge some beforehand.")
        shares = []
        for number, part in enumerate(value["parts"], 1):
            place = f"part {number} of {where}"
            _check_fields(part, place, ("weight", "recipe"))
            shares.append((_from_json(part["recipe"], place, depth + 1), part["weight"]))
        return weighted_sum(shares)
    if kind == "add_difference":
        _check_fields(value, where, ("kind", "a", "b", "c", "multiplier"))
        a, b, c = (_from_json(value[side], f"{side} of {where}", depth + 1) for side in "abc")
        multiplier = value["multiplier"]
        if isinstance(multiplier, dict):
            multiplier = _weights_from_json(multiplier, f'"multiplier" of {where}')
        return add_difference(a, b, c, multiplier)
    if kind == "block_sum":
        _check_fields(value, where, ("kind", "a", "b", "share_of_b"))
        a, b = (_from_json(value[side], f"{side} of {where}", depth + 1) for side in "ab")
        return BlockSum(a, b, _weights_from_json(value["share_of_b"], f'"share_of_b" of {where}'))
    if kind == "parts":
        _check_fields(value, where, ("kind", "recipe"), ("text_encoder", "vae"))
        sides = {
            field: _from_json(side, f"{field} of {where}", depth + 1)
            for field, side in value.items()
            if field != "kind"
        }
        return Parts(**sides)
    if kind == "method":
        return _method_from_json(value, where, depth)
    raise MergeError(
        f'{where[0].upper()}{where[1:]} must be an object whose "kind" is "ingredient", '
        '"weighted_sum", "add_difference", "block_sum", "parts" or "method"; '
        f"it is {shown(value)}."
    )


def _method_from_json(value: Any, where: str, depth: int) -> Method:
    _check_fields(value, where, ("kind", "method", "recipes"), ("settings",))
    name, sides, given = value["method"], value["recipes"], value.get("settings", {})
    if not isinstance(name, str) or not isinstance(sides, list) or not isinstance(given, dict):
        raise MergeError(
            f'In {where}, "method" must be a text, "recipes" a list and "settings" an object.'
        )
    settings = {
        field: _weights_from_json(number, f"{shown(field)} of {where}")
        if isinstance(number, dict)
        else number
        for field, number in given.items()
    }
    sides = [
        _from_json(side, f"recipe {n} of {where}", depth + 1) for n, side in enumerate(sides, 1)
    ]
    return method(name, sides, settings)


def _weights_from_json(value: Any, where: str) -> BlockWeights:
    _check_fields(value, where, ("layout", "base", "time", "blocks"), ("rules",))
    layout, blocks, rules = value["layout"], value["blocks"], value.get("rules", [])
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise MergeError(f'In {where}, "layout" must be one of {", ".join(LAYOUTS)}.')
    if not isinstance(blocks, list) or len(blocks) != len(LAYOUTS[layout]):
        raise MergeError(f'In {where}, "blocks" must be a list of {len(LAYOUTS[layout])} numbers.')
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise MergeError(f'In {where}, "rules" must be a list of texts.')
    parsed = parse_rules("\n".join(rules), layout)
    return block_weights(blocks, value["base"], value["time"], parsed)


def _check_fields(
    value: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(value, dict):
        raise MergeError(f"{where[0].upper()}{where[1:]} must be an object; it is {shown(value)}.")
    for field in required:
        if field not in value:
            raise MergeError(f'In {where}, "{field}" is missing.')
    for field in value:
        if field not in required + optional:
            known = ", ".join(required + optional)
            hint = nearest(field, required + optional) if isinstance(field, str) else ""
            raise MergeError(
                f"In {where}, {shown(field)} is not known.{hint} Known fields: {known}."
            )


def load_json(text: str) -> Recipe:
    """The recipe of a JSON text. Raises MergeError if the text is not JSON or not a recipe."""
    try:
        if sum(text.count(mark) for mark in "[{,") > MOST_MARKS:
            raise MergeError("The recipe has far more parts than any that can be merged.")
        return from_json(json.loads(text))
    except RecursionError:
        raise MergeError(
            f"The recipe is nested more than {DEEPEST} levels deep. Make it flatter."
        ) from None
    except ValueError as error:
        raise MergeError(f"The recipe is not valid JSON: {error}.") from error
