"""Safetensors files: a header that is checked before it is trusted, and files that appear whole or
not at all.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, a
JSON header, then the tensors without holes between them.
"""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from .errors import MergeError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
LONGEST_HEADER = 100_000_000
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
ALIGNMENT = 8
SPARE_BYTES = 64 << 20
ABANDONED_AFTER_S = 3600


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: `offset` is where its bytes begin, counted from the start of the file."""

    name: str
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
class Header:
    """What a safetensors file holds, in the order of its bytes. `notes` say what was changed in
    reading it.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no tensor is read.

    Raises MergeError if the file is missing, is of another kind, is cut off, or does not match its
    header.
    """
    if path.suffix.lower() != ".safetensors":
        raise MergeError(
            f"{path.name} is not a .safetensors file. Convert it first: pickled checkpoints "
            "(.ckpt, "
            ".pt) can run code when they are opened."
        )
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _parse(path, size, *_read_json(file, size))
    except OSError as error:
        raise MergeError(f"{path} cannot be read: {error.strerror}.") from error
    except _Damaged as damage:
        raise MergeError(
            f"{path} is not a valid safetensors file: {damage}. Copy or download it again."
        ) from None


class _Damaged(Exception):
    """What is wrong with the bytes of a file."""


def _read_json(file: Any, size: int) -> tuple[dict[str, Any], int]:
    """The header's JSON object and the offset of the first tensor."""
    start = file.read(8)
    if len(start) < 8:
        raise _Damaged(f"it has only {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > LONGEST_HEADER:
        raise _Damaged(f"its header claims to have {length} bytes, more than the format allows")
    if 8 + length > size:
        raise _Damaged(f"its header claims to have {length} bytes, but the file ends after {size}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise _Damaged("its header has the same name twice")
        return value

    try:
        value = json.loads(file.read(length), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise _Damaged("its header is not JSON") from None
    if not isinstance(value, dict):
        raise _Damaged("its header is not a JSON object")
    return value, 8 + length


def _parse(path: Path, size: int, entries: dict[str, Any], data: int) -> Header:
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Damaged("its __metadata__ does not consist of texts")
    found = sorted(
        (_parse_tensor(name, entry, data) for name, entry in entries.items()), key=_order
    )
    end = data
    for tensor in found:
        if tensor.offset != end:
            kind = "overlaps the one before it" if tensor.offset < end else "has a hole before it"
            raise _Damaged(f"the tensor {tensor.name} {kind}")
        end += tensor.size_bytes
    if end > size:
        raise _Damaged(f"it should have {end} bytes but has {size}: it is cut off")
    if end < size:
        raise _Damaged(
            f"it should have {end} bytes but has {size}: there is something after its tensors"
        )
    return Header(path, {tensor.name: tensor for tensor in found}, metadata)


def _order(tensor: Tensor) -> tuple[int, int]:
    return tensor.offset, tensor.size_bytes


def _parse_tensor(name: str, entry: Any, data: int) -> Tensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and name.isprintable()):
        raise _Damaged(f"its entry for {name!a} does not describe a tensor")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _Damaged(f"the tensor {name} has the unknown type {dtype!a}")
    tensor = Tensor(name, dtype, tuple(shape), data + offsets[0])
    if offsets[1] - offsets[0] != tensor.size_bytes:
        raise _Damaged(f"the size of the tensor {name} does not match its shape {shape}")
    return tensor


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= 32
        and all(type(number) is int and 0 <= number < 1 << 63 for number in value)
    )


def lay_out(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Tensor]]:
    """The first bytes of a new file (up to its first tensor), and the place of each (name, dtype,
    shape).

    As far as a format without holes allows, every tensor begins at a multiple of 8: those whose
    size is not a multiple of 8 come last. The same arguments give the same bytes.
    """

    def place(tensor: tuple[str, str, tuple[int, ...]]) -> tuple[bool, int]:
        _, dtype, shape = tensor
        return math.prod(shape) * ITEM_BYTES[dtype] % ALIGNMENT != 0, -ITEM_BYTES[dtype]

    relative = 0
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    for name, dtype, shape in sorted(tensors, key=place):
        end = relative + math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [relative, end]}
        relative = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % ALIGNMENT)
    start = struct.pack("<Q", len(text)) + text
    del entries["__metadata__"]
    return start, {name: _parse_tensor(name, entry, len(start)) for name, entry in entries.items()}


@contextmanager
def new_file(path: Path, size_bytes: int) -> Iterator[Path]:
    """A temporary file of that size beside `path`, to be filled. It gets the name `path` when the
    block ends without an exception; otherwise it is removed.

    Raises MergeError if `path` exists, at the start or at the end, if the disk is too full, or if
    the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MergeError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
    _refuse_existing(path)
    _remove_abandoned(path)
    free = shutil.disk_usage(path.parent).free
    if free < size_bytes + SPARE_BYTES:
        raise MergeError(
            f"There is not enough space for {path.name}: it needs {size_bytes / 1e9:.2f} GB, and "
            f"{path.parent} has {free / 1e9:.2f} GB left. Free some space there."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    temporary.unlink(missing_ok=True)
    try:
        handle = os.open(temporary, NEW_FILE, 0o666)
    except OSError as error:
        raise MergeError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        os.ftruncate(handle, size_bytes)
        yield temporary
        os.fsync(handle)
    except BaseException as error:
        os.close(handle)
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        named = "" if error.filename is None else f" ({error.filename})"
        raise MergeError(
            f"{path} could not be written: {error.strerror or error}{named}. No part of it is left."
        ) from error
    os.close(handle)
    try:
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    """Give the temporary file its name without ever replacing another file."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        _refuse_existing(path)
    except OSError:
        # The file system has no hard links: claim the name first.
        try:
            os.close(os.open(path, NEW_FILE))
        except FileExistsError:
            _refuse_existing(path)
        try:
            temporary.replace(path)
        except OSError:
            path.unlink()
            raise
    if os.name != "nt":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise MergeError(f"{path} exists already and is never overwritten. Choose another name.")


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished files of the same name from killed processes: those not written to for an
    hour.
    """
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > ABANDONED_AFTER_S:
                part.unlink()
