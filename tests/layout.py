"""Places the nodes of saved graphs: columns in the order of the links, groups around them.

    COMFYUI_PATH=.comfy/comfyui .venv/bin/python -m tests.layout NAME ... [--frontend FOLDER ...]

Which node belongs to which group is read from where it stands. The sizes are those that the page
gives the nodes in both kinds, with the installed frontend and with each further one (the folder
`static` of the package comfyui-frontend-package). A node that shows pictures gets a place for them.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from .columns import (
    NOTE_NARROWEST,
    TITLE,
    Group,
    Node,
    Sight,
    columns_of,
    feeds_of,
    improve,
    rank,
    untangle,
)
from .comfy import Comfy
from .measured import Box, Measured, Point, measure, opened_in_both
from .paths import Link, moved, routed, saved

ROOT = Path(__file__).resolve().parents[1]
NOTE = "MarkdownNote"
OPENED = {"scale": 0.6, "offset": [130, 240]}
"""The zoom and place at which a graph opens: classic nodes show no text below 0.57."""
ROOM = 1.04
"""Heights are multiplied by this, for frontends that nobody has measured."""
NARROWEST = 320
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="+", help="names of saved graphs, without .json")
    parser.add_argument("--frontend", action="append", default=[], type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the sizes of nodes as they are")
    options = parser.parse_args()
    files = [ROOT / "workflows" / f"{name}.json" for name in options.name]
    graphs = {file: json.loads(file.read_text(encoding="utf-8")) for file in files}
    for node in [node for graph in graphs.values() for node in graph["nodes"]]:
        if not options.keep:
            node["size"] = wish(node)
    dev, comfyui, found = load_dev(), Path(os.environ["COMFYUI_PATH"]).resolve(), []
    for frontend in (None, *options.frontend):
        with tempfile.TemporaryDirectory() as base:
            server = Comfy(comfyui, Path(base), ROOT, frontend)
            server.start()
            try:
                with opened_in_both(server, dev) as pages:
                    probes = [probed(graph) for graph in graphs.values()]
                    found += [[measure(page, probe) for probe in probes] for page in pages]
            finally:
                server.stop()
    for number, (file, graph) in enumerate(graphs.items()):
        left = lay_out(graph, [measured[number] for measured in found], options.keep)
        file.write_text(json.dumps(graph, indent=1) + "\n", encoding="utf-8")
        print(file.stem, "links through nodes:", len(left))


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


@functools.cache
def note_height(text: str, width: float) -> int:
    """Pixels for a note's text, at about 7.2 pixels a letter."""
    lines = len(wrapped(text, int(width / 7.2)))
    return 44 + 21 * lines - 8 * text.count("\n\n")


