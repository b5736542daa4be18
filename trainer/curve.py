"""The curve of a run for a chart of some hundred pixels: what metrics.jsonl holds, reduced so that
no low and no high of the training loss is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import TrainerError
from .recorded_steps import Floats, followed, is_number
from .runs import Run, checkpoint_lines

AXES = ("step", "epoch", "time")
MOST_POINTS = 5000


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

    steps, rest, byte = followed(run.folder / "metrics.jsonl").read()
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
            curve["loss"].append(loss if is_number(loss) else None)
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
