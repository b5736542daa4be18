"""The chart of a learning rate range test: its loss against the rate."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from .range_test import Reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RAW, SMOOTH, MARK, BAD = "#56B4E9", "#0072B2", "#009E73", "#D55E00"
"""Of Okabe and Ito's palette, which colour-blind readers can tell apart."""


def draw_range(reading: Reading, title: str) -> bytes:
    """The chart as a PNG of 1200 x 700 pixels."""
    picture = io.BytesIO()
    range_figure(reading, title).savefig(picture, format="png")
    return picture.getvalue()


def range_figure(reading: Reading, title: str) -> Figure:
    """Each step's loss and the smoothed loss over the rate, which has a logarithmic axis; the loss
    at the start with its noise, and lines at the suggested rate, the steepest fall and where the
    loss diverges.

    The upper end is cut where an exploding loss would flatten everything else.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.semilogx(
        reading.rates, reading.losses, ".", color=RAW, alpha=0.5, markersize=4, label="each step"
    )
    axes.semilogx(reading.rates, reading.smooth, color=SMOOTH, linewidth=2, label="smoothed")
    axes.axhspan(
        reading.start - reading.noise,
        reading.start + reading.noise,
        color="#999999",
        alpha=0.3,
        label=f"start: {reading.start:.4f}, with its noise",
    )
    marks = [
        (reading.steepest, "falls most steeply", SMOOTH, ":"),
        (reading.diverges, "diverges", BAD, "--"),
        (reading.suggested, "suggested", MARK, "-"),
    ]
    for rate, words, colour, style in marks:
        if rate is not None:
            label = f"{words}: {rate:.2g}"
            axes.axvline(rate, color=colour, linestyle=style, linewidth=1.5, label=label)
    highest = 2 * reading.start
    low = min(reading.smooth.min(), reading.start) - 0.3 * reading.start
    axes.set_ylim(max(0.0, low), highest)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (mean squared error)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure
