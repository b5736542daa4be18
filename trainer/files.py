"""Files that appear complete or not at all: written under another name, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a write for which there is no room."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by a file holding `data`; a reader sees the old file or the new one, never a
    part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a finished, synced temporary file its final name."""
    _replace(temporary, path)
    sync_folder(path.parent)


def _replace(temporary: Path, path: Path) -> None:
    """Rename over `path`; Windows refuses while somebody reads it, so try for a while there."""
    for pause_s in (0.01, 0.05, 0.2, 0.5, 1.0):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(pause_s)
    temporary.replace(path)


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


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


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
