"""A plan: fixed settings and axes, resolved to cells before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from .axes import Axis
from .cell import CellSettings, check_limits
from .errors import GridError

FORMAT = 1
MOST_CELLS = 20_000


@dataclass(frozen=True)
class Cell:
    """One picture of a grid. `position` holds its value's number on every axis, counted from 0."""

    position: tuple[int, ...]
    settings: CellSettings
    key: str


@dataclass(frozen=True)
class Plan:
    """A resolved grid. `cells` are in display order: the last axis changes fastest."""

    name: str
    fixed: dict[str, Any]
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]

    @cached_property
    def render_order(self) -> tuple[Cell, ...]:
        """Every different picture once, all of a checkpoint together: the fewest loads there can be."""
        pictures: dict[str, Cell] = {}
        for cell in self.cells:
            pictures.setdefault(cell.key, cell)
        checkpoints = list(dict.fromkeys(cell.settings.checkpoint for cell in pictures.values()))
        rank = {checkpoint: number for number, checkpoint in enumerate(checkpoints)}
        return tuple(
            sorted(
                pictures.values(), key=lambda cell: (rank[cell.settings.checkpoint], cell.position)
            )
        )

    @property
    def repeats(self) -> int:
        """How many cells show a picture that another cell shows too: checkpoints with the same content."""
        return len(self.cells) - len(self.render_order)

    def size_words(self) -> str:
        """The number of cells, and how it comes about: "12 cells (3 x checkpoint, 4 x seed)"."""
        parts = ", ".join(f"{len(axis.values)} x {axis.target}" for axis in self.axes)
        return f"{len(self.cells)} cells ({parts})"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "fixed": self.fixed,
            "axes": [axis.to_json() for axis in self.axes],
            "cells": [
                {"position": cell.position, "key": cell.key, "settings": asdict(cell.settings)}
                for cell in self.cells
            ],
        }


def make_plan(
    name: str, fixed: Mapping[str, Any], axes: Sequence[Axis], sha256_of: Callable[[str], str]
) -> Plan:
    """Resolve a grid. `fixed` holds the fields of `CellSettings`; what an axis sets takes their place.

    `sha256_of(checkpoint name)` is asked once for every checkpoint, and raises GridError for one that is missing.
    Raises GridError for axes that set the same thing, too many cells, settings out of limits, or no checkpoint.
    """
    _check_targets(axes)
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS:
        raise GridError(
            f"The grid {name} would have {count:,} cells; {MOST_CELLS:,} is the most. Take values off its axes."
        )
    varied = {setting for axis in axes for setting in axis.values[0].set}
    kept = {field.name: fixed[field.name] for field in fields(CellSettings)}
    kept = {setting: value for setting, value in kept.items() if setting not in varied}
    if "checkpoint" not in varied and not kept["checkpoint"]:
        raise GridError(
            f"The grid {name} has no checkpoint. Choose one on Grid Plan, or link an axis of checkpoints to it."
        )
    check_limits(kept)
    for axis in axes:
        for value in axis.values:
            check_limits(value.set)
    hashes: dict[str, str] = {}
    cells = []
    for position in itertools.product(*(range(len(axis.values)) for axis in axes)):
        settings = dict(kept)
        for axis, number in zip(axes, position, strict=True):
            settings.update(axis.values[number].set)
        resolved = CellSettings(**settings)
        if resolved.checkpoint not in hashes:
            hashes[resolved.checkpoint] = sha256_of(resolved.checkpoint)
        cells.append(Cell(position, resolved, resolved.key(hashes[resolved.checkpoint])))
    return Plan(name, kept, tuple(axes), tuple(cells))


def _check_targets(axes: Sequence[Axis]) -> None:
    seen: dict[str, int] = {}
    for number, axis in enumerate(axes, start=1):
        if axis.target in seen:
            raise GridError(
                f"Axis {seen[axis.target]} and axis {number} both vary the {axis.target}. "
                "Put all its values on one axis."
            )
        seen[axis.target] = number
