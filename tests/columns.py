"""Columns of nodes in groups, and how to shift nodes so that few links run through others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any

import numpy as np

TITLE, GAP, AISLE, MARGIN, HEADING = 30, 44, 80, 30, 50
"""Pixels: the height of a title, the space between two nodes of a column, between two columns,
around a group's nodes, and for a group's title.
"""
BETWEEN = 60
"""Pixels between two groups."""
NOTE_NARROWEST, NOTE_WIDEST = 460, 820
SHIFT = 44
"""Pixels by which a node is tried higher or lower."""
CROSSING = 300
"""A link through a node is as bad as a group that is taller by so many pixels."""
TURNED = 100
"""Pixels that it costs when two nodes of a column are not in the order in which they were made."""
STEPS = np.linspace(0, 1, 37)[1:-1]
NEAR = 8
"""Pixels beside a node that count as the node."""


NoteHeight = Callable[[str, float], int] | None
"""Pixels for a text at a width, or None: the notes keep their sizes."""


@dataclass
class Node:
    """A node on its way to a place. `width` and `height` are what it takes, with its title."""

    saved: dict[str, Any]
    width: float = 0.0
    height: float = 0.0
    column: int = 0
    x: float = 0.0
    y: float = 0.0
    """Within its group, below its title."""
    shift: float = 0.0
    """How much lower it is than where the nodes before it and above it would have it."""

    @property
    def id(self) -> int:
        return self.saved["id"]


@dataclass
class Group:
    """A group and its nodes, at first with itself as the origin."""

    saved: dict[str, Any]
    note: Node | None = None
    columns: list[list[Node]] = field(default_factory=list)
    feeds: dict[int, list[Node]] = field(default_factory=dict)
    """By a node's id, the nodes of this group that only it needs."""
    links: list[tuple[Node, Node]] = field(default_factory=list)
    rank: int = 0
    top: float = 0.0
    """Where its columns begin."""
    lane: float = 0.0
    """Space between its note and its columns, for links."""
    excess: float = 0.0
    """How much taller the page draws its note than it is saved."""
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def nodes(self) -> list[Node]:
        return [node for column in self.columns for node in column]

    @property
    def all(self) -> list[Node]:
        return [*self.nodes, *filter(None, [self.note])]


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


def feeds_of(group: Group) -> dict[int, list[Node]]:
    needs: dict[int, list[Node]] = defaultdict(list)
    for a, b in group.links:
        needs[a.id].append(b)
    feeds: dict[int, list[Node]] = defaultdict(list)
    for a, b in group.links:
        if len(needs[a.id]) == 1:
            feeds[b.id].append(a)
    return feeds


def untangle(group: Group) -> None:
    """Order each column by where its neighbours are, a few times in both directions."""
    for _ in range(4):
        for columns in (group.columns, group.columns[::-1]):
            for earlier, column in pairwise(columns):
                places = {node.id: i / len(earlier) for i, node in enumerate(earlier)}
                old = {node.id: i / len(column) for i, node in enumerate(column)}

                def middle(node: Node, places: dict = places, old: dict = old) -> float:
                    near = [places[a.id] for a, b in group.links if b is node and a.id in places]
                    near += [places[b.id] for a, b in group.links if a is node and b.id in places]
                    return sum(near) / len(near) if near else old[node.id]

                column.sort(key=middle)


def arrange(group: Group, note_height: NoteHeight, line: float = 0.0) -> None:
    """Place a group's nodes, from its own corner on: the note above, then the columns from `line`
    on, each node no higher than the one that only it needs, so that a chain is a straight line.
    """
    widths = [max(node.width for node in column) for column in group.columns]
    inside = sum(widths) + AISLE * (len(widths) - 1)
    top = HEADING + TITLE
    note = group.note
    if note:
        note.x, note.y = float(MARGIN), top
        if note_height:
            text = note.saved["widgets_values"][0]
            note.width = min(max(inside, NOTE_NARROWEST), NOTE_WIDEST)
            note.saved["size"] = [round(note.width), note_height(text, note.width)]
        note.height = note.saved["size"][1] + group.excess
        inside = max(inside, note.width)
        top += note.height + GAP
    group.top = top = max(top, line)
    x, bottom = float(MARGIN), top
    for column, width in zip(group.columns, widths, strict=True):
        y = top + group.lane
        for node in column:
            chain = min((a.y for a in group.feeds.get(node.id, [])), default=y)
            node.x, node.y = x, max(y, chain + node.shift)
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


