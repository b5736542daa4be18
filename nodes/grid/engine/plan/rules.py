"""Rules that leave cells out: "checkpoint = *768* and size = 512x512" is one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..axes.axis import Axis
from ..errors import GridError
from ..patterns import matches

MOST_RULES, LONGEST_RULE = 1_000, 2_000
"""Rules of a grid, and characters of one."""
MOST_CONDITIONS, MOST_LETTERS = 3_000, 200_000
"""Conditions of all rules of a grid, and characters of all of them."""

ANOTHER = re.compile(r"\sand\s+[^=!]+!?=")
"""What looks like another condition in a pattern, under a name that does not exist."""


@dataclass(frozen=True)
class Condition:
    """What a setting of a cell must be called or, with `unlike`, must not be called. `*` and `?`
    work as in file names, and a bracket is a bracket.
    """

    name: str
    pattern: str
    unlike: bool = False
    is_exact: bool = False
    """A value is called exactly like the pattern, so that it stands for that value alone."""

    def applies(self, words: Iterable[str]) -> bool:
        """Whether it applies to a setting that is called by these words."""
        pattern = self.pattern.lower()
        if self.is_exact:
            return any(word.lower() == pattern for word in words) != self.unlike
        return any(matches(word.lower(), pattern) for word in words) != self.unlike


@dataclass(frozen=True)
class Rule:
    """Leaves out the cells to which all conditions apply."""

    conditions: tuple[Condition, ...]
    text: str

    def leaves_out(self, called: Callable[[str], Iterable[str]]) -> bool:
        """`called(name)` gives all that a cell's setting of that name is called."""
        return all(condition.applies(called(condition.name)) for condition in self.conditions)


def read_rules(text: str, known: Iterable[str], axes: Sequence[Axis] = ()) -> tuple[Rule, ...]:
    """The rules of a text with one per line. `known` are the names that rules can use. A pattern
    that is exactly what a value of the `axes` is called stands for that value alone. Raises
    GridError.
    """
    rules = []
    lines, words = text.splitlines(), _words(axes)
    if len(lines) > MOST_RULES:
        raise GridError(f"There are {len(lines):,} rules; {MOST_RULES:,} is the most.")
    if len(text) > MOST_LETTERS:
        raise GridError(f"The rules have {len(text):,} characters; {MOST_LETTERS:,} is the most.")
    names = {name.lower(): name for name in known}
    longest_first = sorted(names, key=len, reverse=True)
    any_name = "|".join(re.escape(name) for name in longest_first)
    joined = re.compile(rf"\s+and\s+(?=(?:{any_name})\s*!?=)", re.IGNORECASE)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(line) > LONGEST_RULE:
            raise GridError(
                f"Line {number} of the rules has {len(line):,} characters; {LONGEST_RULE:,} is the "
                "most."
            )
        conditions = []
        for part in joined.split(line.strip()):
            found = _condition(part)
            if found is None or ANOTHER.search(found.pattern):
                raise GridError(
                    f"Line {number} of the rules: {part!r} is not a condition. Write NAME = "
                    "PATTERN, several joined by 'and', such as "
                    "checkpoint = *768* and size = 512x512. Names are: "
                    f"{', '.join(names.values())}."
                )
            name = names.get(found.name.lower())
            if name is None:
                raise GridError(
                    f"Line {number} of the rules: there is no name {found.name!r}. Names are: "
                    f"{', '.join(names.values())}."
                )
            is_exact = found.pattern.lower() in words.get(name.lower(), ())
            conditions.append(replace(found, name=name, is_exact=is_exact))
        rules.append(Rule(tuple(conditions), line.strip()))
    if (count := sum(len(rule.conditions) for rule in rules)) > MOST_CONDITIONS:
        raise GridError(f"The rules have {count:,} conditions; {MOST_CONDITIONS:,} is the most.")
    return tuple(rules)


def _words(axes: Sequence[Axis]) -> dict[str, set[str]]:
    """What values are called, in small letters, by the names of axes and of settings."""
    words: dict[str, set[str]] = {}
    for axis in axes:
        of_axis = words.setdefault(axis.target.lower(), set())
        for value in axis.values:
            of_axis.add(value.label.lower())
            for name, one in value.set.items():
                of_axis.add(str(one).lower())
                words.setdefault(name.replace("_", " "), set()).add(str(one).lower())
    return words


def _condition(text: str) -> Condition | None:
    """NAME = PATTERN or NAME != PATTERN, None for anything else."""
    name, sign, pattern = text.partition("=")
    unlike = name.endswith("!")
    name, pattern = name.removesuffix("!").strip(), pattern.strip()
    if not sign or not name or "!" in name or not pattern:
        return None
    return Condition(name, pattern, unlike)
