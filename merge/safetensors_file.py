"""Safetensors files: a header that is checked before it is trusted, and files that appear whole or
not at all.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, a
JSON header, then the tensors without holes between them.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard

from .content import ENOUGH, PICKLED, is_safetensors, kind_of
from .errors import MergeError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
TORCH_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "BOOL": "bool", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip
LONGEST_HEADER = 100_000_000
MOST_OBJECTS, MOST_COMMAS = 100_000, 3_000_000
"""Of a header: a checkpoint has some thousand tensors."""
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
ALIGNMENT = 8
SPARE_BYTES = 64 << 20
ABANDONED_AFTER_S = 3600
HELD_AFTER_S = 60
"""So long after it was made, a file is held by the process that writes it."""
TEMPORARY = re.compile(r"\.(.+)\.\d+-\d+\.part", re.DOTALL)
"""How files are named that are not whole yet."""


def torch_type(dtype: str) -> Any:
    """PyTorch's type for a safetensors type."""
    import torch

    return getattr(torch, TORCH_TYPES[dtype])


Read: TypeAlias = Callable[[int, int], bytearray]
"""read(offset, size): bytes of a file."""


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


def stored_numbers(tensor: Tensor, start: int, count: int, read: Read) -> Any:
    """Elements `start` up to `start + count` as they are stored, in float32."""
    import torch

    item = ITEM_BYTES[tensor.dtype]
    data = read(tensor.offset + start * item, count * item)
    if not data:
        return torch.zeros(0)
    return torch.frombuffer(data, dtype=torch_type(tensor.dtype)).float()


ENDINGS = (".safetensors", ".sft")
"""How names of safetensors files end."""


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

    The file's content counts, not the ending of its name. Raises MergeError if the file is missing,
    is of another kind, is cut off, or does not match its header.
    """
    if path.exists() and not path.is_file():
        raise MergeError(f"{path} cannot be read: it is not a regular file.")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _refuse_other_kinds(path, file)
            file.seek(0)
            return _parse(path, size, *_read_json(file, size))
    except OSError as error:
        raise MergeError(f"{path} cannot be read: {error.strerror}.") from error
    except _Damaged as damage:
        raise MergeError(
            f"{path} is not a valid safetensors file: {damage}. Copy or download it again."
        ) from None


def _refuse_other_kinds(path: Path, file: IO[bytes]) -> None:
    start = file.read(ENOUGH)
    found = None if is_safetensors(start) else kind_of(start, file)
    if found is None:
        return
    kind, advice = found
    if advice == PICKLED:
        advice = (
            "Such files can run code when they are opened. `python -m merge prune FILE.ckpt "
            "OUT.safetensors` copies its tensors alone into a safetensors file"
        )
        is_named = path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin")
        advice += "." if is_named else "; name it .ckpt first."
    raise MergeError(f"{path} is not a .safetensors file but {kind}. {advice}")


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
        text = file.read(length).decode("utf-8")
        if text.count("{") > MOST_OBJECTS or text.count(",") > MOST_COMMAS:
            raise _Damaged("its header holds far more than that of any checkpoint")
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise _Damaged("its header is not JSON") from None
    if not isinstance(value, dict) or text[0] != "{":
        raise _Damaged("its header is not a JSON object")
    return value, 8 + length


def _parse(path: Path, size: int, entries: dict[str, Any], data: int) -> Header:
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
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
        raise _Damaged(f"its entry for {name[:200]!a} does not describe a tensor")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _Damaged(f"the tensor {name[:200]} has the unknown type {str(dtype)[:60]!a}")
    tensor = Tensor(name, dtype, tuple(shape), data + offsets[0])
    if offsets[1] - offsets[0] != tensor.size_bytes:
        raise _Damaged(f"the size of the tensor {name[:200]} does not match its shape {shape}")
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
    shape). Raises MergeError if the header would be longer than any reader takes.

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
    if len(text) > LONGEST_HEADER:
        raise MergeError(
            f"The file's header would have {len(text) / 1e6:.0f} MB, and no program reads more "
            f"than {LONGEST_HEADER / 1e6:.0f}. Its recipe, or what it keeps of an ingredient's "
            "metadata, is that long: take a copy of the ingredient without that metadata."
        )
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
    remove_abandoned(path.parent)
    _refuse_existing(path)
    free = shutil.disk_usage(path.parent).free
    if free < size_bytes + SPARE_BYTES:
        raise MergeError(
            f"There is not enough space for {path.name}: it needs {size_bytes / 1e9:.2f} GB, and "
            f"{path.parent} has {free / 1e9:.2f} GB left. Free some space there."
        )
    part = temporary(path)
    part.unlink(missing_ok=True)
    try:
        handle = os.open(part, NEW_FILE, 0o666)
    except OSError as error:
        raise MergeError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        _hold(handle)
        os.ftruncate(handle, size_bytes)
        yield part
        os.fsync(handle)
    except BaseException as error:
        os.close(handle)
        part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        named = "" if error.filename is None else f" ({error.filename})"
        raise MergeError(
            f"{path} could not be written: {error.strerror or error}{named}. No part of it is left."
        ) from error
    os.close(handle)
    try:
        _publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def _publish(part: Path, path: Path) -> None:
    """Give the temporary file its name without ever replacing another file."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        _refuse_existing(path)
    except OSError:
        # The file system has no hard links: claim the name by an empty file first. One that a kill
        # leaves goes with its temporary file, see `remove_abandoned`.
        try:
            os.close(os.open(path, NEW_FILE, 0o666))
        except FileExistsError:
            _refuse_existing(path)
        try:
            part.replace(path)
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


def temporary(path: Path) -> Path:
    """The name under which this thread writes what will be `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files of killed processes: those that nobody holds any more, and where
    that cannot be told, those not written to for an hour.
    """
    with suppress(OSError):
        for part in [entry for entry in folder.iterdir() if TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError):
                held, age_s = _is_held(part), time.time() - part.lstat().st_mtime
                if age_s > (ABANDONED_AFTER_S if held is None else HELD_AFTER_S) and not held:
                    _unclaim(part)
                    part.unlink()


def _unclaim(part: Path) -> None:
    """Remove the empty file that keeps a name for an unfinished one, if there is one."""
    named = TEMPORARY.fullmatch(part.name)
    with suppress(OSError):
        claim = part.with_name(named[1]) if named else part
        found = claim.lstat()
        if named and stat.S_ISREG(found.st_mode) and found.st_size == 0:
            claim.unlink()


def _hold(handle: int) -> None:
    """Let others see that this process is at work on a file. On Windows an open one cannot be
    removed anyway, and a lock would keep other handles from writing to it.
    """
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_held(part: Path) -> bool | None:
    """Whether a process is at work on a file; None if that cannot be told."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False
