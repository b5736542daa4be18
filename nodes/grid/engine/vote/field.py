"""Who competes with whom: the values of one axis are the candidates, and in each place, one choice
of values on the other axes, there is a picture of every candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .....trainer.errors import nearest
from ..errors import GridError
from .strengths import Comparison

MODELS = ("checkpoint", "ckpt", "recipe")
"""The axis whose target has one of these words holds the candidates, if none is named."""


@dataclass(frozen=True)
class Candidate:
    """A value of the axis that is voted on, or several with the same pictures everywhere."""

    label: str
    set: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """One choice of values on the other axes."""

    labels: Mapping[str, str]
    """The label on each other axis, by its target."""
    keys: tuple[str | None, ...]
    """The cell of every candidate; None where a rule leaves it out."""


@dataclass(frozen=True)
class Field:
    """The candidates of a grid and all places where they can be compared."""

    axis: str
    """The target of the candidates' axis."""
    candidates: tuple[Candidate, ...]
    places: tuple[Place, ...]

    @cached_property
    def where(self) -> dict[str, dict[int, int]]:
        """The candidate of every cell by key and place: a picture may be that of several places,
        such as one without a LoRA at every strength.
        """
        found: dict[str, dict[int, int]] = {}
        for number, place in enumerate(self.places):
            for candidate, key in enumerate(place.keys):
                if key is not None:
                    found.setdefault(key, {}).setdefault(number, candidate)
        return found

    def only(self, where: str) -> Field:
        """The field with the places that have these labels alone: `target = label`, one a line,
        with blanks for line breaks in labels; see `_alike`. Raises GridError if there are none.
        """
        places = self.places
        for line in filter(None, map(str.strip, where.splitlines())):
            target, equals, label = (part.strip() for part in line.partition("="))
            targets = list(self.places[0].labels)
            if not equals or target not in targets:
                shown = ", ".join(targets) or "none"
                raise GridError(
                    f"{line[:100]!r} chooses no votes: write target = label, one a line, of one of "
                    f"the grid's other axes ({shown})."
                )
            labels = list(dict.fromkeys(one.labels[target] for one in self.places))
            meant = [label] if label in labels else _alike(target, label, labels)
            if not meant:
                lines = [" ".join(one.split()) for one in labels]
                shown = ", ".join(lines[:10]) + (", ..." if len(lines) > 10 else "")
                raise GridError(
                    f"The {target} axis has no value {label[:100]!r}.{nearest(label, lines)} It "
                    f"has these: {shown[:500]}."
                )
            places = tuple(one for one in places if one.labels[target] in meant)
        if not places:
            lines = " and ".join(filter(None, map(str.strip, where.splitlines())))
            raise GridError(f"No picture of the grid has {lines[:200]} at once.")
        return replace(self, places=places)

    def place_of(self, shown: Sequence[str]) -> int | None:
        """The first place that some cells share; None if they do not, or are no cells of this
        field.
        """
        shared = [set(self.where.get(key, ())) for key in shown]
        return min(set.intersection(*shared), default=None) if shared else None

    def comparison(self, shown: Sequence[str], order: Sequence[str]) -> Comparison | None:
        """A vote on cells as one on candidates; None if this field does not compare these cells."""
        place = self.place_of(shown)
        if place is None:
            return None
        numbers = tuple(self.where[key][place] for key in shown)
        if len(set(numbers)) < len(numbers):
            return None
        return Comparison(numbers, tuple(self.where[key][place] for key in order))


def field_of(
    axes: Sequence[Mapping[str, Any]],
    positions: Sequence[Sequence[int]],
    keys: Sequence[str],
    axis: str = "",
) -> Field:
    """The field of a plan's axes as JSON, with position and key of every cell. `axis` is the target
    of the axis to vote on.

    Raises GridError if there is no such axis, or nothing to compare.
    """
    if not axes:
        raise GridError("The grid has no axis, so there is nothing to vote on.")
    at = _number(axes, axis)
    target = axes[at]["target"]
    others = [(n, one) for n, one in enumerate(axes) if n != at]
    cells: dict[tuple[int, ...], dict[int, str]] = {}
    for position, key in zip(positions, keys, strict=True):
        rest = tuple(position[n] for n, _ in others)
        cells.setdefault(rest, {})[position[at]] = key
    values = axes[at]["values"]
    columns: dict[tuple[str | None, ...], list[int]] = {}
    for number in range(len(values)):
        column = tuple(place.get(number) for place in cells.values())
        if any(column):
            columns.setdefault(column, []).append(number)
    if len(columns) < 2:
        raise GridError(
            f"The {target} axis has fewer than two values with different pictures, so there is "
            "nothing to vote on."
        )
    candidates = tuple(
        Candidate(" = ".join(values[n]["label"] for n in same), values[same[0]]["set"])
        for same in columns.values()
    )
    places = tuple(
        Place(
            {
                one["target"]: one["values"][at]["label"]
                for (_, one), at in zip(others, rest, strict=True)
            },
            tuple(column[row] for column in columns),
        )
        for row, rest in enumerate(cells)
    )
    return Field(target, candidates, places)


def _alike(target: str, label: str, labels: Sequence[str]) -> list[str]:
    """The labels that say the same but for blanks, capitals and the axis: 512x512 for 512 x 512, 2
    for seed 2.
    """

    def plain(text: str) -> str:
        return "".join(text.split()).casefold().removeprefix("".join(target.split()).casefold())

    return [one for one in labels if plain(one) == plain(label)]


def _number(axes: Sequence[Mapping[str, Any]], axis: str) -> int:
    targets = [one["target"] for one in axes]
    if axis:
        if axis not in targets:
            raise GridError(
                f"The grid has no axis {axis[:100]!r} to vote on. It has these: "
                f"{', '.join(targets)}."
            )
        return targets.index(axis)
    of_models = [
        n for n, target in enumerate(targets) if any(word in target.lower() for word in MODELS)
    ]
    return (of_models or [0])[0]
