"""SHA-256 of files, remembered: hashing a checkpoint takes longer than merging it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import MergeError

BLOCK_BYTES = 4 << 20

_lock = threading.Lock()


def file_sha256(
    path: Path, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> str:
    """Hex SHA-256 of a file's bytes.

    With `cache`, a JSON file, a hash is computed once as long as the file keeps its path, size, modification time and
    inode. `progress(done_bytes, total_bytes)` is called after every block; what it raises ends the hashing.
    Raises MergeError when the file cannot be read or changes meanwhile.
    """
    try:
        path = path.resolve()
        identity = _identity(path)
        if cache and (known := _read(cache).get(str(path))) and known["identity"] == identity:
            return known["sha256"]
        sha256 = _hash(path, progress)
        if _identity(path) != identity:
            raise MergeError(f"{path} changed while it was read. Wait until it is complete.")
    except OSError as error:
        raise MergeError(f"{path} cannot be read: {error.strerror}.") from error
    if cache:
        _remember(cache, str(path), {"identity": identity, "sha256": sha256})
    return sha256


def tensors_sha256(path: Path) -> str:
    """Hex SHA-256 of all that follows a safetensors file's header, which editing its metadata does not change (AutoV3)."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """The short hash that old web UIs show: 8 hex digits over 64 KiB at 1 MiB. Different files can share it."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _hash(path: Path, progress: Callable[[int, int], None] | None) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            done += count
            if progress:
                progress(done, total)
    return digest.hexdigest()


def _read(cache: Path) -> dict[str, Any]:
    """The entries of the cache file; none when it does not exist or is damaged, since it can be made again."""
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
        return {
            path: entry
            for path, entry in entries.items()
            if isinstance(entry["sha256"], str) and isinstance(entry["identity"], list)
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _remember(cache: Path, path: str, entry: dict[str, Any]) -> None:
    """Add an entry, drop those of files that are gone, and put the new cache file in place of the old."""
    with _lock:
        entries = {known: e for known, e in _read(cache).items() if Path(known).exists()}
        text = json.dumps({**entries, path: entry}, ensure_ascii=False, indent=1) + "\n"
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{cache.name}.", dir=cache.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(cache)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
