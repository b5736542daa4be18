"""The losses of a run as a drawing, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from .graph import LIGHT, cut, head
from .runs import Losses

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 30, 44
Point = tuple[float, float]
Place = Callable[[Point], Point]


def draw_losses(
    run: str, losses: Losses, chosen: Sequence[int], name: str, standalone: bool = False
) -> str:
    """Training loss, validation loss with a star at its lowest, and a line at each `chosen` epoch.
    `name` is what the ids of its elements begin with.
    """
    points = [*losses.validation, *losses.training]
    last = max([1.0, *(x for x, _ in points), *map(float, chosen)])
    values = [y for _, y in points] or [0.0, 1.0]
    ticks = _ticks(min(values), max(values))
    low, high = min(ticks), max(ticks)

    def at(point: Point) -> tuple[float, float]:
        x = LEFT + point[0] / last * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - point[1]) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return x, y

    parts = [head(WIDTH, HEIGHT, name, f"Losses of the run {cut(run, 60)}", spoken(losses))]
    parts.append(f"<style>{LIGHT}</style>" if standalone else "")
    parts += _axes(ticks, last, at)
    parts.append(_line(losses.training, at, 'class="train" stroke-width="1.2"'))
    parts.append(_line(losses.validation, at, 'class="validation" stroke-width="2"'))
    for point in losses.validation if len(losses.validation) <= 80 else ():
        x, y = at(point)
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    for epoch in chosen[:8]:
        x, _ = at((float(epoch), low))
        anchor, beside = ("end", x - 6) if x > WIDTH - 140 else ("start", x + 6)
        parts.append(
            f'<path class="chosen" stroke-width="1.5" stroke-dasharray="5 4" d="M{x:.1f} {TOP} '
            f'V{HEIGHT - BOTTOM}"/><text class="chosen-text" font-size="12" text-anchor="{anchor}" '
            f'x="{beside:.1f}" y="{TOP + 12}">epoch {epoch}, used</text>'
        )
    if losses.best is not None:
        parts.append(_star(*at(losses.best)))
    return "".join([*parts, _legend(bool(losses.training)), "</svg>"])


def spoken(losses: Losses) -> str:
    """What the chart shows, in words."""
    if not losses.validation:
        return "No validation loss is recorded." if losses.training else "No loss is recorded."
    first, best = losses.validation[0], losses.best
    assert best is not None
    change = f", {100 * (best[1] / first[1] - 1):+.1f} % since the start" if first[1] else ""
    return (
        f"Validation loss {first[1]:.4f} at epoch {first[0]:g}; lowest {best[1]:.4f} at epoch "
        f"{best[0]:g}{change}."
    )


def _axes(ticks: Sequence[float], last: float, at: Place) -> list[str]:
    parts = []
    power = math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)
    is_half = abs((ticks[1] - ticks[0]) / 10.0**power - 2.5) < 0.01
    digits = max(0, is_half - power)
    for tick in ticks:
        _, y = at((0.0, tick))
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f} H{WIDTH - RIGHT}"/><text class="axis-text" '
            f'font-size="12" text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{tick:.{digits}f}'
            "</text>"
        )
    for tick in [one for one in _ticks(0.0, last) if one <= last * 1.001]:
        x, _ = at((tick, ticks[0]))
        parts.append(
            f'<text class="axis-text" font-size="12" text-anchor="middle" x="{x:.1f}" '
            f'y="{HEIGHT - BOTTOM + 18}">{tick:g}</text>'
        )
    parts.append(
        f'<text class="axis-text" font-size="12" text-anchor="end" x="{WIDTH - RIGHT}" '
        f'y="{HEIGHT - 6}">epoch</text>'
    )
    return parts


def _legend(has_training: bool) -> str:
    entries = [("validation", "validation loss"), ("train", "training loss")][: 1 + has_training]
    parts, x = [], LEFT
    for kind, words in entries:
        parts.append(
            f'<path class="{kind}" stroke-width="2" d="M{x} 14 h22"/><text class="axis-text" '
            f'font-size="12" x="{x + 28}" y="18">{escape(words)}</text>'
        )
        x += 148
    parts.append(_star(x + 8, 14, 6))
    parts.append(f'<text class="axis-text" font-size="12" x="{x + 22}" y="18">lowest</text>')
    return "".join(parts)


def _line(points: Sequence[Point], at: Place, look: str) -> str:
    if len(points) < 2:
        return ""
    places = " L".join(f"{x:.1f} {y:.1f}" for x, y in map(at, points))
    return f'<path fill="none" stroke-linejoin="round" {look} d="M{places}"/>'


def _star(x: float, y: float, size: float = 9) -> str:
    corners = []
    for number in range(10):
        radius = size if number % 2 == 0 else size * 0.42
        angle = math.pi * number / 5
        corners.append(f"{x + radius * math.sin(angle):.1f},{y - radius * math.cos(angle):.1f}")
    return f'<polygon class="best" points="{" ".join(corners)}"/>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, about five of them."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.05 * max(abs(low), 1.0), high + 0.05 * max(abs(high), 1.0)
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * one for one in (1, 2, 2.5, 5, 10) if size * one >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]
