"""The losses of a run over its epochs, as plain figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import TrainerError
from ..recorded_steps import Floats, followed
from ..runs import Run, is_loss
from ..trend import change, trends

VALIDATION = "validation"
EVERYTHING = "all validation pairs"
"""The curve of all sets together, where there are several."""
TRAINING = "measured training pairs"
EMA = "EMA"
MOST_EPOCHS = 1_000_000
"""No run has more."""


class NotRecorded(TrainerError):
    """A run has not recorded, or not yet, what a figure needs."""


@dataclass(frozen=True)
class Point:
    """The loss of a set at a validation.

    `epoch` counts from 0 (before training); a validation in the middle of the third epoch is at
    2.5. `error` is the standard error of the change since the first validation, pair by pair; None
    where the losses of the pairs are not known. `rising`: the loss had been trending up by then.
    """

    epoch: float
    step: int
    loss: float
    error: float | None
    rising: bool = False


@dataclass(frozen=True)
class Curve:
    """The loss of one set of pairs at every validation of a run; there is at least one point."""

    run: str
    name: str
    pairs: int | None
    points: tuple[Point, ...]

    @property
    def first(self) -> Point:
        return self.points[0]

    @property
    def last(self) -> Point:
        return self.points[-1]

    @property
    def best(self) -> Point:
        """The point with the lowest loss, the earliest of them."""
        return min(self.points, key=lambda point: point.loss)

    @property
    def trending_up_from(self) -> Point | None:
        """Where the rise began that still holds at the last validation."""
        spans = self.rises()
        return spans[-1][0] if spans and spans[-1][1] is self.last else None

    def change(self, point: Point) -> float:
        """The change since the first validation, in percent; NaN when that was 0."""
        return 100 * (point.loss / self.first.loss - 1) if self.first.loss else math.nan

    def rises(self) -> list[tuple[Point, Point]]:
        """First and last point of every stretch of validations at which the loss was trending
        up.
        """
        spans: list[tuple[Point, Point]] = []
        for before, point in zip((None, *self.points), self.points, strict=False):
            if point.rising:
                start = spans.pop()[0] if before is not None and before.rising else point
                spans.append((start, point))
        return spans

    def __str__(self) -> str:
        """Such as "0.138, lowest at epoch 40, 1.4 % below the start"."""
        best = self.best
        if best is self.first:
            lowest = "never lower than at the start" if len(self.points) > 1 else "measured once"
            return f"{number(self.first.loss)}, {lowest}"
        below = f"{percent(-self.change(best))} below the start"
        return f"{number(self.first.loss)}, lowest at epoch {epoch_text(best.epoch)}, {below}"


@dataclass(frozen=True)
class Curves:
    """What a run has recorded so far: the training loss of every step (`epochs` says where each
    step lies) and a curve for every set that it validates.

    `sets` begins with all validation pairs; the named sets, the training pairs that are measured
    like them and the EMA's loss follow where a run has them.
    """

    run: str
    steps: tuple[int, ...]
    epochs: tuple[float, ...]
    losses: tuple[float, ...]
    sets: tuple[Curve, ...]

    @property
    def validation(self) -> Curve | None:
        return self.sets[0] if self.sets else None


def read_curves(run: Run) -> Curves:
    """The curves of a run. After a resume a step can be recorded twice: the later record holds."""
    import numpy as np

    steps, marks, _ = followed(run.folder / "metrics.jsonl").read()
    measured = {
        line["step"]: line
        for line in marks
        if line["kind"] == "validation" and isinstance(line["step"], int) and _loss(line)
    }
    place = Places(steps, marks, run.settings.epochs, run.state().steps)
    steps = steps[np.isfinite(steps[:, 3])]
    return Curves(
        run.name,
        tuple(steps[:, 1].astype(int).tolist()),
        tuple(place.each(steps[:, 1]).tolist()),
        tuple(steps[:, 3].tolist()),
        tuple(_sets(run, [measured[step] for step in sorted(measured)], place)),
    )


def places(run: Run) -> Places:
    """Where the steps of a run lie among its epochs."""
    steps, marks, _ = followed(run.folder / "metrics.jsonl").read()
    return Places(steps, marks, run.settings.epochs, run.state().steps)


class Places:
    """Where the steps of a run lie among its epochs, whose numbers of steps may differ."""

    def __init__(
        self, recorded: Floats, marks: Iterable[Mapping[str, Any]], epochs: int, steps: int
    ) -> None:
        """`recorded` and `marks` are what `recorded_steps` reads; `epochs` and `steps` are those of
        the whole run, 0 if they are not known. Epochs beyond MOST_EPOCHS are nonsense.
        """
        last = _ends(recorded[recorded[:, 0] <= MOST_EPOCHS])
        closed = set()
        for line in marks:
            if line["kind"] == "epoch" and 0 < line["epoch"] <= MOST_EPOCHS:
                closed.add(int(line["epoch"]))
                last[int(line["epoch"])] = int(line["step"])
        self.ends = [0]
        for epoch in range(1, max(last, default=0) + 1):
            end = last.get(epoch, 0)
            if epoch not in closed and epoch == max(last):
                usual = self.ends[-1] / (epoch - 1) if epoch > 1 else steps / max(1, epochs)
                end = max(end, round(self.ends[-1] + usual))
            self.ends.append(max(end, self.ends[-1] + 1))

    def __call__(self, step: int) -> float:
        """The place of a step: 2.5 is the middle of the third epoch."""
        import numpy as np

        return float(self.each(np.array([step]))[0])

    def each(self, steps: Floats) -> Floats:
        """The places of many steps. Those after the last epoch lie as far on as usual."""
        import numpy as np

        epochs = len(self.ends) - 1
        if not epochs:
            return np.zeros(len(steps))
        ends = np.array([*self.ends, self.ends[-1] * (1 + 1 / epochs)], dtype=float)
        which = np.searchsorted(ends, steps).clip(1, epochs + 1)
        places = which - 1 + (steps - ends[which - 1]) / (ends[which] - ends[which - 1])
        return np.where(steps <= 0, 0.0, places)


def _ends(recorded: Floats) -> dict[int, int]:
    """The last step of every epoch that has any."""
    import numpy as np

    epochs, which = np.unique(recorded[:, 0], return_inverse=True)
    last = np.zeros(len(epochs))
    np.maximum.at(last, which, recorded[:, 1])
    return dict(zip(epochs.astype(int).tolist(), last.astype(int).tolist(), strict=True))


def _loss(line: Mapping[str, Any], name: str = "loss") -> bool:
    """Whether a line has this loss, and it is a number."""
    value: Any = line.get(name)
    return is_loss(value) and not isinstance(value, bool) and math.isfinite(value)


def _sets(run: Run, lines: Sequence[Mapping[str, Any]], place: Places) -> list[Curve]:
    """The curve of every set, from the validation lines of the metrics in order of their steps."""
    if not lines:
        return []
    validations = {line["step"]: line for line in run.validations()}
    patience = run.settings.validation.trend_patience
    everything = {step: line["pairs"] for step, line in validations.items()}
    named = {key for line in lines for key in line if key.startswith("loss_") and _loss(line, key)}
    name = EVERYTHING if named else VALIDATION
    curves = [_curve(run.name, name, "loss", lines, place, everything, patience)]
    ids = set_ids(run) if named else {}
    for key in sorted(named):
        name = key.removeprefix("loss_")
        own = _chosen(everything, ids.get(name))
        curves.append(_curve(run.name, name, key, lines, place, own, patience))
    if any(_loss(line, "train_loss") for line in lines):
        own = {
            step: {pair: sum(losses) / len(losses) for pair, losses in line["training"].items()}
            for step, line in validations.items()
            if are_levels(line.get("training"))
        }
        curves.append(_curve(run.name, TRAINING, "train_loss", lines, place, own, patience))
    if any(_loss(line, "ema_loss") for line in lines):
        curves.append(_curve(run.name, EMA, "ema_loss", lines, place, {}, patience))
    return curves


def set_ids(run: Run) -> dict[str, set[str]]:
    """The ids of the pairs of every validation set; none when the manifest cannot be read."""
    try:
        sets = run.dataset().validation_sets
    except TrainerError:
        return {}
    return {name: {pair.id for pair in pairs} for name, pairs in sets.items()}


def are_levels(value: Any) -> bool:
    """Whether something is the losses of pairs at their noise levels, as many for each."""
    if not isinstance(value, dict) or not value:
        return False
    lists = list(value.values())
    return all(
        isinstance(losses, list)
        and losses
        and len(losses) == len(lists[0])
        and all(is_loss(loss) and math.isfinite(loss) for loss in losses)
        for losses in lists
    )


def _chosen(
    losses: Mapping[int, Mapping[str, float]], ids: set[str] | None
) -> dict[int, dict[str, float]]:
    """The losses of some pairs, at the validations that have any of them."""
    if not ids:
        return {}
    own = {
        step: {pair: loss for pair, loss in pairs.items() if pair in ids}
        for step, pairs in losses.items()
    }
    return {step: pairs for step, pairs in own.items() if pairs}


def _curve(
    run: str,
    name: str,
    key: str,
    lines: Sequence[Mapping[str, Any]],
    place: Places,
    pairs: Mapping[int, Mapping[str, float]],
    patience: int,
) -> Curve:
    """The curve of the losses under `key`; `pairs` are the losses of its pairs by step."""
    found = [line for line in lines if _loss(line, key)]
    known = [
        {"epoch": line["epoch"], "step": line["step"], "pairs": pairs[line["step"]]}
        for line in found
        if line["step"] in pairs
    ]
    rising = {
        line["step"]: verdict is not None
        for line, verdict in zip(known, trends(known, patience), strict=True)
    }
    first = pairs.get(found[0]["step"])
    points = []
    for line in found:
        step = line["step"]
        own, error = pairs.get(step), None
        if first and own and first.keys() & own.keys():
            spread = change(first, own).standard_error
            error = spread if math.isfinite(spread) else None
        points.append(Point(place(step), step, float(line[key]), error, rising.get(step, False)))
    return Curve(run, name, len(first) if first else None, tuple(points))


def number(loss: float) -> str:
    """A loss as people write it, with three digits that count: 0.138."""
    if loss == 0 or not math.isfinite(loss):
        return f"{loss:g}"
    return f"{loss:.{max(0, min(9, 2 - math.floor(math.log10(abs(loss)))))}f}"


def percent(value: float) -> str:
    """A share in percent: 1.4 %, 25 %, 0.03 %."""
    size = abs(value)
    digits = 0 if size >= 9.95 else 1 if size >= 0.995 else 2
    return f"{value:.{digits}f} %"


def epoch_text(epoch: float) -> str:
    """An epoch in words: 40, or 2.5 in the middle of the third."""
    return f"{round(epoch, 2):g}"