def stand(groups: list[Group], note_height: NoteHeight) -> None:
    """Place nodes and groups: each rank to the right of the last one, those of one rank below each
    other, with the columns of the uppermost on one line.
    """
    for group in groups:
        arrange(group, note_height)
    ranks = ranked(groups)
    line = max(same[0].top for same in ranks)
    x = 0.0
    for same in ranks:
        arrange(same[0], note_height, line)
        y = 0.0
        for group in same:
            group.x, group.y = x, y
            y += group.height + BETWEEN
        x += max(group.width for group in same) + BETWEEN


class Sight:
    """How many links run through nodes, in each way of drawing nodes."""

    def __init__(self, groups: list[Group], links: list[Any]) -> None:
        """`links`: what `layout.offsets` makes."""
        self.groups = groups
        nodes = [node for group in groups for node in group.all]
        at = {node.id: i for i, node in enumerate(nodes)}
        self.source = np.array([at[link.source] for link in links], dtype=int)
        self.target = np.array([at[link.target] for link in links], dtype=int)
        self.ends = np.array([link.ends for link in links], dtype=float).reshape(
            len(links), -1, 2, 2
        )
        home = [i for i, group in enumerate(groups) for _ in group.all]
        within = [home[at[link.source]] == home[at[link.target]] for link in links]
        self.weight = np.where(within, 0.25, 0.05)
        self.own = np.zeros((len(links), len(nodes)), dtype=bool)
        self.own[range(len(links)), self.source] = self.own[range(len(links)), self.target] = True

    def boxes(self) -> np.ndarray:
        """Left, top, right, bottom of every node, [nodes, 4]."""
        return np.array(
            [
                (g.x + n.x, g.y + n.y - TITLE, g.x + n.x + n.width, g.y + n.y - TITLE + n.height)
                for g in self.groups
                for n in g.all
            ]
        )

    def cost(self) -> float:
        """Links through nodes, the height of the groups, how far links go up or down, shifts, and
        nodes above those that were made before them: in pixels.
        """
        boxes = self.boxes()
        start = boxes[self.source, None, :2] + self.ends[:, :, 0]
        end = boxes[self.target, None, :2] + self.ends[:, :, 1]
        way = end - start
        pull = np.zeros_like(way)
        pull[..., 0] = 0.25 * np.hypot(way[..., 0], way[..., 1])
        t = STEPS[:, None, None, None]
        points = (
            (1 - t) ** 3 * start
            + 3 * t * (1 - t) ** 2 * (start + pull)
            + 3 * t * t * (1 - t) * (end - pull)
            + t**3 * end
        )
        x, y = points[..., :1], points[..., 1:]
        inside = (x > boxes[:, 0] - NEAR) & (x < boxes[:, 2] + NEAR)
        inside &= (y > boxes[:, 1] - NEAR) & (y < boxes[:, 3] + NEAR)
        found = (inside.any(axis=(0, 2)) & ~self.own).sum()
        tall = sum(group.height for group in self.groups)
        shifts = sum(abs(node.shift) for group in self.groups for node in group.nodes)
        lanes = sum(group.lane for group in self.groups)
        steep = (np.abs(way[..., 1]).mean(axis=1) * self.weight).sum()
        columns = [column for group in self.groups for column in group.columns]
        turned = sum(a.id > b.id for column in columns for a, b in combinations(column, 2))
        cost = CROSSING * found + 0.5 * tall + steep
        return cost + 0.15 * shifts + 0.3 * lanes + TURNED * turned


