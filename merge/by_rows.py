"""Weights in int4 and int8 that are read by whole rows.

- ComfyUI's convrot_w4a4 (comfy_kitchen, TensorCoreConvRotW4A4Layout): LAYER.weight has two numbers
  of four bits in a byte, the first in its lower half, times LAYER.weight_scale of their row. Every
  `convrot_groupsize` numbers of a row are then turned: multiplied by the Kronecker power of
  [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]] / 2, which is its own inverse.
- ComfyUI's int8_tensorwise with `convrot` is the same with numbers of eight bits.
- ComfyUI's asym_w4a8_int8 (AsymW4A8Int8Layout): four bits are an index into LAYER.weight_codebook,
  or a number plus 8; times LAYER.weight_s_rel of their group, rounded, at most 127, times
  LAYER.weight_s_channel of the row, and turned.
- compressed-tensors' pack-quantized (its pack_quantized.py): LAYER.weight_packed has numbers of
  four or eight bits, plus 8 or 128, in int32, the first in the lowest bits; rows are filled up to
  whole int32. LAYER.weight_scale is for a row, a group of a row, or all; LAYER.weight_zero_point,
  packed alike down the columns, is subtracted first. LAYER.weight_shape is the shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import MergeError
from .safetensors_file import FLOATS, Read, Tensor, stored_numbers

LARGEST_INT8 = 127
INT32_BITS = 32


@dataclass(frozen=True)
class ByRows(Tensor):
    """(number - zero) x scale, in groups of a row, all of a row, or the whole weight. `bits` are
    those of a number, `is_plus` whether half of their range was added to it, `turned` the size of
    what was turned, 0 if nothing was. With `channel`, which is for a row, the product is rounded
    before; `table` has what the numbers mean.

    As a `Tensor` it is the weight in float32, whose `offset` is that of the stored numbers.
    """

    stored: Tensor
    scale: Tensor
    bits: int
    is_plus: bool = False
    zero: Tensor | None = None
    turned: int = 0
    channel: Tensor | None = None
    table: Tensor | None = None

    @property
    def half(self) -> int:
        return 1 << (self.bits - 1)


def of_comfy(name: str, stored: Tensor, scale: Tensor, bits: int, turned: int) -> ByRows:
    """convrot_w4a4, or int8 that was turned. Raises ValueError when a shape or type is another."""
    shape = _shape(stored, bits)
    if scale.elements not in (1, shape[0]):
        raise ValueError(f"the shape {list(scale.shape)} of its scales")
    return _checked(ByRows(name, "F32", shape, stored.offset, stored, scale, bits, turned=turned))


def with_groups(
    name: str,
    stored: Tensor,
    scale: Tensor,
    channel: Tensor,
    table: Tensor | None,
    group: int,
    turned: int,
) -> ByRows:
    """asym_w4a8_int8. Raises ValueError as above."""
    shape = _shape(stored, 4)
    if group < 1 or scale.shape != (shape[0], shape[1] // group) or shape[1] % group:
        raise ValueError(f"the shape {list(scale.shape)} of its scales")
    if channel.elements != shape[0] or (table and table.elements != 16):
        raise ValueError("the shape of weight_s_channel or weight_codebook")
    return _checked(
        ByRows(
            name, "F32", shape, stored.offset, stored, scale, 4, True, None, turned, channel, table
        )
    )


def _shape(stored: Tensor, bits: int) -> tuple[int, int]:
    if stored.dtype != "I8" or len(stored.shape) != 2 or not stored.elements:
        raise ValueError("the type or shape of its weight")
    return stored.shape[0], stored.shape[1] * 8 // bits


def packed(
    name: str, stored: Tensor, scale: Tensor, zero: Tensor | None, shape: tuple[int, ...]
) -> ByRows:
    """compressed-tensors'. Raises ValueError as above, and when it has neither 4 nor 8 bits."""
    if len(shape) != 2 or min(shape) < 1 or stored.dtype != "I32":
        raise ValueError("the type or shape of a tensor")
    rows, columns = shape
    found = [b for b in (4, 8) if stored.shape == (rows, -(-columns * b // INT32_BITS))]
    if len(found) != 1:
        raise ValueError(f"the shape {list(stored.shape)} for {list(shape)} of four or eight bits")
    bits = found[0]
    groups = scale.elements // rows
    if scale.elements != 1 and (scale.shape != (rows, groups) or columns % groups):
        raise ValueError(f"the shape {list(scale.shape)} of its scales")
    if zero and (zero.dtype != "I32" or zero.shape != (-(-rows * bits // INT32_BITS), groups)):
        raise ValueError("the shape or type of weight_zero_point")
    return _checked(ByRows(name, "F32", shape, stored.offset, stored, scale, bits, True, zero))


def _checked(made: ByRows) -> ByRows:
    tensors = (made.scale, made.channel, made.table)
    if not {tensor.dtype for tensor in tensors if tensor} <= {*FLOATS}:
        raise ValueError("the type of its scales")
    size = made.turned
    is_power_of_4 = size.bit_count() == 1 and size.bit_length() % 2 == 1 and size >= 4
    if size and (not is_power_of_4 or made.shape[1] % size):
        raise ValueError(f"convrot_groupsize {size}")
    return made


def decode(tensor: ByRows, start: int, count: int, read: Read) -> Any:
    """Elements `start` up to `start + count` in float32."""
    row = tensor.shape[1]
    first = start // row
    values = _rows(tensor, first, (start + count - 1) // row + 1 - first, read)
    return turned(values, tensor.turned).flatten()[start - first * row :][:count]


def _rows(tensor: ByRows, first: int, count: int, read: Read) -> Any:
    """Rows as they are stored, times their scales."""
    numbers = _numbers(tensor, first, count, read)
    scale = _of_rows(tensor.scale, tensor.shape[0], first, count, read)
    parts = numbers.reshape(count, scale.shape[1], -1)
    if tensor.zero is not None:
        parts = parts - _zeros(tensor, tensor.zero, first, count, read)[..., None]
    parts = parts * scale[..., None]
    if tensor.channel is not None:
        parts = parts.round().clamp(-LARGEST_INT8, LARGEST_INT8)
        parts *= stored_numbers(tensor.channel, first, count, read)[:, None, None]
    return parts.reshape(count, -1)


def _of_rows(scale: Tensor, rows: int, first: int, count: int, read: Read) -> Any:
    """The scales of some rows, one row for each of them; a single one is repeated."""
    if scale.elements == 1:
        return stored_numbers(scale, 0, 1, read).expand(count, 1)
    groups = scale.elements // rows
    return stored_numbers(scale, first * groups, count * groups, read).reshape(count, groups)


def _numbers(tensor: ByRows, first: int, count: int, read: Read) -> Any:
    import torch

    stored = tensor.stored
    size = stored.size_bytes // stored.shape[0]
    data = torch.frombuffer(read(stored.offset + first * size, count * size), dtype=torch.uint8)
    codes = _unpacked(data.reshape(count, size), tensor.bits)[:, : tensor.shape[1]].int()
    if tensor.table is not None:
        return stored_numbers(tensor.table, 0, tensor.table.elements, read)[codes]
    return ((codes if tensor.is_plus else codes ^ tensor.half) - tensor.half).float()


def _unpacked(data: Any, bits: int) -> Any:
    """The codes in the bytes of the last dimension."""
    import torch

    return torch.stack((data & 15, data >> 4), -1).flatten(-2) if bits == 4 else data


def _packed(codes: Any, bits: int) -> Any:
    return codes[..., ::2] | codes[..., 1::2] << 4 if bits == 4 else codes


def _zeros(tensor: ByRows, zero: Tensor, first: int, count: int, read: Read) -> Any:
    """What is subtracted from the numbers of each group of some rows."""
    import torch

    each, groups = INT32_BITS // tensor.bits, zero.shape[1]
    begin, end = first // each, (first + count - 1) // each + 1
    size = 4 * groups
    data = torch.frombuffer(
        read(zero.offset + begin * size, (end - begin) * size), dtype=torch.uint8
    )
    codes = _unpacked(data.reshape(end - begin, groups, 4), tensor.bits)
    rows = codes.permute(0, 2, 1).reshape(-1, groups)
    return (rows[first - begin * each :][:count].int() - tensor.half).float()


def turned(rows: Any, size: int) -> Any:
    """Rows turned in parts of this size, back and forth alike. Always the same additions, so that a
    piece of a weight is what it is in the whole.
    """
    step = 1
    while step < size:
        parts = rows.reshape(-1, 4, step)
        first, second, third, fourth = parts.unbind(1)
        half = (first + second + third + fourth)[:, None] / 2
        rows = (half - parts.flip(1)).reshape(rows.shape)
        step *= 4
    return rows


def encode(
    value: Any, kind: ByRows, scales: Callable[[Any, Tensor], Any]
) -> tuple[dict[str, Any], Any]:
    """The tensors of a weight in the way of another one, by name, and the weight that they mean, in
    float32. `scales` gives scales as they are stored.

    A scale is the smallest with which all numbers of a part can be stored. ComfyUI's writer never
    takes the lowest number that the bits have. Raises MergeError for a kind that is only read.
    """
    import torch

    if kind.channel is not None:
        raise MergeError(
            f"{kind.name} is quantised as asym_w4a8_int8, which can be read but not written. Keep "
            "the checkpoint in fp16 or fp32."
        )
    half, rows = kind.half, turned(value, kind.turned)
    parts = rows.reshape(kind.scale.elements, -1)
    least = -half if kind.is_plus else 1 - half
    low, high = parts.amin(1).clamp(max=0), parts.amax(1).clamp(min=0)
    if kind.zero is None:
        scale = scales(torch.maximum(low / least, high / (half - 1)), kind.scale)
        step, zero = scale.float()[:, None], torch.zeros(len(parts), 1)
    else:
        scale = scales((high - low) / (2 * half - 1), kind.scale)
        step = scale.float()[:, None]
        zero = (least - low[:, None] / step).round().clamp(least, half - 1)
    numbers = ((parts / step).round() + zero).clamp(least, half - 1)
    meant = turned(((numbers - zero) * step).reshape(value.shape), kind.turned)
    made = {
        kind.stored.name: _stored(numbers.reshape(value.shape), kind, kind.stored),
        kind.scale.name: scale.reshape(kind.scale.shape),
    }
    if kind.zero is not None:
        down = zero.reshape(-1, kind.zero.shape[1])
        columns = _stored(down.T.contiguous(), kind, kind.zero, kind.zero.shape[::-1])
        made[kind.zero.name] = columns.T.contiguous()
    return made, meant


def _stored(numbers: Any, kind: ByRows, like: Tensor, shape: tuple[int, ...] = ()) -> Any:
    """Numbers as the bits that are stored, filled up to whole int32 where it is these."""
    import torch

    shape = shape or like.shape
    codes = numbers.int()
    codes = codes + kind.half if kind.is_plus else codes & (2 * kind.half - 1)
    if like.dtype == "I32":
        missing = shape[1] * (INT32_BITS // kind.bits) - codes.shape[1]
        codes = torch.nn.functional.pad(codes, (0, missing))
    data = _packed(codes.to(torch.uint8), kind.bits).flatten()
    return data.view(torch.int32 if like.dtype == "I32" else torch.int8).reshape(shape)
