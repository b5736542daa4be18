"""Where the page draws links, and reroutes that lead them around nodes.

A link is one Bézier curve, or with reroutes a chain of them. How the page bends them is described
at `bent`; what it really draws is in `measured.Measured.links`.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .measured import Box, Curve, Point

MOST_BEND = 80
"""The page pulls a curve no further than this at a reroute."""
STEPS = np.linspace(0, 1, 97)[1:-1, None]
CLEAR = 26
"""Pixels between a reroute and a node."""
LANES = (CLEAR, CLEAR + 24, CLEAR + 48, CLEAR + 72)
"""Distances from a node at which links may pass it, side by side."""
TRIES = 12
"""How often ways are sought: bent to curves, a way can run through a node after all."""
STOP = 140
"""A reroute costs as much as so many pixels of way."""


def drawn(curve: Curve) -> np.ndarray:
    """Points on a curve, [95, 2], without its ends."""
    a, b, c, d = (np.array(point, dtype=float) for point in curve)
    t = STEPS
    return (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t * t * (1 - t) * c + t**3 * d


def in_the_way(curves: Iterable[Curve], boxes: dict[int, Box], margin: float = 0) -> set[int]:
    """The boxes through which the curves run."""
    points = np.concatenate([drawn(curve) for curve in curves])
    found = set()
    for key, box in boxes.items():
        x, y = points[:, 0] - box.x, points[:, 1] - box.y
        inside = (-margin < x) & (x < box.width + margin)
        if (inside & (-margin < y) & (y < box.height + margin)).any():
            found.add(key)
    return found


def bent(start: Point, stops: Sequence[Point], end: Point, after: Sequence[float]) -> list[Curve]:
    """The curves that the page draws from a slot over reroutes to a slot. `after`: at each reroute
    the direction to what comes next, the mean over its links, in radians.

    A curve leaves and enters a slot to the right, pulled by a quarter of its length. At a reroute
    its direction is the middle between those to the point before and to the point after.
    """
    curves, point = [], start
    pull = (0.25 * math.dist(start, (*stops, end)[0]), 0.0)
    for i, (stop, onward) in enumerate(zip(stops, after, strict=True)):
        came = math.atan2(stop[1] - point[1], stop[0] - point[0])
        turn = (came - onward) / 2
        angle = came - turn - (math.pi if abs(turn) > math.pi / 2 else 0)
        towards = (math.cos(angle), math.sin(angle))
        reach = min(MOST_BEND, 0.25 * math.dist(point, stop))
        curves.append((point, moved(point, pull), moved(stop, towards, -reach), stop))
        reach = min(MOST_BEND, 0.25 * math.dist(stop, (*stops[i + 1 :], end)[0]))
        pull = (towards[0] * reach, towards[1] * reach)
        point = stop
    last = (-0.25 * math.dist(point, end), 0.0)
    return [*curves, (point, moved(point, pull), moved(end, last), end)]


def moved(point: Point, by: Point, times: float = 1.0) -> Point:
    return point[0] + times * by[0], point[1] + times * by[1]


@dataclass
class Link:
    """A link between placed nodes. `ends`: where it leaves and arrives, one pair for each way of
    drawing nodes; `drifts`: how far each draws reroutes from where they are saved. `home`: the
    group that it does not leave. `stops`: its reroutes.
    """

    id: int
    source: int
    slot: int
    target: int
    ends: list[tuple[Point, Point]]
    drifts: list[Point]
    home: Box | None = None
    stops: list[Point] = field(default_factory=list)


def routed(links: list[Link], boxes: dict[int, Box], titles: list[Box]) -> list[Link]:
    """Give stops to the links that run through boxes, until none does. Returns those that still do.

    `titles`: boxes over which a link may not be led, but may run.
    """
    left = [link for link in links if hit(link, links, boxes)]
    if not left:
        return []
    streets = Streets({k: wide(box, links[0].drifts) for k, box in boxes.items()}, titles)
    for _ in range(TRIES):
        for link in sorted(left, key=lambda link: math.dist(*link.ends[0])):
            if hit(link, links, boxes):
                streets.lead(link, links)
        left = [link for link in links if hit(link, links, boxes)]
        if not left:
            break
    return left


def wide(box: Box, drifts: list[Point]) -> Box:
    """Where a saved reroute must not be, so that it is not drawn in the box."""
    right, down = (max(0.0, *(drift[i] for drift in drifts)) for i in (0, 1))
    left, up = (max(0.0, *(-drift[i] for drift in drifts)) for i in (0, 1))
    return Box(box.x - right, box.y - down, box.width + left + right, box.height + up + down)


def hit(link: Link, links: list[Link], boxes: dict[int, Box]) -> set[int]:
    """The boxes through which a link runs, in any way of drawing."""
    others = {k: box for k, box in boxes.items() if k not in (link.source, link.target)}
    found = set()
    for kind, (start, end) in enumerate(link.ends):
        stops = [moved(stop, link.drifts[kind]) for stop in link.stops]
        curves = bent(start, stops, end, directions(link, links, kind))
        found |= in_the_way(curves, others, margin=4)
        if link.stops:
            found |= in_the_way(curves[1:], {link.source: boxes[link.source]})
            found |= in_the_way(curves[:-1], {link.target: boxes[link.target]})
    return found


def directions(link: Link, links: list[Link], kind: int) -> list[float]:
    """At each stop of a link, the mean direction in which the links that share it go on."""
    means = []
    for i, stop in enumerate(link.stops):
        angles = []
        for other in links:
            if ways_of(other, i) == ways_of(link, i):
                onward = [moved(to, link.drifts[kind]) for to in other.stops[i + 1 : i + 2]]
                to, at = (*onward, other.ends[kind][1])[0], moved(stop, link.drifts[kind])
                angles.append(math.atan2(to[1] - at[1], to[0] - at[0]))
        means.append(sum(angles) / len(angles))
    return means


def ways_of(link: Link, i: int) -> tuple:
    """What is equal for links that share a stop."""
    return (link.source, link.slot, *link.stops[: i + 1]) if i < len(link.stops) else ()


class Streets:
    """The places for stops beside the boxes, and which of them one sees from which."""

    def __init__(self, boxes: dict[int, Box], titles: list[Box]) -> None:
        self.walls = np.array(
            [[b.x, b.y, b.x + b.width, b.y + b.height] for b in (*boxes.values(), *titles)]
        )
        self.keys = [*boxes, *(-1 for _ in titles)]
        points = {
            (round(x), round(y))
            for box in boxes.values()
            for lane in LANES
            for x in (box.x - CLEAR, box.x + box.width + CLEAR)
            for y in (box.y - lane, box.y + box.height + lane)
        }
        here = np.array(sorted(points), dtype=float)
        x, y = here[:, :1], here[:, 1:]
        near, walls = CLEAR - 4, self.walls
        free = ~(
            (x > walls[:, 0] - near)
            & (x < walls[:, 2] + near)
            & (y > walls[:, 1] - near)
            & (y < walls[:, 3] + near)
        ).any(axis=1)
        self.points = here[free]
        self.seen: dict[int, np.ndarray] = {}
        self.refused: dict[tuple[int, Point], int] = defaultdict(int)

    def sight(
        self, point: np.ndarray, others: np.ndarray, but: set[int], back: bool = False
    ) -> np.ndarray:
        """Which of the others lie to the right of a point (`back`: to the left), or right above or
        below it, with nothing between, [n] of bool.
        """
        keep = [i for i, key in enumerate(self.keys) if key not in but]
        low, high = self.walls[keep, :2] - 10, self.walls[keep, 2:] + 10
        way = others - point
        flat = np.where(np.abs(way) < 1e-6, 1e-6, way)[:, None, :]
        first, second = (low - point) / flat, (high - point) / flat
        enter = np.minimum(first, second).max(axis=2)
        leave = np.maximum(first, second).min(axis=2)
        blocked = ((enter < leave) & (leave > 0) & (enter < 1)).any(axis=1)
        right = -way[:, 0] if back else way[:, 0]
        far = (right > 40) | (np.abs(way[:, 1]) > 80)
        return ~blocked & far & (right >= 0)

    def lead(self, link: Link, links: list[Link]) -> None:
        """Find the cheapest way for a link, by Dijkstra's method. It may share the first stops of
        a link from the same slot. A way that was tried before and did not do costs more each time.
        """
        for stop in link.stops:
            self.refused[link.id, stop] += 1
        link.stops = []
        start, end = (np.mean([ends[i] for ends in link.ends], axis=0) for i in (0, 1))
        shared = {
            tuple(other.stops[: i + 1])
            for other in links
            if (other.source, other.slot) == (link.source, link.slot)
            for i in range(len(other.stops))
        }
        goal = self.sight(end, self.points, {link.target}, back=True)
        fee = np.array([self.fee(link, tuple(point), links) for point in self.points])
        ways = [(0.0, (), start, {link.source})]
        for stops in sorted(shared):
            cost = 0.3 * length([start, *stops])
            cost += sum(400.0 * self.refused[link.id, stop] for stop in stops)
            ways.append((cost, stops, np.array(stops[-1]), set()))
        queue: list[tuple[float, int, tuple[Point, ...]]] = []
        for cost, stops, point, but in ways:
            if stops and self.sight(point, end[None], {link.target})[0]:
                heapq.heappush(queue, (cost + math.dist(point, end), -1, stops))
            for i in np.flatnonzero(self.sight(point, self.points, but)):
                there = self.points[i]
                more = math.dist(point, there) + fee[i] + (0 if stops else slope(start, there))
                heapq.heappush(queue, (cost + more, int(i), (*stops, tuple(there.tolist()))))
        done = set()
        while queue:
            cost, i, stops = heapq.heappop(queue)
            if i == -1:
                link.stops = list(stops)
                return
            if i in done:
                continue
            done.add(i)
            here = self.points[i]
            if goal[i]:
                heapq.heappush(queue, (cost + math.dist(here, end) + slope(here, end), -1, stops))
            if i not in self.seen:
                self.seen[i] = np.flatnonzero(self.sight(here, self.points, set()))
            for j in self.seen[i]:
                if j not in done:
                    there = self.points[j]
                    more = math.dist(here, there) + fee[j]
                    heapq.heappush(queue, (cost + more, int(j), (*stops, tuple(there.tolist()))))

    def fee(self, link: Link, point: Point, links: list[Link]) -> float:
        """What a stop costs: more where others are close, where it did not do before, or where it
        leaves the link's group.
        """
        away = link.home is not None and not link.home.touches(Box(*point, 0, 0))
        close = sum(math.dist(stop, point) < 23 for other in links for stop in other.stops)
        return STOP + 400.0 * self.refused[link.id, point] + 600.0 * close + 300.0 * away


def length(points: Sequence[Point]) -> float:
    return sum(math.dist(a, b) for a, b in pairwise(points))


def slope(a: Sequence[float], b: Sequence[float]) -> float:
    """A steep way to or from a slot bends much: it costs more."""
    return 0.7 * max(0.0, abs(b[1] - a[1]) - 0.5 * (b[0] - a[0]))


def saved(links: list[Link]) -> dict[str, list]:
    """Reroutes as a graph's `extra` holds them. Links that leave together share their stops."""
    known: dict[tuple, dict] = {}
    extensions = []
    for link in links:
        parent = None
        for i in range(len(link.stops)):
            reroute = known.setdefault(
                ways_of(link, i),
                {
                    "id": len(known) + 1,
                    **({"parentId": parent} if parent else {}),
                    "pos": [round(v) for v in link.stops[i]],
                    "linkIds": [],
                },
            )
            reroute["linkIds"].append(link.id)
            parent = reroute["id"]
        if parent:
            extensions.append({"id": link.id, "parentId": parent})
    if not known:
        return {}
    return {"reroutes": list(known.values()), "linkExtensions": extensions}
