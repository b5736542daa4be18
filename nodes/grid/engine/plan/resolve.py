"""Axes become cells: every combination of their values, without those that rules leave out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..axes.axis import Axis, Value
from ..cell.settings import CellSettings
from ..errors import GridError
from .plan import MOST_CELLS, Cell
from .rules import Rule

S = TypeVar("S", bound=CellSettings)
MOST_AXES = 64
MOST_CHECKS, LETTERS_OF_A_CHECK = 1_000_000, 200
"""How often conditions of rules are tried on cells, all together. A long text, such as a prompt,
counts once more for every so many letters.
"""


class Maker(Protocol[S]):
    """What a kind of grid makes of the values of one cell."""

    def settings(self, values: Sequence[Value]) -> S:
        """All that decides the cell."""
        ...

    def words(self, settings: S, name: str, value: Value | None) -> list[str]:
        """What a rule can call the cell under a name: that of a setting, or of the axis on which it
        has this value.
        """
        ...

    def check(self, settings: S) -> None:
        """Raise GridError for a cell that could not be rendered."""
        ...


@dataclass(frozen=True)
class Resolved(Generic[S]):
    """The cells of a grid."""

    settings: tuple[S, ...]
    """Those of each cell, in the order of `cells`."""
    cells: tuple[Cell, ...]
    contents: dict[str, dict[str, str]]
    """SHA-256 of files by kind and name."""
    notes: list[str]
    """Sentences about rules and values without effect."""


@dataclass
class _Checks:
    """Counts how often conditions are tried."""

    done: int = 0

    def count(self, words: Sequence[str]) -> None:
        """Raise GridError when these words are one too many."""
        self.done += 1 + sum(map(len, words)) // LETTERS_OF_A_CHECK
        if self.done > MOST_CHECKS:
            raise GridError(
                "Trying all rules on all cells would take too long. Write fewer rules or fewer "
                "conditions, put the one that fits the fewest cells first in a rule, or make "
                "several grids."
            )


def check_count(name: str, axes: Sequence[Axis]) -> None:
    """Raise GridError if there are too many axes, or if they make more cells than a grid may
    have.
    """
    if len(axes) > MOST_AXES:
        raise GridError(f"The grid {name} has {len(axes):,} axes; {MOST_AXES} is the most.")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS:
        raise GridError(
            f"The grid {name} would have {count:,} cells; {MOST_CELLS:,} is the most. Remove values"
            " from its axes, or make several grids of it."
        )


def resolve(
    name: str,
    axes: Sequence[Axis],
    rules: Sequence[Rule],
    maker: Maker[S],
    sha256_of: Callable[[str, str], str],
) -> Resolved[S]:
    """The cells in display order, the last axis changing fastest.

    `sha256_of(kind, name)` is asked once for every file. Raises GridError for a cell that could not
    be rendered, or if the rules leave none.
    """
    contents: dict[str, dict[str, str]] = {}

    def content(kind: str, file: str) -> str:
        known = contents.setdefault(kind, {})
        if file not in known:
            known[file] = sha256_of(kind, file)
        return known[file]

    found: list[S] = []
    cells: list[Cell] = []
    used: set[Rule] = set()
    checks = _Checks()
    for position in itertools.product(*(range(len(axis.values)) for axis in axes)):
        values = [axis.values[at] for axis, at in zip(axes, position, strict=True)]
        settings = maker.settings(values)
        if leaving := _leaving(rules, maker, settings, _by_target(axes, values), checks):
            used.update(leaving)
            continue
        maker.check(settings)
        found.append(settings)
        cells.append(Cell(position, settings, settings.key(content)))
    if not cells:
        raise GridError(f"The rules leave no cell of the grid {name}. Remove one of them.")
    notes = [f'The rule "{rule.text}" leaves nothing out.' for rule in rules if rule not in used]
    notes += _without_effect(axes, cells)
    return Resolved(tuple(found), tuple(cells), contents, notes)


def _by_target(axes: Sequence[Axis], values: Sequence[Value]) -> dict[str, Value]:
    return {axis.target: value for axis, value in zip(axes, values, strict=True)}


def _leaving(
    rules: Sequence[Rule],
    maker: Maker[S],
    settings: S,
    values: Mapping[str, Value],
    checks: _Checks,
) -> list[Rule]:
    """The rules that leave a cell out. Raises GridError when they have been tried too often."""

    def called(name: str) -> list[str]:
        words = maker.words(settings, name, values.get(name))
        checks.count(words)
        return words

    return [rule for rule in rules if rule.leaves_out(called)]


def _without_effect(axes: Sequence[Axis], cells: Sequence[Cell]) -> list[str]:
    """Sentences about values of an axis that give the same pictures whatever the other axes say."""
    found = []
    for number, axis in enumerate(axes):
        columns: dict[int, list[tuple[tuple[int, ...], str]]] = {}
        for cell in cells:
            rest = cell.position[:number] + cell.position[number + 1 :]
            columns.setdefault(cell.position[number], []).append((rest, cell.key))
        alike: dict[tuple[Any, ...], list[str]] = {}
        for value, column in columns.items():
            alike.setdefault(tuple(sorted(column)), []).append(axis.values[value].label)
        for labels in alike.values():
            if len(labels) > 1:
                found.append(
                    f"{', '.join(labels)} of the {axis.target} axis give the same pictures."
                )
    return found
