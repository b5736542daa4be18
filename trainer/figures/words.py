"""What a run has come to, in plain words: what was reached, when it began to overfit, and what one
could try. Every line carries the figures behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..runs import Run
from ..trend import STANDARD_ERRORS
from .curves import TRAINING, Curve, Curves, NotRecorded, epoch_text, number, percent, read_curves
from .heat_map import HeatMap, judge, read_heat_map
from .pairs import Standing, standings

FAR = 3.0
"""From this score on a pair is worth a look: by chance about one in seven hundred has it."""
STEADY = 0.25
"""A standard error above this share of the change that is to be seen is called large."""


@dataclass(frozen=True)
class Line:
    """A sentence and the figures that it rests on."""

    text: str
    figures: dict[str, float | int | str]

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text, "figures": self.figures}


def read_lines(run: Run) -> list[Line]:
    """The lines about a run as it stands; at least one."""
    curves = read_curves(run)
    curve = curves.validation
    if curve is None:
        return [Line("The run has not validated yet, so nothing can be said about it.", {})]
    heat = _heat_map(run)
    ranked = _standings(run)
    lines = [_reached(curve), _rise(curve, run)]
    if heat is not None and len(heat.epochs) > 1:
        lines.append(_by_part(heat))
    if (gap := _gap(curves)) is not None:
        lines.append(gap)
    if (far := _far(ranked)) is not None:
        lines.append(far)
    return lines + _advice(curve, run)


def as_text(lines: Sequence[Line]) -> str:
    """The lines below each other."""
    return "\n".join(line.text for line in lines)


def _heat_map(run: Run) -> HeatMap | None:
    try:
        return read_heat_map(run)
    except NotRecorded:
        return None


def _standings(run: Run) -> list[Standing]:
    try:
        return standings(run)
    except NotRecorded:
        return []


def _reached(curve: Curve) -> Line:
    """Start, lowest loss and whether the difference is more than noise."""
    best, first = curve.best, curve.first
    figures = _figures(
        start=first.loss,
        lowest=best.loss,
        lowest_epoch=best.epoch,
        change_percent=curve.change(best),
        standard_error_percent=_error(curve),
        pairs=curve.pairs,
    )
    if len(curve.points) == 1:
        return Line(f"The validation loss is {number(first.loss)}; it was measured once.", figures)
    if best is first:
        text = f"The validation loss was never lower than at the start, {number(first.loss)}."
        return Line(text, figures)
    error = _error(curve)
    sure = "" if error is None else f" (standard error {percent(error)} over {curve.pairs} pairs)"
    text = f"Validation loss {curve}{sure}."
    if error is not None and -curve.change(best) <= STANDARD_ERRORS * error:
        text += " That is no more than chance would explain."
    return Line(text, figures)


def _rise(curve: Curve, run: Run) -> Line:
    """Whether and when it began to overfit."""
    verdict = _verdict(curve, run)
    rise = 100 * (curve.last.loss / curve.best.loss - 1) if curve.best.loss else math.nan
    figures = _figures(
        lowest_epoch=curve.best.epoch, last_epoch=curve.last.epoch, above_lowest_percent=rise
    )
    last = epoch_text(curve.last.epoch)
    if verdict == "overfits":
        rising = curve.trending_up_from or curve.last
        figures |= _figures(trending_up_from_epoch=rising.epoch)
        lowest, since = epoch_text(curve.best.epoch), epoch_text(rising.epoch)
        return Line(
            f"It began to overfit after epoch {lowest}: the loss has been trending up from epoch "
            f"{since} on, and is {percent(rise)} above its lowest at epoch {last}.",
            figures,
        )
    if curve.best is curve.last and len(curve.points) > 1:
        return Line(
            f"No overfitting so far: the last validation, epoch {last}, is the lowest.", figures
        )
    if len(curve.points) == 1:
        return Line("Whether it overfits cannot be said before it is measured again.", figures)
    if verdict == "has risen":
        return Line(
            f"At epoch {last} the loss is {percent(rise)} above its lowest, which is more than "
            "noise, but not yet long enough to call it overfitting.",
            figures,
        )
    return Line(
        f"No overfitting beyond noise: at epoch {last} the loss is {percent(rise)} above its "
        "lowest.",
        figures,
    )


def _by_part(heat: HeatMap) -> Line:
    figures: dict[str, float | int | str] = {}
    for part in heat.parts:
        figures[f"{part.name}_verdict"] = part.verdict
        figures |= _figures(
            **{
                f"{part.name}_change_percent": 100 * part.share,
                f"{part.name}_since_epoch": part.since,
            }
        )
    words = heat.words
    return Line(f"By noise level: {words}.", figures)


def _gap(curves: Curves) -> Line | None:
    """Measured training pairs beside validation pairs."""
    training = next((curve for curve in curves.sets if curve.name == TRAINING), None)
    curve = curves.validation
    if training is None or curve is None or len(training.points) < 2:
        return None
    seen, unseen = training.change(training.last), curve.change(curve.last)
    if not (math.isfinite(seen) and math.isfinite(unseen)):
        return None
    between = "; what lies between is learned by heart" if seen < unseen else ""
    return Line(
        f"Since the start the loss of the measured training pairs has changed by {seen:+.1f} %, "
        f"that of the validation pairs by {unseen:+.1f} %{between}.",
        _figures(training_change_percent=seen, validation_change_percent=unseen),
    )


def _far(ranked: Sequence[Standing]) -> Line | None:
    far = [standing for standing in ranked if standing.score >= FAR]
    if not far:
        return None
    verb = "stands" if len(far) == 1 else "stand"
    return Line(
        f"{len(far)} of {len(ranked)} measured pairs {verb} out ({FAR:g} spreads or more above "
        f"what is usual, the furthest {far[0].score:.1f}). Pairs That Stand Out shows them.",
        _figures(pairs=len(far), measured=len(ranked), highest_score=far[0].score),
    )


def _advice(curve: Curve, run: Run) -> list[Line]:
    """What one could try, each with the figure that speaks for it."""
    lines, settings = [], run.settings
    error, best = _error(curve), curve.best
    if len(curve.points) < 2:
        return lines
    change, second = curve.change(best), curve.change(curve.points[1])
    verdict = _verdict(curve, run)
    at_end = curve.last.epoch > settings.epochs - 0.5
    if best is curve.first:
        if curve.points[1].error is not None and second > 0 and _sure(curve, 1):
            lines.append(
                Line(
                    f"Try a lower learning rate than {settings.learning_rate:g}: the first "
                    f"validation was already {percent(second)} above the start.",
                    _figures(first_change_percent=second, learning_rate=settings.learning_rate),
                )
            )
        elif verdict == "has not changed" and at_end:
            lines.append(
                Line(
                    f"Try a higher learning rate or more epochs: with {settings.learning_rate:g} "
                    f"nothing has changed beyond noise in {epoch_text(curve.last.epoch)} epochs.",
                    _figures(learning_rate=settings.learning_rate, last_epoch=curve.last.epoch),
                )
            )
    elif verdict == "overfits":
        lines.append(
            Line(
                f"Use the checkpoint of epoch {epoch_text(best.epoch)} (Pick Checkpoint, lowest "
                "validation loss). Against overfitting one could try more pairs, a lower learning "
                f"rate than {settings.learning_rate:g}, or more conditional dropout than "
                f"{settings.conditional_dropout:g}.",
                _figures(
                    lowest_epoch=best.epoch,
                    learning_rate=settings.learning_rate,
                    conditional_dropout=settings.conditional_dropout,
                ),
            )
        )
    elif verdict == "still improves" and at_end:
        lines.append(
            Line(
                f"Try more epochs than {settings.epochs}: the loss was still falling at the end, "
                f"by {percent(-change)} in all.",
                _figures(epochs=settings.epochs, change_percent=change),
            )
        )
    if error and abs(change) and error > STEADY * abs(change):
        lines.append(
            Line(
                f"Hold back more pairs than {curve.pairs} or measure more noise levels than "
                f"{settings.validation_timesteps}: the standard error, {percent(error)}, is large "
                f"beside a change of {percent(change)}.",
                _figures(
                    pairs=curve.pairs,
                    noise_levels=settings.validation_timesteps,
                    standard_error_percent=error,
                    change_percent=change,
                ),
            )
        )
    return lines


def _verdict(curve: Curve, run: Run) -> str:
    """What the heat map's rule says of the loss as a whole; without losses of pairs by the points
    that the trend rule marked.
    """
    validations = run.validations()
    if len(validations) != len(curve.points):
        return "overfits" if curve.last.rising else "unknown"
    epochs = [point.epoch for point in curve.points]
    return judge("loss", validations, epochs, run.settings.validation.trend_patience).verdict


def _sure(curve: Curve, index: int) -> bool:
    """Whether the change up to a point is more than its noise."""
    point = curve.points[index]
    return abs(point.loss - curve.first.loss) > STANDARD_ERRORS * (point.error or math.inf)


def _error(curve: Curve) -> float | None:
    """The standard error of the change to the lowest loss, in percent of the start."""
    if curve.best.error is None or not curve.first.loss:
        return None
    return 100 * curve.best.error / curve.first.loss


def _figures(**values: float | int | None) -> dict[str, float | int | str]:
    """Those that are known, as JSON can hold them."""
    return {
        name: value for name, value in values.items() if value is not None and math.isfinite(value)
    }
