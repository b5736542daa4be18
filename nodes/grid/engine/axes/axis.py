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
    _check_replacing(axes)
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


def follow(axes: Sequence[Axis]) -> Axis:
    """The values of axes that vary the same thing, one axis after the other: such as the epochs of
    a run, and checkpoints of others beside them. Raises GridError if they vary different things.
    """
    first = axes[0]
    for number, axis in enumerate(axes[1:], start=2):
        if axis.target != first.target:
            raise GridError(
                f"Only axes of one thing can follow each other: axis 1 varies the {first.target}, "
                f"axis {number} the {axis.target}."
            )
    values = tuple(value for axis in axes for value in axis.values)
    if len(values) > MOST_VALUES:
        raise GridError(
            f"These axes have {len(values):,} values together; {MOST_VALUES:,} is the most."
        )
    return Axis(first.label, first.target, values)


def check_apart(axes: Sequence[Axis]) -> None:
    """Raise GridError if two axes vary the same thing. Several may search and replace in a text,
    each for words of its own, and another one may set that text.
    """
    for later, axis in enumerate(axes):
        for earlier, before in enumerate(axes[:later]):
            which = f"Axis {earlier + 1} and axis {later + 1} both"
            shared = before.settings & axis.settings
            twice = {n for n in shared if not _searches(before, n) and not _searches(axis, n)}
            if twice or before.target == axis.target:
                what = _words(twice) if twice else f"the {axis.target}"
                raise GridError(f"{which} vary {what}. Put all its values on one axis.")
            for name in shared:
                if same := _searches(before, name) & _searches(axis, name):
                    raise GridError(
                        f"{which} replace {min(same)!r} in one text. Put all its values on one "
                        "axis."
                    )


def _searches(axis: Axis, name: str) -> set[str]:
    """The words that an axis replaces in a text; none if it sets that text."""
    found = [replacement(name, value.set[name]) for value in axis.values if name in value.set]
    return {pair[0] for pair in found if pair} if all(found) else set()


def replacement(name: str, value: Any) -> tuple[str, str] | None:
    """What a value searches for, and what it puts in its place; None if it sets something itself.

    Settings of stock nodes have names for that (`REPLACES`); an input of a node is set to
    {"search", "replace"}.
    """
    if name in REPLACES.values():
        return value[0], value[1]
    if isinstance(value, dict) and value.keys() == {"search", "replace"}:
        return value["search"], value["replace"]
    return None


def _check_replacing(axes: Sequence[Axis]) -> None:
    """Refuse two axes that change one text: their values cannot be one."""
    for later, axis in enumerate(axes):
        for before in axes[:later]:
            if before.settings & axis.settings:
                raise GridError(
                    f"{before.target} and {axis.target} replace words of the same text, which one "
                    "axis cannot do. Link them to the grid as axes of their own."
                )


def labelled(found: Sequence[Value], labels: str) -> list[Value]:
    """The values with these labels, one per line. A blank line keeps a value's own label."""
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
        raise GridError(f"{what} must be a text with one per line, or a list, not {value!r}.")
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