def improve(groups: list[Group], sight: Sight, note_height: NoteHeight) -> None:
    """Try small changes, one after the other, and keep each that is for the better."""

    def cost() -> float:
        stand(groups, note_height)
        return sight.cost()

    best = cost()
    for _ in range(12):
        before = best
        for change in changes(groups):
            undo = change()
            if undo is None:
                continue
            now = cost()
            if now < best - 1:
                best = now
            else:
                undo()
        if best > before - 1:
            break
    cost()


Undo = Callable[[], None]


def changes(groups: list[Group]) -> Iterator[Callable[[], Undo | None]]:
    """A node up or down, into the place of another, or into the next column; a lane wider."""
    for group in groups:
        for by in (1, 2, 4, -1, -2):
            yield lambda group=group, by=by: widened(group, by * SHIFT)
        for node in group.nodes:
            for by in (1, 2, 4, 8, -1, -2, -4):
                yield lambda node=node, by=by: shifted([(node, by * SHIFT)])
                yield lambda group=group, node=node, by=by: alone(group, node, by * SHIFT)
            for by in (1, -1):
                yield lambda group=group, node=node, by=by: sideways(group, node, by)
        for column in list(group.columns):
            for i in range(len(column)):
                for j in range(i):
                    yield lambda column=column, i=i, j=j: swapped(column, i, j)
                    yield lambda column=column, i=i, j=j: swapped(column, i, j, clear=True)
                    yield lambda group=group, a=column[i], b=column[j]: together(group, a, b)


def widened(group: Group, by: float) -> Undo | None:
    old = group.lane
    if old + by < 0:
        return None
    group.lane += by
    return lambda: setattr(group, "lane", old)


def alone(group: Group, node: Node, by: float) -> Undo | None:
    """A node, but not those after it in its chain."""
    after = [b for b in group.nodes if any(a is node for a in group.feeds.get(b.id, []))]
    return shifted([(node, by), *((b, -by) for b in after)]) if after else None


def shifted(nodes: list[tuple[Node, float]]) -> Undo:
    old = [(node, node.shift) for node, _ in nodes]
    for node, by in nodes:
        node.shift += by

    def undo() -> None:
        for node, shift in old:
            node.shift = shift

    return undo


def swapped(column: list[Node], i: int, j: int, clear: bool = False) -> Undo | None:
    if max(i, j) >= len(column):
        return None
    old, shifts = list(column), [node.shift for node in column]
    column[i], column[j] = column[j], column[i]
    if clear:
        for node in column:
            node.shift = 0.0

    def undo() -> None:
        column[:] = old
        for node, shift in zip(old, shifts, strict=True):
            node.shift = shift

    return undo


def together(group: Group, a: Node, b: Node) -> Undo | None:
    """Two nodes swap places, and so do those before and after them in their chains."""
    place = {n.id: column for column in group.columns for n in column}
    if place[a.id] is not place[b.id]:
        return None
    after = {one.id: n for n in group.nodes for one in group.feeds.get(n.id, [])}
    before = {n.id: fed[0] for n in group.nodes if (fed := group.feeds.get(n.id))}
    pairs = [(a, b)]
    for follow in (after, before):
        c, d = follow.get(a.id), follow.get(b.id)
        while c and d and c is not d and place[c.id] is place[d.id]:
            pairs.append((c, d))
            c, d = follow.get(c.id), follow.get(d.id)
    if len(pairs) == 1:
        return None

    def swap() -> None:
        for c, d in pairs:
            column = place[c.id]
            i, j = column.index(c), column.index(d)
            column[i], column[j] = d, c
            c.shift, d.shift = d.shift, c.shift

    swap()
    return swap


def sideways(group: Group, node: Node, by: int) -> Undo | None:
    """Into the next column, if every link of the group still leads to the right."""
    place = {n.id: i for i, column in enumerate(group.columns) for n in column}
    to = place[node.id] + by
    if not 0 <= to < len(group.columns) or len(group.columns[place[node.id]]) == 1:
        return None
    place[node.id] = to
    if any(place[a.id] >= place[b.id] for a, b in group.links):
        return None
    old = [list(column) for column in group.columns]
    group.columns[to - by].remove(node)
    group.columns[to].append(node)

    def undo() -> None:
        for column, nodes in zip(group.columns, old, strict=True):
            column[:] = nodes

    return undo
