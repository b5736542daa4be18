"""Whether the votes suffice: one candidate is probably the best, or more votes would not separate
the best ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .strengths import Posterior, probability_best

if TYPE_CHECKING:
    import numpy

SURE = 0.9
"""A decision is at least so probable."""
MARGIN = 0.2
"""Two candidates are as good as each other when their strengths differ by less, in logits."""
NOTICED = round(100 / (1 + math.exp(-MARGIN)))
"""How many of 100 votes without ties a candidate wins that is better by MARGIN."""
MOST_MORE = 200
"""Nobody is asked to go on for more votes than these, a quarter of an hour, over less than MARGIN.
"""
RIVAL = 0.02
"""A candidate that is the best with a smaller probability is no rival any more."""
NORMAL_90 = 1.2815515655446004
"""A normal variable is below so many standard deviations in 90 of 100 cases."""
SAMPLES = 4000

MORE, DECIDED, LEVEL, EXHAUSTED = "more votes", "decided", "not separated", "no questions left"
ROUNDS_DONE, ENOUGH, ALIKE = "rounds over", "enough votes", "all alike"
BY_VOTES = (DECIDED, LEVEL)
"""States in which the votes themselves say that no more are needed."""
ENDS = (*BY_VOTES, ROUNDS_DONE, ENOUGH, ALIKE)
"""States of a vote that is over: nobody is asked any more."""
Twins = Callable[[int, int], bool]
"""Whether two candidates have the same pictures everywhere, so that nobody can tell them apart."""
NOTHING = "All pictures are alike: there is nothing to compare."


@dataclass(frozen=True)
class Verdict:
    """How far the vote is."""

    state: str
    """MORE, EXHAUSTED, or one of ENDS."""
    leader: int
    """The candidate that has the best place: the strongest, in rounds of those still in."""
    best: tuple[float, ...]
    """For every candidate the probability that it is the best."""
    text: str
    """The same in words."""

    @property
    def ends(self) -> bool:
        """Whether the vote is over."""
        return self.state in ENDS


def no_twins(one: int, other: int) -> bool:
    """No two candidates have the same pictures."""
    return False


def verdict(
    votes: Posterior,
    labels: Sequence[str],
    leader: int | None = None,
    sure: float = SURE,
    seed: int = 0,
    twins: Twins = no_twins,
) -> Verdict:
    """What these votes suffice for, with that probability: that of the `leader`, the strongest if
    none is named, is asked for, together with its `twins`. `seed` draws the samples that
    probabilities are counted in.

    More votes would not separate the best when the leader is surely less than MARGIN below the
    best, and to tell it from its nearest rival would take more than MOST_MORE votes.
    """
    strengths, nu = votes.samples(SAMPLES, seed)
    best = probability_best(strengths)
    if leader is None:
        leader = int(votes.strengths.argmax())
    found = tuple(float(p) for p in best)
    if best[leader] >= sure:
        text = f"{labels[leader]} is the best with a probability of {best[leader]:.0%}."
        return Verdict(DECIDED, leader, found, text)
    others = [n for n in range(len(best)) if n != leader and best[n] >= RIVAL]
    same = [leader, *(n for n in others if twins(leader, n))]
    if len(same) > 1 and best[same].sum() >= sure:
        text = f"{alike(labels, same)} are the best with a probability of {best[same].sum():.0%}."
        return Verdict(DECIDED, leader, found, text)
    near = float((strengths.max(1) - strengths[:, leader] < MARGIN).mean())
    if near >= sure and (more := _votes_to_tell(votes, same, strengths, nu)) > MOST_MORE:
        return Verdict(LEVEL, leader, found, _level_words(same, best, labels, sure, more))
    text = f"{labels[leader]} leads; it is the best with a probability of {best[leader]:.0%}."
    return Verdict(MORE, leader, found, text)


def alike(labels: Sequence[str], same: Sequence[int]) -> str:
    """The names of candidates with the same pictures."""
    names = [labels[number] for number in same]
    return f"{', '.join(names[:-1])} and {names[-1]}, whose pictures are alike,"


def _votes_to_tell(
    votes: Posterior, same: Sequence[int], strengths: numpy.ndarray, nu: numpy.ndarray
) -> float:
    """About how many more votes on a pair would make it sure which of the leader, the first of
    those that are the `same`, and its nearest rival is better, if they differ as they seem to.
    """
    import numpy

    leader = same[0]
    best = numpy.delete(numpy.arange(votes.candidates), same)
    rival = int(best[votes.strengths[best].argmax()])
    gap = float(votes.strengths[leader] - votes.strengths[rival])
    variance = float((strengths[:, leader] - strengths[:, rival]).var())
    told = 0.25 * float((2 / (2 + nu)).mean())
    return ((NORMAL_90 / max(abs(gap), 1e-6)) ** 2 - 1 / max(variance, 1e-12)) / told


def _level_words(
    same: Sequence[int], best: numpy.ndarray, labels: Sequence[str], sure: float, more: float
) -> str:
    leader = same[0]
    rivals = [n for n in map(int, (-best).argsort()) if n not in same and best[n] >= RIVAL]
    names = ", ".join(labels[n] for n in rivals[:5]) + (", ..." if len(rivals) > 5 else "")
    about = "thousands of" if more >= 2000 else f"about {round(more, -2):.0f}"
    return (
        f"More votes would hardly separate {labels[leader]} from {names}: it would take {about}, "
        f"and with a probability of {sure:.0%} or more none of them would win more than "
        f"{NOTICED} of 100 votes against it."
    )
