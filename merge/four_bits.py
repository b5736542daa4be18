"""Weights in bitsandbytes' NF4 and FP4: two numbers in a byte, the first in its upper half, each an
index into LAYER.weight.quant_map, times the absmax of its block.

LAYER.weight.absmax may be quantised in turn: indices into nested_quant_map, times nested_absmax of
their block, plus nested_offset (bitsandbytes/functional.py, QuantState, quantize_4bit and
dequantize_4bit). LAYER.weight.quant_state.bitsandbytes__nf4, or __fp4, holds shape, block sizes and
offset as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import MergeError
from .safetensors_file import FLOATS, Read, Tensor, stored_numbers, torch_type

OFFSET = "nested_offset"
OFFSET_DIGITS, OFFSET_SIZE = 9, 14
"""Significant digits that tell every float32, and the most signs they take with an exponent."""
SMALLEST = 1e-38
"""What a smaller absmax counts as where it divides: its reciprocal is no float32."""
FP16_SMALLEST = 2.0**-24


@dataclass(frozen=True)
class Indexed(Tensor):
    """A weight of two numbers in a byte: table[index] x absmax of its block. `state` is the tensor
    with the JSON.

    As a `Tensor` it is the weight in float32, whose `offset` is that of the stored numbers.
    """

    stored: Tensor
    table: Tensor
    absmax: Tensor
    block: int
    state: Tensor
    nested: Nested | None = None


@dataclass(frozen=True)
class Nested:
    """How absmax is stored if it is quantised too: table[index] x absmax of its block + offset."""

    table: Tensor
    absmax: Tensor
    block: int
    offset: float


def indexed(
    tensors: Mapping[str, Tensor], weight: str, told: Tensor, state: Mapping[str, Any]
) -> Indexed:
    """The weight of this name in a file, of which `state` is read from the tensor `told`. Raises
    KeyError, TypeError or ValueError when something is missing or does not fit.
    """
    stored = tensors[weight]
    table, absmax = tensors[f"{weight}.quant_map"], tensors[f"{weight}.absmax"]
    shape = tuple(int(size) for size in state["shape"])
    elements = math.prod(shape)
    block = min(int(state["blocksize"]), elements)
    blocks = -(-elements // block) if block > 0 else 0
    nested = None
    if f"{weight}.nested_absmax" in tensors:
        nested = Nested(
            tensors[f"{weight}.nested_quant_map"],
            tensors[f"{weight}.nested_absmax"],
            min(int(state["nested_blocksize"]), blocks),
            float(state[OFFSET]),
        )
    is_whole = stored.dtype == "U8" and stored.elements == -(-elements // 2)
    is_whole &= elements > 0 and min(shape, default=1) > 0
    if not is_whole or table.elements != 16 or absmax.elements != blocks:
        raise ValueError("the size of a tensor")
    if absmax.dtype not in (("U8",) if nested else FLOATS) or table.dtype not in FLOATS:
        raise ValueError("the type of absmax")
    if nested and (
        nested.block < 1
        or nested.table.elements != 256
        or nested.absmax.elements != -(-blocks // nested.block)
    ):
        raise ValueError("the size of nested_absmax")
    if nested and not {nested.table.dtype, nested.absmax.dtype} <= {*FLOATS}:
        raise ValueError("the type of nested_absmax")
    return Indexed(weight, "F32", shape, stored.offset, stored, table, absmax, block, told, nested)


def decode(tensor: Indexed, start: int, count: int, read: Read) -> Any:
    """Elements `start` up to `start + count` of a weight, in float32."""
    import torch

    first, last = start // 2, (start + count + 1) // 2
    packed = torch.frombuffer(read(tensor.stored.offset + first, last - first), dtype=torch.uint8)
    indices = torch.stack((packed >> 4, packed & 15), 1).flatten()[start % 2 :][:count]
    table = stored_numbers(tensor.table, 0, tensor.table.elements, read)
    begin, end = start // tensor.block, (start + count - 1) // tensor.block + 1
    absmax = _absmax(tensor, begin, end - begin, read)
    spread = absmax.repeat_interleave(tensor.block)[start % tensor.block :][:count]
    return table[indices.long()].mul_(spread)


def _absmax(tensor: Indexed, start: int, count: int, read: Read) -> Any:
    nested = tensor.nested
    if nested is None:
        return stored_numbers(tensor.absmax, start, count, read)
    indices = stored_numbers(tensor.absmax, start, count, read).long()
    table = stored_numbers(nested.table, 0, nested.table.elements, read)
    first, last = start // nested.block, (start + count - 1) // nested.block
    outer = stored_numbers(nested.absmax, first, last - first + 1, read)
    spread = outer.repeat_interleave(nested.block)[start % nested.block :][:count]
    return table[indices].mul_(spread).add_(nested.offset)


def carried(kind: Indexed) -> list[Tensor]:
    """The tensors that are the same for every weight in the way of this one."""
    return [kind.table, kind.nested.table if kind.nested else kind.state]


def written(kind: Indexed, read: Read) -> list[Tensor]:
    """The tensors that `encode` makes, in the sizes they will have."""
    if kind.nested is None:
        return [kind.stored, kind.absmax]
    longest = len(_with_offset(_state(kind, read), 0)) - 1 + OFFSET_SIZE
    state = replace(kind.state, shape=(max(kind.state.elements, longest),))
    return [kind.stored, kind.absmax, kind.nested.absmax, state]


def encode(value: Any, kind: Indexed, read: Read) -> tuple[dict[str, Any], Any]:
    """The tensors of a weight in the way of another one, by name, and the weight that they mean, in
    float32. `read` reads the file of the other one.

    As bitsandbytes does it: absmax is the largest number of a block, each number over it becomes
    the nearest of the table, the lower one in the middle of two. Raises MergeError for a table of
    which the largest number is not 1, and for numbers that absmax cannot hold.
    """
    import torch

    table = _table(kind.table, read)
    parts = _in_blocks(value.flatten(), kind.block)
    absmax = parts.abs().amax(1)
    codes = _nearest(parts, absmax, table)
    if kind.nested is None:
        held = _held(absmax, kind.absmax)
        made, found = {kind.absmax.name: held}, held.float().flatten()
    else:
        made, found = _encode_absmax(absmax, kind, kind.nested, read)
    meant = (table[codes.long()] * found[:, None]).flatten()[: value.numel()]
    codes = codes.flatten()[: value.numel()]
    if len(codes) % 2:
        zero = _nearest(torch.zeros(1, 1), torch.ones(1), table)
        codes = torch.cat((codes, zero.flatten()))
    first, second = codes.reshape(-1, 2).unbind(1)
    made[kind.stored.name] = (first << 4 | second).reshape(kind.stored.shape)
    return made, meant.reshape(value.shape)


def _encode_absmax(
    absmax: Any, kind: Indexed, nested: Nested, read: Read
) -> tuple[dict[str, Any], Any]:
    """The tensors of an absmax that is quantised too, and the absmax that they mean.

    The offset is the mean. If offset and nested_absmax of the other weight give this very absmax,
    as they do where the weight is the other one itself, they are kept.
    """
    table = _table(nested.table, read)

    def coded(offset: float, outer: Any) -> tuple[Any, Any]:
        codes = _nearest(_in_blocks(absmax - offset, nested.block), outer, table)
        means = table[codes.long()].mul_(outer[:, None]).add_(offset)
        return codes.flatten()[: len(absmax)], means.flatten()[: len(absmax)]

    offset, outer = nested.offset, stored_numbers(nested.absmax, 0, nested.absmax.elements, read)
    codes, means = coded(offset, outer)
    if not bool((means == absmax).all()):
        offset = float(absmax.mean())
        outer = _in_blocks(absmax - offset, nested.block).abs().amax(1)
        outer = _held(outer, nested.absmax).float().flatten()
        codes, means = coded(offset, outer)
    size = written(kind, read)[-1].elements
    return {
        kind.absmax.name: codes.reshape(kind.absmax.shape),
        nested.absmax.name: _held(outer, nested.absmax),
        kind.state.name: _text(_state(kind, read), offset, size),
    }, means


def _table(tensor: Tensor, read: Read) -> Any:
    table = stored_numbers(tensor, 0, tensor.elements, read)
    if not bool(table.isfinite().all()) or float(table.abs().amax()) != 1:
        raise MergeError(
            f"{tensor.name} can be read but not written: it is no table of bitsandbytes', in which "
            "the largest number is 1. Take another checkpoint to quantise like."
        )
    return table


def _in_blocks(numbers: Any, block: int) -> Any:
    """Numbers as [blocks, block], the last one filled up with zeros."""
    import torch

    rest = -len(numbers) % block
    whole = torch.nn.functional.pad(numbers, (0, rest)) if rest else numbers
    return whole.reshape(-1, block)


def _nearest(parts: Any, absmax: Any, table: Any) -> Any:
    """The index of the nearest number of a table for each number over the absmax of its block; of
    equal ones in the table the first.
    """
    import torch

    places = {number: place for place, number in reversed(list(enumerate(table.tolist())))}
    levels = torch.tensor(sorted(places))
    middles = (levels[1:] + levels[:-1]) / 2
    # The reciprocal first, as bitsandbytes does it: the same bytes need the same roundings.
    found = torch.bucketize(parts * absmax.clamp(min=SMALLEST).reciprocal()[:, None], middles)
    order = torch.tensor([places[number] for number in sorted(places)], dtype=torch.uint8)
    return order[found]


def _held(numbers: Any, like: Tensor) -> Any:
    """Numbers that are not negative, in the type and shape in which they are stored."""
    held = numbers.to(torch_type(like.dtype))
    is_lost = (held == 0) & (numbers > FP16_SMALLEST)
    if bool(is_lost.any()) or not bool(held.float().isfinite().all()):
        raise MergeError(
            f"{like.name} cannot be stored as {like.dtype}: the weights are too small or too large "
            "for it. Keep the checkpoint in fp16 or fp32."
        )
    return held.reshape(like.shape)


def _state(kind: Indexed, read: Read) -> dict[str, Any]:
    return json.loads(bytes(read(kind.state.offset, kind.state.size_bytes)))


def _with_offset(state: Mapping[str, Any], offset: float) -> str:
    return json.dumps({**state, OFFSET: offset})


def _text(state: Mapping[str, Any], offset: float, size: int) -> Any:
    """The JSON with this offset as bytes: as bitsandbytes writes the number if there is room, else
    in the digits that it needs, filled up with spaces.
    """
    import torch

    text = _with_offset(state, offset)
    if len(text) > size:
        text = _with_offset(state, float(f"{offset:.{OFFSET_DIGITS}g}"))
    return torch.tensor(list(text.ljust(size).encode("ascii")), dtype=torch.uint8)
