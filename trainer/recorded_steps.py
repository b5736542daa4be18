"""The steps of a run as metrics.jsonl holds them, read many times as fast as JSON, and followed as
the file grows.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .files import literal
from .jobs.lines import Lines, mentioning, parse, parse_line

if TYPE_CHECKING:
    import numpy as np

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
STEP = b'{"kind": "step", "epoch": '
"""How the line of a step begins, as `Journal.record` writes it."""
RATES = (b'"learning_rate_unet": ', b'"learning_rate_text_encoder": ')
MARKS = ("start", "epoch", "validation", "checkpoint")
"""The kinds of the other lines that are kept."""
CHUNK_BYTES = 1 << 24
LARGE_BYTES = 1 << 22
LARGEST = 1e300
STEP_COLUMNS = 6
"""Epoch, step, time, loss, and the two learning rates, NaN for what a line does not say."""
READ_STEPS = """
    SELECT epoch, step, time, loss, learning_rate_unet, learning_rate_text_encoder
    FROM read_json(?, format = 'newline_delimited', ignore_errors = true,
        hive_partitioning = false, columns = {
        kind: 'VARCHAR', epoch: 'BIGINT', step: 'BIGINT', time: 'DOUBLE', loss: 'DOUBLE',
        learning_rate_unet: 'DOUBLE', learning_rate_text_encoder: 'DOUBLE'
    })
    WHERE kind = 'step'
"""


class Followed:
    """The steps of a growing metrics.jsonl and its other lines, each read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._alone = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.next, self._inode = 0, 0
        self._steps: list[Floats] = []
        self._rest: list[dict[str, Any]] = []

    def read(self) -> tuple[Floats, list[dict[str, Any]], int]:
        """All steps so far, one a row of STEP_COLUMNS, the later of two with the same number; the
        other lines; and the byte to go on from.
        """
        import numpy as np

        with self._alone:
            self._follow()
            steps = np.concatenate(self._steps) if self._steps else np.empty((0, STEP_COLUMNS))
            self._steps = [steps]
            return _latest(steps), list(self._rest), self.next

    def marks(self) -> list[dict[str, Any]]:
        """The other lines so far, without the cost of the steps."""
        with self._alone:
            self._follow()
            return list(self._rest)

    def _follow(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._forget()
            return
        if status.st_ino != self._inode or status.st_size < self.next:
            self._forget()
            self._inode = status.st_ino
        large = self.next == 0 and status.st_size >= LARGE_BYTES
        if status.st_size > self.next and not (large and self._take_large()):
            self._take()

    def _take_large(self) -> bool:
        """Read the whole of a large file several times as fast, a piece of it at a time; False,
        with nothing changed, when DuckDB does not find all of its steps, as with NaN in them.
        """
        import duckdb
        import numpy as np

        count, size, marks = 0, 0, []
        for text in Lines(self.path).texts(0, CHUNK_BYTES):
            count, size = count + text.count(STEP), size + len(text)
            lines, _ = parse(mentioning(text, MARKS))
            marks += [line for line in lines if _is_mark(line)]
        try:
            with duckdb.connect() as database:
                found = database.execute(READ_STEPS, [literal(self.path)]).fetchnumpy()
        except duckdb.Error:
            return False
        columns = [np.ma.filled(column.astype(float), np.nan) for column in found.values()]
        steps = np.column_stack(columns)
        if count > len(steps) or np.isnan(steps[:, :2]).any():
            return False
        self._steps, self._rest, self.next = [steps], marks, size
        return True

    def _take(self) -> None:
        import numpy as np

        found: list[tuple[float, ...]] = []
        for text in Lines(self.path).texts(self.next, CHUNK_BYTES):
            self.next += len(text)
            for line in text.split(b"\n"):
                step = _step(line)
                if step is not None:
                    found.append(step)
                elif line.strip():
                    self._take_other(line, found)
        if found:
            steps = np.array(found)
            self._steps.append(steps[np.isfinite(steps[:, :2]).all(axis=1)])

    def _take_other(self, line: bytes, found: list[tuple[float, ...]]) -> None:
        try:
            value = parse_line(line)
        except ValueError:
            return
        if _is_mark(value):
            self._rest.append(value)
        if not _is_placed(value) or value.get("kind") != "step":
            return
        names = ("time", "loss", "learning_rate_unet", "learning_rate_text_encoder")
        rest = (float(value[n]) if is_number(value.get(n)) else float("nan") for n in names)
        found.append((float(value["epoch"]), float(value["step"]), *rest))


def _is_placed(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(value.get(n)) for n in ("epoch", "step"))


def _is_mark(value: Any) -> bool:
    return _is_placed(value) and value.get("kind") in MARKS


def is_number(value: Any) -> bool:
    """Whether something is a number that a float can be."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -LARGEST < value < LARGEST


def _step(line: bytes) -> tuple[float, ...] | None:
    """The figures of a step's line as `Journal.record` writes it, several times as fast as JSON is
    read; None for any other.
    """
    if not line.startswith(STEP) or not line.endswith(b"}"):
        return None
    parts = line[len(STEP) : len(STEP) + 120].split(b", ", 4)
    if len(parts) < 4 or not (
        parts[1].startswith(b'"step": ')
        and parts[2].startswith(b'"time": ')
        and parts[3].startswith(b'"loss": ')
    ):
        return None
    try:
        figures = [float(parts[0]), *(float(part[8:].rstrip(b"}")) for part in parts[1:4])]
        for name in RATES:
            at = line.find(name)
            if at < 0:
                figures.append(float("nan"))
                continue
            begin = at + len(name)
            end = line.find(b",", begin)
            figures.append(float(line[begin : end if end > 0 else -1]))
    except ValueError:
        return None
    return tuple(figures)


def _latest(steps: Floats) -> Floats:
    """The steps in their order, and of two with the same number the later line."""
    import numpy as np

    numbers = steps[:, 1]
    if len(numbers) < 2 or (np.diff(numbers) > 0).all():
        return steps
    _, last = np.unique(numbers[::-1], return_index=True)
    return steps[len(numbers) - 1 - last]


@lru_cache(maxsize=16)
def followed(metrics: Path) -> Followed:
    """The steps of a file, for all who ask for them."""
    return Followed(metrics)
