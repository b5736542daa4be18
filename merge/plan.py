"""What becomes of every tensor: which are blended with which weights, which are copied, which are left out.

Rules (those that people rely on in other tools, made explicit):
- the VAE is never blended; it comes from the first ingredient with a weight above 0 that has one, byte for byte
- so do integer tensors, and from the first ingredient the noise schedule's buffers (names without a dot)
- position ids are 0, 1, 2, ... as 64-bit integers, whatever a tool made of them
- averaged copies of training (`model_ema.*`) are left out
- what some ingredients lack or have in another width goes by the rules of `matching`
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from .errors import MergeError
from .family import Family, family_of
from .key_names import VAE
from .matching import EMA, UNET_PART, VAE_PART, check_shapes, cuts, notes, part_of, without
from .recipe import Ingredient, Recipe, flatten, ingredients, layouts, short_name
from .safetensors_file import Header, Tensor

POSITION_IDS = "embeddings.position_ids"
Flat: TypeAlias = Sequence[tuple[Ingredient, Fraction]]
FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
PRECISIONS = {
    "fp16": "F16", "bf16": "BF16", "fp32": "F32", "fp8_e4m3fn": "F8_E4M3", "fp8_e5m2": "F8_E5M2",
}  # fmt: skip
"""How blended tensors are stored. With fp8 that is the UNet alone: the other parts, which suffer from it, are then fp16."""


@dataclass(frozen=True)
class Source:
    """A tensor of one ingredient; `file` counts the plan's headers."""

    file: int
    tensor: Tensor


@dataclass(frozen=True)
class Blend:
    """first + the sum of weight x (source - first) over the others."""

    first: Source
    others: tuple[tuple[Source, float], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.first, *(source for source, _ in self.others))


