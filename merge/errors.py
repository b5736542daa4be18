"""What a person is told when a merge is not possible: the exception, and the name they may have
meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from heapq import nlargest

LONGEST = 4000
"""Characters of a message."""
LONGEST_NAME, CLOSER_LOOKS = 100, 50
"""Comparing two names takes time with their lengths: longer ones are not compared, and only so many
that share most letters are compared letter by letter.
"""


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

    It answers as `nearest` in trainer/errors.py does: the two parts import nothing of each other.
    """
    wanted = name.casefold()
    if not 0 < len(wanted) <= LONGEST_NAME:
        return ""
    parts = {part: one for one in known if len(part := one.casefold()) <= LONGEST_NAME}
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(wanted)

    def shared_letters(part: str) -> float:
        matcher.set_seq1(part)
        return matcher.quick_ratio()

    hopeful = nlargest(CLOSER_LOOKS, parts, key=shared_letters)
    near = difflib.get_close_matches(wanted, hopeful, n=1, cutoff=0.5)
    near = near or [part for part in parts if len(wanted) > 1 and wanted in part]
    return f" Did you mean {parts[near[0]]}?" if near else ""
