"""A merge as data: a tree of ingredients, weighted sums and added differences, without any tensor.

Weights are exact fractions, so that 60/20/20 is 3/5, 1/5, 1/5 and a chain of mixes loses nothing.
Every recipe here is, for each tensor, a linear combination with weights that add up to 1, of its
ingredients and of what methods (`merge.methods`) make of other recipes; `flatten` gives that
combination.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

from .blocks import LAYOUTS, BlockWeights, block_weights, parse_rules
from .errors import MergeError
from .key_names import TEXT_PART, VAE_PART, part_of
from .methods import METHODS, MergeMethod, Setting
from .numbers import Number, exact, json_number, shown, written

FORMAT = 1
DEEPEST = 100
SHA256 = re.compile(r"[0-9a-f]{64}")
PLAIN_NAME = re.compile(r"[^\W\d][\w./\\@-]*")
"""A name that stands in a recipe's text without quotation marks."""


@dataclass(frozen=True)
class Ingredient:
    """One checkpoint, by the name ComfyUI lists it under; `sha256` of its file is None until `bind`
    has seen the file.
    """

    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Part:
    """A recipe and its weight in a weighted sum."""

    recipe: Recipe
    weight: Fraction


@dataclass(frozen=True)
class WeightedSum:
    """The sum of weight x recipe over the parts; the weights add up to 1. Made by `weighted_sum`."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class AddDifference:
    """a + multiplier x (b - c), the multiplier one for all tensors or one for each block."""

    a: Recipe
    b: Recipe
    c: Recipe
    multiplier: Fraction | BlockWeights


@dataclass(frozen=True)
class BlockSum:
    """(1 - share of b) x a + share of b x b, the share being another one for each block."""

    a: Recipe
    b: Recipe
    share_of_b: BlockWeights


@dataclass(frozen=True)
class Parts:
    """`recipe` with the text encoder or the VAE, or both, of other recipes. Only a VAE that is
    given here as a mix is blended.
    """

    recipe: Recipe
    text_encoder: Recipe | None = None
    vae: Recipe | None = None


@dataclass(frozen=True)
class Method:
    """What a method of `merge.methods.METHODS` makes of recipes, with every setting written down.
    Made by `method`.
    """

    method: str
    recipes: tuple[Recipe, ...]
    settings: tuple[tuple[str, Fraction | BlockWeights], ...]

    def number(self, setting: str, tensor: str) -> Fraction:
        """The setting's value for the tensor of that name."""
        value = dict(self.settings)[setting]
        return value.of(tensor) if isinstance(value, BlockWeights) else value


Recipe: TypeAlias = Ingredient | WeightedSum | AddDifference | BlockSum | Parts | Method
Mix: TypeAlias = tuple[tuple[Ingredient | Method, Fraction], ...]
"""A linear combination: ingredients and methods with their weights (see `flatten`)."""


def weighted_sum(shares: Iterable[tuple[Recipe, Number]]) -> WeightedSum:
    """A weighted sum of any number of recipes. Shares are divided by their total; a recipe with
    share 0 is left out.

    Raises MergeError when a share is not a number or the total is not above 0.
    """
    given = [(recipe, exact(share, "a share")) for recipe, share in shares]
    total = sum((share for _, share in given), Fraction(0))
    if total <= 0:
        raise MergeError("The shares add up to 0. Give at least one ingredient a share above 0.")
    return WeightedSum(tuple(Part(recipe, share / total) for recipe, share in given if share))


def add_difference(
    a: Recipe, b: Recipe, c: Recipe, multiplier: Number | BlockWeights
) -> AddDifference:
    """a + multiplier x (b - c). Raises MergeError when the multiplier is not a number."""
    if isinstance(multiplier, BlockWeights):
        return AddDifference(a, b, c, multiplier)
    return AddDifference(a, b, c, exact(multiplier, "the multiplier"))


def triple_sum(
    a: Recipe,
    b: Recipe,
    c: Recipe,
    share_of_b: Number | BlockWeights,
    share_of_c: Number | BlockWeights,
) -> Recipe:
    """(1 - share of b - share of c) x a + share of b x b + share of c x c. Raises MergeError when a
    share is not a number.
    """
    return add_difference(add_difference(a, b, a, share_of_b), c, a, share_of_c)


def sum_twice(
    a: Recipe,
    b: Recipe,
    c: Recipe,
    share_of_b: Number | BlockWeights,
    share_of_c: Number | BlockWeights,
) -> Recipe:
    """(1 - share of c) x ((1 - share of b) x a + share of b x b) + share of c x c. Raises
    MergeError when a share is not a number.
    """
    first = add_difference(a, b, a, share_of_b)
    return add_difference(first, c, first, share_of_c)


