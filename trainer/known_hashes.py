"""SHA-256 of large files, kept for as long as the size, time of change and inode of each stay the
same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from . import marks
from .errors import TrainerError
from .files import write_json

BLOCK_BYTES = 4 << 20


def own_cache() -> Path | None:
    """The file in which this installation keeps the hashes that it has computed, merges their own
    too (merge/hashing.py); None for a command that a person starts by hand.
    """
    return marks.own_file("hashes.json")


def known_hashes(
    files: Sequence[Path],
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Hex SHA-256 of each file's bytes, in the order of the files. Only files that are new or have
    changed are read.

    `cache` is a JSON file; if it is damaged or cannot be written, the files are read again.
    `progress` is called with (done, all) bytes of what is read and may raise, which ends the work.
    Raises TrainerError for a file that cannot be read or changes while it is read.
    """
    known = _read(cache)
    found = {file: known.get(str(file.resolve()), {}) for file in files}
    states = {file: _state(file) for file in files}
    new = [file for file in files if found[file].get("identity") != states[file]]
    done, total = 0, sum(states[file][0] for file in new)
    for file in new:
        before = done

        def tell(count: int, before: int = before) -> None:
            if progress:
                progress(before + count, total)

        found[file] = {"identity": states[file], "sha256": _sha256(file, tell)}
        if _state(file) != states[file]:
            raise TrainerError(
                f"{file.name} changes while it is read. Wait until it has been copied."
            )
        done += states[file][0]
    if cache and new:
        known |= {str(file.resolve()): found[file] for file in new}
        there = {path: entry for path, entry in known.items() if Path(path).exists()}
        with contextlib.suppress(OSError):
            write_json(cache, there)
    return [found[file]["sha256"] for file in files]


def _state(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError as error:
        raise TrainerError(f"{file.name} cannot be read: {error.strerror}.") from error
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _sha256(file: Path, tell: Callable[[int], None]) -> str:
    digest, count = hashlib.sha256(), 0
    try:
        with file.open("rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                digest.update(block)
                count += len(block)
                tell(count)
    except OSError as error:
        raise TrainerError(f"{file.name} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _read(cache: Path | None) -> dict[str, dict]:
    try:
        entries = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
        return {
            path: entry
            for path, entry in entries.items()
            if isinstance(entry["sha256"], str) and isinstance(entry["identity"], list)
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
