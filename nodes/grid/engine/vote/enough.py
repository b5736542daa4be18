"""When a graph that waits for votes goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from . import rounds
from .questions import ROUNDS
from .strengths import Comparison
from .verdict import DECIDED, LEVEL

DECISION, ROUNDS_OVER, NUMBER = "it is decided", "the rounds are over", "so many votes"
UNTIL = (DECISION, ROUNDS_OVER, NUMBER)
ENDS = (DECIDED, LEVEL)
"""States of a vote in which nobody is asked any more."""


@dataclass(frozen=True)
class Enough:
    """How far a vote is."""

    ends: bool
    text: str
    """In words that name no candidate: the vote is blind."""


def progress(
    made: Sequence[Comparison], candidates: int, state: str, until: str, votes: int
) -> Enough:
    """Whether these votes suffice. `state` is that of the verdict; whatever is waited for, a vote
    that is decided, or that more votes would not decide, has ended. `votes` is how many are wanted,
    or how many all rounds have together.
    """
    cast = "1 vote" if len(made) == 1 else f"{len(made)} votes"
    if state in ENDS and made:
        return Enough(True, f"{cast}: {state}")
    if until == NUMBER:
        return Enough(len(made) >= votes, f"{len(made)} of {votes} votes")
    if until == ROUNDS_OVER:
        now = rounds.standing(made, candidates, votes)
        if not now.votes_left:
            return Enough(True, f"{cast}, all {now.rounds} rounds are over")
        left = "1 vote" if now.votes_left == 1 else f"{now.votes_left} votes"
        return Enough(
            False,
            f"{cast}; round {now.round} of {now.rounds} with {len(now.alive)} candidates has "
            f"{left} left",
        )
    return Enough(False, cast)


def page(name: str, axis: str = "", until: str = DECISION, votes: int = 0, count: int = 0) -> str:
    """The address of the vote on a grid, below that of ComfyUI."""
    rules = {"method": ROUNDS, "votes": votes} if until == ROUNDS_OVER else {}
    asked = {"vote": name, "axis": axis, **rules, "count": count}
    query = urlencode({key: value for key, value in asked.items() if value})
    return f"/cocktail/view#{query}"
