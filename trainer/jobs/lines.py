"""Append-only files of JSON lines: readers ask from a byte on, and get what is new and where to ask
next.

A line that a kill or a full disk has cut off never swallows the one after it. At the end of the
file it may still be on its way, so it is left for the next time; in the middle it is passed over
and counted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .. import bounded_json
from ..files import HALVES, TooLarge, finite, regular, unshare

MOST_LINE_BYTES = 32 << 20
"""The longest lines hold the losses of all validation pairs."""
MOST_FILE_BYTES = 2 << 30
"""A larger file is none of ours. One that is mostly holes takes no room on the disk, and none in an
archive.
"""
PIECE_BYTES = 1 << 24
SPARE_MEMORY, MOST_GROWTH = 64 << 10, 20
"""What the values of a line may take in memory: some bytes, and so many for each of its own."""


@dataclass(frozen=True)
class Read:
    """Lines of a file, the byte to ask from next time, and how many lines made no sense."""

    lines: list[dict[str, Any]]
    next: int
    damaged: int = 0


@dataclass(frozen=True)
class Lines:
    """A file of JSON objects, one per line. `shared` when several processes append to it."""

    path: Path
    shared: bool = False

    def append(self, *values: dict[str, Any], sync: bool = False) -> None:
        """Append lines in one write; with `sync` they are on the disk afterwards. Numbers that JSON
        does not have become null.

        Raises OSError, ENOSPC too when there was room for a part of them only.
        """
        texts = (json.dumps(finite(v), ensure_ascii=False, allow_nan=False) for v in values)
        data = b"".join(text.encode("utf-8", HALVES) + b"\n" for text in texts)
        with self._alone(), self._to_append() as file:
            if file.tell() and not _ends_a_line(file):
                data = b"\n" + data
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "lines were written in part", str(self.path))
            if sync:
                os.fsync(file.fileno())

    def append_first(self, line: dict[str, Any]) -> None:
        """Append a line and bring it to the disk, in a folder that may not exist yet. Raises
        OSError.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.append(line, sync=True)

    def texts(self, after: int, size: int) -> Iterator[bytes]:
        """The whole lines from byte `after`, the beginning of one, on, in pieces of about `size`
        bytes. None when there is no file. Raises OSError.
        """
        try:
            file = self._open()
        except FileNotFoundError:
            return
        with file:
            file.seek(after)
            yield from _whole_lines(file, size)

    def read(self, after: int = 0, kinds: Iterable[str] = ()) -> Read:
        """The lines from byte `after` on; all of them from 0, none when there is no file.

        A byte within a line stands for the beginning of the next one. One beyond the end of the
        file was noted of a longer file, which has been replaced: reading begins at 0 again. With
        `kinds` lines that mention none of them are passed over unread.
        """
        try:
            file = self._open()
        except FileNotFoundError:
            return Read([], 0)
        with file:
            end = after if 0 < after <= file.seek(0, os.SEEK_END) else 0
            file.seek(max(0, end - 1))
            if end:
                while (piece := file.readline(PIECE_BYTES)) and not piece.endswith(b"\n"):
                    pass
                end = file.tell()
            names = tuple(kinds)
            lines: list[dict[str, Any]] = []
            damaged = 0
            for whole in _whole_lines(file, PIECE_BYTES):
                found, odd = parse(mentioning(whole, names) if names else whole.split(b"\n"))
                lines += found
                damaged, end = damaged + odd, end + len(whole)
        return Read(lines, end, damaged)

    def _open(self) -> IO[bytes]:
        """Raises OSError for links, pipes and the like, and for what is too large to be read."""
        return open(self.path, "rb", opener=_not_huge)

    def _to_append(self) -> IO[bytes]:
        """Raises OSError for links, pipes and the like."""
        unshare(self.path)
        return open(self.path, "a+b", 0, opener=regular)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from appending meanwhile, if there may be any."""
        if not self.shared:
            yield
            return
        from filelock import FileLock

        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            yield


def _not_huge(path: str, flags: int) -> int:
    """`regular`, and raises TooLarge."""
    fd = regular(path, flags)
    if os.fstat(fd).st_size > MOST_FILE_BYTES:
        os.close(fd)
        raise TooLarge(path, MOST_FILE_BYTES)
    return fd


def _whole_lines(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The whole lines of an open file from its place on, in pieces of about `size` bytes. Raises
    TooLarge for a line that is longer than any of ours, before more of it is read.
    """
    part = b""
    while data := file.read(size):
        end = data.rfind(b"\n") + 1
        if end:
            yield part + data[:end]
            part = data[end:]
        else:
            part += data
        if len(part) > MOST_LINE_BYTES:
            raise TooLarge(file.name, MOST_LINE_BYTES, "a line of it")


class Followed:
    """The lines of a file that matter to somebody, kept in memory, so that each is read once."""

    def __init__(self, file: Lines, kinds: Iterable[str]) -> None:
        self.file, self.kinds = file, tuple(kinds)  # no set: a line's kind may be a list
        self._alone = threading.Lock()
        self._lines: list[dict[str, Any]] = []
        self._next = 0
        self._inode = 0

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far whose `kind` is one of `kinds`."""
        with self._alone:
            try:
                status = self.file.path.stat()
            except FileNotFoundError:
                self._lines, self._next = [], 0
                return []
            if status.st_ino != self._inode or status.st_size < self._next:
                self._inode, self._lines, self._next = status.st_ino, [], 0
            if status.st_size > self._next:
                read = self.file.read(self._next, self.kinds)
                self._lines += [line for line in read.lines if line.get("kind") in self.kinds]
                self._next = read.next
            return list(self._lines)


def mentioning(data: bytes, kinds: Sequence[str]) -> list[bytes]:
    """Those of some whole lines, as `append` writes them, in which one of these words is a value,
    each once.
    """
    found: dict[int, bytes] = {}
    for word in (f": {json.dumps(kind)}".encode() for kind in kinds):
        at = data.find(word)
        while at >= 0:
            start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
            found[start] = data[start:end]
            at = data.find(word, end)
    return [found[start] for start in sorted(found)]


def parse_line(text: bytes) -> Any:
    """The value of a line. Raises ValueError, also when it is larger than any line of ours."""
    most = min(bounded_json.MOST_MEMORY, SPARE_MEMORY + MOST_GROWTH * len(text))
    return bounded_json.parse(text, MOST_LINE_BYTES, most, bounded_json.DEEP)


def parse(texts: list[bytes]) -> tuple[list[dict[str, Any]], int]:
    """The objects among some lines, and how many others there are; empty lines do not count."""
    found, damaged = [], 0
    for text in texts:
        if not text.strip():
            continue
        try:
            value = parse_line(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            damaged += 1
    return found, damaged


def _ends_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
