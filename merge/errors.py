"""What a person is told when a merge is not possible: the exception, and the name they may have
meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

LONGEST = 4000
"""Characters of a message."""
LONGEST_NAME = 100
"""Comparing names takes time with their lengths; longer ones are not compared."""


class MergeError(Exception):
    """Says what is wrong, where, and what to do. Anything else that is raised is a bug."""

    def __str__(self) -> str:
        """The message; of a long one, which quotes what was given, the beginning and the end."""
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} ... {text[-400:]}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """The words " Did you mean X?" with the known name X that is most like `name`, or "" if none
    is. Upper and lower case count as the same.
    """
    if len(name) > LONGEST_NAME:
        return ""
    by_letters = {one.casefold(): one for one in known if len(one) <= LONGEST_NAME}
    near = difflib.get_close_matches(name.casefold(), by_letters, n=1, cutoff=0.5)
    return f" Did you mean {by_letters[near[0]]}?" if near else ""