def wrapped(text: str, width: int) -> list[str]:
    return [line for part in text.splitlines() for line in [part] * max(1, -(-len(part) // width))]


def lay_out(graph: dict[str, Any], measured: list[Measured], keep: bool = False) -> list[Link]:
    """Set positions and (unless `keep`) sizes of all nodes, the bounds of all groups, and reroutes
    where a link would run through a node. Returns the links that still do.
    """
    sizes = {one["id"]: one["size"] for one in graph["nodes"]}
    nodes = {one["id"]: Node(one) for one in graph["nodes"]}
    groups = [Group(one) for one in graph["groups"]]
    home = {key: home_of(node.saved, groups) for key, node in nodes.items()}
    for key, node in nodes.items():
        take(node, [found.nodes[key] for found in measured])
        if keep:
            node.saved["size"] = sizes[key]
        if node.saved["type"] == NOTE:
            home[key].note = node
            home[key].excess = node.height - node.saved["size"][1]
    pairs = [(nodes[link[1]], nodes[link[3]]) for link in graph["links"]]
    for group in groups:
        own = [n for k, n in nodes.items() if home[k] is group and n is not group.note]
        group.links = [(a, b) for a, b in pairs if home[a.id] is group and home[b.id] is group]
        group.columns = columns_of(own, group.links)
        untangle(group)
        group.feeds = feeds_of(group)
    rank(groups, [(home[a.id], home[b.id]) for a, b in pairs])
    links = offsets(graph, measured)
    improve(groups, Sight(groups, links), None if keep else note_height)
    for group in groups:
        group.saved["bounding"] = [round(v) for v in (group.x, group.y, group.width, group.height)]
        for node in group.all:
            node.saved["pos"] = [round(group.x + node.x), round(group.y + node.y)]
    boxes = {
        key: Box(node.saved["pos"][0], node.saved["pos"][1] - TITLE, node.width, node.height)
        for key, node in nodes.items()
    }
    for link in links:
        a, b = boxes[link.source], boxes[link.target]
        if home[link.source] is home[link.target]:
            link.home = Box(*home[link.source].saved["bounding"])
        link.ends = [(moved(s, (a.x, a.y)), moved(e, (b.x, b.y))) for s, e in link.ends]
    left = routed(links, boxes, [titled(group) for group in groups])
    extra = graph.setdefault("extra", {})
    extra["ds"] = OPENED
    for key in ("reroutes", "linkExtensions"):
        extra.pop(key, None)
    extra.update(saved(links))
    return left


def take(node: Node, boxes: list[Box]) -> None:
    """Note the size of a node, from how the pages draw it, and the place for its reports."""
    classic = boxes[0]
    node.width = max(box.width for box in boxes)
    node.height = max(box.height for box in boxes) * ROOM
    if node.saved["type"] not in PICTURES and not collapsed(node.saved):
        node.height += REPORTS.get(node.saved["type"], 0)
    node.saved["size"] = [round(max(classic.width, NARROWEST)), round(classic.height - TITLE)]
    if not collapsed(node.saved):
        node.width = max(node.width, node.saved["size"][0])


def offsets(graph: dict[str, Any], measured: list[Measured]) -> list[Link]:
    """The links, with their ends relative to the corners of their nodes. `measured`: of what
    `probed` makes.
    """

    def ends(key: int, source: int, target: int, found: Measured) -> tuple[Point, Point]:
        a, b = found.nodes[source], found.nodes[target]
        curves = found.links[key]
        return moved(curves[0][0], (a.x, a.y), -1), moved(curves[-1][3], (b.x, b.y), -1)

    drifts = [found.links[graph["links"][0][0]][0][3] for found in measured]
    return [
        Link(
            key, source, slot, target, [ends(key, source, target, one) for one in measured], drifts
        )
        for key, source, slot, target, _, _ in graph["links"]
    ]


def probed(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with one reroute only, at 0, 0 on its first link: where the page draws it tells
    how far it draws reroutes from where they are saved (Nodes 2.0 of 1.32: 30 pixels lower).
    """
    key = graph["links"][0][0]
    reroutes = [{"id": 1, "pos": [0, 0], "linkIds": [key]}]
    extensions = [{"id": key, "parentId": 1}]
    extra = {**graph["extra"], "reroutes": reroutes, "linkExtensions": extensions}
    return {**graph, "extra": extra}


def titled(group: Group) -> Box:
    """Where the title of a group is, at about 13 pixels a letter."""
    x, y, *_ = group.saved["bounding"]
    return Box(x, y, 20 + 13 * len(group.saved["title"]), 40)


def collapsed(saved: dict[str, Any]) -> bool:
    return bool(saved.get("flags", {}).get("collapsed"))


def home_of(saved: dict[str, Any], groups: list[Group]) -> Group:
    """The group in which the node's title is; the nearest one for a node outside."""

    def distance(group: Group) -> float:
        x, y, width, height = group.saved["bounding"]
        at, on = saved["pos"][0] + 20, saved["pos"][1] - TITLE / 2
        return math.hypot(max(x - at, 0, at - x - width), max(y - on, 0, on - y - height))

    return min(groups, key=distance)


if __name__ == "__main__":
    main()
