"""The lineage as a drawing: boxes in layers from top to bottom, as SVG."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

MOST_BOXES = 60
BOX_WIDTH, BOX_HEIGHT, LINE = 196, 62, 17
GAP_X, GAP_Y, MARGIN = 24, 40, 10
LETTERS = 25
"""Of a line in a box."""
ROUNDS = 6

KINDS = ("source", "pairs", "base", "run", "checkpoint", "mix", "released", "votes")
LIGHT = """
svg { background: #ffffff; }
.box rect { fill: #f6f7f9; stroke: #6b7480; }
.box text { fill: #1c2127; } .box .kind { fill: #4d5761; }
.released rect { fill: #e4f0fb; stroke: #0b5cad; stroke-width: 2; }
.votes rect { fill: #fbf0dc; stroke: #8a5a00; }
.edge { stroke: #7b8592; fill: none; } .edge-label { fill: #4d5761;
  paint-order: stroke; stroke: #ffffff; stroke-width: 4px; } marker path { fill: #7b8592; }
.grid { stroke: #d5dae0; } .axis-text { fill: #4d5761; } .train { stroke: #8a94a0; }
.validation { stroke: #0b5cad; } .dot { fill: #0b5cad; } .best { fill: #b4480a; }
.chosen { stroke: #1f7a4d; } .chosen-text { fill: #1f7a4d; }
"""
"""The colours of a drawing that is a file of its own; on the page its style sheet gives them."""
FONT = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif"


@dataclass(frozen=True)
class Box:
    """A thing of the lineage: one of KINDS, and its lines, of which the first names it."""

    id: str
    kind: str
    title: str
    lines: tuple[str, ...] = ()

    def words(self) -> str:
        """All of it in one line."""
        return ", ".join([f"{self.kind} {self.title}", *self.lines])


@dataclass(frozen=True)
class Edge:
    """From what something was made of to what was made."""

    start: str
    end: str
    label: str = ""


@dataclass(frozen=True)
class Graph:
    """Boxes and what leads from one to the next; without circles."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def plain(text: str) -> str:
    """A text in one line without characters that cannot be seen or that turn it around."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def cut(text: str, letters: int) -> str:
    text = plain(text)
    return text if len(text) <= letters else text[: letters - 1] + "\u2026"


def cut_middle(text: str, letters: int) -> str:
    """A name without its middle: how it ends, such as an epoch, tells it from others."""
    text = plain(text)
    if len(text) <= letters:
        return text
    tail = letters // 2
    return text[: letters - tail - 1] + "\u2026" + text[-tail:]


def draw(graph: Graph, name: str, standalone: bool = False) -> str:
    """The graph as SVG, of at most MOST_BOXES boxes. `name` is what its elements' ids begin with; a
    `standalone` file has its own colours.
    """
    places = _places(graph)
    boxes = [box for box in graph.boxes if box.id in places]
    right = max((x for x, _ in places.values()), default=0) + BOX_WIDTH + MARGIN
    low = max((y for _, y in places.values()), default=0) + BOX_HEIGHT + MARGIN
    parts = [head(right, low, name, "Where this checkpoint comes from", _spoken(graph))]
    parts.append(f"<style>{LIGHT}</style>" if standalone else "")
    parts.append(
        f'<defs><marker id="{name}-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
    )
    parts += [_edge(e, places, name) for e in graph.edges if {e.start, e.end} <= places.keys()]
    parts += [_box(box, places[box.id]) for box in boxes]
    return "".join([*parts, "</svg>"])


def head(width: float, height: float, name: str, title: str, about: str) -> str:
    """The beginning of a drawing, with its title and what it shows in words."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" style="{FONT}" '
        f'aria-labelledby="{name}-title {name}-about"><title id="{name}-title">{escape(title)}'
        f'</title><desc id="{name}-about">{escape(about)}</desc>'
    )


def _spoken(graph: Graph) -> str:
    """The graph in words, for those who do not see it."""
    titles = {box.id: plain(box.title) for box in graph.boxes}
    told = [
        f"{titles[edge.start]} leads to {titles[edge.end]}"
        for edge in graph.edges[:MOST_BOXES]
        if {edge.start, edge.end} <= titles.keys()
    ]
    return "; ".join(told) + "." if told else "A single box."


def _box(box: Box, at: tuple[float, float]) -> str:
    x, y = at
    kind = box.kind if box.kind in KINDS else "checkpoint"
    lines = [f'<tspan class="kind" x="{x + 12:.0f}" y="{y + 18:.0f}">{escape(kind)}</tspan>']
    lines.append(
        f'<tspan x="{x + 12:.0f}" y="{y + 35:.0f}" font-weight="600">'
        f"{escape(cut_middle(box.title, LETTERS))}</tspan>"
    )
    if box.lines:
        lines.append(
            f'<tspan x="{x + 12:.0f}" y="{y + 35 + LINE:.0f}" font-size="11">'
            f"{escape(cut(box.lines[0], LETTERS + 6))}</tspan>"
        )
    return (
        f'<g class="box {kind}"><title>{escape(plain(box.words()))}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>'
        f'<text font-size="13">{"".join(lines)}</text></g>'
    )


def _edge(edge: Edge, places: Mapping[str, tuple[float, float]], name: str) -> str:
    x1, y1 = places[edge.start][0] + BOX_WIDTH / 2, places[edge.start][1] + BOX_HEIGHT
    x2, y2 = places[edge.end][0] + BOX_WIDTH / 2, places[edge.end][1]
    bend = max(16.0, (y2 - y1) / 2)
    path = (
        f'<path class="edge" stroke-width="1.5" marker-end="url(#{name}-arrow)" d="M{x1:.1f} '
        f'{y1:.1f} C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2 - 2:.1f}"/>'
    )
    if not edge.label:
        return path
    # Below the box it comes from, where lines have not met yet, on the side that the line leaves.
    anchor, x = ("end", x1 - 8) if x2 > x1 else ("start", x1 + 8)
    return path + (
        f'<text class="edge-label" font-size="11" text-anchor="{anchor}" x="{x:.1f}" '
        f'y="{y1 + 14:.1f}">{escape(cut(edge.label, 14))}</text>'
    )


def _places(graph: Graph) -> dict[str, tuple[float, float]]:
    """Where the boxes are: layers by the longest way, in a layer by the mean of their neighbours
    (Sugiyama, Tagawa and Toda 1981).
    """
    kept = {box.id for box in graph.boxes[:MOST_BOXES]}
    edges = [edge for edge in graph.edges if {edge.start, edge.end} <= kept]
    layer = _layers([box.id for box in graph.boxes if box.id in kept], edges)
    rows: dict[int, list[str]] = {}
    for box, number in layer.items():
        rows.setdefault(number, []).append(box)
    neighbours: dict[str, list[str]] = {box: [] for box in layer}
    for edge in edges:
        neighbours[edge.start].append(edge.end)
        neighbours[edge.end].append(edge.start)
    at = {box: float(n) for row in rows.values() for n, box in enumerate(row)}
    for _ in range(ROUNDS):
        for number in sorted(rows):
            ordered = {
                box: _mean([at[n] for n in neighbours[box]], at[box]) for box in rows[number]
            }
            rows[number].sort(key=lambda box, ordered=ordered: ordered[box])
            at |= {box: float(n) for n, box in enumerate(rows[number])}
    widest = max(map(len, rows.values()), default=0)
    step = BOX_WIDTH + GAP_X
    return {
        box: (
            MARGIN + (widest - len(row)) * step / 2 + place * step,
            MARGIN + number * (BOX_HEIGHT + GAP_Y),
        )
        for number, row in rows.items()
        for place, box in enumerate(row)
    }


def _layers(boxes: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The layer of every box: what leads to it is above, and as near as it can be."""
    layer = dict.fromkeys(boxes, 0)
    for _ in boxes:
        moved = False
        for edge in edges:
            if layer[edge.end] <= layer[edge.start] < len(boxes):
                layer[edge.end], moved = layer[edge.start] + 1, True
        if not moved:
            break
    ends: dict[str, list[str]] = {}
    for edge in edges:
        ends.setdefault(edge.start, []).append(edge.end)
    for box in sorted(boxes, key=lambda box: -layer[box]):
        if box in ends:
            layer[box] = max(layer[box], min(layer[end] for end in ends[box]) - 1)
    used = sorted(set(layer.values()))
    return {box: used.index(number) for box, number in layer.items()}


def _mean(values: Sequence[float], other: float) -> float:
    return sum(values) / len(values) if values else other


def slug(text: str) -> str:
    """A text as a part of an id or a file name; no two texts have the same one."""
    found = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:48]
    if found == text:
        return found
    return f"{found}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"
