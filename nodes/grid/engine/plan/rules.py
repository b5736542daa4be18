"""Rules that leave cells out: "checkpoint = *768* and size = 512x512" is one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import GridError

CONDITION = re.compile(r"\s*(?P<name>[^=!]+?)\s*(?P<sign>!=|=)\s*(?P<pattern>.+?)\s*", re.DOTALL)

ANOTHER = re.compile(r"\sand\s+[^=!]+!?=")
"""What looks like another condition in a pattern, under a name that does not exist."""


@dataclass(frozen=True)
class Condition:
    """What a setting of a cell must be called or, with `unlike`, must not be called. `*`, `?` and
    `[abc]` work as in file names.
    """

    name: str
    pattern: str
    unlike: bool = False


@dataclass(frozen=True)
class Rule:
    """Leaves out the cells to which all conditions apply."""

    conditions: tuple[Condition, ...]
    text: str

    def leaves_out(self, called: Callable[[str], Iterable[str]]) -> bool:
        """`called(name)` gives all that a cell's setting of that name is called."""
        return all(
            any(_matches(word, condition.pattern) for word in called(condition.name))
            != condition.unlike
            for condition in self.conditions
        )


def read_rules(text: str, known: Iterable[str]) -> tuple[Rule, ...]:
    """The rules of a text with one a line. `known` are the names that rules can use. Raises
    GridError.
    """
    rules = []
    names = {name.lower(): name for name in known}
    longest_first = sorted(names, key=len, reverse=True)
    any_name = "|".join(re.escape(name) for name in longest_first)
    joined = re.compile(rf"\s+and\s+(?=(?:{any_name})\s*!?=)", re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        conditions = []
        for part in joined.split(line.strip()):
            match = CONDITION.fullmatch(part)
            if match is None or ANOTHER.search(match["pattern"]):
                raise GridError(
                    f"Line {number} of the rules: {part!r} is not a condition. Write NAME = "
                    "PATTERN, several joined by 'and', such as "
                    "checkpoint = *768* and size = 512x512. Names are: "
                    f"{', '.join(names.values())}."
                )
            name = names.get(match["name"].lower())
            if name is None:
                raise GridError(
                    f"Line {number} of the rules: there is no name {match['name']!r}. Names are: "
                    f"{', '.join(names.values())}."
                )
            conditions.append(Condition(name, match["pattern"], match["sign"] == "!="))
        rules.append(Rule(tuple(conditions), line.strip()))
    return tuple(rules)


def _matches(word: str, pattern: str) -> bool:
    return fnmatchcase(word.lower(), pattern.lower())
