"""Pickled checkpoints (.ckpt, .pt, .pth, .bin): their tensors are copied into a safetensors file,
which is then mixed.

A pickle can run code when it is opened. PyTorch's restricted reader (`weights_only`) builds tensors
and plain containers and refuses anything else; only that reader ever opens such a file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from .content import (
    ENOUGH,
    MOST_DIRECTORY,
    PICKLED,
    ZIP,
    directory_bytes,
    is_safetensors,
    kind_of,
)
from .errors import MergeError
from .hashing import file_sha256, is_own_copy, note_copy
from .safetensors_file import lay_out, new_file

SPARE_BYTES = 1 << 20
MOST_GROWTH = 8
"""How many times larger than the file its tensors may be. Tensors can share bytes, and a malicious
file could claim that all of them do.
"""
MOST_LINE = 1000
"""Bytes in a name of a pickle. PyTorch's words about a name it refuses take time that grows with
the square of its length.
"""
MOST_STEPS, MOST_PICKLE_BYTES = 500_000, 16 << 20
"""Of the pickles in a file, which hold no weights. Checkpoints of SD1.5 with the state of their
optimizer have a fifth of that.
"""
OLD_PICKLES = 4
"""In a file that is no zip file: a mark, the version, the system, and the tensors."""
SAFE_TORCH = (2, 6)
ENDINGS = (".ckpt", ".pt", ".pth", ".bin")


def is_pickled(path: Path) -> bool:
    """Whether a file's name is that of a pickled checkpoint, unless its content is that of a
    safetensors file.
    """
    return path.suffix.lower() in ENDINGS and not is_safetensors(_start(path))


def _version(text: str) -> tuple[int, ...]:
    """Major and minor number of a version such as 2.6.0a0+cu124."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(ENOUGH)
    except OSError:
        return b""


def _kind(path: Path) -> tuple[str, str] | None:
    try:
        with path.open("rb") as file:
            return kind_of(file.read(ENOUGH), file)
    except OSError:
        return None


