"""Pictures of checkpoints, drawn by matplotlib: the tree of a recipe, and a bar for the difference
of each block.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .comparison import Difference
from .inspection import Branch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
MOST_LINES = 200
INK, LINE, BAR = "#222222", "#999999", "#3f789e"


def draw_tree(branches: Sequence[Branch]) -> bytes:
    """A recipe's tree (`inspection.tree`) as a PNG. A tree of more than 200 lines is cut, with a
    line that says so.
    """
    shown = list(branches[:MOST_LINES])
    if len(branches) > MOST_LINES:
        shown.append(Branch(0, f"... and {len(branches) - MOST_LINES} more lines"))
    width = max(len(b.text) + 4 * b.depth for b in shown)
    figure = _figure(max(4.0, 0.09 * width + 0.6), 0.28 * len(shown) + 0.4)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.5, max(4.0, 0.09 * width + 0.6) / 0.3)
    axes.set_ylim(len(shown), -1)
    last: dict[int, int] = {}
    for row, branch in enumerate(shown):
        if branch.depth and branch.depth - 1 in last:
            x = branch.depth - 0.7
            axes.plot([x, x, x + 0.5], [last[branch.depth - 1] + 0.35, row, row], color=LINE, lw=1)
        last[branch.depth] = row
        weight = "bold" if row == 0 else "normal"
        axes.text(
            branch.depth, row, _plain(branch.text), va="center", color=INK, size=10, weight=weight
        )
    return _png(figure)


def draw_differences(differences: Sequence[Difference], a: str, b: str) -> bytes:
    """Bars of the relative difference of every block in percent as a PNG, 1200 x 480 pixels."""
    figure = _figure(12, 4.8)
    axes = figure.add_axes((0.07, 0.17, 0.91, 0.71))
    values = [100 * d.relative if math.isfinite(d.relative) else 0.0 for d in differences]
    places = range(len(values))
    axes.bar(places, values, color=BAR)
    top = max([*values, 1e-9])
    for place, difference, value in zip(places, differences, values, strict=True):
        label = "0" if difference.equal == difference.tensors else _percent(difference.relative)
        axes.text(place, value + top * 0.01, label, ha="center", va="bottom", size=7, color=INK)
    axes.set_xticks(list(places), [d.slot for d in differences], rotation=60, ha="right", size=8)
    axes.set_ylim(0, top * 1.1)
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.set_ylabel("difference, % of the norm of A")
    axes.set_title(f"A = {_plain(a)}, B = {_plain(b)}", size=10)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _percent(relative: float) -> str:
    return f"{100 * relative:.3g}" if math.isfinite(relative) else "from 0"


def _plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
