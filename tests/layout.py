"""Places the nodes of saved graphs: columns in the order of the links, groups around them.

    COMFYUI_PATH=.comfy/comfyui .venv/bin/python -m tests.layout NAME ... [--frontend FOLDER ...]

Which node belongs to which group is read from where it stands. The sizes are those that the page
gives the nodes in both kinds, with the installed frontend and with each further one (the folder
`static` of the package comfyui-frontend-package). A node that shows pictures gets a place for them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from .comfy import Comfy
from .measured import Box, Measured, measure, opened_in_both

ROOT = Path(__file__).resolve().parents[1]
NOTE = "MarkdownNote"
TITLE, GAP, AISLE, MARGIN, HEADING = 30, 44, 80, 30, 50
"""Pixels: the height of a title, the space between two nodes of a column, between two columns,
around a group's nodes, and for a group's title.
"""
BETWEEN = 60
"""Pixels between two groups."""
OPENED = {"scale": 0.6, "offset": [130, 240]}
"""The zoom and place at which a graph opens: classic nodes show no text below 0.57."""
ROOM = 1.04
"""Heights are multiplied by this, for frontends that nobody has measured."""
NARROWEST = 320
NOTE_NARROWEST, NOTE_WIDEST = 460, 820
PICTURES = {
    "CocktailLossChart": (460, 470),
    "CocktailGridSheet": (480, 470),
    "CocktailContactSheet": (460, 470),
    "CocktailDatasetOverview": (460, 520),
    "CocktailCompareCheckpoints": (480, 400),
    "CocktailLossHeatMap": (480, 470),
    "CocktailStandOut": (480, 470),
    "CocktailRangeTest": (460, 520),
    "CocktailSweepResults": (480, 560),
    "CocktailRanking": (460, 470),
    "CocktailReleaseCard": (560, 640),
    "CocktailInspectCheckpoint": (460, 330),
    "SaveImage": (320, 360),
    "PreviewImage": (320, 330),
}
"""The sizes of nodes that show pictures or long reports."""
REPORTS = {
    "CocktailFineTune": 60,
    "CocktailLoadDataset": 60,
    "CocktailSplitDataset": 20,
    "CocktailCleanDataset": 60,
    "CocktailSelectPairs": 90,
    "CocktailJoinImages": 60,
    "CocktailCleanCaptions": 60,
    "CocktailSaveDataset": 20,
    "CocktailWaitForRun": 60,
    "CocktailPickCheckpoint": 40,
    "CocktailGridPlan": 40,
    "CocktailGridPlanJson": 40,
    "CocktailWorkflowPlan": 60,
    "CocktailRenderGrid": 40,
    "CocktailMergeToFile": 40,
    "CocktailFindTwins": 120,
    "CocktailCheckGrid": 60,
    "CocktailPickWinner": 40,
}
"""Pixels for the lines that nodes show when they have run."""


@dataclass
class Node:
    """A node on its way to a place. `width` and `height` are what it takes, with its title."""

    saved: dict[str, Any]
    width: float = 0.0
    height: float = 0.0
    column: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def id(self) -> int:
        return self.saved["id"]


@dataclass
class Group:
    """A group and its nodes, at first with itself as the origin."""

    saved: dict[str, Any]
    note: Node | None = None
    columns: list[list[Node]] = field(default_factory=list)
    rank: int = 0
    top: float = 0.0
    """Where its columns begin."""
    excess: float = 0.0
    """How much taller the page draws its note than it is saved."""
    width: float = 0.0
    height: float = 0.0

    @property
    def nodes(self) -> list[Node]:
        return [node for column in self.columns for node in column]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="+", help="names of saved graphs, without .json")
    parser.add_argument("--frontend", action="append", default=[], type=Path)
    options = parser.parse_args()
    files = [ROOT / "workflows" / f"{name}.json" for name in options.name]
    graphs = {file: json.loads(file.read_text(encoding="utf-8")) for file in files}
    for graph in graphs.values():
        for node in graph["nodes"]:
            node["size"] = wish(node)
    dev, comfyui, found = load_dev(), Path(os.environ["COMFYUI_PATH"]).resolve(), []
    for frontend in (None, *options.frontend):
        with tempfile.TemporaryDirectory() as base:
            server = Comfy(comfyui, Path(base), ROOT, frontend)
            server.start()
            try:
                with opened_in_both(server, dev) as pages:
                    found += [[measure(page, graph) for graph in graphs.values()] for page in pages]
            finally:
                server.stop()
    for number, (file, graph) in enumerate(graphs.items()):
        lay_out(graph, [measured[number] for measured in found])
        file.write_text(
            json.dumps(
                graph,
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )
        print(file.stem, "links through nodes:", len(crossings(graph)))


def load_dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    dev = importlib.util.module_from_spec(spec)
    sys.modules["dev"] = dev
    spec.loader.exec_module(dev)
    return dev


def wish(node: dict[str, Any]) -> list[float]:
    """The size that a node should have, whatever the page makes of it."""
    kind, values = node["type"], node.get("widgets_values", [])
    if kind == NOTE:
        return [NOTE_NARROWEST, note_height(values[0], NOTE_NARROWEST)]
    if kind in PICTURES:
        return list(PICTURES[kind])
    lines = max(
        (len(wrapped(v, 44)) for v in values if isinstance(v, str) and "\n" in v), default=0
    )
    return [NARROWEST, 60 + 16 * max(0, lines - 2) if lines else 30]


def note_height(text: str, width: float) -> int:
    """Pixels for a note's text, at about 7.2 pixels a letter."""
    lines = len(wrapped(text, int(width / 7.2)))
    return 44 + 21 * lines - 8 * text.count("\n\n")


