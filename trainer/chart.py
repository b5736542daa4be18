"""The loss chart of one or more runs, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures.curves import Curve, Curves, epoch_text, read_curves
from .files import canonical_json, sha256_text, write_bytes
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
MARKERS = ("o", "s", "^", "v", "P", "X")
SMOOTHING_SHARE = 0.04
"""The training loss is smoothed over this share of all steps."""
VIEWS = ("loss and change", "loss", "change since the start")
LEGEND_SHARE = 0.85
"""A wider legend than this share of the picture would make the charts narrow."""
DRAWING = 3
"""Raised when the same figures are drawn in another way: that chart gets another name."""


def chart_name(
    runs: Sequence[Run], view: str = VIEWS[0], smoothing: float = SMOOTHING_SHARE
) -> str:
    """A file name for the chart of these runs, which changes whenever they record something."""
    return name_of([read_curves(run) for run in runs], view, smoothing)


def name_of(
    curves: Sequence[Curves], view: str = VIEWS[0], smoothing: float = SMOOTHING_SHARE
) -> str:
    """A file name for the chart of these curves, by all that it shows."""
    content = [DRAWING, view, smoothing, [asdict(run) for run in curves]]
    names = "_".join(run.run for run in curves)[:100]
    return f"{names}_{sha256_text(canonical_json(content))[:8]}.png"


def draw_chart(
    runs: Sequence[Run], path: Path, view: str = VIEWS[0], smoothing: float = SMOOTHING_SHARE
) -> None:
    """Write the chart of these runs as a PNG of 1200 x 900 pixels."""
    write_bytes(path, chart_png([read_curves(run) for run in runs], view, smoothing))


def chart_png(
    curves: Sequence[Curves], view: str = VIEWS[0], smoothing: float = SMOOTHING_SHARE
) -> bytes:
    """The chart of these curves as a PNG of 1200 x 900 pixels."""
    picture = io.BytesIO()
    _figure(curves, view, smoothing).savefig(picture, format="png")
    return picture.getvalue()


def make_figure(
    runs: Sequence[Run], view: str = VIEWS[0], smoothing: float = SMOOTHING_SHARE
) -> Figure:
    """Training and validation loss over epochs, and below them the loss of every set relative to
    its value before training, with the best epoch marked by a star. `view`, one of VIEWS, can leave
    out one of the two charts.

    Bands are one standard error of the change since the start, pair by pair, to both sides; shaded
    are the epochs at which the validation loss was trending up. Only the second chart compares runs
    at different resolutions: the noise of a larger picture is easier to predict.
    """
    return _figure([read_curves(run) for run in runs], view, smoothing)


def _figure(curves: Sequence[Curves], view: str, smoothing: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
    wanted = VIEWS[1:] if view == VIEWS[0] else (view,)
    axes = figure.subplots(len(wanted), 1, sharex=True, squeeze=False)[:, 0]
    charts = dict(zip(wanted, axes, strict=True))
    for run, colour in zip(curves, COLOURS * len(curves), strict=False):
        if VIEWS[1] in charts:
            _draw_losses(charts[VIEWS[1]], run, colour, smoothing)
        if VIEWS[2] in charts:
            _draw_changes(charts[VIEWS[2]], run, colour)
    for name, axes in charts.items():
        if name == VIEWS[1]:
            axes.set_ylabel("loss (mean squared error)")
            axes.set_ylim(bottom=0)
        else:
            axes.set_ylabel("change since the start, in %")
            axes.axhline(0, color="#999999", linewidth=0.8)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            _add_legend(axes)
    list(charts.values())[-1].set_xlabel("epoch")
    return figure


def _add_legend(axes: Axes) -> None:
    """Above the chart, where no legend hides a curve, in two columns where they fit."""
    for columns in (2, 1):
        legend = axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            fontsize=9,
            frameon=False,
            borderpad=0.2,
            columnspacing=3,
        )
        if legend.get_window_extent().width <= LEGEND_SHARE * axes.figure.bbox.width:
            return


def _draw_losses(axes: Any, run: Curves, colour: str, smoothing: float) -> None:
    if run.losses:
        smooth = smoothed(run.losses, smoothing)
        axes.plot(run.epochs, run.losses, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(run.epochs, smooth, color=colour, linewidth=1.5, label=f"{run.run}: training")
    for curve, marker in zip(run.sets, MARKERS * len(run.sets), strict=False):
        x, y = [p.epoch for p in curve.points], [p.loss for p in curve.points]
        line = "o--" if curve is run.validation else f"{marker}:"
        label = f"{run.run}: {curve.name}"
        axes.plot(x, y, line, color=colour, markersize=4, linewidth=1.2, label=label)
        _draw_band(axes, curve, colour, lambda loss: loss)


def _draw_changes(axes: Any, run: Curves, colour: str) -> None:
    """The change of every set, with a star at the lowest and a sentence about it."""
    for curve, marker in zip(run.sets, MARKERS * len(run.sets), strict=False):
        x, first = [p.epoch for p in curve.points], curve.first.loss
        y = [curve.change(point) for point in curve.points]
        main = curve is run.validation
        line, thickness = ("o-", 1.5) if main else (f"{marker}:", 1.0)
        name = run.run if main else f"{run.run}, {curve.name}"
        label = f"{name}: {curve}"
        axes.plot(x, y, line, color=colour, markersize=4, linewidth=thickness, label=label)
        _draw_band(axes, curve, colour, lambda loss, first=first: 100 * (loss / first - 1))
        best = curve.best
        size = 16 if main else 10
        axes.plot(best.epoch, curve.change(best), "*", color=colour, markersize=size)
        if main:
            _shade_rises(axes, curve, colour)


def _draw_band(axes: Any, curve: Curve, colour: str, scale: Any) -> None:
    known = [point for point in curve.points if point.error is not None]
    if len(known) < 2 or not curve.first.loss:
        return
    low = [scale(point.loss - (point.error or 0.0)) for point in known]
    high = [scale(point.loss + (point.error or 0.0)) for point in known]
    x = [point.epoch for point in known]
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _shade_rises(axes: Any, curve: Curve, colour: str) -> None:
    """Shade the epochs at which the loss was trending up, each stretch up to the next validation
    at which it was not.
    """
    points = list(curve.points)
    for start, end in curve.rises():
        after = points[points.index(end) + 1 :]
        until = after[0].epoch if after else end.epoch
        words = f"{curve.run}: trending up from epoch {epoch_text(start.epoch)}"
        axes.axvspan(start.epoch, until, color=colour, alpha=0.1, linewidth=0, label=words)
        axes.axvline(start.epoch, color=colour, alpha=0.6, linewidth=1, linestyle="-.")


def smoothed(values: Sequence[float], share: float = SMOOTHING_SHARE) -> list[float]:
    """Exponential moving average over this share of the values (at least three of them; 0 = as they
    are), corrected for its bias at the start (Kingma & Ba 2015, section 3).
    """
    if not share:
        return list(values)
    factor = 1 - 1 / max(3.0, share * len(values))
    average, result = 0.0, []
    for count, value in enumerate(values, start=1):
        average = factor * average + (1 - factor) * value
        result.append(average / (1 - factor**count))
    return result
