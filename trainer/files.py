"""Files that appear complete or not at all: written under another name, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .litter import temporary

DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a write for which there is no room."""
OWN = ".own"
"""The name of the token in a folder, and of the folder with the tokens beside it."""


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


def link_out(folder: Path, unseen: str = "") -> Path | None:
    """A link below `folder` that leads out of it, None without one. A folder from elsewhere may
    hold such links; what is written or deleted behind them belongs to somebody else. What is inside
    the folder's own folder `unseen` is not looked at, but that may be no such link itself.
    """
    root, waiting = real(folder), [os.fspath(folder)]
    apart = os.path.join(folder, unseen) if unseen else ""  # noqa: PTH118 - compared with entries
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink() or _is_junction(entry):
                    if not _leads_into(entry.path, root):
                        return Path(entry.path)
                elif entry.is_dir() and entry.path != apart:
                    waiting.append(entry.path)
    return None


def _leads_into(path: str, root: Path) -> bool:
    """Whether a link leads into a folder; one that leads in a circle does not."""
    try:
        return real(path).is_relative_to(root)
    except OSError:
        return False


def foreign_link(folder: Path, unseen: str = "") -> Path | None:
    """The link that `link_out` finds, unless the folder was free of such links here once: those
    that were made since then are its owner's. That is so when the same token is in it and beside
    it, since the folder alone may have come from elsewhere.
    """
    if was_free_of_links(folder):
        return None
    link = link_out(folder, unseen)
    if link is None:
        token = secrets.token_hex(16)
        with contextlib.suppress(OSError):
            for file in _tokens(folder):
                write_text(file, token)
    return link


def was_free_of_links(folder: Path) -> bool:
    """Whether `foreign_link` has once found nothing in a folder: its links are its owner's."""
    inside, beside = _tokens(folder)
    with contextlib.suppress(OSError, ValueError):
        return read_text(inside, 100) == read_text(beside, 100)
    return False


def _tokens(folder: Path) -> tuple[Path, Path]:
    return folder / OWN, folder.parent / OWN / f"{folder.name}.txt"


def _is_junction(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is a junction, the links of Windows; Python 3.12 is the first to say so."""
    return getattr(entry, "is_junction", lambda: False)()


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
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


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
