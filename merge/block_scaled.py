"""Weights whose numbers share a scale in blocks of a row: MXFP8 and NVFP4.

- ComfyUI's (comfy_kitchen, TensorCoreMXFP8Layout and TensorCoreNVFP4Layout): LAYER.weight in
  fp8 e4m3 and a power of two for 32 numbers; or two fp4 e2m1 numbers in a byte, the first in its
  upper half, and an fp8 e4m3 scale for 16 numbers times LAYER.weight_scale_2. LAYER.weight_scale
  has the scales in cuBLAS' order ("1D block scaling factors layout"): tiles of 128 rows and 4
  blocks, 512 bytes each, in which row r and block b are byte 16 (r mod 32) + 4 (r div 32) + b.
- compressed-tensors' NVFP4: LAYER.weight_packed has the first number in the lower half,
  LAYER.weight_scale has the scales row by row, and they are divided by LAYER.weight_global_scale.

Both store whole blocks: a weight whose rows were filled up to that has the filled-up shape here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .safetensors_file import ITEM_BYTES, Tensor, torch_type

TILE_ROWS, TILE_BLOCKS = 128, 4
TILE_BYTES = TILE_ROWS * TILE_BLOCKS
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
POWERS = ("U8", "F8_E8M0")
"""How a scale that is a power of two is stored: its exponent plus 127, 255 for NaN."""
NOT_A_NUMBER = 255


@dataclass(frozen=True)
class Blocked(Tensor):
    """stored x the scale of its block x factor. `packed` is which of two numbers in a byte comes
    first, "upper" or "lower", and "" where there is one; `tiled` whether the scales are in tiles.

    As a `Tensor` it is the weight in float32, whose `offset` is that of the stored numbers.
    """

    stored: Tensor
    scale: Tensor
    block: int
    factor: float = 1.0
    packed: str = ""
    tiled: bool = True


def mxfp8(name: str, stored: Tensor, scale: Tensor) -> Blocked:
    """Raises ValueError when the shapes or types are others."""
    if stored.dtype not in ("F8_E4M3", "F8_E5M2") or scale.dtype not in POWERS:
        raise ValueError("the type of a tensor")
    return _checked(name, stored, scale, 32, stored.shape)


def nvfp4(name: str, stored: Tensor, scale: Tensor, factor: float, tiled: bool) -> Blocked:
    """ComfyUI's, which is `tiled`, or compressed-tensors'. Raises ValueError as above."""
    if stored.dtype != "U8" or scale.dtype != "F8_E4M3" or not math.isfinite(factor):
        raise ValueError("the type of a tensor")
    shape = (*stored.shape[:-1], 2 * stored.shape[-1]) if stored.shape else ()
    return _checked(name, stored, scale, 16, shape, factor, "upper" if tiled else "lower", tiled)


def _checked(
    name: str,
    stored: Tensor,
    scale: Tensor,
    block: int,
    shape: tuple[int, ...],
    factor: float = 1.0,
    packed: str = "",
    tiled: bool = True,
) -> Blocked:
    if len(shape) != 2 or not shape[0] or not shape[1] or shape[1] % block:
        raise ValueError(f"the shape {list(stored.shape)}")
    rows, blocks = shape[0], shape[1] // block
    if tiled:
        rows, blocks = (-(-n // of) * of for n, of in ((rows, TILE_ROWS), (blocks, TILE_BLOCKS)))
    if scale.elements != rows * blocks:
        raise ValueError(f"the shape {list(scale.shape)} of its scales")
    return Blocked(name, "F32", shape, stored.offset, stored, scale, block, factor, packed, tiled)


def decode(tensor: Blocked, start: int, count: int, read: Callable[[int, int], bytearray]) -> Any:
    """Elements `start` up to `start + count` in float32."""
    values = _values(tensor, start, count, read)
    first = start // tensor.block
    scales = _scales(tensor, first, (start + count - 1) // tensor.block - first + 1, read)
    spread = scales.repeat_interleave(tensor.block)[start % tensor.block :][:count]
    return values.mul_(spread)


def _values(tensor: Blocked, start: int, count: int, read: Callable[[int, int], bytearray]) -> Any:
    import torch

    stored = tensor.stored
    if not tensor.packed:
        item = ITEM_BYTES[stored.dtype]
        data = read(stored.offset + start * item, count * item)
        return torch.frombuffer(data, dtype=torch_type(stored.dtype)).float()
    first, last = start // 2, (start + count + 1) // 2
    pairs = torch.frombuffer(read(stored.offset + first, last - first), dtype=torch.uint8)
    halves = (pairs >> 4, pairs & 15)
    order = halves if tensor.packed == "upper" else halves[::-1]
    indices = torch.stack(order, 1).flatten()[start % 2 :][:count]
    table = torch.tensor([*E2M1, *(-value for value in E2M1)])
    return table[indices.long()]


def encode(value: Any, kind: Blocked, factor_type: str = "F32") -> tuple[Any, Any, Any, Any]:
    """Stored numbers, scales and factor of a weight in the way of another one, and the weight that
    they mean, in float32. The factor, in its type, is 1 for MXFP8.

    A scale is the smallest with which the largest number of its block can be stored: a power of two
    (MXFP8), or the largest over 6, rounded to fp8, where the largest of all has 448 (NVFP4). Raises
    ValueError for a weight that cannot be stored so: too large, too small, or no numbers.
    """
    import torch

    blocks = value.reshape(-1, kind.block)
    most = blocks.abs().amax(1)
    if not bool(most.isfinite().all()):
        raise ValueError("infinity, or no number")
    if not kind.packed:
        dtype = torch_type(kind.stored.dtype)
        largest = float(torch.finfo(dtype).max)
        mantissa, exponents = torch.frexp(most / largest)
        exponents = (exponents - (mantissa == 0.5).int()).clamp(-126, 127)
        spread = torch.ldexp(torch.ones(len(most)), exponents)[:, None]
        stored = (blocks / spread).clamp(-largest, largest).to(dtype)
        meant = stored.float() * spread
        scales = _in_tiles((exponents + 127).to(torch.uint8), kind)
        if kind.scale.dtype != "U8":
            scales = scales.view(torch_type(kind.scale.dtype))
        return stored.reshape(kind.stored.shape), scales, torch.ones(()), meant.reshape(value.shape)
    factor = float(most.amax() / (448 * E2M1[-1])) or 1.0
    number = torch.tensor(factor if kind.tiled else 1 / factor).to(torch_type(factor_type))
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"a factor of {factor:g}")
    factor = float(number) if kind.tiled else 1 / float(number)
    scales = (most / E2M1[-1] / factor).clamp(max=448).to(torch.float8_e4m3fn)
    spread = (scales.float() * factor)[:, None]
    table = torch.tensor(E2M1)
    sizes = torch.where(spread > 0, blocks.abs() / spread, torch.zeros(()))
    indices = torch.bucketize(sizes, (table[1:] + table[:-1]) / 2)
    meant = table[indices] * spread * torch.where(blocks < 0, -1.0, 1.0)
    codes = (indices + 8 * (blocks < 0)).to(torch.uint8).reshape(-1, 2)
    first, second = codes.unbind(1) if kind.packed == "upper" else codes.flip(1).unbind(1)
    stored = (first << 4 | second).reshape(kind.stored.shape)
    held = _in_tiles(scales.view(torch.uint8), kind).view(torch.float8_e4m3fn)
    return stored, held, number, meant.reshape(value.shape)


def _in_tiles(scales: Any, kind: Blocked) -> Any:
    """The scales of all blocks, row by row, in the order in which they are stored."""
    import torch

    if not kind.tiled:
        return scales.reshape(kind.scale.shape)
    blocks = kind.shape[1] // kind.block
    held = torch.zeros(kind.scale.elements, dtype=torch.uint8)
    held[_places(torch.arange(len(scales)), blocks)] = scales
    return held.reshape(kind.scale.shape)


def _places(numbers: Any, blocks: int) -> Any:
    """Where the scales of these blocks, counted row by row, are in tiles."""
    rows, columns = numbers // blocks, numbers % blocks
    tile = rows // TILE_ROWS * -(-blocks // TILE_BLOCKS) + columns // TILE_BLOCKS
    within = rows % TILE_ROWS
    return tile * TILE_BYTES + within % 32 * 16 + within // 32 * 4 + columns % TILE_BLOCKS


def _scales(tensor: Blocked, first: int, count: int, read: Callable[[int, int], bytearray]) -> Any:
    """The scales of blocks, counted row by row."""
    import torch

    scale, blocks = tensor.scale, tensor.shape[1] // tensor.block
    numbers = torch.arange(first, first + count)
    if tensor.tiled:
        begin, end = first // blocks // TILE_ROWS, (first + count - 1) // blocks // TILE_ROWS + 1
        size = -(-blocks // TILE_BLOCKS) * TILE_BYTES
        data = read(scale.offset + begin * size, (end - begin) * size)
        stored = torch.frombuffer(data, dtype=torch.uint8)[_places(numbers, blocks) - begin * size]
    else:
        stored = torch.frombuffer(read(scale.offset + first, count), dtype=torch.uint8)
    if scale.dtype not in POWERS:
        return stored.view(torch.float8_e4m3fn).float() * tensor.factor
    powers = torch.ldexp(torch.ones(len(stored)), stored.int() - 127)
    return powers.masked_fill_(stored == NOT_A_NUMBER, math.nan)
