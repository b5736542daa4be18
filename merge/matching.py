"""How a recipe applies to tensors that some of its ingredients do not have, or have with another
width.

The rules:
- An ingredient has no text encoder or VAE, or lacks some of their tensors: the others' shares are
  scaled to make up the whole. A difference with a missing side adds nothing. A method uses the
  remaining models if it takes that many, otherwise its first operand.
- An ingredient lacks a tensor of the UNet: refused, since its architecture is a different one.
- The first convolution of inpainting (9 input channels) and instruct-pix2pix models (8): the first
  4 channels are mixed like everything else, the others among the ingredients that have them, by the
  rule for missing tensors.
- Any other difference in shape: refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from .errors import MergeError, listed
from .family import FIRST, input_channels
from .key_names import EMA_PART, TEXT_PART, UNET_PART, part_of
from .methods import METHODS
from .recipe import (
    BlockSum,
    Ingredient,
    Method,
    Parts,
    Recipe,
    WeightedSum,
    add_difference,
    short_name,
    weighted_sum,
)
from .safetensors_file import FLOATS, Header, Tensor


def without(recipe: Recipe, lacking: Collection[Ingredient]) -> Recipe | None:
    """The recipe without the ingredients that are `lacking` something; None if nothing is left. It
    is the recipe of one part (`recipe.for_part`).
    """
    if not lacking:
        return recipe
    if isinstance(recipe, Ingredient):
        return None if recipe in lacking else recipe
    if isinstance(recipe, WeightedSum):
        parts = [(without(part.recipe, lacking), part.weight) for part in recipe.parts]
        left = [(part, weight) for part, weight in parts if part is not None]
        if sum(weight for _, weight in left) > 0:
            return weighted_sum(left) if len(left) > 1 else left[0][0]
        return left[0][0] if left else None
    if isinstance(recipe, BlockSum):
        a, b = without(recipe.a, lacking), without(recipe.b, lacking)
        return BlockSum(a, b, recipe.share_of_b) if a and b else a or b
    if isinstance(recipe, Parts):
        return without(recipe.recipe, lacking)
    if isinstance(recipe, Method):
        first, *others = (without(side, lacking) for side in recipe.recipes)
        having = [side for side in (first, *others) if side is not None]
        known = METHODS[recipe.method]
        if len(having) == len(recipe.recipes) or (
            first and known.more and len(having) >= len(known.operands)
        ):
            return replace(recipe, recipes=tuple(having))
        return first or next(iter(having), None)
    a, b, c = (without(side, lacking) for side in (recipe.a, recipe.b, recipe.c))
    if a and b and c:
        return add_difference(a, b, c, recipe.multiplier)
    return a or b


@dataclass(frozen=True)
class Cut:
    """Channels `start` up to `stop` of a tensor, and the ingredients that do not have them."""

    start: int
    stop: int
    lacking: tuple[Ingredient, ...]


def cuts(tensor: Mapping[Ingredient, Tensor]) -> list[Cut]:
    """How a tensor that is wider in some ingredients is divided along its second dimension; one cut
    if all have the same width.

    Only the UNet's first convolution can differ; `check_shapes` has refused anything else.
    """
    widths = {ingredient: input_channels(found.shape) for ingredient, found in tensor.items()}
    edges = sorted({0, *widths.values()})
    return [
        Cut(start, stop, tuple(i for i, width in widths.items() if width < stop))
        for start, stop in pairwise(edges)
    ]


def is_widened(shapes: Collection[tuple[int, ...]], name: str) -> bool:
    """Whether these shapes of a tensor differ only because some models have additional input
    channels.
    """
    channels = {input_channels(shape) for shape in shapes}
    others = {(shape[0], *shape[2:]) for shape in shapes if len(shape) == 4}
    return name == FIRST and len(others) == 1 and channels in ({4, 8}, {4, 9})


def check_shapes(
    order: Sequence[Ingredient],
    headers: Mapping[Ingredient, Header],
    blended: Collection[str],
    outside: Collection[str] = (),
) -> None:
    """Refuse ingredients of one part whose blended tensors differ in a way that no rule covers; the
    message names tensors and files.
    """
    base = order[0]
    expected = headers[base].tensors
    firsts = [headers[i].tensors[FIRST].shape for i in order if FIRST in headers[i].tensors]
    if {8, 9} <= {input_channels(shape) for shape in firsts}:
        raise MergeError(
            "Inpainting and instruct-pix2pix models cannot be mixed: their additional channels "
            "mean "
            "different things. Mix models of one of the two kinds."
        )
    for ingredient in order:
        parts = {part_of(name) for name in blended}
        whole = [
            n
            for n, tensor in headers[ingredient].tensors.items()
            if tensor.dtype not in FLOATS
            and n not in outside
            and (n in blended or (n.endswith(".weight") and part_of(n) in parts))
        ]
        if whole:
            raise MergeError(
                f"{ingredient.name} has whole numbers where weights should be: {listed(whole)}. "
                "The checkpoint is broken; use another one."
            )
    for ingredient in order[1:]:
        found = headers[ingredient].tensors
        differences = []
        for name in blended:
            ours, theirs = expected.get(name), found.get(name)
            if ours is None or theirs is None:
                missing = ingredient if theirs is None else base
                if part_of(name) == UNET_PART and (ours or theirs):
                    differences.append(f"{name} is missing in {missing.name}")
            elif ours.shape != theirs.shape and not is_widened((ours.shape, theirs.shape), name):
                shapes = f"{ours.shape} in {base.name} and {theirs.shape} in {ingredient.name}"
                differences.append(f"{name} is {shapes}")
        if differences:
            raise MergeError(
                f"{base.name} and {ingredient.name} do not have the same tensors: "
                f"{listed(differences)}. "
                "Mix checkpoints of the same architecture and layout."
            )


def notes(
    users: Mapping[str, Sequence[Ingredient]],
    headers: Mapping[Ingredient, Header],
    blended: Collection[str],
    channels_of_result: int,
) -> list[str]:
    """What is done where ingredients are not alike, one sentence each. `users` are the ingredients
    of each part.
    """
    everyone = dict.fromkeys(i for part in users.values() for i in part)
    told = [f"{short_name(i.name)}: {note}." for i in everyone for note in headers[i].notes]
    theirs = {name for i in users[TEXT_PART] for name in headers[i].tensors}
    texts = [name for name in blended if part_of(name) == TEXT_PART and name in theirs]
    for ingredient in users[TEXT_PART]:
        label = short_name(ingredient.name)
        missing = [name for name in texts if name not in headers[ingredient].tensors]
        if missing and len(missing) == len(texts):
            told.append(f"{label} has no text encoder; it is mixed from the others.")
        elif missing:
            told.append(
                f"{label} lacks {len(missing)} tensors of the text encoder, which are mixed from "
                "the "
                f"others: {listed(missing, 3)}."
            )
    for ingredient in users[UNET_PART]:
        dropped = sum(part_of(name) == EMA_PART for name in headers[ingredient].tensors)
        if dropped:
            told.append(
                f"{short_name(ingredient.name)}: {dropped} averaged copies of its training are "
                "left "
                "out."
            )
    firsts = {i: headers[i].tensors.get(FIRST) for i in users[UNET_PART]}
    channels = {i: input_channels(first.shape) for i, first in firsts.items() if first}
    if len(set(channels.values())) > 1:
        most = max(channels.values())
        wide = [short_name(i.name) for i, number in channels.items() if number == most]
        if channels_of_result < most:
            told.append(
                f"The result takes {channels_of_result} channels: those of {listed(wide)} after "
                "the fourth are only subtracted, and left out."
            )
            return told
        told.append(
            f"The result takes {most} channels, as {listed(wide)} does; the channels after the "
            "fourth come from there."
        )
    return told
