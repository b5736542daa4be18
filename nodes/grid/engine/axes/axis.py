"""An axis of a grid: what varies, the values it takes, and what each value is called on a sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..cell.settings import REPLACES
from ..errors import GridError
from .lists import MOST_VALUES


@dataclass(frozen=True)
class Value:
    """One value of an axis: the settings it sets, and its name on sheets."""

    label: str
    set: dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """One thing that varies over a grid, or several that vary together."""

    label: str
    target: str
    values: tuple[Value, ...]

    @property
    def settings(self) -> set[str]:
        """The names of all settings that values of this axis set."""
        return {name for value in self.values for name in value.set}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def combine(axes: Sequence[Axis], together: bool) -> Axis:
    """Several axes as one. Their values move together, first with first, or all are combined with
    all.

    Raises GridError if two set the same thing, or if they are to move together but have different
    lengths.
    """
    check_apart(axes)
    names = (
        " + ".join(axis.target for axis in axes)
        if together
        else " x ".join(axis.target for axis in axes)
    )
    lengths = [len(axis.values) for axis in axes]
    if together and len(set(lengths)) > 1:
        counted = ", ".join(f"{axis.target} {len(axis.values)}" for axis in axes)
        raise GridError(
            f"Axes that move together need the same number of values, but these have: {counted}."
        )
    count = lengths[0] if together else math.prod(lengths)
    if count > MOST_VALUES:
        raise GridError(
            f"Every combination of {' x '.join(map(str, lengths))} values makes {count:,}; "
            f"{MOST_VALUES:,} is the most."
        )
    found = [Value("", {})]
    if together:
        found *= lengths[0]
    for axis in axes:
        if together:
            pairs = list(zip(found, axis.values, strict=True))
        else:
            pairs = [(before, value) for before in found for value in axis.values]
        found = [_both(before, value) for before, value in pairs]
    return Axis(names, names, tuple(found))


def check_apart(axes: Sequence[Axis]) -> None:
    """Raise GridError if two axes vary the same thing. Several may search and replace, each for
    words of its own.
    """
    for later, axis in enumerate(axes):
        for earlier, before in enumerate(axes[:later]):
            shared = (before.settings & axis.settings) - set(REPLACES.values())
            if shared or before.target == axis.target:
                what = _words(shared) if shared else f"the {axis.target}"
                raise GridError(
                    f"Axis {earlier + 1} and axis {later + 1} both vary {what}. Put all its values"
                    " on one axis."
                )


def labelled(found: Sequence[Value], labels: str) -> list[Value]:
    """The values with these labels, one a line. A blank line keeps a value's own label."""
    given = [line.strip() for line in labels.splitlines()]
    while given and not given[-1]:
        given.pop()
    if len(given) > len(found):
        raise GridError(f"There are {len(given)} labels for {len(found)} values.")
    given += [""] * (len(found) - len(given))
    return [
        replace(value, label=label) if label else value
        for value, label in zip(found, given, strict=True)
    ]


def text_of(value: Any, what: str) -> str:
    """The lines of a text, or of a list with one each. Raises GridError for anything else."""
    if value is not None and not isinstance(value, str | list):
        raise GridError(f"{what} must be a text with one a line, or a list, not {value!r}.")
    return value if isinstance(value, str) else "\n".join(map(str, value or []))


def _both(before: Value, value: Value) -> Value:
    label = f"{before.label} · {value.label}" if before.label else value.label
    return Value(label, {**before.set, **value.set})


def _words(settings: set[str]) -> str:
    """Settings as a person calls them; an input of a node by its id and name."""
    words = {"width": "size", "height": "size", "loras": "LoRA", "vae": "VAE"}
    named = {
        name if "." in name else f"the {words.get(name, name.replace('_', ' '))}"
        for name in settings
    }
    return ", ".join(sorted(named))
