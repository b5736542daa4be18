"""Cells that should differ and do not: values of an axis that change no pixel."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GridError
from ..plan.plan import Plan
from ..store.pixels import pixel_hash
from ..store.store import Store


@dataclass(frozen=True)
class Twins:
    """Values of one axis whose cells are equal in `equal` of the `places` where both stand."""

    axis: str
    labels: tuple[str, ...]
    equal: int
    places: int

    @property
    def everywhere(self) -> bool:
        return self.equal == self.places

    def sentence(self) -> str:
        names = f"{', '.join(self.labels[:-1])} and {self.labels[-1]}"
        if self.everywhere:
            where = "in the one place" if self.places == 1 else f"in all {self.places} places"
            return f"{self.axis}: {names} give the same pixels {where}; they change nothing."
        return f"{self.axis}: {names} give the same pixels in {self.equal} of {self.places} places."

    def to_json(self) -> dict[str, Any]:
        return {
            "axis": self.axis,
            "labels": list(self.labels),
            "equal": self.equal,
            "places": self.places,
        }


def pixel_hashes(
    plan: Plan, store: Store, progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """A hash of the size and the decoded pixels of every finished cell, by key. Raises GridError
    if a file is damaged.
    """
    found = {}
    for number, cell in enumerate(plan.render_order):
        path = store.cell_path(cell.key)
        try:
            found[cell.key] = pixel_hash(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise GridError(
                f"The file of a cell, {path}, cannot be read ({error}). Queue Render Grid again: "
                "it puts a damaged file aside and renders the cell again."
            ) from None
        if progress:
            progress(number + 1, len(plan.render_order))
    return found


def find(plan: Plan, pixels: Mapping[str, str]) -> list[Twins]:
    """Values whose cells have equal pixels although their settings differ; those that are equal
    everywhere come first.

    `pixels` holds the hash of every finished cell. A place is one choice of values on the other
    axes. Places where one of two cells is missing, or where both are the same cell, do not count.
    """
    found = []
    for number, axis in enumerate(plan.axes):
        places: dict[tuple[int, ...], list[tuple[int, str]]] = defaultdict(list)
        for cell in plan.cells:
            if cell.key in pixels:
                rest = cell.position[:number] + cell.position[number + 1 :]
                places[rest].append((cell.position[number], cell.key))
        both: Counter[tuple[int, int]] = Counter()
        equal: Counter[tuple[int, int]] = Counter()
        for cells in places.values():
            for (one, one_key), (other, other_key) in itertools.combinations(sorted(cells), 2):
                if one_key != other_key:
                    both[one, other] += 1
                    equal[one, other] += pixels[one_key] == pixels[other_key]
        labels = [value.label for value in axis.values]
        dead = {pair for pair in both if equal[pair] == both[pair]}
        for group in _joined(dead):
            of = min(both[pair] for pair in dead if set(pair) <= set(group))
            names = tuple(labels[value] for value in group)
            found.append(Twins(axis.target, names, of, of))
        for pair in sorted(both):
            if equal[pair] and pair not in dead:
                one, other = pair
                names = (labels[one], labels[other])
                found.append(Twins(axis.target, names, equal[pair], both[pair]))
    return sorted(found, key=lambda twins: not twins.everywhere)


def _joined(pairs: set[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Groups of values of which any two are a pair; a value joins the first group that it fits."""
    groups: list[list[int]] = []
    for one in sorted({value for pair in pairs for value in pair}):
        for group in groups:
            if all((member, one) in pairs for member in group):
                group.append(one)
                break
        else:
            groups.append([one])
    covered = {pair for group in groups for pair in itertools.combinations(group, 2)}
    return [tuple(g) for g in groups if len(g) > 1] + sorted(pairs - covered)