TREES: dict[str, Callable[..., Recipe]] = {"triple_sum": triple_sum, "sum_twice": sum_twice}
"""Methods of other tools that are sums of sums: they take recipes a, b, c and the settings
share_of_b and share_of_c.
"""


def method(
    name: str, recipes: Iterable[Recipe], settings: Mapping[str, Any] | None = None
) -> Method:
    """What the method of that name makes of the recipes, in the order of its operands; a setting
    that is not given has its default.

    Raises MergeError for an unknown method or setting, another number of recipes, and for a value
    out of the setting's range.
    """
    if name not in METHODS:
        raise MergeError(f"{shown(name)} is not a method. Choose one of {', '.join(METHODS)}.")
    known, given = METHODS[name], tuple(recipes)
    count = len(known.operands)
    if len(given) < count or (len(given) > count and not known.more):
        raise MergeError(
            f"{known.title} takes {count}{' or more' if known.more else ''} recipes ({', '.join(known.operands)}"
            f"{', ...' if known.more else ''}), not {len(given)}."
        )
    values = dict(settings or {})
    found = tuple(
        (s.name, _setting(known, s, values.pop(s.name, s.default))) for s in known.settings
    )
    if values:
        names = ", ".join(s.name for s in known.settings) or "none"
        raise MergeError(
            f"{known.title} has no setting {shown(next(iter(values)))}. It has: {names}."
        )
    return Method(name, given, found)


def _setting(known: MergeMethod, setting: Setting, value: Any) -> Fraction | BlockWeights:
    where = f"{setting.name} of {known.title}"
    if isinstance(value, BlockWeights) and not setting.by_block:
        raise MergeError(f"{where} is one number for all blocks.")
    found = value if isinstance(value, BlockWeights) else exact(value, where)
    numbers = (
        [found]
        if isinstance(found, Fraction)
        else [*found.by_slot.values(), *(r.value for r in found.rules)]
    )
    for number in numbers:
        if not setting.low <= number <= setting.high or (
            setting.is_whole and number.denominator > 1
        ):
            kind = "a whole number" if setting.is_whole else "a number"
            raise MergeError(
                f"{where} must be {kind} from {setting.low} to {setting.high}; it is {written(number)}."
            )
    return found


def check_depth(recipe: Recipe) -> None:
    """Raise MergeError for a tree that is nested deeper than a recipe's JSON may be."""
    level = [recipe]
    for _ in range(DEEPEST):
        level = [
            child for node in level if not isinstance(node, Ingredient) for child in children(node)
        ]
    if level:
        raise MergeError(f"The recipe is nested more than {DEEPEST} deep. Write it flatter.")


def ingredients(recipe: Recipe) -> Iterator[Ingredient]:
    """Every ingredient of the tree from left to right, as often as it stands there."""
    if isinstance(recipe, Ingredient):
        yield recipe
    else:
        for child in children(recipe):
            yield from ingredients(child)


def flatten(recipe: Recipe, tensor: str = "") -> Mix:
    """The linear combination that a recipe is for the tensor of that name: one exact weight per
    ingredient or method, from left to right.

    Without a name it is that of all that is not in the UNet. An ingredient that stands in several
    places is added up (by file content where it is known, else by name), and so are equal methods;
    one whose total is 0 is left out. The weights add up to 1.
    """
    recipe = for_part(recipe, part_of(tensor))
    totals: dict[str | Method, tuple[Ingredient | Method, Fraction]] = {}

    def add(node: Recipe, weight: Fraction) -> None:
        if isinstance(node, Ingredient | Method):
            key = node if isinstance(node, Method) else node.sha256 or node.name
            first, total = totals.get(key, (node, Fraction(0)))
            totals[key] = (first, total + weight)
        elif isinstance(node, WeightedSum):
            for part in node.parts:
                add(part.recipe, weight * part.weight)
        elif isinstance(node, BlockSum):
            share = node.share_of_b.of(tensor)
            add(node.a, weight * (1 - share))
            add(node.b, weight * share)
        elif isinstance(node, AddDifference):
            multiplier = node.multiplier
            if isinstance(multiplier, BlockWeights):
                multiplier = multiplier.of(tensor)
            add(node.a, weight)
            add(node.b, weight * multiplier)
            add(node.c, -weight * multiplier)

    add(recipe, Fraction(1))
    return tuple((atom, total) for atom, total in totals.values() if total)


