"""SHA-256 of files, remembered: hashing a checkpoint takes longer than merging it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import MergeError
from .safetensors_file import ENDINGS, remove_abandoned, temporary

BLOCK_BYTES = 4 << 20

Progress = Callable[[int, int], None]

_lock = threading.Lock()


@dataclass(frozen=True)
class Hashes:
    """A file's size and hex hashes: of all its bytes, and of those after a safetensors header,
    which editing metadata does not change.
    """

    size_bytes: int
    sha256: str
    tensors_sha256: str | None

    @property
    def autov2(self) -> str:
        """The short form of the whole file's hash that web UIs and Civitai show."""
        return self.sha256[:10]

    @property
    def autov3(self) -> str | None:
        """The short form of the tensors' hash; None if the file is not a safetensors file."""
        return self.tensors_sha256 and self.tensors_sha256[:12]


def file_sha256(path: Path, cache: Path | None = None, progress: Progress | None = None) -> str:
    """Hex SHA-256 of a file's bytes.

    With `cache`, a JSON file, a hash is computed only once as long as the file keeps its path,
    size, modification time and inode. `progress(done_bytes, total_bytes)` is called after every
    block; an exception from it ends the hashing. Raises MergeError if the file cannot be read or
    changes meanwhile.
    """
    return _hashes(path, cache, progress, False).sha256


def file_hashes(path: Path, cache: Path | None = None, progress: Progress | None = None) -> Hashes:
    """Like `file_sha256`; for a safetensors file also the hash of its tensors, from the same
    reading.
    """
    return _hashes(path, cache, progress, path.suffix.lower() in ENDINGS)


def _hashes(path: Path, cache: Path | None, progress: Progress | None, tensors: bool) -> Hashes:
    try:
        path = path.resolve()
        identity = _identity(path)
        known = _read(cache).get(str(path)) if cache else None
        if known and known["identity"] == identity and (not tensors or "tensors_sha256" in known):
            return Hashes(identity[0], known["sha256"], known.get("tensors_sha256"))
        sha256, of_tensors = _hash(path, progress, tensors)
        if _identity(path) != identity:
            raise MergeError(f"{path} changed while it was being read. Wait until it is complete.")
    except OSError as error:
        raise MergeError(f"{path} cannot be read: {error.strerror}.") from error
    if cache:
        # A hash that cannot be kept is computed again.
        entry = {"identity": identity, "sha256": sha256}
        with suppress(OSError):
            found = {**entry, "tensors_sha256": of_tensors} if tensors else entry
            _remember(cache, str(path), found)
    return Hashes(identity[0], sha256, of_tensors)


def known_files(cache: Path, sha256: str) -> list[Path]:
    """The files that have this hash according to the cache and have not changed since."""
    found = []
    for path, entry in _read(cache).items():
        if entry["sha256"] == sha256:
            with suppress(OSError):
                if _identity(Path(path)) == entry["identity"]:
                    found.append(Path(path))
    return found


def is_own_copy(cache: Path, sha256: str, copy: Path) -> bool:
    """Whether `note_copy` was told that a file is a copy of what has this hash, and it has not
    changed since.
    """
    try:
        identity = _identity(copy)
    except OSError:
        return False
    return any(
        entry["sha256"] == sha256 and entry.get("copy") == identity
        for entry in _read(cache).values()
    )


def note_copy(cache: Path, path: Path, copy: Path) -> None:
    """Note beside the hash of a file which copy was made of it, in another format."""
    path = path.resolve()
    with suppress(OSError):
        if (known := _read(cache).get(str(path))) and known["identity"] == _identity(path):
            _remember(cache, str(path), {**known, "copy": _identity(copy)})


def tensors_sha256(path: Path) -> str:
    """Hex SHA-256 of everything after a safetensors file's header (AutoV3). Editing the metadata
    does not change it.
    """
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """The short hash that old web UIs show: 8 hex digits of the hash of 64 KiB at 1 MiB. Different
    files can share it.
    """
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _hash(path: Path, progress: Progress | None, tensors: bool) -> tuple[str, str | None]:
    """Both hashes from one reading; the hash of the tensors is computed in parallel."""
    whole, inner, done, total = hashlib.sha256(), hashlib.sha256(), 0, path.stat().st_size
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
        first = 8 + int.from_bytes(file.read(8), "little")
        file.seek(0)
        while count := file.readinto(block):
            rest = block[min(max(first - done, 0), count) : count]
            other = beside.submit(inner.update, rest) if tensors and rest else None
            whole.update(block[:count])
            if other:
                other.result()
            done += count
            if progress:
                progress(done, total)
    return whole.hexdigest(), inner.hexdigest() if tensors else None


def _read(cache: Path) -> dict[str, Any]:
    """The entries of the cache file; none if it is missing or damaged, since hashes can be computed
    again.
    """
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
        return {
            path: entry
            for path, entry in entries.items()
            if isinstance(entry["sha256"], str)
            and isinstance(entry["identity"], list)
            and isinstance(entry.get("tensors_sha256", ""), str)
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _remember(cache: Path, path: str, entry: dict[str, Any]) -> None:
    """Add an entry, drop those of files that are gone, and replace the cache file."""
    with _lock:
        entries = {known: e for known, e in _read(cache).items() if Path(known).exists()}
        text = json.dumps({**entries, path: entry}, ensure_ascii=False, indent=1) + "\n"
        cache.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(cache.parent)
        part = temporary(cache)
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(cache)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