def safetensors_of(
    path: Path,
    folder: Path,
    hash_cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The safetensors file in `folder` with the tensors of a pickled checkpoint; it is made if it
    does not exist.

    Its name is the content hash of `path`, so it is made only once. The folder may have come from
    anywhere: with `hash_cache`, a file that was not made with it is made again. Raises MergeError
    for a file that contains anything but data.
    """
    sha256 = file_sha256(path, hash_cache, progress)
    made = folder / f"{sha256}.safetensors"
    if made.exists() and (hash_cache is None or is_own_copy(hash_cache, sha256, made)):
        return made
    try:
        made.unlink(missing_ok=True)
    except OSError as error:
        raise MergeError(f"{made} is in the way ({error.strerror}). Remove it.") from error
    convert(path, made, progress)
    if hash_cache:
        note_copy(hash_cache, path, made)
    return made


def convert(path: Path, out: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy the tensors of a pickled checkpoint to the new safetensors file `out`, bit for bit."""
    tensors = load_tensors(path)
    described = [(k, _dtype(path, k, v), tuple(v.shape)) for k, v in tensors.items()]
    start, places = lay_out(described, {"format": "pt"})
    size = len(start) + sum(place.size_bytes for place in places.values())
    if size > SPARE_BYTES + MOST_GROWTH * path.stat().st_size:
        raise MergeError(
            f"{path} claims to hold tensors of {size / 1e9:.1f} GB but is much smaller. It is "
            "damaged; "
            "copy or download it again."
        )
    done = len(start)
    with new_file(out, size) as temporary, temporary.open("r+b") as file:
        file.write(start)
        for place in places.values():
            file.seek(place.offset)
            file.write(_bytes(tensors[place.name]))
            done += place.size_bytes
            if progress:
                progress(done, size)


def check_torch(path: Path) -> None:
    """Raise MergeError if this PyTorch cannot open a pickled file safely."""
    import torch

    if _version(torch.__version__) < SAFE_TORCH:
        raise MergeError(
            f"{path} is not opened: PyTorch {torch.__version__} has a hole through which such a "
            "file could run code (CVE-2025-32434). Update PyTorch to 2.6 or later, or use a "
            ".safetensors version of the file."
        )


def load_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a pickled checkpoint by name; those below "state_dict" if it has one. Files in
    zip form are memory-mapped, not read.
    """
    import torch

    check_torch(path)
    if path.exists() and not path.is_file():
        raise MergeError(f"{path} cannot be read: it is not a regular file.")
    known = _kind(path)
    if known and known[1] != PICKLED:
        raise MergeError(f"{path} is not a checkpoint but {known[0]}. {known[1]}")
    try:
        with _allowing(_harmless()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            if _start(path).startswith(ZIP):
                _check_names(path)
                value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                with path.open("rb", buffering=0) as raw, _File(raw) as file:
                    _check_steps(file, OLD_PICKLES)
                    file.seek(0)
                    value = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MergeError(f"{path} cannot be read: {error.strerror}.") from error
    except pickle.UnpicklingError as error:
        raise MergeError(
            f"{path} is not opened: it is damaged, or it contains more than tensors, which could "
            "be "
            "code. Use a .safetensors version of it."
        ) from error
    except Exception as error:
        raise MergeError(
            f"{path} is damaged, or not a PyTorch checkpoint. Copy or download it again."
        ) from error
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    found = {}
    if isinstance(value, Mapping):
        found = {k: v for k, v in value.items() if isinstance(k, str) and torch.is_tensor(v)}
    if not found:
        raise MergeError(f"{path} holds no named tensors: it is not a checkpoint.")
    return found


def _short(line: bytes) -> bytes:
    if len(line) > MOST_LINE:
        raise pickle.UnpicklingError("a name is too long")
    return line


class _File(io.BufferedReader):
    """A pickled file without long names."""

    def readline(self, size: int | None = -1, /) -> bytes:
        return _short(super().readline(MOST_LINE + 1))


class _Bytes(io.BytesIO):
    """A pickle in memory without long names."""

    def readline(self, size: int | None = -1, /) -> bytes:
        return _short(super().readline(MOST_LINE + 1))


def _check_names(path: Path) -> None:
    """Raise UnpicklingError if the pickle in a zip file holds a long name, or is packed small.
    PyTorch finds it in small letters and in large ones.
    """
    with path.open("rb") as file, zipfile.ZipFile(_few(file)) as archive:
        for part in archive.infolist():
            if part.filename.lower().endswith("data.pkl"):
                if part.file_size > part.compress_size:
                    raise pickle.UnpicklingError("PyTorch compresses nothing")
                if part.file_size > MOST_PICKLE_BYTES:
                    raise pickle.UnpicklingError("it is too long")
                _check_steps(_Bytes(archive.read(part)), 1)


def _few(file: IO[bytes]) -> IO[bytes]:
    """A zip archive of not too many files. Raises UnpicklingError."""
    if directory_bytes(file) > MOST_DIRECTORY:
        raise pickle.UnpicklingError("it holds too many files")
    return file


def _check_steps(file: Any, pickles: int) -> None:
    """Raise UnpicklingError if the first pickles of a file do more than those of any checkpoint."""
    steps = 0
    for _ in range(pickles):
        start = file.tell()
        if start and not file.read(1):
            return
        file.seek(start)
        for _ in pickletools.genops(file):
            steps += 1
            if steps > MOST_STEPS or file.tell() > MOST_PICKLE_BYTES:
                raise pickle.UnpicklingError("it is too long")


def _allowing(harmless: list[Any]) -> AbstractContextManager[Any]:
    """Lets PyTorch's reader make these for a while; what ComfyUI has allowed stays so. PyTorch
    before 2.5 cannot take it back, and is not asked.
    """
    from torch import serialization

    if not hasattr(serialization, "safe_globals"):
        return nullcontext()
    known = serialization.get_safe_globals()
    return serialization.safe_globals([one for one in harmless if one not in known])


def _harmless() -> list[Any]:
    """Stand-ins for what old training tools leave in checkpoints, as ComfyUI allows it too
    (comfy/utils.py): Lightning's ModelCheckpoint, and NumPy's single numbers.
    """
    from _codecs import encode

    from numpy import dtype
    from numpy.dtypes import Float64DType

    def scalar(kind: Any, data: Any = b"") -> Any:
        if kind.hasobject:
            raise pickle.UnpicklingError("an object, not a number")
        from numpy import frombuffer

        return frombuffer(data, kind)[0]

    scalar.__module__ = "numpy.core.multiarray"
    scalar.__qualname__ = "scalar"
    callback = type("ModelCheckpoint", (), {})
    callback.__module__ = "pytorch_lightning.callbacks.model_checkpoint"
    return [callback, scalar, dtype, Float64DType, encode]


def _dtype(path: Path, name: str, tensor: Any) -> str:
    import torch

    known = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
        torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip
    if tensor.layout != torch.strided or tensor.dtype not in known:
        raise MergeError(
            f"The tensor {name} in {path} has the type {tensor.dtype}, which cannot be mixed."
        )
    return known[tensor.dtype]


def _bytes(tensor: Any) -> memoryview:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
