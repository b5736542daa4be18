"""Rounds with a cut: all candidates meet, the better half stays, and so on until one is left.

After each round those with the highest strengths stay, by all votes so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .strengths import Comparison, posterior

FIRST_SHARE = 0.4
"""The share of all votes in the first round; the others share the rest equally. Of 13 candidates
and three rounds that are 40, 30 and 30 %.
"""


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


def cuts(candidates: int) -> tuple[int, ...]:
    """How many stay after each round, such as 6, 3 and 1 of 13."""
    found = []
    while candidates > 1:
        candidates //= 2
        found.append(candidates)
    return tuple(found)


def standing(comparisons: Sequence[Comparison], candidates: int, votes: int) -> Standing:
    """The round that these comparisons, in the order in which they were made, have led to. In all
    rounds together there are so many votes.
    """
    stays = cuts(candidates)
    alive = tuple(range(candidates))
    begin = 0
    for number, (keep, length) in enumerate(zip(stays, lengths(votes, len(stays)), strict=True)):
        end = begin + length
        if len(comparisons) < end:
            return Standing(number + 1, len(stays), alive, end - len(comparisons))
        strengths = posterior(comparisons[:end], candidates).strengths
        alive = tuple(sorted(sorted(alive, key=lambda one: -strengths[one])[:keep]))
        begin = end
    return Standing(len(stays), len(stays), alive, 0)


def lengths(votes: int, rounds: int) -> list[int]:
    """How many votes each round has; at least one."""
    if rounds == 1:
        return [votes]
    shares = [FIRST_SHARE] + [(1 - FIRST_SHARE) / (rounds - 1)] * (rounds - 1)
    ends = [round(votes * sum(shares[: number + 1])) for number in range(rounds)]
    return [max(1, end - before) for before, end in zip([0, *ends], ends, strict=False)]
