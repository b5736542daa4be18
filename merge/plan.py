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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from .errors import MergeError, listed
from .family import Family, family_of
from .recipe import Ingredient, short_name
from .safetensors_file import Header, Tensor

VAE = "first_stage_model."
EMA = "model_ema."
POSITION_IDS = "embeddings.position_ids"
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


Flat: TypeAlias = Sequence[tuple[Ingredient, Fraction]]


@dataclass(frozen=True)
class Plan:
    """The result tensor by tensor, before anything is read: `vae_from` names the ingredient whose VAE it keeps."""

    headers: tuple[Header, ...]
    tensors: tuple[OutputTensor, ...]
    family: Family
    vae_from: Ingredient | None


def make_plan(flat: Flat, headers: Mapping[Ingredient, Header], precision: str) -> Plan:
    """Plan the file that a linear combination of checkpoints makes, blended tensors stored as fp16, bf16 or fp32.

    Raises MergeError when the ingredients do not fit together; it names them and the tensors.
    """
    if precision not in PRECISIONS:
        raise MergeError(
            f"{precision!r} is not a precision. Choose one of {', '.join(PRECISIONS)}."
        )
    family = _common_family([(ingredient, headers[ingredient]) for ingredient, _ in flat])
    base = next(ingredient for ingredient, weight in flat if weight > 0)
    order = [base, *(ingredient for ingredient, _ in flat if ingredient != base)]
    weights = {ingredient: float(weight) for ingredient, weight in flat}
    _check_same_tensors(order, headers)
    has_vae = _check_vae(order, headers)

    def output(tensor: Tensor) -> OutputTensor:
        if tensor.name.endswith(POSITION_IDS):
            numbers = struct.pack(f"<{tensor.elements}q", *range(tensor.elements))
            return OutputTensor(tensor.name, "I64", tensor.shape, Literal(numbers))
        if not _is_blended(tensor):
            return OutputTensor(tensor.name, tensor.dtype, tensor.shape, Copy(Source(0, tensor)))
        others = tuple(
            (Source(file, headers[other].tensors[tensor.name]), weights[other])
            for file, other in enumerate(order[1:], 1)
        )
        blend = Blend(Source(0, tensor), others)
        return OutputTensor(tensor.name, PRECISIONS[precision], tensor.shape, blend)

    kept = (t for t in headers[base].tensors.values() if not t.name.startswith(EMA))
    return Plan(
        headers=tuple(headers[ingredient] for ingredient in order),
        tensors=tuple(output(tensor) for tensor in kept),
        family=family,
        vae_from=base if has_vae else None,
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
