"""What becomes of every tensor: which are blended with which weights, which are copied, which are left out.

Rules (those that people rely on in other tools, made explicit):
- the VAE is never blended; it comes from the first ingredient with a weight above 0, byte for byte
- so do integer tensors and the noise schedule's buffers (names without a dot)
- position ids are 0, 1, 2, ... as 64-bit integers, whatever a tool made of them
- averaged copies of training (`model_ema.*`) are left out
- every other tensor must be in all ingredients, with one shape
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from .errors import MergeError, listed
from .family import SDXL, Family, family_of
from .recipe import Ingredient, Recipe, flatten, ingredients, layouts, short_name
from .safetensors_file import Header, Tensor

VAE = "first_stage_model."
EMA = "model_ema."
POSITION_IDS = "embeddings.position_ids"
Flat: TypeAlias = Sequence[tuple[Ingredient, Fraction]]
FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
PRECISIONS = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}


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
class Copy:
    """The bytes of one ingredient's tensor."""

    source: Source


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
    content: Blend | Copy | Literal


@dataclass(frozen=True)
class Plan:
    """The result tensor by tensor, before anything is read: `vae_from` names the ingredient whose VAE it keeps.

    `ingredients` are those that the result depends on, in the order of `headers`.
    """

    ingredients: tuple[Ingredient, ...]
    headers: tuple[Header, ...]
    tensors: tuple[OutputTensor, ...]
    family: Family
    vae_from: Ingredient | None


def make_plan(recipe: Recipe, headers: Mapping[Ingredient, Header], precision: str) -> Plan:
    """Plan the file that a recipe makes, blended tensors stored as fp16, bf16 or fp32.

    `headers` has those of all ingredients. Raises MergeError when the ingredients do not fit together; it names them and the tensors.
    """
    if precision not in PRECISIONS:
        raise MergeError(
            f"{precision!r} is not a precision. Choose one of {', '.join(PRECISIONS)}."
        )
    names = {name: None for header in headers.values() for name in header.tensors}
    flats = {name: flatten(recipe, name) for name in ("", *names)}
    order = _order(recipe, flats.values())
    base = order[0]
    number = {ingredient: file for file, ingredient in enumerate(order)}
    family = _common_family([(ingredient, headers[ingredient]) for ingredient in order])
    _check_layouts(recipe, family)
    _check_same_tensors(order, headers)
    has_vae = _check_vae(order, headers)

    def output(tensor: Tensor) -> OutputTensor:
        if tensor.name.endswith(POSITION_IDS):
            numbers = struct.pack(f"<{tensor.elements}q", *range(tensor.elements))
            return OutputTensor(tensor.name, "I64", tensor.shape, Literal(numbers))
        if not _is_blended(tensor):
            return OutputTensor(tensor.name, tensor.dtype, tensor.shape, Copy(Source(0, tensor)))
        weights = dict(flats[tensor.name])
        used = [ingredient for ingredient in order if ingredient in weights]
        sources = [Source(number[i], headers[i].tensors[tensor.name]) for i in used]
        others = zip(sources[1:], (float(weights[i]) for i in used[1:]), strict=True)
        blend = Blend(sources[0], tuple(others))
        return OutputTensor(tensor.name, PRECISIONS[precision], tensor.shape, blend)

    kept = (t for t in headers[base].tensors.values() if not t.name.startswith(EMA))
    return Plan(
        ingredients=tuple(order),
        headers=tuple(headers[ingredient] for ingredient in order),
        tensors=tuple(output(tensor) for tensor in kept),
        family=family,
        vae_from=base if has_vae else None,
    )


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
        if (layout == "SDXL") != (family == SDXL):
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


def _common_family(files: Sequence[tuple[Ingredient, Header]]) -> Family:
    families = [(ingredient, family_of(header)) for ingredient, header in files]
    if len({family for _, family in families}) > 1:
        told = ", ".join(f"{ingredient.name} is {family.name}" for ingredient, family in families)
        raise MergeError(f"Only checkpoints of one family can be mixed: {told}.")
    return families[0][1]


def _check_same_tensors(order: Sequence[Ingredient], headers: Mapping[Ingredient, Header]) -> None:
    """Refuse ingredients whose blended tensors differ in name or shape from the first one's."""
    shapes = [
        {tensor.name: tensor.shape for tensor in headers[ingredient].tensors.values() if _is_blended(tensor)}
        for ingredient in order
    ]  # fmt: skip
    base, expected = order[0].name, shapes[0]
    if not expected:
        raise MergeError(f"{base} has no tensor that can be mixed. Choose a full checkpoint.")
    for ingredient, found in zip(order[1:], shapes[1:], strict=True):
        differences = [
            *(f"{name} is missing in {ingredient.name}" for name in expected if name not in found),
            *(f"{name} is missing in {base}" for name in found if name not in expected),
            *(
                f"{name} is {expected[name]} in {base} and {shape} in {ingredient.name}"
                for name, shape in found.items()
                if name in expected and shape != expected[name]
            ),
        ]
        if differences:
            raise MergeError(
                f"{base} and {ingredient.name} do not have the same tensors: {listed(differences)}. "
                "Mix checkpoints of the same architecture and layout."
            )


def _check_vae(order: Sequence[Ingredient], headers: Mapping[Ingredient, Header]) -> bool:
    """Whether the result has a VAE. Refuses a first ingredient without one when another has it."""
    with_vae = [
        ingredient
        for ingredient in order
        if any(name.startswith(VAE) for name in headers[ingredient].tensors)
    ]
    if with_vae and order[0] not in with_vae:
        raise MergeError(
            f"{order[0].name} has no VAE, and a VAE is never blended: it comes from the first ingredient. "
            f"Put {short_name(with_vae[0].name)}, which has one, first."
        )
    return bool(with_vae)
