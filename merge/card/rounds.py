"""Rounds with a cut: all candidates meet, the better half stays, and so on until one is left.

After each round those with the highest strengths stay, by all votes so far. The vote on a grid and
the release card count the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Made = TypeVar("Made")
FIRST_SHARE = 0.4
"""The share of all votes in the first round; the others share the rest equally. Of 13 candidates
and three rounds that are 40, 30 and 30 %.
"""
MOST_CANDIDATES = 500
"""Strengths of so many take less than a second; of 2,000 ten, and of 20,000 all memory there is."""
DIGITS = 9
"""Strengths are equal when they agree in so many: the smaller number goes first then."""


@dataclass(frozen=True)
class Standing:
    """How far the rounds are."""

    round: int
    """Counted from 1."""
    rounds: int
    alive: tuple[int, ...]
    """The candidates still in, in their order; one when all rounds are over."""
    votes_left: int
    """In this round; 0 when all rounds are over."""
    stayed: tuple[int, ...]
    """For every candidate after how many rounds it was still in."""


def cuts(candidates: int) -> tuple[int, ...]:
    """How many stay after each round, such as 6, 3 and 1 of 13."""
    found = []
    while candidates > 1:
        candidates //= 2
        found.append(candidates)
    return tuple(found)


def lengths(votes: int, rounds: int) -> list[int]:
    """How many votes each round has; at least one."""
    if rounds == 1:
        return [votes]
    shares = [FIRST_SHARE] + [(1 - FIRST_SHARE) / (rounds - 1)] * (rounds - 1)
    ends = [round(votes * sum(shares[: number + 1])) for number in range(rounds)]
    return [max(1, end - before) for before, end in zip([0, *ends], ends, strict=False)]


def standing(
    made: Sequence[Made],
    candidates: int,
    votes: int,
    strengths_by: Callable[[Sequence[Made]], Sequence[float]],
) -> Standing:
    """The round that these comparisons, in the order in which they were made, have led to. In all
    rounds together there are so many votes. `strengths_by` gives the strengths by some of them.
    """
    stays = cuts(candidates)
    alive = tuple(range(candidates))
    stayed = [0] * candidates
    begin = 0
    for number, (keep, length) in enumerate(zip(stays, lengths(votes, len(stays)), strict=True)):
        end = begin + length
        if len(made) < end:
            left = end - len(made)
            return Standing(number + 1, len(stays), alive, left, tuple(stayed))
        alive = tuple(sorted(ordered(alive, strengths_by(made[:end]))[:keep]))
        for one in alive:
            stayed[one] += 1
        begin = end
    return Standing(len(stays), len(stays), alive, 0, tuple(stayed))


def ordered(
    candidates: Sequence[int], strengths: Sequence[float], stayed: Sequence[int] = ()
) -> list[int]:
    """Candidates, the best first: those that stayed in more rounds, and then the stronger ones."""

    def place(one: int) -> tuple[float, ...]:
        return -(stayed[one] if stayed else 0), -round(float(strengths[one]), DIGITS), one

    return sorted(candidates, key=place)
