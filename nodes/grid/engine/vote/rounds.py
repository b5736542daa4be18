"""Rounds with a cut, by the strengths that the votes give."""

from __future__ import annotations

from collections.abc import Sequence

from .....merge.card import rounds
from .....merge.card.rounds import Standing
from .strengths import Comparison, posterior


def standing(comparisons: Sequence[Comparison], candidates: int, votes: int) -> Standing:
    """The round that these comparisons, in the order in which they were made, have led to. In all
    rounds together there are so many votes.
    """
    return rounds.standing(
        comparisons, candidates, votes, lambda made: posterior(made, candidates).strengths.tolist()
    )
