"""The formulas of quantised weights: which tensors make one, whether they fit, and the numbers that
they mean. Where the formulas come from is told in merge/quantised.py, block_scaled.py, four_bits.py
and by_rows.py.

What makes a `Quantised` raises KeyError, TypeError or ValueError when something is missing or does
not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from .header import Stored

if TYPE_CHECKING:
    import torch

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""The types of weights, by their names in a safetensors header."""
TORCH_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "uint8",
    "I8": "int8", "U8": "uint8", "I32": "int32", "I64": "int64",
}  # fmt: skip
POWERS = ("U8", "F8_E8M0")
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

Read = Callable[[Stored], bytearray]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Quantised:
    """A weight in a quantised type. `decode` makes it, in fp32, with a file's reader."""

    kind: str
    shape: Shape
    decode: Callable[[Read], torch.Tensor]


def reader(file: IO[bytes]) -> Read:
    """Reads tensors of an open file."""

    def read(tensor: Stored) -> bytearray:
        file.seek(tensor.offset)
        return bytearray(file.read(tensor.size_bytes))

    return read


def numbers_of(tensor: Stored, read: Read) -> torch.Tensor:
    """A tensor as it is stored."""
    import torch

    data = read(tensor)
    dtype = getattr(torch, TORCH_TYPES[tensor.dtype])
    return (torch.frombuffer(data, dtype=dtype) if data else torch.zeros(0)).reshape(tensor.shape)


def _flat(tensor: Stored, read: Read) -> torch.Tensor:
    return numbers_of(tensor, read).float().flatten()


def _bytes(tensor: Stored, read: Read) -> torch.Tensor:
    import torch

    return torch.frombuffer(read(tensor), dtype=torch.uint8)


def one_number(tensor: Stored, read: Read) -> float:
    if tensor.elements != 1 or tensor.dtype not in FLOATS:
        raise ValueError("the shape or type of a scale")
    return float(numbers_of(tensor, read).float())


def scaled(stored: Stored, scale: Stored, factor: float) -> Quantised:
    """A weight with a scale in all, or for every row or group of a row."""
    is_known = stored.dtype in (*FLOATS, "I8") and scale.dtype in FLOATS
    if not is_known or not _fits(scale.shape, stored.shape):
        raise ValueError(
            f"{stored.dtype} {list(stored.shape)} and {scale.dtype} {list(scale.shape)}"
        )
    kind = {"I8": "int8", "F8_E4M3": "scaled fp8", "F8_E5M2": "scaled fp8"}.get(
        stored.dtype, f"scaled {stored.dtype}"
    )
    return Quantised(kind, stored.shape, partial(_decode_scaled, stored, scale, factor))


def _decode_scaled(stored: Stored, scale: Stored, factor: float, read: Read) -> torch.Tensor:
    spread = numbers_of(scale, read).float().reshape(-1, 1)
    parts = numbers_of(stored, read).float().reshape(len(spread), -1)
    return (parts * (spread * factor if factor != 1 else spread)).reshape(stored.shape)


def _fits(scale: Shape, weight: Shape) -> bool:
    """Whether a scale has one number in all, or one for every row or every group of a row."""
    count = math.prod(scale)
    if not math.prod(weight):
        return False
    if count == 1:
        return True
    if not weight or not scale or scale[0] != weight[0] or not count:
        return False
    row, groups = math.prod(weight[1:]), math.prod(scale[1:])
    return groups == 1 or (len(scale) == 2 and len(weight) == 2 and row % groups == 0)


def mxfp8(stored: Stored, scale: Stored) -> Quantised:
    if stored.dtype not in ("F8_E4M3", "F8_E5M2") or scale.dtype not in POWERS:
        raise ValueError("the type of a tensor")
    _check_blocks(stored.shape, scale, 32, True)
    return Quantised("mxfp8", stored.shape, partial(_decode_mxfp8, stored, scale))


def _decode_mxfp8(stored: Stored, scale: Stored, read: Read) -> torch.Tensor:
    import torch

    powers = _untiled(numbers_of(scale, read).view(torch.uint8), stored.shape, 32)
    scales = torch.ldexp(torch.ones(powers.shape), powers.int() - 127)
    scales.masked_fill_(powers == 255, math.nan)
    return numbers_of(stored, read).float() * scales.repeat_interleave(32, 1)


def nvfp4(stored: Stored, scale: Stored, factor: float, tiled: bool) -> Quantised:
    if stored.dtype != "U8" or scale.dtype != "F8_E4M3" or not math.isfinite(factor):
        raise ValueError("the type of a tensor")
    shape = (*stored.shape[:-1], 2 * stored.shape[-1]) if stored.shape else ()
    _check_blocks(shape, scale, 16, tiled)
    decode = partial(_decode_nvfp4, stored, scale, shape, factor, tiled)
    return Quantised("nvfp4", shape, decode)