def wrapped(text: str, width: int) -> list[str]:
    return [line for part in text.splitlines() for line in [part] * max(1, -(-len(part) // width))]


def lay_out(graph: dict[str, Any], measured: list[Measured]) -> None:
    """Set positions and sizes of all nodes, and the bounds of all groups."""
    nodes = {saved["id"]: Node(saved) for saved in graph["nodes"]}
    groups = [Group(saved) for saved in graph["groups"]]
    home = {key: home_of(node.saved, groups) for key, node in nodes.items()}
    for key, node in nodes.items():
        boxes = [found.nodes[key] for found in measured]
        classic = boxes[0]
        node.width = max(box.width for box in boxes)
        node.height = max(box.height for box in boxes) * ROOM
        if node.saved["type"] not in PICTURES and not collapsed(node.saved):
            node.height += REPORTS.get(node.saved["type"], 0)
        node.saved["size"] = [round(max(classic.width, NARROWEST)), round(classic.height - TITLE)]
        if not collapsed(node.saved):
            node.width = max(node.width, node.saved["size"][0])
        if node.saved["type"] == NOTE:
            home[key].note = node
            home[key].excess = node.height - node.saved["size"][1]
    links = [(nodes[link[1]], nodes[link[3]]) for link in graph["links"]]
    for group in groups:
        own = [n for k, n in nodes.items() if home[k] is group and n is not group.note]
        within = [(a, b) for a, b in links if home[a.id] is group and home[b.id] is group]
        group.columns = columns_of(own, within)
        untangle(group, within)
        arrange(group, within)
    rank(groups, [(home[a.id], home[b.id]) for a, b in links])
    uppermost = [min(same, key=groups.index) for same in ranked(groups)]
    line = max(group.top for group in uppermost)
    for group in uppermost:
        arrange(group, [link for link in links if home[link[0].id] is home[link[1].id]], line)
    stand(groups)
    graph.setdefault("extra", {})["ds"] = OPENED


def collapsed(saved: dict[str, Any]) -> bool:
    return bool(saved.get("flags", {}).get("collapsed"))


def home_of(saved: dict[str, Any], groups: list[Group]) -> Group:
    """The group in which the node's title is; the nearest one for a node outside."""

    def distance(group: Group) -> float:
        x, y, width, height = group.saved["bounding"]
        at, on = saved["pos"][0] + 20, saved["pos"][1] - TITLE / 2
        return math.hypot(max(x - at, 0, at - x - width), max(y - on, 0, on - y - height))

    return min(groups, key=distance)


def columns_of(own: list[Node], links: list[tuple[Node, Node]]) -> list[list[Node]]:
    """The nodes in columns: each right before the first that needs it, what needs nothing of this
    group's and is needed by nothing of it first.
    """
    after, before = defaultdict(list), defaultdict(list)
    for a, b in links:
        after[a.id].append(b)
        before[b.id].append(a)
    depth: dict[int, int] = {}

    def left(node: Node) -> int:
        if node.id not in depth:
            depth[node.id] = 1 + max((left(a) for a in before[node.id]), default=-1)
        return depth[node.id]

    last = max((left(node) for node in own), default=0)
    late: dict[int, int] = {}

    def right(node: Node) -> int:
        if node.id not in late:
            late[node.id] = min((right(b) - 1 for b in after[node.id]), default=left(node))
        return late[node.id]

    columns: list[list[Node]] = [[] for _ in range(last + 1)]
    for node in own:
        node.column = right(node)
        columns[node.column].append(node)
    return [column for column in columns if column]


def untangle(group: Group, links: list[tuple[Node, Node]]) -> None:
    """Order each column by where its neighbours are, a few times in both directions."""
    for _ in range(4):
        for columns in (group.columns, group.columns[::-1]):
            for earlier, column in pairwise(columns):
                places = {node.id: i / len(earlier) for i, node in enumerate(earlier)}
                old = {node.id: i / len(column) for i, node in enumerate(column)}

                def middle(node: Node, places: dict = places, old: dict = old) -> float:
                    near = [places[a.id] for a, b in links if b is node and a.id in places]
                    near += [places[b.id] for a, b in links if a is node and b.id in places]
                    return sum(near) / len(near) if near else old[node.id]

                column.sort(key=middle)


def arrange(group: Group, links: list[tuple[Node, Node]], line: float = 0.0) -> None:
    """Place a group's nodes, from its own corner on: the note above, then the columns from `line`
    on, each node no higher than the one that only it needs, so that a chain is a straight line.
    """
    widths = [max(node.width for node in column) for column in group.columns]
    inside = sum(widths) + AISLE * (len(widths) - 1)
    top = HEADING + TITLE
    note = group.note
    if note:
        note.x, note.y = float(MARGIN), top
        text = note.saved["widgets_values"][0]
        note.width = min(max(inside, NOTE_NARROWEST), NOTE_WIDEST)
        note.saved["size"] = [round(note.width), note_height(text, note.width)]
        inside = max(inside, note.width)
        top += note.saved["size"][1] + group.excess + GAP
    group.top = top = max(top, line)
    x, bottom = float(MARGIN), top
    needs: dict[int, list[Node]] = defaultdict(list)
    for a, b in links:
        needs[a.id].append(b)
    for column, width in zip(group.columns, widths, strict=True):
        y = top
        for node in column:
            own = [a.y for a, b in links if b is node and len(needs[a.id]) == 1]
            node.x, node.y = x, max(y, min(own, default=y))
            y = node.y + node.height + GAP
        bottom = max(bottom, y - GAP)
        x += width + AISLE
    group.width = inside + 2 * MARGIN
    group.height = bottom - TITLE + MARGIN


def rank(groups: list[Group], links: list[tuple[Group, Group]]) -> None:
    """Number the groups so that each comes after those that it needs."""
    for _ in groups:
        for a, b in links:
            if a is not b:
                b.rank = max(b.rank, a.rank + 1)
    if any(group.rank >= len(groups) for group in groups):
        raise SystemExit("Groups need each other in a circle.")


def ranked(groups: list[Group]) -> list[list[Group]]:
    """The groups of each rank, in the order of the file."""
    return [
        [group for group in groups if group.rank == rank]
        for rank in sorted({group.rank for group in groups})
    ]


def stand(groups: list[Group]) -> None:
    """Place the groups: each rank to the right of the last one, those of one rank below each
    other.
    """
    x = 0.0
    for same in ranked(groups):
        y = 0.0
        for group in same:
            group.saved["bounding"] = [round(v) for v in (x, y, group.width, group.height)]
            for node in (*group.nodes, *filter(None, [group.note])):
                node.saved["pos"] = [round(x + node.x), round(y + node.y)]
            y += group.height + BETWEEN
        x += max(group.width for group in same) + BETWEEN


def crossings(graph: dict[str, Any]) -> list[tuple[int, int, int]]:
    """The links that run through a third node, as the page draws them in classic nodes: from, to,
    and the node that is in the way.
    """
    at = {node["id"]: node for node in graph["nodes"]}
    found = []
    for _, source, slot, target, entry, _ in graph["links"]:
        a, b = at[source], at[target]
        start = (a["pos"][0] + a["size"][0], a["pos"][1] + 14 + 20 * slot)
        end = (b["pos"][0], b["pos"][1] + 14 + 20 * entry)
        reach = 0.25 * math.dist(start, end)
        for other in graph["nodes"]:
            if other["id"] in (source, target):
                continue
            (x, y), (width, height) = other["pos"], other["size"]
            box = Box(x, y - TITLE, width, height + TITLE)
            if any(box.holds(*bezier(start, end, reach, i / 40)) for i in range(1, 40)):
                found.append((source, target, other["id"]))
    return found


def bezier(start: tuple, end: tuple, reach: float, t: float) -> tuple[float, float]:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    xs = (start[0], start[0] + reach, end[0] - reach, end[0])
    ys = (start[1], start[1], end[1], end[1])
    return sum(map(float.__mul__, weights, map(float, xs))), sum(
        map(float.__mul__, weights, map(float, ys))
    )


if __name__ == "__main__":
    main()
