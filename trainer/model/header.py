"""The header of a safetensors file, checked before anything in it is trusted.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, a
JSON header, then the tensors without holes between them. The merge engine has a reader of its own,
since neither part imports the other; a test holds both to the same verdicts.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
LONGEST = 100_000_000
MOST_OBJECTS, MOST_COMMAS = 100_000, 3_000_000
"""Of a header: a checkpoint has some thousand tensors."""
MOST_DIMENSIONS = 32


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: `offset` is where its bytes begin, counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Contents:
    """What a safetensors file holds."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]


class Damaged(ValueError):
    """What is wrong with the bytes of a file."""


def read(path: Path) -> Contents:
    """Every tensor by its name, and the metadata. Raises OSError and Damaged."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        entries, data = _read_json(file, size)
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Damaged("its __metadata__ does not consist of texts")
    found = {name: _tensor(name, entry, data) for name, entry in entries.items()}
    end = data
    for name, tensor in sorted(found.items(), key=lambda item: _bounds(item[1])):
        begins, ends = _bounds(tensor)
        if begins != end:
            kind = "overlaps the one before it" if begins < end else "has a hole before it"
            raise Damaged(f"the tensor {name} {kind}")
        end = ends
    if end != size:
        raise Damaged(f"it should have {end} bytes but has {size}: it is truncated or damaged")
    return Contents(found, metadata)


def _read_json(file: IO[bytes], size: int) -> tuple[dict[str, Any], int]:
    """The header's JSON object and the offset of the first tensor."""
    start = file.read(8)
    if len(start) < 8:
        raise Damaged(f"it has only {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if not length <= min(size - 8, LONGEST):
        raise Damaged(f"its header claims {length} bytes")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise Damaged("its header has the same name twice")
        return value

    try:
        text = file.read(length).decode("utf-8")
        if text.count("{") > MOST_OBJECTS or text.count(",") > MOST_COMMAS:
            raise Damaged("its header holds far more than that of any checkpoint")
        value = json.loads(text, object_pairs_hook=unique)
    except Damaged:
        raise
    except (ValueError, RecursionError):
        raise Damaged("its header is not JSON") from None
    if not isinstance(value, dict) or text[0] != "{":
        raise Damaged("its header is not a JSON object")
    return value, 8 + length


def _bounds(tensor: Stored) -> tuple[int, int]:
    return tensor.offset, tensor.offset + tensor.size_bytes


def _tensor(name: str, entry: Any, data: int) -> Stored:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and name.isprintable()):
        raise Damaged(f"its entry for {name[:200]!a} does not describe a tensor")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise Damaged(f"the tensor {name[:200]} has the unknown type {str(dtype)[:60]!a}")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise Damaged(f"the size of the tensor {name[:200]} does not match its shape {shape}")
    return Stored(dtype, tuple(shape), data + offsets[0])


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= MOST_DIMENSIONS
        and all(type(number) is int and 0 <= number < 1 << 63 for number in value)
    )
