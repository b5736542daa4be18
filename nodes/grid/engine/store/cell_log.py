"""cells.jsonl of a grid: a line for every cell that was finished, failed or found damaged, whoever
rendered it.

Several processes may append at the same time, and any of them may be killed while it does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .....trainer.files import regular
from .....trainer.jobs.lines import Lines

MOST_FOLLOWED = 64
"""How many logs are followed at a time; the one asked for least recently is let go of."""

FINISHED, FAILED, DAMAGED = "finished", "failed", "damaged"


@dataclass(frozen=True)
class Failure:
    """Why a cell failed when it was last tried, and when that was."""

    reason: str
    time: float


class CellLog:
    """What a log says of every cell. Each line is read once: only what was appended since is read
    when somebody asks again.
    """

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path, shared=True)
        self._alone = threading.Lock()
        self._begin()

    def append(self, line: dict[str, Any]) -> None:
        """Append a line and bring it to the disk. Raises OSError."""
        self._lines.append_first(line)

    def failures(self) -> dict[str, Failure]:
        """The cells that failed when they were last tried, by key."""
        with self._alone:
            self._catch_up()
            return dict(self._failures)

    def finished(self) -> set[str]:
        """The keys of all cells that were finished at some time."""
        with self._alone:
            self._catch_up()
            return set(self._finished)

    def numerics(self) -> dict[str, str]:
        """The numerics class that a finished cell was made in, by key, where it is known."""
        with self._alone:
            self._catch_up()
            return dict(self._numerics)

    def pixels(self) -> dict[str, tuple[str, int]]:
        """The hash of the pixels of finished cells and the size of the file that holds them, by
        key, where they are known.
        """
        with self._alone:
            self._catch_up()
            return dict(self._pixels)

    def _begin(self) -> None:
        self._next, self._tail = 0, b""
        self._failures: dict[str, Failure] = {}
        self._finished: set[str] = set()
        self._numerics: dict[str, str] = {}
        self._pixels: dict[str, tuple[str, int]] = {}

    def _catch_up(self) -> None:
        if not self._is_the_same_file():
            self._begin()
        read = self._lines.read(self._next)
        if read.next == self._next:
            return
        for line in sound(read.lines):
            key = line["key"]
            self._failures.pop(key, None)
            if line["status"] == FAILED:
                self._failures[key] = Failure(line["reason"], line["time"])
            elif line["status"] == FINISHED:
                self._finished.add(key)
                if isinstance(numerics := line.get("numerics"), str) and numerics:
                    self._numerics[key] = numerics
                self._note_pixels(key, line.get("pixels"), line.get("bytes"))
        self._next = read.next
        self._tail = self._before(self._next)

    def _note_pixels(self, key: str, hash: Any, size: Any) -> None:
        self._pixels.pop(key, None)
        if isinstance(hash, str) and hash and isinstance(size, int):
            self._pixels[key] = (hash, size)

    def _is_the_same_file(self) -> bool:
        """Whether what was read last still stands where it stood. A grid that was deleted and
        rendered again has another log.
        """
        return self._before(self._next) == self._tail

    def _before(self, position: int) -> bytes:
        try:
            with open(self._lines.path, "rb", opener=regular) as file:
                start = max(0, position - 256)
                file.seek(start)
                return file.read(position - start)
        except FileNotFoundError:
            return b""


@lru_cache(maxsize=MOST_FOLLOWED)
def followed(path: Path) -> CellLog:
    """The log at this path, with what this process has read of it before."""
    return CellLog(path)


def latest(path: Path, most_bytes: int) -> Iterator[dict[str, Any]]:
    """The lines in the last `most_bytes` of a log, first to last; none when there is no file."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return iter(())
    return sound(Lines(path).read(max(0, size - most_bytes)).lines)


def sound(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines about cells, without damaged ones."""
    return (line for line in lines if _is_sound(line))


def _is_sound(line: dict[str, Any]) -> bool:
    if not isinstance(line.get("key"), str) or "status" not in line:
        return False
    if line["status"] != FAILED:
        return True
    return isinstance(line.get("reason"), str) and isinstance(line.get("time"), int | float)
