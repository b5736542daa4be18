"""A merge as data: a tree of ingredients, weighted sums and added differences, without any tensor.

Weights are exact fractions, so 60/20/20 is 3/5, 1/5, 1/5 and a chain of mixes loses nothing. For
each tensor, every recipe here is a linear combination of its ingredients and of the results of
methods (`merge.methods`), with weights that add up to 1; `flatten` gives that combination.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias, cast

from .blocks import BlockWeights
from .errors import MergeError, nearest
from .key_names import TEXT_PART, VAE_PART, part_of
from .methods import METHODS, MergeMethod, Setting
from .numbers import Number, exact, shown, written

DEEPEST = 100
LARGEST = 5_000
"""The most ingredients and steps of a recipe, each counted as often as it is used."""


class Tree:
    """What all recipes but a single ingredient share: how large and how deep they are is known when
    they are made, so that none is too large to walk through. Raises MergeError.
    """

    def __post_init__(self) -> None:
        below = children(cast("Any", self))
        size = 1 + sum(getattr(child, "_size", 1) for child in below)
        depth = 1 + max((getattr(child, "_depth", 1) for child in below), default=0)
        if size > LARGEST:
            raise MergeError(
                f"The recipe has more than {LARGEST:,} ingredients and steps, each counted as "
                "often as it is used. Merge a part of it to a file, and use that as an ingredient."
            )
        if depth > DEEPEST:
            raise MergeError(
                f"The recipe is nested more than {DEEPEST} levels deep. Make it flatter."
            )
        object.__setattr__(self, "_size", size)
        object.__setattr__(self, "_depth", depth)


@dataclass(frozen=True)
class Ingredient:
    """One checkpoint, by the name ComfyUI lists it under. Its file's `sha256` is None until `bind`
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
class WeightedSum(Tree):
    """The sum of weight x recipe over the parts; weights add up to 1. Made by `weighted_sum`."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class AddDifference(Tree):
    """a + multiplier x (b - c), with one multiplier for all tensors or one for each block."""

    a: Recipe
    b: Recipe
    c: Recipe
    multiplier: Fraction | BlockWeights


@dataclass(frozen=True)
class BlockSum(Tree):
    """(1 - share of b) x a + share of b x b, with a share for each block."""

    a: Recipe
    b: Recipe
    share_of_b: BlockWeights


@dataclass(frozen=True)
class Parts(Tree):
    """`recipe` with the text encoder or the VAE, or both, of other recipes. A VAE is blended only
    if it is given here as a mix.
    """

    recipe: Recipe
    text_encoder: Recipe | None = None
    vae: Recipe | None = None


@dataclass(frozen=True)
class Method(Tree):
    """The result of a method of `merge.methods.METHODS` on recipes, with all settings. Made by
    `method`.
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
    """A weighted sum of any number of recipes. Shares are divided by their total; a recipe with a
    share of 0 is left out.

    Raises MergeError if a share is not a number or the total is not above 0.
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
    """The result of the method of that name on the recipes, in the order of its operands. Settings
    that are not given have their defaults.

    Raises MergeError for an unknown method or setting, a wrong number of recipes, or a value out of
    the setting's range.
    """
    if name not in METHODS:
        raise MergeError(
            f"There is no merge method {shown(name)}.{nearest(name, METHODS)} "
            f"Known methods: {', '.join(METHODS)}."
        )
    known, given = METHODS[name], tuple(recipes)
    count = len(known.operands)
    if len(given) < count or (len(given) > count and not known.more):
        raise MergeError(
            f"{known.title} takes {count}{' or more' if known.more else ''} recipes "
            f"({', '.join(known.operands)}{', ...' if known.more else ''}), not {len(given)}."
        )
    values = dict(settings or {})
    found = tuple(
        (s.name, _setting(known, s, values.pop(s.name, s.default))) for s in known.settings
    )
    if values:
        names, unknown = [s.name for s in known.settings], next(iter(values))
        raise MergeError(
            f"{known.title} has no setting {shown(unknown)}.{nearest(unknown, names)} "
            f"Its settings: {', '.join(names) or 'none'}."
        )
    return Method(name, given, found)


def _setting(known: MergeMethod, setting: Setting, value: Any) -> Fraction | BlockWeights:
    where = f"{setting.name} of {known.title}"
    if isinstance(value, BlockWeights) and not setting.by_block:
        raise MergeError(f"{where} must be one number for all blocks, not block weights.")
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
                f"{where} must be {kind} from {setting.low} to {setting.high}; "
                f"it is {written(number)}."
            )
    return found


def ingredients(recipe: Recipe) -> Iterator[Ingredient]:
    """Every ingredient of the tree from left to right, as often as it occurs."""
    if isinstance(recipe, Ingredient):
        yield recipe
    else:
        for child in children(recipe):
            yield from ingredients(child)


def flatten(recipe: Recipe, tensor: str = "") -> Mix:
    """A recipe as a linear combination for the tensor of that name: one exact weight for each
    ingredient or method, from left to right.

    Without a name it is the one for everything outside the UNet. The weights of an ingredient that
    occurs several times are added up (by file content if it is known, otherwise by name), and so
    are those of equal methods; a total of 0 is left out. The weights add up to 1.
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
    """The ingredients that a mix for the tensor of that name depends on, each once, from left to
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
    """The recipe of one part of a checkpoint (see `key_names.PARTS`): the same tree without any
    `Parts`.
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

    Raises MergeError if an ingredient already has a hash and its file has a different one.
    """
    if isinstance(recipe, Ingredient):
        sha256 = sha256_of(recipe.name)
        if recipe.sha256 not in (None, sha256):
            raise MergeError(
                f"{recipe.name} is not the file that this recipe was made with: its SHA-256 is "
                f"{sha256[:12]}..., the recipe says {recipe.sha256[:12]}.... "
                "Put the original file back, or remove the sha256 from the recipe."
            )
        return Ingredient(recipe.name, sha256)
    return _rebuilt(recipe, lambda child: bind(child, sha256_of))


def short_name(name: str) -> str:
    """A checkpoint name without its folder and ending."""
    return re.split(r"[/\\]", name)[-1].removesuffix(".safetensors")


def given_parts(parts: Parts) -> dict[str, Recipe]:
    """The recipes of a `Parts` by field: the whole, and the parts that have their own."""
    found = {"recipe": parts.recipe, "text_encoder": parts.text_encoder, "vae": parts.vae}
    return {field: child for field, child in found.items() if child is not None}


def children(recipe: WeightedSum | AddDifference | BlockSum | Parts | Method) -> tuple[Recipe, ...]:
    """The recipes that a recipe is made of directly."""
    if isinstance(recipe, Method):
        return recipe.recipes
    if isinstance(recipe, WeightedSum):
        return tuple(part.recipe for part in recipe.parts)
    if isinstance(recipe, BlockSum):
        return recipe.a, recipe.b
    if isinstance(recipe, Parts):
        return tuple(given_parts(recipe).values())
    return recipe.a, recipe.b, recipe.c
