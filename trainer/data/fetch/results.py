"""results.jsonl: what became of every row of a download, one line each, append-only."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...jobs.lines import Lines
from .disk import disk_errors

RESULTS = "results.jsonl"
OK = "ok"


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
    for line in Lines(folder / RESULTS).read().lines:
        with contextlib.suppress(TypeError, KeyError):
            found[line["row"]] = Result(**line)
    return found


class ResultsWriter:
    """Appends to results.jsonl. Lines are collected and written together; every batch is synced."""

    def __init__(self, folder: Path) -> None:
        self.file = Lines(folder / RESULTS)
        self.lines: list[dict[str, Any]] = []
        self._one_at_a_time = threading.Lock()

    def add(self, result: Result) -> None:
        self.lines.append(result.line())

    def flush(self) -> None:
        """Write the collected lines. Raises DiskFull, and then keeps them for the next time."""
        with self._one_at_a_time:
            lines, self.lines = self.lines, []
            if not lines:
                return
            try:
                with disk_errors(self.file.path):
                    self.file.append(*lines, sync=True)
            except BaseException:
                self.lines = lines + self.lines
                raise
