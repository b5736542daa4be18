"""Files that appear complete or not at all: written under another name, synced, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .litter import temporary

HALVES = "replace"
"""What becomes of halves of characters, which others' texts and names of files may hold: UTF-8 has
none, and what could not be written would stop the work.
"""
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a write for which there is no room."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by a file holding `data`; a reader sees the old file or the new one, never a
    part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def publish(part: Path, path: Path) -> None:
    """Give a finished, synced temporary file its final name."""
    _insist(lambda: part.replace(path))
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file if it is there, also one that others read just now."""
    _insist(lambda: path.unlink(missing_ok=True))


def _insist(change: Callable[[], object]) -> None:
    """Replace or delete a file; Windows refuses while somebody reads it, so try for a while
    there.
    """
    for pause_s in (0.01, 0.05, 0.2, 0.5, 1.0):
        try:
            change()
            return
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(pause_s)
    change()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (Windows has no such call and needs none)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class SpecialFile(OSError):
    """A link, pipe, folder or device where a file should be: a folder may come from anywhere."""


def regular(path: str | Path, flags: int) -> int:
    """An opener for `open` (and `os.open` without a mode) that opens nothing but regular files, and
    so neither follows a link nor waits for the other end of a pipe. Raises SpecialFile.
    """
    wanted = flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, wanted, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _special(path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _special(path)
    return fd


def version_of(path: Path) -> tuple[int, ...]:
    """Numbers that change with a file, () when there is none."""
    try:
        found = path.lstat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def unshare(path: Path) -> None:
    """Put a copy in the place of a file that has other names too, before something is appended to
    it: they may be another's, if its folder came from elsewhere, or a copy that somebody keeps.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if found.st_nlink < 2 or not stat.S_ISREG(found.st_mode):
        return
    part = temporary(path)
    try:
        with open(path, "rb", opener=regular) as file, part.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        publish(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class TooLarge(OSError):
    """A file that is larger than any of ours of its kind, or has a part that is."""

    def __init__(self, path: str | Path, most_bytes: int, what: str = "it") -> None:
        super().__init__(errno.EFBIG, f"{what} is larger than {most_bytes >> 20} MB", str(path))


def _special(path: str | Path) -> SpecialFile:
    return SpecialFile(errno.EINVAL, "it is a link or no regular file", str(path))


def disk_full(error: Exception) -> bool:
    """Whether a write failed because the disk is full; safetensors says so only in words."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return type(error).__name__ == "SafetensorError" and "os error 28" in str(error)


def literal(path: Path) -> str:
    """A path as DuckDB's readers take it for this one file: in a plain one, `*`, `?` and `[` are
    patterns. They need `hive_partitioning = false` too, or a folder `k=1` makes a column k.
    """
    return glob.escape(str(path.absolute()))


def real(path: str | Path) -> Path:
    """Where a path leads, through all links. Raises OSError for links that lead in a circle."""
    try:
        return Path(path).resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def read_bytes(path: Path, most_bytes: int = 512 << 20) -> bytes:
    """What a regular file holds. Raises OSError, and ValueError when that is more."""
    with open(path, "rb", opener=regular) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes >> 20} MB")
    return data


def read_text(path: Path, most_bytes: int = 64 << 20) -> str:
    """The same as UTF-8 text; ValueError also when it is none."""
    return read_bytes(path, most_bytes).decode("utf-8")


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    write_bytes(path, text.encode("utf-8", HALVES))


def finite(value: Any) -> Any:
    """A JSON value in which null stands for the numbers that JSON does not have: NaN and the
    infinities.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that hashes are taken of: sorted keys, no spaces."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
