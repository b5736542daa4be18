"""A plan as data: a grid resolved to its cells before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..axes.axis import Axis
from ..cell.settings import CellSettings
from .rules import Rule

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
    contents: dict[str, dict[str, str]]
    """SHA-256 of files by kind and name, as they were when the plan was made."""
    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()
    """What the person should know: values without effect, rules that leave nothing out."""
    workflow: dict[str, Any] | None = None
    """The API prompt of a grid over a workflow. Its cells have `WorkflowCell` as settings."""
    output: str = ""
    """The node of that workflow which shows the pictures."""

    @cached_property
    def render_order(self) -> tuple[Cell, ...]:
        """Every different picture once, in the order with the fewest loads and changes of text.

        Cells of one checkpoint are together, among them those of one prompt, then of one clip skip
        and so on; seeds change last.
        """
        pictures: dict[str, Cell] = {}
        for cell in self.cells:
            pictures.setdefault(cell.key, cell)
        cells = list(pictures.values())
        ranks: list[dict[Any, int]] = [{} for _ in cells[0].settings.render_order]
        for cell in cells:
            for seen, traits in zip(ranks, cell.settings.render_order, strict=True):
                seen.setdefault(traits, len(seen))

        def rank(cell: Cell) -> list[int]:
            return [
                seen[traits] for traits, seen in zip(cell.settings.render_order, ranks, strict=True)
            ]

        return tuple(sorted(cells, key=rank))

    @property
    def rendered_here(self) -> bool:
        """Whether Render Grid renders its cells in this process; those of a workflow go through a
        queue.
        """
        return all(cell.settings.rendered_here for cell in self.cells)

    @property
    def repeats(self) -> int:
        """How many cells show the same picture as another cell, for example because two checkpoints
        have the same content.
        """
        return len(self.cells) - len(self.render_order)

    @property
    def left_out(self) -> int:
        """How many cells the rules leave out."""
        return math.prod(len(axis.values) for axis in self.axes) - len(self.cells)

    def size_words(self) -> str:
        """The number of cells and its factors: "12 cells (3 x checkpoint, 4 x seed)"."""
        parts = ", ".join(f"{len(axis.values)} x {axis.target}" for axis in self.axes)
        less = f", {self.left_out} left out" if self.left_out else ""
        return f"{len(self.cells)} cells ({parts}{less})"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "fixed": self.fixed,
            "axes": [axis.to_json() for axis in self.axes],
            "rules": [rule.text for rule in self.rules],
            "contents": self.contents,
            **({"workflow": self.workflow, "output": self.output} if self.workflow else {}),
            "cells": [
                {"position": cell.position, "key": cell.key, "settings": cell.settings.to_json()}
                for cell in self.cells
            ],
        }
