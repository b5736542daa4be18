"""A plan before it is rendered: read from JSON with all its files checked, and what it costs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from ...host import names
from .axes.choices import choices
from .cell import files
from .errors import GridError
from .plan.plan import Plan
from .plan.plan_json import plan_from_json
from .render import merging
from .store import estimate
from .store.store import Store


def summary(grid: Plan) -> dict[str, Any]:
    """How many cells a plan has, what they will cost, and what the person should know.

    Raises GridError if the ingredients of a recipe do not match, or if the cells would not fit on
    the disk.
    """
    for recipe in dict.fromkeys(cell.settings.recipe for cell in grid.cells):
        if recipe:
            merging.bound_to_files(recipe, grid.contents["checkpoint"])
    store = Store(names.cocktail_dir("grids", grid.name))
    missing = store.missing(grid)
    if not grid.rendered_here:
        cost = estimate.estimate_workflow(missing, store.log())
    else:
        cost = estimate.estimate(missing, estimate.learn(names.cocktail_dir("grids")))
    free = shutil.disk_usage(names.cocktail_dir().parent).free
    if cost.bytes > free:
        raise GridError(
            f"The grid {grid.name} needs about {estimate.size(cost.bytes)}, but only "
            f"{estimate.size(free)} are free in the output folder. "
            "Free space, or plan fewer or smaller cells."
        )
    text = f"{grid.size_words()}: " + (
        f"{len(missing)} to render, {cost.words()}" if missing else "all rendered already"
    )
    if grid.repeats:
        text += f"; {grid.repeats} show the same picture as another cell"
    notes = list(grid.notes)
    if others := store.others(grid):
        notes.append(
            f"The last grid of this name has {others} cells that this one does not have. Their "
            "files stay; rename this grid to keep the two apart."
        )
    return {
        "name": grid.name,
        "cells": len(grid.cells),
        "missing": len(missing),
        "loads": cost.loads,
        "repeats": grid.repeats,
        "left_out": grid.left_out,
        "encodings": cost.encodings,
        "seconds": cost.seconds,
        "bytes": cost.bytes,
        "notes": notes,
        "text": text,
    }


def read_plan(described: Any, sha256_of: Callable[[str, str], str]) -> Plan:
    """The plan of a JSON object, with all its files checked. Raises GridError."""

    def found(kind: str, name: str) -> str:
        files.readable(kind, name)
        return sha256_of(kind, name)

    grid = plan_from_json(described, choices(), found)
    checked_name(grid.name)
    return grid


def checked_name(name: str) -> str:
    """The name itself. Raises GridError if it cannot name a grid."""
    try:
        return names.check_name(name, "grid")
    except names.BadName as error:
        raise GridError(str(error)) from None
