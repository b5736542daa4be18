"""What to say when something is wrong: the exception, and the names that may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from heapq import nlargest

LONGEST = 4000
"""Characters of a message."""
LONGEST_NAME, CLOSER_LOOKS = 100, 50
"""Comparing two names takes time with their lengths: longer ones are not compared, and only so many
that share most letters are compared letter by letter.
"""


class ForThePerson(Exception):
    """Says what is wrong, where, and what to do. Anything else that is raised is a bug."""

    def __str__(self) -> str:
        """The message; of a long one, which quotes what was given, the beginning and the end."""
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} ... {text[-400:]}"


class TrainerError(ForThePerson):
    """What a person who trains or prepares data is told."""


def nearest(name: str, known: Iterable[str], compared: Callable[[str], str] = str) -> str:
    """The words " Did you mean X?" with the known name X that is most like `name`, or "" if none
    is.

    `compared` gives the part of a name that counts, such as a file's name without its folder. Upper
    and lower case count as the same. `nearest` in merge/errors.py answers alike.
    """

    def part_of(name: str) -> str:
        return compared(name).casefold()

    wanted = part_of(name)
    if not 0 < len(wanted) <= LONGEST_NAME:
        return ""
    parts = {part: one for one in known if len(part := part_of(one)) <= LONGEST_NAME}
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(wanted)

    def shared_letters(part: str) -> float:
        matcher.set_seq1(part)
        return matcher.quick_ratio()

    hopeful = nlargest(CLOSER_LOOKS, parts, key=shared_letters)
    near = difflib.get_close_matches(wanted, hopeful, n=1, cutoff=0.5)
    near = near or [part for part in parts if len(wanted) > 1 and wanted in part]
    return f" Did you mean {parts[near[0]]}?" if near else ""
