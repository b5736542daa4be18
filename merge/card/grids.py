"""A grid's folder: its plan, which of its values are which models, and its pictures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import MergeError
from ..recipe import Ingredient, bind
from ..recipe_json import load_json, recipe_hash
from .reading import Unreadable, folders, inside, parse_json, read_bytes, text

PLAN_FORMAT = 1
KEY = re.compile(r"[0-9a-f]{64}")
SUFFIXES = (".png", ".webp")
MOST_GRIDS = 2000
MODELS = ("checkpoint", "recipe")
KINDS = ("checkpoint", "checkpoints")
"""What a plan calls its checkpoints: of a grid of settings, and of one of a workflow."""


@dataclass(frozen=True)
class Candidate:
    """A value of the axis that was compared, or several with the same pictures everywhere.

    `contents` are the hashes of what it is: of a checkpoint's bytes, or of a recipe.
    """

    label: str
    contents: frozenset[str]


@dataclass(frozen=True)
class Place:
    """One choice of values on the other axes: their labels by target, and the cell of every
    candidate, None where a rule leaves it out.
    """

    labels: Mapping[str, str]
    keys: tuple[str | None, ...]


@dataclass(frozen=True)
class Field:
    """The models that a grid compares, and all places where they can be compared."""

    axis: str
    candidates: tuple[Candidate, ...]
    places: tuple[Place, ...]

    @cached_property
    def where(self) -> dict[str, dict[int, int]]:
        """The candidate of every cell, by key and place."""
        found: dict[str, dict[int, int]] = {}
        for number, place in enumerate(self.places):
            for candidate, key in enumerate(place.keys):
                if key is not None:
                    found.setdefault(key, {}).setdefault(number, candidate)
        return found

    def place_of(self, shown: Sequence[str]) -> int | None:
        """The first place that some cells share."""
        shared = [set(self.where.get(key, ())) for key in shown]
        return min(set.intersection(*shared), default=None) if shared else None

    def number_of(self, contents: frozenset[str]) -> int | None:
        """The candidate that is a model with one of these hashes."""
        return next((n for n, one in enumerate(self.candidates) if one.contents & contents), None)


@dataclass(frozen=True)
class Cell:
    """A picture of the plan: its key, position, and the settings that made it."""

    key: str
    position: tuple[int, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A plan as it was saved. `contents` are hashes by the name of a checkpoint, or by the text of
    a recipe.
    """

    name: str
    folder: Path
    sha256: str
    axes: tuple[Mapping[str, Any], ...]
    cells: tuple[Cell, ...]
    contents: Mapping[str, str]

    def contents_of(self, settings: Mapping[str, Any]) -> str | None:
        """The hash of the model that settings name; of a cell of any workflow, the checkpoint that
        it sets, or else the only one that its workflow has.
        """
        named = [settings.get("recipe"), settings.get("checkpoint"), *settings.values()]
        found = [
            self.contents[one] for one in named if isinstance(one, str) and one in self.contents
        ]
        if not found and "checkpoint" not in settings and len(self.contents) == 1:
            found = list(self.contents.values())
        return found[0] if found else None

    def labels(self, cell: Cell) -> dict[str, str]:
        """The label of a cell on every axis, by its target."""
        return {
            axis["target"]: axis["values"][at]["label"]
            for axis, at in zip(self.axes, cell.position, strict=True)
        }

    @cached_property
    def field(self) -> Field | None:
        """What the grid compares; None if no axis has two models with pictures of their own."""
        return _field(self)

    def picture(self, key: str) -> Path | None:
        """The file of a cell, None if it was not rendered."""
        for suffix in SUFFIXES:
            try:
                path = inside(self.folder, f"cells/{key[:2]}/{key}{suffix}")
            except Unreadable:
                continue
            if path.is_file():
                return path
        return None