def used_ingredients(mix: Mix, tensor: str = "") -> tuple[Ingredient, ...]:
    """The ingredients that a mix depends on for the tensor of that name, each once, from left to
    right.
    """
    found: dict[Ingredient, None] = {}
    for atom, _ in mix:
        if isinstance(atom, Ingredient):
            found[atom] = None
        else:
            operands = (flatten(recipe, tensor) for recipe in atom.recipes)
            found |= dict.fromkeys(i for each in operands for i in used_ingredients(each, tensor))
    return tuple(found)


def for_part(recipe: Recipe, part: str) -> Recipe:
    """The recipe by which one part of a checkpoint (see `key_names.PARTS`) is mixed: the same tree
    without any `Parts`.
    """
    if isinstance(recipe, Parts):
        own = {TEXT_PART: recipe.text_encoder, VAE_PART: recipe.vae}.get(part)
        return for_part(recipe.recipe if own is None else own, part)
    return _rebuilt(recipe, lambda child: for_part(child, part))


def renamed(recipe: Recipe, name_of: Callable[[Ingredient], str]) -> Recipe:
    """The same recipe with other names for its ingredients."""
    if isinstance(recipe, Ingredient):
        return Ingredient(name_of(recipe), recipe.sha256)
    return _rebuilt(recipe, lambda child: renamed(child, name_of))


def _rebuilt(recipe: Recipe, change: Callable[[Recipe], Recipe]) -> Recipe:
    """The recipe with every child changed; an ingredient itself."""
    if isinstance(recipe, WeightedSum):
        return WeightedSum(tuple(Part(change(part.recipe), part.weight) for part in recipe.parts))
    if isinstance(recipe, Method):
        return replace(recipe, recipes=tuple(map(change, recipe.recipes)))
    sides = {
        field: change(child) for field, child in vars(recipe).items() if isinstance(child, Recipe)
    }
    return replace(recipe, **sides) if sides else recipe


def layouts(recipe: Recipe) -> set[str]:
    """The layouts of the block weights in the tree."""
    if isinstance(recipe, Ingredient):
        return set()
    found = {
        weights.layout for weights in vars(recipe).values() if isinstance(weights, BlockWeights)
    }
    if isinstance(recipe, Method):
        found = {value.layout for _, value in recipe.settings if isinstance(value, BlockWeights)}
    return found.union(*(layouts(child) for child in children(recipe)))


def bind(recipe: Recipe, sha256_of: Callable[[str], str]) -> Recipe:
    """The same recipe with the content hash of every ingredient.

    Raises MergeError when an ingredient was bound before and its file is another one now.
    """
    if isinstance(recipe, Ingredient):
        sha256 = sha256_of(recipe.name)
        if recipe.sha256 not in (None, sha256):
            raise MergeError(
                f"{recipe.name} is not the file that this recipe was made with: its SHA-256 is {sha256[:12]}..., "
                f"the recipe says {recipe.sha256[:12]}.... Put the original file back, or remove the sha256 from the recipe."
            )
        return Ingredient(recipe.name, sha256)
    return _rebuilt(recipe, lambda child: bind(child, sha256_of))


def recipe_hash(recipe: Recipe) -> str:
    """Hex SHA-256 of what the recipe makes: its canonical form, with content hashes in place of
    names.

    Raises MergeError when an ingredient is not bound to a file.
    """
    value = {"format": FORMAT, "recipe": _canonical(recipe)}
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _canonical(recipe: Recipe) -> dict[str, Any]:
    if isinstance(recipe, Ingredient):
        if recipe.sha256 is None:
            raise MergeError(f"{recipe.name} has no content hash yet: its file must be read first.")
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
        return {"kind": "parts", **{k: _canonical(child) for k, child in _given(recipe).items()}}
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
    """Block weights as JSON, with `number` for each number; rules in the form that `parse_rules`
    reads.
    """
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
    """The recipe as a JSON value; `from_json` gives the equal recipe back."""
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
        return {"kind": "parts", **{k: to_json(child) for k, child in _given(recipe).items()}}
    if isinstance(recipe, Method):
        return _method_json(recipe, to_json, json_number)
    a, b, c = (to_json(child) for child in children(recipe))
    multiplier = _multiplier_json(recipe.multiplier, json_number)
    return {"kind": "add_difference", "a": a, "b": b, "c": c, "multiplier": multiplier}


def from_json(value: Any) -> Recipe:
    """The recipe of a JSON value. Raises MergeError that says where the value is not a recipe."""
    return _from_json(value, "the recipe", 1)


