"""The loss chart of one or more runs, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import canonical_json, sha256_text, write_bytes
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
SMOOTHING_SHARE = 0.04
"""The training loss is smoothed over this share of all steps."""


def chart_name(runs: Sequence[Run]) -> str:
    """A file name for the chart of these runs, which changes whenever they record something."""
    digest = sha256_text(canonical_json([[run.id, run.metrics()] for run in runs]))
    names = "_".join(run.name for run in runs)[:100]
    return f"{names}_{digest[:8]}.png"


def draw_chart(runs: Sequence[Run], path: Path) -> None:
    """Write the chart of these runs as a PNG of 1200 x 900 pixels."""
    picture = io.BytesIO()
    make_figure(runs).savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def make_figure(runs: Sequence[Run]) -> Figure:
    """Training and validation loss over epochs, and below them the validation loss relative to its
    value before training, with the best epoch marked by a star.

    Only the second chart compares runs at different resolutions: the noise of a larger picture is
    easier to predict.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
    losses, relative = figure.subplots(2, 1, sharex=True)
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        _draw_run(losses, relative, run, colour)
    losses.set_ylabel("loss (mean squared error)")
    losses.set_ylim(bottom=0)
    relative.set_ylabel("validation loss, change in %")
    relative.set_xlabel("epoch")
    relative.axhline(0, color="#999999", linewidth=0.8)
    for axes in (losses, relative):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right")
    return figure


def _draw_run(losses: Any, relative: Any, run: Run, colour: str) -> None:
    lines = [line for line in run.metrics() if isinstance(line.get("loss"), int | float)]
    steps = {line["step"]: line for line in lines if line["kind"] == "step"}
    validations = {line["step"]: line for line in lines if line["kind"] == "validation"}
    step_of = sorted(steps)
    per_epoch = max(
        1.0, max(step_of, default=1) / max((steps[s]["epoch"] for s in steps), default=1)
    )
    raw = [steps[step]["loss"] for step in step_of]
    x = [step / per_epoch for step in step_of]
    losses.plot(x, raw, color=colour, alpha=0.2, linewidth=0.8)
    losses.plot(x, smoothed(raw), color=colour, linewidth=1.5, label=f"{run.name}: training")
    if not validations:
        return
    points = [validations[step] for step in sorted(validations)]
    x = [point["epoch"] for point in points]
    y = [point["loss"] for point in points]
    losses.plot(x, y, "o--", color=colour, markersize=4, label=f"{run.name}: validation")
    change = [100 * (value / y[0] - 1) for value in y]
    relative.plot(x, change, "o-", color=colour, markersize=4, label=run.name)
    best = min(range(len(y)), key=y.__getitem__)
    label = f"best: epoch {x[best]}, {y[best]:.4f} ({change[best]:+.1f} %)"
    relative.plot(x[best], change[best], "*", color=colour, markersize=16, label=label)


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its bias at the start (Kingma & Ba 2015, section
    3).
    """
    factor = 1 - 1 / max(3.0, SMOOTHING_SHARE * len(values))
    average, result = 0.0, []
    for count, value in enumerate(values, start=1):
        average = factor * average + (1 - factor) * value
        result.append(average / (1 - factor**count))
    return result
