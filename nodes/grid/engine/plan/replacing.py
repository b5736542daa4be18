"""Search and replace on a text: all searches at once, on the text as it was written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from ..errors import GridError


def replaced(text: str, replacements: Mapping[str, str]) -> tuple[str, set[str]]:
    """The text with every search replaced, and the searches that were found in it.

    Nothing that one search has put in is replaced by another. Of searches that contain each other
    the longest counts. Raises GridError where two overlap and neither they nor a third contain the
    other.
    """
    longest_first = sorted(replacements, key=len, reverse=True)
    places = sorted(
        (
            (match.start(), match.start() + len(search), search)
            for search in longest_first
            for match in re.finditer(f"(?={re.escape(search)})", text)
        ),
        key=lambda place: (place[0], -place[1]),
    )
    covering: list[tuple[int, int, str]] = []
    for place in places:
        if not covering or place[1] > covering[-1][1]:
            covering.append(place)
    for (start, end, search), (other_start, other_end, other) in pairwise(covering):
        if other != search and other_start < end:
            raise GridError(
                f"The searches {search!r} and {other!r} overlap in {text[start:other_end]!r}: "
                "it is not clear which one is meant. Search for words that do not overlap."
            )
    found: set[str] = set()

    def put(match: re.Match[str]) -> str:
        found.add(match[0])
        return replacements[match[0]]

    pattern = "|".join(map(re.escape, longest_first))
    return (re.sub(pattern, put, text) if pattern else text), found


@dataclass(frozen=True)
class Searches:
    """Search and replace over all cells of a plan, which notes the words that are nowhere."""

    found: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Whether any text had the words that were searched for, by (name of the text, words)."""

    def replaced(self, name: str, text: str, replacements: Mapping[str, str]) -> str:
        """The text of that name with every search replaced. Raises GridError for searches that
        overlap.
        """
        made, there = replaced(text, replacements)
        for search in replacements:
            self.found[name, search] = self.found.get((name, search), False) or search in there
        return made

    def check(self) -> None:
        """Raise GridError if words that were searched for are in no text."""
        for (name, search), there in self.found.items():
            if not there:
                raise GridError(
                    f"The search box says {search!r}, but no {name.replace('_', ' ')} contains it."
                    " Write it exactly as it is there."
                )