def _decode_nvfp4(
    stored: Stored, scale: Stored, shape: Shape, factor: float, tiled: bool, read: Read
) -> torch.Tensor:
    import torch

    scales = numbers_of(scale, read)
    if tiled:
        scales = _untiled(scales.view(torch.uint8), shape, 16).view(torch.float8_e4m3fn)
    spread = (scales.reshape(shape[0], -1).float() * factor).repeat_interleave(16, 1)
    table = torch.tensor([*E2M1, *(-number for number in E2M1)])
    return table[_halves(numbers_of(stored, read), tiled).reshape(shape)] * spread


def _halves(packed: torch.Tensor, upper_first: bool) -> torch.Tensor:
    """The numbers of four bits in bytes, in one row."""
    import torch

    halves = (packed.flatten() >> 4, packed.flatten() & 15)
    return torch.stack(halves if upper_first else halves[::-1], 1).flatten().long()


def _check_blocks(shape: Shape, scale: Stored, block: int, tiled: bool) -> None:
    if len(shape) != 2 or not shape[0] or not shape[1] or shape[1] % block:
        raise ValueError("the shape")
    rows, blocks = shape[0], shape[1] // block
    if tiled:
        rows, blocks = -(-rows // 128) * 128, -(-blocks // 4) * 4
    if scale.elements != rows * blocks:
        raise ValueError("the shape of its scales")


def _untiled(scales: torch.Tensor, shape: Shape, block: int) -> torch.Tensor:
    """The scales of all blocks, row by row, of tiles in cuBLAS' order."""
    rows, blocks = shape[0], shape[1] // block
    wide = -(-blocks // 4)
    tiles = scales.reshape(-1, wide, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(-1, 4 * wide)[:rows, :blocks].contiguous()


def indexed(tensors: Mapping[str, Stored], weight: str, state: Mapping[str, Any]) -> Quantised:
    """A weight of two indices in a byte, in which absmax may be quantised too."""
    stored, shape = tensors[weight], tuple(int(size) for size in state["shape"])
    elements = math.prod(shape)
    blocks, block = _blocks(elements, int(state["blocksize"]))
    table, absmax = tensors[f"{weight}.quant_map"], tensors[f"{weight}.absmax"]
    is_whole = stored.dtype == "U8" and stored.elements == -(-elements // 2)
    is_whole &= elements > 0 and min(shape, default=1) > 0
    if not is_whole or table.elements != 16 or absmax.elements != blocks:
        raise ValueError("the size of a tensor")
    if f"{weight}.nested_absmax" not in tensors:
        if not {absmax.dtype, table.dtype} <= {*FLOATS}:
            raise ValueError("the type of absmax")
        scales = partial(_flat, absmax)
    else:
        inner, outer = (tensors[f"{weight}.nested_{n}"] for n in ("quant_map", "absmax"))
        outers, span = _blocks(blocks, int(state["nested_blocksize"]))
        if absmax.dtype != "U8" or not {table.dtype, inner.dtype, outer.dtype} <= {*FLOATS}:
            raise ValueError("the type of absmax")
        if span < 1 or inner.elements != 256 or outer.elements != outers:
            raise ValueError("the size of nested_absmax")
        scales = partial(_nested, absmax, inner, outer, span, float(state["nested_offset"]))
    return Quantised("4 bits", shape, partial(_decode_indexed, stored, table, scales, block, shape))


def _blocks(elements: int, size: int) -> tuple[int, int]:
    """How many blocks of at most this size there are, and their size."""
    size = min(size, elements)
    return (-(-elements // size) if size > 0 else 0), size


def _nested(
    absmax: Stored, table: Stored, outer: Stored, span: int, offset: float, read: Read
) -> torch.Tensor:
    numbers = _flat(table, read)[numbers_of(absmax, read).flatten().long()]
    return numbers * _spread(_flat(outer, read), span, len(numbers)) + offset


def _decode_indexed(
    stored: Stored,
    table: Stored,
    scales: Callable[[Read], torch.Tensor],
    block: int,
    shape: Shape,
    read: Read,
) -> torch.Tensor:
    elements = math.prod(shape)
    numbers = _flat(table, read)[_halves(numbers_of(stored, read), True)[:elements]]
    return (numbers * _spread(scales(read), block, elements)).reshape(shape)


def _spread(scales: torch.Tensor, block: int, elements: int) -> torch.Tensor:
    return scales.repeat_interleave(block)[:elements]


def turned(stored: Stored, scale: Stored, bits: int, size: int) -> Quantised:
    shape = _shape(stored, bits)
    if scale.elements not in (1, shape[0]):
        raise ValueError(f"the shape {list(scale.shape)} of its scales")
    return _ByRows(stored, scale, shape, bits, turned=size).quantised()


def grouped(
    stored: Stored, scale: Stored, channel: Stored, table: Stored | None, group: int, size: int
) -> Quantised:
    shape = _shape(stored, 4)
    if group < 1 or scale.shape != (shape[0], shape[1] // group) or shape[1] % group:
        raise ValueError(f"the shape {list(scale.shape)} of its scales")
    if channel.elements != shape[0] or (table and table.elements != 16):
        raise ValueError("the shape of weight_s_channel or weight_codebook")
    return _ByRows(stored, scale, shape, 4, True, None, size, channel, table).quantised()


def packed(stored: Stored, scale: Stored, zero: Stored | None, shape: Shape) -> Quantised:
    if len(shape) != 2 or min(shape) < 1 or stored.dtype != "I32":
        raise ValueError("the type or shape of a tensor")
    rows, columns = shape
    found = [bits for bits in (4, 8) if stored.shape == (rows, -(-columns * bits // 32))]
    if len(found) != 1:
        raise ValueError(f"the shape {list(stored.shape)} for {list(shape)} of four or eight bits")
    groups = scale.elements // rows
    if scale.elements != 1 and (scale.shape != (rows, groups) or columns % groups):
        raise ValueError(f"the shape {list(scale.shape)} of its scales")
    if zero and (zero.dtype != "I32" or zero.shape != (-(-rows * found[0] // 32), groups)):
        raise ValueError("the shape or type of weight_zero_point")
    return _ByRows(stored, scale, shape, found[0], True, zero).quantised()


def _shape(stored: Stored, bits: int) -> Shape:
    if stored.dtype != "I8" or len(stored.shape) != 2 or not stored.elements:
        raise ValueError("the type or shape of its weight")
    return stored.shape[0], stored.shape[1] * 8 // bits


@dataclass(frozen=True)
class _ByRows:
    """A weight in int4 or int8: see merge/by_rows.py."""

    stored: Stored
    scale: Stored
    shape: Shape
    bits: int
    is_plus: bool = False
    zero: Stored | None = None
    turned: int = 0
    channel: Stored | None = None
    table: Stored | None = None

    def quantised(self) -> Quantised:
        """Raises ValueError unless types and sizes fit."""
        tensors = (self.scale, self.channel, self.table)
        if not {tensor.dtype for tensor in tensors if tensor} <= {*FLOATS}:
            raise ValueError("the type of its scales")
        size = self.turned
        is_power_of_4 = size.bit_count() == 1 and size.bit_length() % 2 == 1 and size >= 4
        if size and (not is_power_of_4 or self.shape[1] % size):
            raise ValueError(f"convrot_groupsize {size}")
        return Quantised(f"int{self.bits}", self.shape, self.decode)

    def decode(self, read: Read) -> torch.Tensor:
        rows, columns = self.shape
        codes = self._codes(_bytes(self.stored, read).reshape(rows, -1))[:, :columns].int()
        half = 1 << (self.bits - 1)
        if self.table is not None:
            numbers = _flat(self.table, read)[codes]
        else:
            numbers = ((codes if self.is_plus else codes ^ half) - half).float()
        scale = _flat(self.scale, read)
        scale = scale.expand(rows, 1) if len(scale) == 1 else scale.reshape(rows, -1)
        parts = numbers.reshape(rows, scale.shape[1], -1)
        if self.zero is not None:
            down = self._codes(_bytes(self.zero, read).reshape(-1, scale.shape[1], 4))
            zeros = down.permute(0, 2, 1).reshape(-1, scale.shape[1])[:rows].int() - half
            parts = parts - zeros.float()[..., None]
        parts = parts * scale[..., None]
        if self.channel is not None:
            channel = _flat(self.channel, read)[:, None, None]
            parts = parts.round().clamp(-127, 127) * channel
        return _turn(parts.reshape(rows, columns), self.turned)

    def _codes(self, data: torch.Tensor) -> torch.Tensor:
        """The codes in the bytes of the last dimension."""
        import torch

        return torch.stack((data & 15, data >> 4), -1).flatten(-2) if self.bits == 4 else data


def _turn(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Rows turned back in parts of this size, in the order of merge/by_rows.py."""
    step = 1
    while step < size:
        parts = rows.reshape(-1, 4, step)
        first, second, third, fourth = parts.unbind(1)
        half = (first + second + third + fourth)[:, None] / 2
        rows = (half - parts.flip(1)).reshape(rows.shape)
        step *= 4
    return rows
