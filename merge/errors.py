"""The one exception whose message is meant for the person who mixes checkpoints."""

from __future__ import annotations

from collections.abc import Sequence


class MergeError(Exception):
    """Says what is wrong, where, and what to do. Anything else that is raised is a bug."""


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