def find_grids(root: Path, wanted: Sequence[str]) -> tuple[list[Grid], list[str]]:
    """The grids below `root` that have pictures of models with one of these hashes, or with mixes
    of such; and a sentence about each that cannot be read.
    """
    found, problems = [], []
    try:
        every = folders(root)[:MOST_GRIDS]
    except Unreadable as error:
        return [], [f"Grids: {error}."]
    marks = [one.encode() for one in wanted]
    for folder in every:
        path = folder / "plan.json"
        if not path.is_file() and not path.is_symlink():
            continue
        try:
            data = read_bytes(path)
            if any(mark in data for mark in marks):
                found.append(_grid(folder, data))
        except Unreadable as error:
            problems.append(f"The grid {folder.name} is left out: its plan.json, {error}.")
    return found, problems


def _grid(folder: Path, data: bytes) -> Grid:
    plan = parse_json(data)
    if plan.get("format") != PLAN_FORMAT:
        raise Unreadable("it was written by another version of Cocktail")
    try:
        axes = tuple(_axis(axis) for axis in plan["axes"])
        cells = tuple(_cell(cell, axes) for cell in plan["cells"])
        contents = {n: h for kind in KINDS for n, h in plan["contents"].get(kind, {}).items()}
        known = {n: h for n, h in contents.items() if isinstance(h, str) and KEY.fullmatch(h)}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unreadable("it is damaged") from None
    recipes = {str(cell.settings["recipe"]) for cell in cells if cell.settings.get("recipe")}
    mixes = {one: made for one in recipes if (made := _recipe_hash(one, known)) is not None}
    sha256 = hashlib.sha256(data).hexdigest()
    return Grid(folder.name, folder, sha256, axes, cells, {**known, **mixes})


def _axis(axis: Any) -> dict[str, Any]:
    values = [{"label": str(one["label"]), "set": dict(one["set"])} for one in axis["values"]]
    return {"target": str(axis["target"]), "values": values}


def _cell(cell: Any, axes: Sequence[Mapping[str, Any]]) -> Cell:
    position = tuple(cell["position"])
    fits = len(position) == len(axes) and all(
        type(at) is int and 0 <= at < len(axis["values"])
        for at, axis in zip(position, axes, strict=False)
    )
    if not fits or not KEY.fullmatch(cell["key"]) or not isinstance(cell["settings"], dict):
        raise ValueError("a cell makes no sense")
    return Cell(cell["key"], position, cell["settings"])


def _recipe_hash(recipe: str, contents: Mapping[str, str]) -> str | None:
    try:
        read = load_json(recipe)
        if isinstance(read, Ingredient):
            return contents.get(read.name)
        return recipe_hash(bind(read, contents.__getitem__))
    except (MergeError, KeyError):
        return None


def _field(grid: Grid) -> Field | None:
    targets = [axis["target"] for axis in grid.axes]
    models = [n for n, target in enumerate(targets) if any(word in target for word in MODELS)]
    models += [
        number
        for number, axis in enumerate(grid.axes)
        if any(grid.contents_of(value["set"]) for value in axis["values"] if value["set"])
    ]
    if not models:
        return None
    at = models[0]
    others = [number for number in range(len(targets)) if number != at]
    cells: dict[tuple[int, ...], dict[int, Cell]] = {}
    for cell in grid.cells:
        rest = tuple(cell.position[number] for number in others)
        cells.setdefault(rest, {})[cell.position[at]] = cell
    columns: dict[tuple[str | None, ...], list[int]] = {}
    contents: dict[int, set[str]] = {}
    for number in range(len(grid.axes[at]["values"])):
        column = [place.get(number) for place in cells.values()]
        hashes = {grid.contents_of(one.settings) for one in column if one is not None}
        contents[number] = {one for one in hashes if one is not None}
        if any(column):
            columns.setdefault(tuple(one and one.key for one in column), []).append(number)
    if len(columns) < 2:
        return None
    values = grid.axes[at]["values"]
    candidates = tuple(
        Candidate(
            text(" = ".join(values[n]["label"] for n in same), 200),
            frozenset().union(*(contents[n] for n in same)),
        )
        for same in columns.values()
    )
    places = tuple(
        Place(
            {
                targets[n]: grid.axes[n]["values"][value]["label"]
                for n, value in zip(others, rest, strict=True)
            },
            tuple(column[row] for column in columns),
        )
        for row, rest in enumerate(cells)
    )
    return Field(targets[at], candidates, places)