@dataclass(frozen=True)
class Widened:
    """Blends side by side along the second dimension: each from channel `start` up to `stop` of its sources."""

    parts: tuple[tuple[int, int, Blend], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(source for _, _, blend in self.parts for source in blend.sources)


@dataclass(frozen=True)
class Copy:
    """The bytes of one ingredient's tensor."""

    source: Source

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Literal:
    """These bytes."""

    data: bytes


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the result and where it comes from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Blend | Widened | Copy | Literal


@dataclass(frozen=True)
class Plan:
    """The result tensor by tensor, before anything is read: `vae_from` names the ingredient whose VAE it keeps.

    `ingredients` are those that the result depends on, in the order of `headers`; `notes` say what was done where they are not alike.
    """

    ingredients: tuple[Ingredient, ...]
    headers: tuple[Header, ...]
    tensors: tuple[OutputTensor, ...]
    family: Family
    vae_from: Ingredient | None
    notes: tuple[str, ...] = ()


def make_plan(recipe: Recipe, headers: Mapping[Ingredient, Header], precision: str) -> Plan:
    """Plan the file that a recipe makes, blended tensors stored as fp16, bf16 or fp32.

    `headers` has those of all ingredients. Raises MergeError when the ingredients do not fit together; it names them and the tensors.
    """
    if precision not in PRECISIONS:
        raise MergeError(
            f"{precision!r} is not a precision. Choose one of {', '.join(PRECISIONS)}."
        )
    tensors = {t.name: t for header in headers.values() for t in header.tensors.values()}
    lacking = {
        name: tuple(i for i, header in headers.items() if name not in header.tensors)
        for name in tensors
    }
    left = {absent: without(recipe, absent) for absent in set(lacking.values())}
    recipes = {"": recipe, **{name: left[absent] for name, absent in lacking.items()}}
    flats = {name: flatten(part, name) for name, part in recipes.items() if part is not None}
    order = _order(recipe, flats.values())
    base = order[0]
    number = {ingredient: file for file, ingredient in enumerate(order)}
    family = _common_family(order, headers)
    _check_layouts(recipe, family)
    blended = {t.name: None for i in order for t in headers[i].tensors.values() if _is_blended(t)}
    check_shapes(order, headers, tuple(blended))
    vae_from = next((i for i in order if any(n.startswith(VAE) for n in headers[i].tensors)), None)

    def blend(name: str, flat: Flat) -> Blend:
        weights = dict(flat)
        used = [ingredient for ingredient in order if ingredient in weights]
        sources = [Source(number[i], headers[i].tensors[name]) for i in used]
        others = zip(sources[1:], (float(weights[i]) for i in used[1:]), strict=True)
        return Blend(sources[0], tuple(others))

    def output(name: str) -> OutputTensor | None:
        found = {i: headers[i].tensors[name] for i in order if name in headers[i].tensors}
        first = next(iter(found.values()))
        if name.endswith(POSITION_IDS):
            numbers = struct.pack(f"<{first.elements}q", *range(first.elements))
            return OutputTensor(name, "I64", first.shape, Literal(numbers))
        if not _is_blended(first):
            owner = vae_from if part_of(name) == VAE_PART else next(iter(found))
            if owner not in found or ("." not in name and owner != base):
                return None
            tensor = found[owner]
            return OutputTensor(
                name, tensor.dtype, tensor.shape, Copy(Source(number[owner], tensor))
            )
        if name not in flats:
            return None
        dtype = _stored_as(name, precision)
        if len({tensor.shape for tensor in found.values()}) == 1:
            return OutputTensor(name, dtype, first.shape, blend(name, flats[name]))
        parts = [
            (cut.start, cut.stop, blend(name, flatten(part, name)))
            for cut in cuts(found)
            if (part := without(recipe, (*lacking[name], *cut.lacking))) is not None
        ]
        shape = (first.shape[0], parts[-1][1], *first.shape[2:])
        return OutputTensor(name, dtype, shape, Widened(tuple(parts)))

    names = {name: None for i in order for name in headers[i].tensors if not name.startswith(EMA)}
    return Plan(
        ingredients=tuple(order),
        headers=tuple(headers[ingredient] for ingredient in order),
        tensors=tuple(tensor for name in names if (tensor := output(name))),
        family=family,
        vae_from=vae_from,
        notes=(*notes(order, headers, tuple(blended)), *_vae_note(base, vae_from)),
    )


def _stored_as(name: str, precision: str) -> str:
    if precision.startswith("fp8") and part_of(name) != UNET_PART:
        return "F16"
    return PRECISIONS[precision]


def _vae_note(base: Ingredient, vae_from: Ingredient | None) -> list[str]:
    if vae_from in (base, None):
        return []
    return [f"{short_name(base.name)} has no VAE; the result has that of {short_name(vae_from.name)}."]  # fmt: skip


def _order(recipe: Recipe, flats: Iterable[Flat]) -> list[Ingredient]:
    """The ingredients that matter to any tensor, from left to right, but first one that is added and not only taken away."""
    used: dict[Ingredient, bool] = {}
    for flat in flats:
        for ingredient, weight in flat:
            used[ingredient] = used.get(ingredient, False) or weight > 0
    order = list(dict.fromkeys(i for i in ingredients(recipe) if i in used))
    base = next(ingredient for ingredient in order if used[ingredient])
    return [base, *(ingredient for ingredient in order if ingredient != base)]


def _check_layouts(recipe: Recipe, family: Family) -> None:
    """Refuse block weights for another kind of UNet."""
    for layout in layouts(recipe):
        if (layout == "SDXL") != (family.kind == "SDXL"):
            raise MergeError(
                f"These block weights are for {layout}, the checkpoints are {family.name}. SD1.5 and SD2 have 25 blocks, "
                "SDXL has 19."
            )


def _is_blended(tensor: Tensor) -> bool:
    return (
        tensor.dtype in FLOATS
        and "." in tensor.name
        and not tensor.name.startswith((VAE, EMA))
        and not tensor.name.endswith(POSITION_IDS)
    )


def _common_family(order: Sequence[Ingredient], headers: Mapping[Ingredient, Header]) -> Family:
    """The family of the result: that of an ingredient with the most input channels. Refuses ingredients of several kinds."""
    families = {ingredient: family_of(headers[ingredient]) for ingredient in order}
    if len({family.kind for family in families.values()}) > 1:
        told = ", ".join(f"{i.name} is {family.name}" for i, family in families.items())
        raise MergeError(f"Only checkpoints of one family can be mixed: {told}.")
    return next((f for f in families.values() if f.base), families[order[0]])
