"""results.jsonl: what became of every row of a download, one line each, append-only."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import disk

RESULTS = "results.jsonl"
OK = "ok"
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Result:
    """What became of a row. `status` is "ok" or the reason, `message` says more; `attempts` counts
    requests.

    `bytes` and `sha256` are those of the file as it came, `width` and `height` are in pixels after
    EXIF orientation, `file` is relative to the folder, with forward slashes. Rows that share a URL
    share its file.
    """

    row: int
    url: str
    status: str
    message: str = ""
    attempts: int = 0
    bytes: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    file: str = ""

    def line(self) -> dict[str, Any]:
        """As JSON, without what is not known."""
        values = asdict(self)
        return {key: values[key] for key in values if key in ("row", "url") or values[key]}


def read_results(folder: Path) -> dict[int, Result]:
    """The last result of every settled row. Lines that cannot be read (after a power loss) are
    left out.
    """
    found: dict[int, Result] = {}
    try:
        data = (folder / RESULTS).read_bytes()
    except FileNotFoundError:
        return found
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            value = json.loads(line)
            found[value["row"]] = Result(**value)
    return found


class ResultsWriter:
    """Appends to results.jsonl. Lines are collected and written together; every batch is synced."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / RESULTS
        self.lines: list[bytes] = []
        self._one_at_a_time = threading.Lock()

    def add(self, result: Result) -> None:
        self.lines.append(json.dumps(result.line(), ensure_ascii=False).encode() + b"\n")

    def flush(self) -> None:
        """Write the collected lines. Raises DiskFull, and then keeps them for the next time."""
        with self._one_at_a_time:
            lines, self.lines = self.lines, []
            if not lines:
                return
            try:
                with disk.disk_errors(self.file), self.file.open("ab", buffering=0) as file:
                    file.truncate(whole_lines(self.file))
                    disk.write_all(file, b"".join(lines))
                    os.fsync(file.fileno())
            except BaseException:
                self.lines = lines + self.lines
                raise


def whole_lines(file: Path) -> int:
    """The size in bytes of a file without a torn last line, so that the next line is not appended
    to it.
    """
    with file.open("rb") as opened:
        size = position = opened.seek(0, os.SEEK_END)
        while position:
            position = max(0, position - BLOCK_BYTES)
            opened.seek(position)
            block = opened.read(min(BLOCK_BYTES, size - position))
            if (end := block.rfind(b"\n")) >= 0:
                return position + end + 1
    return 0
