"""What votes have led to: who is ahead, whether that is the end, and in which order the others
follow. Page, phone, nodes and routes all ask here, so that they name the same winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .....merge.card.rounds import Standing, ordered
from .rounds import standing
from .strengths import Comparison, Posterior, posterior
from .verdict import (
    ALIKE,
    ENOUGH,
    NOTHING,
    ROUNDS_DONE,
    SURE,
    Twins,
    Verdict,
    alike,
    no_twins,
    verdict,
)


@dataclass(frozen=True)
class Outcome:
    """What votes have led to."""

    posterior: Posterior
    verdict: Verdict
    rounds: Standing | None
    """Where the vote is in rounds."""
    order: tuple[int, ...]
    """All candidates, the leader first: those that stayed in more rounds, then the stronger."""


def outcome(
    made: Sequence[Comparison],
    labels: Sequence[str],
    round_votes: int = 0,
    most_votes: int = 0,
    sure: float = SURE,
    all_alike: bool = False,
    twins: Twins = no_twins,
) -> Outcome:
    """What these comparisons have led to. With `round_votes` they are in rounds that have so many
    votes together: the leader is one that is still in. With `most_votes` they end at that number.
    Where pictures are `all_alike` there is nothing to vote on; `twins` win together, and a round of
    twins alone is the last.
    """
    votes = posterior(made, len(labels))
    rounds = standing(made, len(labels), round_votes) if round_votes else None
    stayed = rounds.stayed if rounds is not None else ()
    order = tuple(ordered(range(len(labels)), votes.strengths.tolist(), stayed))
    found = verdict(votes, labels, order[0], sure, twins=twins)
    best = f"the best with a probability of {found.best[order[0]]:.0%}"
    if all_alike:
        found = replace(found, state=ALIKE, text=NOTHING)
    elif found.ends:
        pass
    elif rounds is not None and not rounds.votes_left:
        words = f"All {rounds.rounds} rounds are over; {labels[order[0]]} is left, {best}."
        if rounds.rounds == 1:
            words = f"The only round is over; {labels[order[0]]} is left, {best}."
        found = replace(found, state=ROUNDS_DONE, text=words)
    elif rounds is not None and all(twins(order[0], n) for n in rounds.alive if n != order[0]):
        words = (
            f"Nobody can tell {alike(labels, rounds.alive)} apart, and no others are left in round "
            f"{rounds.round} of {rounds.rounds}: the rounds are over."
        )
        found = replace(found, state=ROUNDS_DONE, text=words)
    elif most_votes and len(made) >= most_votes:
        words = f"There are {len(made)} votes, as many as were wanted. {found.text}"
        if most_votes == 1:
            words = f"There is the one vote that was wanted. {found.text}"
        found = replace(found, state=ENOUGH, text=words)
    return Outcome(votes, found, rounds, order)
