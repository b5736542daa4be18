"""The curve of a run for a chart of some hundred pixels: what metrics.jsonl holds, reduced so that
no low and no high of the training loss is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainerError
from .files import literal
from .jobs.lines import Lines, mentioning, parse, parse_line
from .runs import Run, checkpoint_lines

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

AXES = ("step", "epoch", "time")
MOST_POINTS = 5000
STEP = b'{"kind": "step", "epoch": '
"""How the line of a step begins, as `Journal.record` writes it."""
RATES = (b'"learning_rate_unet": ', b'"learning_rate_text_encoder": ')
MARKS = ("start", "validation", "checkpoint")
"""The kinds of other lines that a curve shows."""
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
            try:
                status = self.path.stat()
            except FileNotFoundError:
                self._forget()
                return np.empty((0, STEP_COLUMNS)), [], 0
            if status.st_ino != self._inode or status.st_size < self.next:
                self._forget()
                self._inode = status.st_ino
            large = self.next == 0 and status.st_size >= LARGE_BYTES
            if status.st_size > self.next and not (large and self._take_large()):
                self._take()
            steps = np.concatenate(self._steps) if self._steps else np.empty((0, STEP_COLUMNS))
            self._steps = [steps]
            return _latest(steps), list(self._rest), self.next

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
        rest = (float(value[n]) if _is_number(value.get(n)) else float("nan") for n in names)
        found.append((float(value["epoch"]), float(value["step"]), *rest))


def _is_placed(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(n)) for n in ("epoch", "step"))


def _is_mark(value: Any) -> bool:
    return _is_placed(value) and value.get("kind") in MARKS


def _is_number(value: Any) -> bool:
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
def _followed(metrics: Path) -> Followed:
    return Followed(metrics)


def curve(
    run: Run,
    names: Mapping[str, str],
    points: int = 1000,
    x: str = "step",
    first: float | None = None,
    last: float | None = None,
) -> dict[str, Any]:
    """The curve of a run between `first` and `last` of the axis `x`, in at most so many points.

    A point of `train` stands for the steps of a stretch: their mean x, and the lowest, highest and
    mean loss. `names` are those of checkpoint files as a graph takes them. x is the step, the epoch
    with its fraction, or the seconds at work, without the time between two processes. `error` is
    the standard error of a validation loss over its pairs. Raises TrainerError.
    """
    import numpy as np

    steps, rest, byte = _followed(run.folder / "metrics.jsonl").read()
    axis = _Axis(x, steps, rest)
    values = axis.values
    low = -np.inf if first is None else first
    high = np.inf if last is None else last

    def inside(at: float) -> bool:
        return bool(low <= at <= high)

    kept = (values >= low) & (values <= high)
    train, rate = _reduced(values[kept], steps[kept], points)
    checkpoints = [
        {
            "x": axis.of(line["step"]),
            "step": line["step"],
            "epoch": line["epoch"],
            "name": names.get(line["file"], line["file"]),
        }
        for line in checkpoint_lines(rest)
    ]
    best = run.state().best
    if best is not None and isinstance(best.get("step"), int):
        best = {"x": axis.of(best["step"]), **best}
    return {
        "train": train,
        "rate": rate,
        "validation": {
            name: _between(found, inside) for name, found in _validation(run, rest, axis).items()
        },
        "best": best,
        "checkpoints": [one for one in checkpoints if inside(one["x"])],
        "restarts": [at for at in axis.restarts() if inside(at)],
        "last_step": int(steps[-1, 1]) if len(steps) else 0,
        "next": byte,
    }


class _Axis:
    """Where on an axis of the chart the steps are."""

    def __init__(self, kind: str, steps: Floats, rest: Sequence[Mapping[str, Any]]) -> None:
        self.numbers = steps[:, 1]
        self.starts = sorted({line["step"] for line in rest if line["kind"] == "start"} - {0})
        self.values = {"step": self._by_step, "epoch": self._by_epoch, "time": self._by_time}[kind](
            steps
        )

    def _by_step(self, steps: Floats) -> Floats:
        return self.numbers

    def _by_epoch(self, steps: Floats) -> Floats:
        """Epochs that are done at a step. One that is under way counts as long as the longest."""
        import numpy as np

        epochs, first, counts = np.unique(steps[:, 0], return_index=True, return_counts=True)
        if not len(epochs):
            return np.empty(0)
        counts = counts.astype(float)
        counts[-1] = counts.max()
        which = np.searchsorted(epochs, steps[:, 0])
        done = np.arange(len(steps)) - first[which] + 1
        return epochs[which] - 1 + done / counts[which]

    def _by_time(self, steps: Floats) -> Floats:
        """Seconds at work: what lies between two processes does not count, nor does a clock that
        was set back.
        """
        import numpy as np

        times = np.nan_to_num(steps[:, 2])
        passed = np.diff(times, prepend=times[:1]).clip(min=0)
        for start in self.starts:
            passed[self.numbers == start + 1] = 0
        return np.cumsum(passed)

    def of(self, step: float) -> float:
        """Where a step is, 0 before the first."""
        import numpy as np

        if not len(self.numbers):
            return 0.0
        at = np.searchsorted(self.numbers, step, side="right") - 1
        return float(self.values[at]) if at >= 0 else 0.0

    def restarts(self) -> list[float]:
        """Where another process has gone on."""
        return [self.of(step) for step in self.starts]


def _reduced(values: Floats, steps: Floats, points: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training loss and learning rates of these steps in at most so many points."""
    import numpy as np

    count = len(values)
    if not count:
        return {"x": [], "min": [], "max": [], "mean": []}, {
            "x": [],
            "unet": [],
            "text_encoder": [],
        }
    begins = np.unique(np.linspace(0, count, min(points, count), endpoint=False).astype(int))
    sizes = np.diff(begins, append=count)
    loss = steps[:, 3]
    known = np.isfinite(loss)
    amounts = np.add.reduceat(known.astype(float), begins)

    def bounded(reduce: Any, blank: float) -> list[float | None]:
        found = reduce.reduceat(np.where(known, loss, blank), begins)
        return [float(v) if n else None for v, n in zip(found, amounts, strict=True)]

    totals = np.add.reduceat(np.where(known, loss, 0.0), begins)
    means = [float(t / n) if n else None for t, n in zip(totals, amounts, strict=True)]
    x = (np.add.reduceat(values, begins) / sizes).tolist()
    ends = begins + sizes - 1

    def rates(column: int) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in steps[ends, column]]

    train = {
        "x": x,
        "min": bounded(np.minimum, np.inf),
        "max": bounded(np.maximum, -np.inf),
        "mean": means,
    }
    return train, {"x": x, "unet": rates(4), "text_encoder": rates(5)}


