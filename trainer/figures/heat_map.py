"""Validation loss by epoch and noise level: which part of a picture is still being learned, and
which is learned by heart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..noise import TIMESTEPS
from ..runs import Run
from ..trend import STANDARD_ERRORS, Change, change, trend
from .curves import NotRecorded, are_levels, epoch_text, percent, places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("detail", "form", "composition")
"""What a third of the noise levels decides, from little noise to much. That much noise decides the
large forms and little noise the fine ones is usual knowledge (Choi et al. 2022, "Perception
prioritized training of diffusion models"); the borders are plain thirds of the schedule.
"""
MOST_NUMBERS = 12
"""Cells have their numbers written in them up to so many columns or rows."""


@dataclass(frozen=True)
class Level:
    """A stretch of noise levels, `start` <= t < `end` of 1000, and what it decides."""

    start: int
    end: int
    label: str

    def __str__(self) -> str:
        return f"{self.label}, t {self.start}-{self.end - 1}"


@dataclass(frozen=True)
class Part:
    """How the loss of one of PARTS has gone, and the figures that say so.

    `verdict` is one of "overfits", "has risen", "still improves", "has levelled off", "has not
    changed" and "measured once". `since` is the epoch that `change` looks back to, the paired
    difference between the newest validation and the one then; `share` is that difference relative
    to the loss then.
    """

    name: str
    verdict: str
    since: float
    share: float
    change: Change
    lowest_epoch: float
    lowest_share: float

    def __str__(self) -> str:
        error = 100 * self._error_share()
        figures = f"standard error {percent(error)}" if math.isfinite(error) else "one pair"
        then = "the start" if not self.since else f"epoch {epoch_text(self.since)}"
        if self.verdict == "overfits":
            start = "from the start" if not self.since else f"from {then}"
            return f"{self.name} overfits {start} (+{percent(100 * self.share)} since, {figures})"
        if self.verdict == "has risen":
            risen = f"has risen since {then} (+{percent(100 * self.share)}, {figures})"
            return f"{self.name} {risen}, not yet long enough to call it overfitting"
        if self.verdict == "still improves":
            return (
                f"{self.name} still improves ({percent(100 * self.share)} since {then}, {figures})"
            )
        if self.verdict == "has levelled off":
            lowest = f"lowest at epoch {epoch_text(self.lowest_epoch)}"
            below = f"{percent(-100 * self.lowest_share)} below the start"
            return f"{self.name} has levelled off ({lowest}, {below})"
        if self.verdict == "measured once":
            return f"{self.name} has been measured once"
        sign = "+" if self.share > 0 else ""
        share = f"{sign}{percent(100 * self.share)}"
        return f"{self.name} has not changed beyond its noise ({share} since {then}, {figures})"

    def _error_share(self) -> float:
        """The standard error of the change, relative to the loss then."""
        before = self.change.mean / self.share if self.share else math.inf
        return self.change.standard_error / before if before else math.inf


@dataclass(frozen=True)
class HeatMap:
    """The mean loss of all validation pairs at every validation (`epochs`, `steps`) and noise
    level: `loss[validation][level]`.
    """

    run: str
    epochs: tuple[float, ...]
    steps: tuple[int, ...]
    levels: tuple[Level, ...]
    loss: tuple[tuple[float, ...], ...]
    parts: tuple[Part, ...]

    @property
    def relative(self) -> list[list[float]]:
        """The change since the first validation as a share: -0.01 is 1 % below it."""
        first = self.loss[0]
        return [
            [now / then - 1 if then else 0.0 for now, then in zip(row, first, strict=True)]
            for row in self.loss
        ]

    @property
    def above_lowest(self) -> list[list[float]]:
        """How far every loss is above the lowest of its noise level, as a share."""
        lowest = [min(column) for column in zip(*self.loss, strict=True)]
        return [
            [now / least - 1 if least else 0.0 for now, least in zip(row, lowest, strict=True)]
            for row in self.loss
        ]

    @property
    def words(self) -> str:
        """Such as "composition still improves (...), detail overfits from epoch 30 (...)"."""
        sentence = ", ".join(str(part) for part in reversed(self.parts))
        if not self.epochs[0]:
            return sentence
        return f"{sentence}; noise levels are known from epoch {epoch_text(self.epochs[0])} on"

    def as_json(self) -> dict[str, Any]:
        """What the route answers; `parts` are the figures behind the words."""
        return {
            "epochs": [round(epoch, 4) for epoch in self.epochs],
            "steps": list(self.steps),
            "levels": [
                {"from": level.start, "to": level.end, "label": level.label}
                for level in self.levels
            ],
            "loss": [list(row) for row in self.loss],
            "relative": self.relative,
            "words": self.words,
            "parts": [
                {
                    "part": part.name,
                    "verdict": part.verdict,
                    "since_epoch": round(part.since, 4),
                    "change": part.share,
                    "difference": part.change.mean,
                    "standard_error": _finite(part.change.standard_error),
                    "lowest_epoch": round(part.lowest_epoch, 4),
                    "text": str(part),
                }
                for part in self.parts
            ],
        }


def read_heat_map(run: Run) -> HeatMap:
    """The heat map of a run. Raises NotRecorded when it has no losses by noise level."""
    lines = [line for line in run.validations() if are_levels(line.get("levels"))]
    if not lines:
        raise NotRecorded(
            f"{run.name} has recorded no losses by noise level: it has not validated yet, or it "
            "was trained by an older Cocktail. New validations record them: train more epochs, "
            "or train again."
        )
    count = len(next(iter(lines[-1]["levels"].values())))
    lines = [line for line in lines if len(next(iter(line["levels"].values()))) == count]
    place = places(run)
    epochs = tuple(place(line["step"]) for line in lines)
    levels = make_levels(count)
    pairs = [line["levels"] for line in lines]
    patience = run.settings.validation.trend_patience
    named = [name for name in PARTS if any(level.label == name for level in levels)]
    return HeatMap(
        run.name,
        epochs,
        tuple(line["step"] for line in lines),
        levels,
        tuple(
            tuple(sum(column) / len(column) for column in zip(*found.values(), strict=True))
            for found in pairs
        ),
        tuple(_part(name, levels, pairs, epochs, patience) for name in named),
    )


def make_levels(count: int) -> tuple[Level, ...]:
    """The stretches that a validation with so many noise levels measures (see Validation)."""
    levels = []
    for index in range(count):
        start, end = (round(place / count * TIMESTEPS) for place in (index, index + 1))
        third = int((index + 0.5) / count * len(PARTS))
        levels.append(Level(start, end, PARTS[third]))
    return tuple(levels)


def _part(
    name: str,
    levels: Sequence[Level],
    pairs: Sequence[Mapping[str, Sequence[float]]],
    epochs: Sequence[float],
    patience: int,
) -> Part:
    """Judge the levels of a part by the rules of `trend`, pair by pair."""
    own = [index for index, level in enumerate(levels) if level.label == name]
    validations = [
        {
            "epoch": index,
            "step": index,
            "pairs": {
                pair: sum(losses[i] for i in own) / len(own) for pair, losses in found.items()
            },
        }
        for index, found in enumerate(pairs)
    ]
    return judge(name, validations, epochs, patience)


def judge(
    name: str, validations: Sequence[Mapping[str, Any]], epochs: Sequence[float], patience: int
) -> Part:
    """How a loss has gone over validations, each with its `pairs`, at `epochs`.

    It overfits when `trend` says that it has been rising since its lowest, and has risen when the
    newest validation alone is that much above the lowest. It still improves when the newest is
    below an earlier one, `patience` validations or a quarter of all ago, by more than two standard
    errors of the paired difference. Otherwise it has levelled off when its lowest is that much
    below the start, and has not changed when it is not.
    """
    means = [sum(v["pairs"].values()) / len(v["pairs"]) for v in validations]
    best = min(range(len(means)), key=means.__getitem__)
    last = len(means) - 1

    def part(verdict: str, since: int) -> Part:
        return Part(
            name,
            verdict,
            epochs[since],
            means[last] / means[since] - 1 if means[since] else 0.0,
            change(validations[since]["pairs"], validations[last]["pairs"]),
            epochs[best],
            means[best] / means[0] - 1 if means[0] else 0.0,
        )

    if not last:
        return part("measured once", 0)
    if trend(validations, patience) is not None:
        return part("overfits", best)
    if change(validations[best]["pairs"], validations[last]["pairs"]).rise(len(means)):
        return part("has risen", best)
    before = max(0, last - max(patience, last // 4))
    if _falls(change(validations[before]["pairs"], validations[last]["pairs"])):
        return part("still improves", before)
    if _falls(change(validations[0]["pairs"], validations[best]["pairs"])):
        return part("has levelled off", best)
    return part("has not changed", 0)


def _falls(found: Change) -> bool:
    return found.mean < -STANDARD_ERRORS * found.standard_error


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def draw_heat_map(heat: HeatMap) -> bytes:
    """The heat map as a PNG of 1200 x 900 pixels."""
    picture = io.BytesIO()
    make_figure(heat).savefig(picture, format="png")
    return picture.getvalue()


def make_figure(heat: HeatMap) -> Figure:
    """Above the change since the start, below how far each loss is above the lowest of its noise
    level, which a star marks. The words stand on top.
    """
    import numpy
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
    since, above = figure.subplots(2, 1, sharex=True)
    title = f"{heat.run}: validation loss by epoch and noise level"
    figure.suptitle(f"{title}\n{_lines(heat)}", fontsize=10, ha="left", x=0.01)
    relative = 100 * numpy.array(heat.relative).T
    widest = max(1e-3, float(numpy.abs(relative).max()))
    limits = {"vmin": -widest, "vmax": widest}
    _draw(figure, since, heat, relative, "RdBu_r", "change since the start, in %", limits)
    rising = 100 * numpy.array(heat.above_lowest).T
    best = numpy.array(heat.loss).argmin(axis=0)
    cap = max(1e-3, float(rising[:, best.min() :].max()))
    words = "above the lowest of its level, in %"
    _draw(figure, above, heat, rising, "YlOrBr", words, {"vmin": 0, "vmax": cap}, stars=True)
    above.set_xlabel("epoch (a star marks the lowest loss of a noise level)")
    return figure


def _lines(heat: HeatMap) -> str:
    """The words, a part on each line."""
    return "\n".join(str(part) for part in reversed(heat.parts))


def _draw(
    figure: Any,
    axes: Any,
    heat: HeatMap,
    values: Any,
    colours: str,
    label: str,
    limits: Mapping[str, float],
    stars: bool = False,
) -> None:
    """One of the two maps: `values` are (levels, validations), in percent. With `stars`, the lowest
    loss of every level has one in place of its number.
    """
    rows, columns = values.shape
    best = values.argmin(axis=1) if stars else [-1] * rows
    image = axes.imshow(
        values, cmap=colours, aspect="auto", origin="lower", interpolation="nearest", **limits
    )
    outside = values.max() > limits["vmax"] * 1.0001
    figure.colorbar(image, ax=axes, label=label, extend="max" if outside else "neither")
    every = math.ceil(columns / 20)
    shown = range(0, columns, every)
    axes.set_xticks(list(shown), [epoch_text(heat.epochs[index]) for index in shown])
    every = math.ceil(rows / 20)
    shown = range(0, rows, every)
    axes.set_yticks(list(shown), [str(heat.levels[index]) for index in shown])
    axes.set_ylabel("noise level")
    if stars:
        axes.plot(best, range(rows), "*", color="#0072B2", markersize=14, markeredgecolor="white")
    if columns > MOST_NUMBERS or rows > MOST_NUMBERS:
        return
    for row in range(rows):
        for column in (column for column in range(columns) if column != best[row]):
            value = float(values[row, column])
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            ink = "white" if dark else "black"
            words = f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}"
            axes.text(column, row, words, ha="center", va="center", color=ink, fontsize=9)
