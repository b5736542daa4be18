"""The loss chart as a table, for people and for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from ..csv_cells import as_cell
from .curves import Curve, Curves, epoch_text, number, percent

FORMATS = ("markdown", "json", "csv")
COLUMNS = (
    "run",
    "set",
    "epoch",
    "step",
    "loss",
    "standard_error",
    "change_percent",
    "lowest",
    "trending_up",
)


def rows(runs: Sequence[Curves]) -> list[dict[str, Any]]:
    """A row for every validation of every set of every run, by COLUMNS.

    `standard_error` is that of the change since the run's first validation, pair by pair, in units
    of the loss; None where it is not known, as is `change_percent` when the first loss was 0.
    """
    return [
        {
            "run": curve.run,
            "set": curve.name,
            "epoch": round(point.epoch, 4),
            "step": point.step,
            "loss": point.loss,
            "standard_error": point.error,
            "change_percent": _finite(curve.change(point)),
            "lowest": point is curve.best,
            "trending_up": point.rising,
        }
        for curve in _curves(runs)
        for point in curve.points
    ]


def summaries(runs: Sequence[Curves]) -> list[dict[str, Any]]:
    """What each set of each run has come to, with the sentence that the chart shows."""
    found = []
    for curve in _curves(runs):
        best, rising = curve.best, curve.trending_up_from
        found.append(
            {
                "run": curve.run,
                "set": curve.name,
                "pairs": curve.pairs,
                "start": curve.first.loss,
                "lowest": best.loss,
                "lowest_epoch": round(best.epoch, 4),
                "lowest_step": best.step,
                "change_percent": _finite(curve.change(best)),
                "standard_error_percent": _error_percent(curve),
                "last": curve.last.loss,
                "last_epoch": round(curve.last.epoch, 4),
                "last_change_percent": _finite(curve.change(curve.last)),
                "trending_up_from_epoch": None if rising is None else round(rising.epoch, 4),
                "text": str(curve),
            }
        )
    return found


def as_json(runs: Sequence[Curves]) -> dict[str, Any]:
    """Summaries and rows."""
    return {"summary": summaries(runs), "validations": rows(runs)}


def as_csv(runs: Sequence[Curves]) -> str:
    """The rows, with a header; true and false are 1 and 0, what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows(runs):
        writer.writerow(
            int(value) if isinstance(value, bool) else "" if value is None else as_cell(value)
            for value in row.values()
        )
    return text.getvalue()


def as_markdown(runs: Sequence[Curves]) -> str:
    """The summaries, then the loss of every validation, as Markdown tables."""
    heads = ("run", "set", "start", "lowest", "at epoch", "change", "last", "at epoch", "change")
    summary = [
        (
            _cell(curve.run),
            curve.name,
            number(curve.first.loss),
            number(curve.best.loss),
            epoch_text(curve.best.epoch),
            _change(curve.change(curve.best), _error_percent(curve)),
            number(curve.last.loss),
            epoch_text(curve.last.epoch),
            _change(curve.change(curve.last)),
        )
        for curve in _curves(runs)
    ]
    if not summary:
        return "Nothing has been validated yet."
    parts = [_table((*heads, "trending up from epoch"), _with_trends(summary, runs))]
    for curve in _curves(runs):
        points = [
            (
                epoch_text(point.epoch) + (" (lowest)" if point is curve.best else ""),
                str(point.step),
                f"{point.loss:.6g}",
                "" if point.error is None else f"{point.error:.2g}",
                _change(curve.change(point)),
            )
            for point in curve.points
        ]
        title = f"**{_cell(curve.run)}, {curve.name}**: {curve}"
        parts += [title, _table(("epoch", "step", "loss", "standard error", "change"), points)]
    return "\n\n".join(parts)


def _with_trends(
    summary: Sequence[tuple[str, ...]], runs: Sequence[Curves]
) -> list[tuple[str, ...]]:
    found = []
    for line, curve in zip(summary, _curves(runs), strict=True):
        rising = curve.trending_up_from
        found.append((*line, "" if rising is None else epoch_text(rising.epoch)))
    return found


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    parts = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    parts += ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(parts)


def _curves(runs: Sequence[Curves]) -> list[Curve]:
    return [curve for run in runs for curve in run.sets]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _error_percent(curve: Curve) -> float | None:
    """The standard error of the change from the start to the lowest loss, in percent."""
    error = curve.best.error
    return None if error is None or not curve.first.loss else 100 * error / curve.first.loss


def _change(value: float, error: float | None = None) -> str:
    if not math.isfinite(value):
        return ""
    sign = "+" if value > 0 else ""
    return f"{sign}{percent(value)}" + (f" ± {percent(error)}" if error else "")