def _validation(
    run: Run, rest: Sequence[Mapping[str, Any]], axis: _Axis
) -> dict[str, dict[str, list[Any]]]:
    """Loss and standard error of every validation set at every validation, by its name."""
    if not any(line["kind"] == "validation" for line in rest):
        return {}
    sets = _sets(run.folder / "dataset.parquet", _stamp(run.folder / "dataset.parquet"))
    records = run.folder / "validation.jsonl"
    pairs = _pairs_by_step(run.folder, _stamp(records)) if records.exists() else {}
    lines = {line["step"]: line for line in rest if line["kind"] == "validation"}
    found: dict[str, dict[str, list[Any]]] = {}
    for name, ids in sets.items():
        curve: dict[str, list[Any]] = {"x": [], "loss": [], "error": []}
        for step in sorted(lines):
            loss = lines[step].get("loss" if len(sets) == 1 else f"loss_{name}")
            measured = pairs.get(step, {})
            losses = [measured[pair] for pair in ids if pair in measured]
            curve["x"].append(axis.of(step))
            curve["loss"].append(loss if _is_number(loss) else None)
            curve["error"].append(_standard_error(losses))
        found[name] = curve
    return found


def _between(curve: dict[str, list[Any]], inside: Any) -> dict[str, list[Any]]:
    kept = [index for index, at in enumerate(curve["x"]) if inside(at)]
    return {name: [values[index] for index in kept] for name, values in curve.items()}


def _standard_error(losses: Sequence[float]) -> float | None:
    """Of their mean; None for fewer than two."""
    if len(losses) < 2:
        return None
    mean = sum(losses) / len(losses)
    variance = sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)
    return (variance / len(losses)) ** 0.5


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError as error:
        raise TrainerError(f"{file.name} of {file.parent.name} cannot be read: {error}") from error


@lru_cache(maxsize=4)
def _pairs_by_step(run: Path, stamp: int) -> dict[int, dict[str, float]]:
    """The loss of every validation pair by step, as it was written at `stamp`."""
    return {line["step"]: line["pairs"] for line in Run.open(run).validations()}


@lru_cache(maxsize=32)
def _sets(dataset: Path, stamp: int) -> dict[str, tuple[str, ...]]:
    """The ids of every validation set of a manifest that was last written at `stamp`."""
    from .data.manifest import Dataset

    sets = Dataset.load(dataset).validation_sets
    return {name: tuple(pair.id for pair in pairs) for name, pairs in sets.items()}