def _from_json(value: Any, where: str, depth: int) -> Recipe:
    if depth > DEEPEST:
        raise MergeError(f"The recipe is nested more than {DEEPEST} deep. Write it flatter.")
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
        f'{where[0].upper()}{where[1:]} must be an object whose "kind" is "ingredient", "weighted_sum", '
        f'"add_difference", "block_sum", "parts" or "method"; it is {shown(value)}.'
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
            raise MergeError(f"In {where}, {shown(field)} is not known. Known are: {known}.")


def load_json(text: str) -> Recipe:
    """The recipe written in a JSON text. Raises MergeError when the text is not JSON or not a
    recipe.
    """
    try:
        return from_json(json.loads(text))
    except RecursionError:
        raise MergeError(
            f"The recipe is nested more than {DEEPEST} deep. Write it flatter."
        ) from None
    except ValueError as error:
        raise MergeError(f"The recipe is not JSON: {error}.") from error


def to_text(recipe: Recipe) -> str:
    """The recipe as a person writes it: "0.6 vodka + 0.2 epic + 0.2 dream". `merge.text.parse`
    reads it back.
    """
    names = _short_names(recipe)

    def term(node: Recipe) -> str:
        text = write(node)
        return text if isinstance(node, Ingredient | BlockSum | Method) else f"({text})"

    def write(node: Recipe) -> str:
        if isinstance(node, Ingredient):
            return names[node.name]
        if isinstance(node, WeightedSum):
            text = " + ".join(f"{written(p.weight)} {term(p.recipe)}" for p in node.parts)
            return text.replace(" + -", " - ")
        if isinstance(node, BlockSum):
            return f"mix({write(node.a)}, {write(node.b)}, {_weights_text(node.share_of_b)})"
        if isinstance(node, Method):
            settings = ", ".join(f"{k} {_setting_text(v)}" for k, v in node.settings)
            sides = ", ".join(map(write, node.recipes))
            return f"{node.method}({sides}{'; ' if settings else ''}{settings})"
        if isinstance(node, Parts):
            whole, *others = ((k, child) for k, child in _given(node).items())
            start = term(node.recipe) if isinstance(node.recipe, Parts) else write(whole[1])
            return " ".join([start, *(f"with {field} {term(child)}" for field, child in others)])
        multiplier = node.multiplier
        if isinstance(multiplier, BlockWeights):
            sign, number = "+", _weights_text(multiplier)
        else:
            sign, number = "-" if multiplier < 0 else "+", written(abs(multiplier))
        return f"{term(node.a)} {sign} {number} ({term(node.b)} - {term(node.c)})"

    return write(recipe)


def _setting_text(value: Fraction | BlockWeights) -> str:
    return _weights_text(value) if isinstance(value, BlockWeights) else written(value)


def _weights_text(weights: BlockWeights) -> str:
    """BASE and the blocks in the field's order, then TIME and rules where there are any: [0, 1,
    ...; TIME 0.5; OUT03:attn2:0.5].
    """
    parts = [", ".join(written(value) for value in (weights.base, *weights.blocks))]
    if weights.time != weights.blocks[0]:
        parts.append(f"TIME {written(weights.time)}")
    return "[" + "; ".join([*parts, *map(str, weights.rules)]) + "]"


def short_name(name: str) -> str:
    """A checkpoint name without its folder and ending."""
    return re.split(r"[/\\]", name)[-1].removesuffix(".safetensors")


def _short_names(recipe: Recipe) -> dict[str, str]:
    """What every ingredient is called in a text: shortly where that is clear, in quotation marks
    where it needs them.
    """
    names = {ingredient.name for ingredient in ingredients(recipe)}
    short = {name: short_name(name) for name in names}
    taken = list(short.values())
    labels = {name: label if taken.count(label) == 1 else name for name, label in short.items()}
    return {
        name: label
        if PLAIN_NAME.fullmatch(label) and label != "mix"
        else json.dumps(label, ensure_ascii=False)
        for name, label in labels.items()
    }


def _given(parts: Parts) -> dict[str, Recipe]:
    return {field: child for field, child in vars(parts).items() if child is not None}


def children(recipe: WeightedSum | AddDifference | BlockSum | Parts | Method) -> tuple[Recipe, ...]:
    """The recipes that a recipe is made of directly."""
    if isinstance(recipe, Method):
        return recipe.recipes
    if isinstance(recipe, WeightedSum):
        return tuple(part.recipe for part in recipe.parts)
    if isinstance(recipe, BlockSum):
        return recipe.a, recipe.b
    if isinstance(recipe, Parts):
        return tuple(_given(recipe).values())
    return recipe.a, recipe.b, recipe.c
