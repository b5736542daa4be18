"""Where the page of a ComfyUI really draws the nodes, groups and links of a graph."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from types import ModuleType
from typing import Any

from playwright.sync_api import Page

from .comfy import Comfy
from .pages import launched, open_page

NODES_2 = "Comfy.VueNodes.Enabled"
MOST_NODES = 1000
SMALL = {"width": 640, "height": 480}
"""A small window is drawn faster, and everything is in it."""
Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]
"""A Bézier curve: its start, two points that pull it, its end."""
FRESH = count()
"""A page keeps the places of nodes by their ids beyond the graph that they were in."""
BOXES = """async () => {
    const app = window.app, view = app.canvas.ds;
    view.scale = 0.05;
    view.offset[0] = view.offset[1] = 400;
    app.canvas.setDirty(true, true);
    const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
    const curves = window.drawnCurves ??= new WeakMap(), path = Path2D.prototype;
    if (!window.hooked) {
        window.hooked = true;
        const { moveTo, bezierCurveTo } = path;
        path.moveTo = function (...to) { curves.set(this, to); return moveTo.apply(this, to); };
        path.bezierCurveTo = function (...to) {
            curves.set(this, [...(curves.get(this) ?? [0, 0]).slice(0, 2), ...to]);
            return bezierCurveTo.apply(this, to);
        };
    }
    const links = () => {
        const found = {};
        for (const link of app.graph.links.values()) {
            found[link.id] = [curves.get(link.path)];
            for (let id = link.parentId; id !== undefined;) {
                const reroute = app.graph.reroutes.get(id);
                found[link.id].unshift(curves.get(reroute.path));
                id = reroute.parentId;
            }
        }
        return found;
    };
    const look = () => {
        const corner = app.canvas.canvas.getBoundingClientRect(), boxes = {};
        for (const node of app.graph.nodes) {
            const element = document.querySelector(`[data-node-id="${node.id}"]`);
            if (element) {
                const box = element.getBoundingClientRect();
                boxes[node.id] = [
                    (box.x - corner.x) / view.scale - view.offset[0],
                    (box.y - corner.y) / view.scale - view.offset[1],
                    box.width / view.scale, box.height / view.scale,
                ];
            } else boxes[node.id] = [...node.boundingRect];
        }
        return boxes;
    };
    let before = "", boxes = {}, drawn = {};
    for (let same = 0, i = 0; same < 3 && i < 120; i++) {
        await frame();
        app.canvas.setDirty(true, true);
        boxes = look();
        drawn = links();
        const now = JSON.stringify([boxes, drawn]);
        const whole = Object.values(drawn).flat().every(curve => curve);
        same = whole && now === before ? same + 1 : 0;
        before = now;
    }
    const groups = app.graph.groups.map(group => [...group._bounding]);
    return { nodes: boxes, links: drawn, groups };
}"""


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float

    def touches(self, other: Box) -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def contains(self, other: Box, margin: float) -> bool:
        return (
            self.x + margin <= other.x
            and self.y + margin <= other.y
            and other.x + other.width + margin <= self.x + self.width
            and other.y + other.height + margin <= self.y + self.height
        )


@dataclass(frozen=True)
class Measured:
    """Nodes with their titles, by id, groups in their order, and the curves of each link, by id,
    in the graph's own pixels.
    """

    nodes: dict[int, Box]
    groups: list[Box]
    links: dict[int, list[Curve]]


def measure(page: Page, graph: dict[str, Any]) -> Measured:
    """Open a graph and look where everything is. Nodes 2.0 draw a graph larger: that is undone."""
    offset = (1 + next(FRESH)) * MOST_NODES
    page.evaluate("graph => window.app.loadGraphData(graph)", renumbered(graph, offset))
    found = page.evaluate(BOXES)
    saved = graph["groups"][0]["bounding"]
    x, y, width, _ = found["groups"][0]
    scale = width / saved[2]

    def at(across: float, down: float) -> Point:
        return saved[0] + (across - x) / scale, saved[1] + (down - y) / scale

    def true(box: list[float]) -> Box:
        return Box(*at(*box[:2]), box[2] / scale, box[3] / scale)

    return Measured(
        {int(key) - offset: true(box) for key, box in found["nodes"].items()},
        [true(box) for box in found["groups"]],
        {
            int(key): [tuple(at(*curve[i : i + 2]) for i in (0, 2, 4, 6)) for curve in curves]
            for key, curves in found["links"].items()
        },
    )


def renumbered(graph: dict[str, Any], offset: int) -> dict[str, Any]:
    graph = copy.deepcopy(graph)
    for node in graph["nodes"]:
        node["id"] += offset
    for link in graph["links"]:
        link[1] += offset
        link[3] += offset
    graph["last_node_id"] += offset
    return graph


@contextlib.contextmanager
def opened_in_both(server: Comfy, dev: ModuleType) -> Iterator[Iterator[Page]]:
    """The page of a ComfyUI with classic nodes, then one with Nodes 2.0."""

    def pages() -> Iterator[Page]:
        for nodes_2 in (False, True):
            server.post(f"/settings/{NODES_2}", nodes_2)
            page, _ = open_page(browser, server)
            page.set_viewport_size(SMALL)
            yield page
            page.close()

    server.post("/settings/Comfy.TutorialCompleted", True)
    with launched(dev) as browser:
        try:
            yield pages()
        finally:
            server.post(f"/settings/{NODES_2}", False)
