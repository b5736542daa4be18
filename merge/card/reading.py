"""Files of strangers: read with a bound, and never outside the folder that a person has named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGEST_JSON = 128 << 20
LARGEST_LINES = 256 << 20
LONGEST_LINE = 4 << 20
MOST_PARTS = 600_000
"""Lists and objects in a file: 20,000 cells have 30 each."""
CHUNK = 1 << 20
MOST_ENTRIES = 10_000
"""Of a folder."""


class Unreadable(Exception):
    """Says in a few words why something cannot be read."""


def inside(root: Path, relative: str) -> Path:
    """The path `relative`, with either slash, below `root`. Raises Unreadable if it would leave it,
    even by a link.
    """
    parts = relative.replace("\\", "/").split("/")
    if any(not part or part.startswith(".") or ":" in part or "\0" in part for part in parts):
        raise Unreadable("its name leads out of the folder, so it is not followed")
    path = root.joinpath(*parts)
    try:
        if path.resolve().is_relative_to(root.resolve()):
            return path
    except (OSError, RuntimeError, ValueError):
        raise Unreadable("its name cannot be that of a file") from None
    raise Unreadable("it is a link that leads out of the folder, so it is not followed")


def folders(root: Path) -> list[Path]:
    """The folders directly in `root` by name, without hidden ones and links that lead out of it."""
    try:
        with os.scandir(root) as entries:
            names = sorted(one.name for one in entries if not one.name.startswith("."))
    except OSError as error:
        raise Unreadable(f"the folder {root.name} cannot be read ({error.strerror})") from None
    found = []
    for name in names[:MOST_ENTRIES]:
        try:
            path = inside(root, name)
        except Unreadable:
            continue
        if path.is_dir():
            found.append(path)
    return found


def read_bytes(path: Path, most_bytes: int = LARGEST_JSON) -> bytes:
    """What a regular file holds. Raises Unreadable also when that is more than `most_bytes`."""
    try:
        with open(path, "rb", opener=_regular) as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise Unreadable(_words(error)) from None
    if len(data) > most_bytes:
        raise Unreadable(f"it is larger than {most_bytes >> 20} MB")
    return data


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises Unreadable."""
    try:
        if data.count(b"[") + data.count(b"{") > MOST_PARTS:
            raise Unreadable("it holds too many lists and objects")
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable("it is damaged: it is no JSON") from None
    if not isinstance(value, dict):
        raise Unreadable("it is damaged: it is no JSON object")
    return value


def read_json(path: Path, most_bytes: int = LARGEST_JSON) -> dict[str, Any]:
    return parse_json(read_bytes(path, most_bytes))


@dataclass
class Lines:
    """The JSON lines of a file, one by one; what was wrong is known once all have been read."""

    path: Path
    most_bytes: int = LARGEST_LINES
    damaged: int = 0
    cut: bool = False
    """Whether the last line has no end."""
    rest: bool = False
    """Whether the file is longer than what was read of it."""
    read_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    """Of the whole lines that were read."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises Unreadable, but not for a file that is not there: it has no lines."""
        try:
            file = open(self.path, "rb", opener=_regular)  # noqa: SIM115
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unreadable(_words(error)) from None
        with file:
            while line := file.readline(LONGEST_LINE):
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    self.cut = True
                    return
                if self.read_bytes + len(line) > self.most_bytes:
                    self.rest = True
                    return
                self.read_bytes += len(line)
                self.digest.update(line)
                if (value := _object(line)) is not None:
                    yield value
                elif line.strip():
                    self.damaged += 1

    def problem(self) -> str:
        """A sentence about what could not be read, or ""."""
        told = []
        if lost := self.damaged + self.cut:
            noun = "line is" if lost == 1 else "lines are"
            told.append(f"{lost} {noun} damaged or cut off and left out; all others count.")
        if self.rest:
            told.append(f"Only the first {self.read_bytes / 1e6:.0f} MB were read.")
        return " ".join(told)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.count(b"[") + line.count(b"{") < MOST_PARTS else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def sha256_of(path: Path, first_bytes: int | None = None) -> str:
    """Hex SHA-256 of a regular file, or of its beginning. Raises Unreadable, also when it is
    shorter.
    """
    digest, left = hashlib.sha256(), first_bytes
    try:
        with open(path, "rb", opener=_regular) as file:
            while left != 0 and (block := file.read(CHUNK if left is None else min(CHUNK, left))):
                digest.update(block)
                left = None if left is None else left - len(block)
    except OSError as error:
        raise Unreadable(_words(error)) from None
    if left:
        raise Unreadable("it has become shorter")
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value's one spelling: sorted keys, no spaces."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def text(value: Any, most: int = 2000) -> str:
    """A value of a stranger as a text of bounded length, "" if it is not text."""
    if not isinstance(value, str):
        return ""
    return value if len(value) <= most else value[: most - 3] + "..."


def number(value: Any) -> float | None:
    """A value of a stranger as a finite number of a usual size, None for anything else."""
    usual = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usual and abs(value) < 1e300 else None


def whole(value: Any) -> int | None:
    """The same as a whole number."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and abs(value) < 1 << 63 else None


def _regular(path: str, flags: int) -> int:
    """An opener that opens nothing but regular files: it neither follows a link nor waits for the
    other end of a pipe.
    """
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file")
    return handle


def _words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "it is not there"
    if error.errno == errno.ELOOP:
        return "it is a link, so it is not followed"
    return f"it cannot be read ({error.strerror or error})"
