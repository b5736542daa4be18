"""When a graph that waits for votes goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from . import rounds
from .questions import ROUNDS
from .strengths import Comparison
from .verdict import BY_VOTES, ROUNDS_DONE, SURE, Verdict

DECISION, ROUNDS_OVER, NUMBER = "it is decided", "the rounds are over", "so many votes"
UNTIL = (DECISION, ROUNDS_OVER, NUMBER)


@dataclass(frozen=True)
class Enough:
    """How far a vote is."""

    ends: bool
    text: str
    """In words that name no candidate: the vote is blind."""


def progress(made: Sequence[Comparison], found: Verdict, until: str, votes: int) -> Enough:
    """Whether these votes suffice. Whatever is waited for, a vote that is decided, or that more
    votes would not decide, has ended. `votes` is how many are wanted, or how many all rounds have
    together.
    """
    cast = counted(len(made))
    if found.state in BY_VOTES and made:
        return Enough(True, f"{cast}: {found.state}")
    if until == NUMBER:
        return Enough(len(made) >= votes, f"{len(made)} of {votes} votes")
    if until == ROUNDS_OVER:
        now = rounds.standing(made, len(found.best), votes)
        if not now.votes_left:
            return Enough(True, f"{cast}, all {now.rounds} rounds are over")
        if found.state == ROUNDS_DONE:
            alike = "the pictures of those that are left are alike"
            return Enough(True, f"{cast}, in round {now.round} of {now.rounds} {alike}")
        return Enough(
            False,
            f"{cast}; round {now.round} of {now.rounds} with {len(now.alive)} candidates has "
            f"{counted(now.votes_left)} left",
        )
    return Enough(False, undecided(len(made), found.best[found.leader]))


def counted(votes: int) -> str:
    return "1 vote" if votes == 1 else f"{votes} votes"


def undecided(votes: int, best: float) -> str:
    """How far votes are from a decision; `best` is how probably the leader is the best. How many
    more that takes depends on what they will say.
    """
    return (
        f"{counted(votes)}; it is decided when one value is the best with a probability of "
        f"{SURE:.0%}, now {math.floor(100 * best)}%, or when more votes would not tell the "
        "best ones apart"
    )


def not_over(grid: str, far: str, page: str) -> str:
    """Why a graph stops at a vote that is `far`, and what to do. No candidate is named: who queues
    the graph may have votes to cast.
    """
    return (
        f"The vote on the grid {grid} is not over: {far}. Vote on its page, {page} of this ComfyUI "
        "(the button on this node opens it), then queue this graph again."
    )


def page(
    name: str,
    axis: str = "",
    until: str = DECISION,
    votes: int = 0,
    count: int = 0,
    where: str = "",
) -> str:
    """The address of the vote on a grid, below that of ComfyUI."""
    rules: dict[str, object] = {"method": ROUNDS} if until == ROUNDS_OVER else {}
    if until != DECISION:
        rules["votes"] = votes
    asked = {"vote": name, "axis": axis, **rules, "count": count, "where": where.strip()}
    query = urlencode({key: value for key, value in asked.items() if value})
    return f"/cocktail/view#{query}"
