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

RENDER_ORDER = (
    ("checkpoint",),
    ("prompt",),
    ("negative_prompt",),
    ("clip_skip",),
    ("width", "height"),
    ("steps", "cfg", "sampler", "scheduler"),
    ("seed",),
)
"""What cells are ordered by when they are rendered, the dearest change first."""


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
    contents: dict[str, str]
    """SHA-256 of the model files by name, as they were when the plan was made."""

    @cached_property
    def render_order(self) -> tuple[Cell, ...]:
        """Every different picture once, in the order with the fewest loads and the fewest changes of text.

        All of a checkpoint stand together, in these all of a prompt, in these all of a clip skip and so on, seeds last.
        """
        pictures: dict[str, Cell] = {}
        for cell in self.cells:
            pictures.setdefault(cell.key, cell)
        cells = list(pictures.values())
        ranks = []
        for traits in RENDER_ORDER:
            seen: dict[Any, int] = {}
            for cell in cells:
                seen.setdefault(_traits(cell, traits), len(seen))
            ranks.append(seen)

        def rank(cell: Cell) -> list[int]:
            return [
                seen[_traits(cell, traits)]
                for traits, seen in zip(RENDER_ORDER, ranks, strict=True)
            ]

        return tuple(sorted(cells, key=rank))

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
            "contents": self.contents,
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
    return Plan(name, kept, tuple(axes), tuple(cells), hashes)


def _traits(cell: Cell, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(cell.settings, name) for name in names)


def _check_targets(axes: Sequence[Axis]) -> None:
    seen: dict[str, int] = {}
    for number, axis in enumerate(axes, start=1):
        if axis.target in seen:
            raise GridError(
                f"Axis {seen[axis.target]} and axis {number} both vary the {axis.target}. "
                "Put all its values on one axis."
            )
        seen[axis.target] = number
