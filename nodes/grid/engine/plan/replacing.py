"""Search and replace on a text: all searches at once, on the text as it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise

from ..errors import GridError

MOST_PLACES = 10_000
"""So often the searches may be found in one text."""
MOST_SEARCHED, MOST_MADE = 10**9, 50_000_000
"""Characters over all cells of a plan: of the texts, times their searches, and of what comes of
them. A plan with more could not be saved.
"""


def replaced(text: str, replacements: Mapping[str, str]) -> tuple[str, set[str]]:
    """The text with every search replaced, and the searches that were found in it.

    Nothing that one search has put in is replaced by another. Of searches that contain each other
    the longest counts. Raises GridError where two overlap and neither they nor a third contain the
    other, and for too much work.
    """
    found = (
        (start, start + len(search), search)
        for search in replacements
        for start in _starts(text, search)
    )
    places = sorted(islice(found, MOST_PLACES + 1), key=lambda place: (place[0], -place[1]))
    if len(places) > MOST_PLACES:
        raise GridError(
            f"The searches are found more than {MOST_PLACES:,} times in a text of {len(text):,} "
            "characters. Search for longer words."
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
    parts, there, end = [], set(), 0
    for start, next_end, search in places:
        if start >= end:
            parts += text[end:start], replacements[search]
            there.add(search)
            end = next_end
    size = len(text) - end + sum(map(len, parts))
    if size > MOST_MADE:
        raise GridError(f"A text becomes {size:,} characters long; {MOST_MADE:,} is the most.")
    return "".join([*parts, text[end:]]), there


def _starts(text: str, search: str) -> Iterator[int]:
    start = text.find(search)
    while start >= 0:
        yield start
        start = text.find(search, start + 1)


@dataclass
class Searches:
    """Search and replace over all cells of a plan, which notes the words that are nowhere."""

    found: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Whether any text had the words that were searched for, by (name of the text, words)."""
    searched: int = 0
    made: int = 0
    """Characters that were looked through, and that came of it."""

    def replaced(self, name: str, text: str, replacements: Mapping[str, str]) -> str:
        """The text of that name with every search replaced. Raises GridError for searches that
        overlap, and for too much work.
        """
        self.searched += len(text) * len(replacements)
        if self.searched > MOST_SEARCHED:
            raise GridError(
                f"The searches have more than {MOST_SEARCHED:,} characters to look through, over "
                "all cells. Shorten the texts, or make several grids of it."
            )
        made, there = replaced(text, replacements)
        self.made += len(made)
        if self.made > MOST_MADE:
            raise GridError(
                f"The searches make texts of more than {MOST_MADE:,} characters, over all cells. "
                "Shorten them, or make several grids of it."
            )
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
