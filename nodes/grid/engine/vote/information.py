"""How much the answer to a question is expected to tell about which candidate is the best.

An answer adds its Fisher information to what is known of the strengths. What counts is by how much
that narrows the differences between candidates that may be the best: a weighted A-optimal design
(Chaloner and Verdinelli 1995, "Bayesian experimental design: a review", Statistical Science 10).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .strengths import Posterior, probability_best

if TYPE_CHECKING:
    import numpy

SAMPLES = 1000
MOST_SETS = 2000
"""Of more sets than these only those of the most probably best candidates are weighed: 16 have
1,820 fours.
"""


def most_telling(
    votes: Posterior, candidates: Sequence[int], count: int, seed: int
) -> list[tuple[int, ...]]:
    """Sets of `count` candidates, two or more, to ask about: the ones that tell the most first.
    `seed` draws the samples that probabilities are counted in.
    """
    strengths, _ = votes.samples(SAMPLES, seed)
    best = probability_best(strengths)
    leaders = sorted(candidates, key=lambda number: -best[number])
    while math.comb(len(leaders), count) > MOST_SETS:
        leaders.pop()
    sets = list(itertools.combinations(leaders, count))
    gains = expected(sets, votes, best)
    return [sets[number] for number in (-gains).argsort(kind="stable")]


def expected(
    sets: Sequence[tuple[int, ...]], votes: Posterior, best: numpy.ndarray
) -> numpy.ndarray:
    """[sets]: by how much the choice of the best of each set narrows the differences between all
    candidates, each weighed by how probably one of the two is the best and the other would be.

    With the covariance S of the strengths, the probabilities b of being the best and the Fisher
    information F of the choice this is the trace of W S F S, where W = diag(b) - b b'. The further
    places of a ranking tell about the same candidates, so they do not change the order.
    """
    import numpy

    wanted = numpy.diag(best) - numpy.outer(best, best)
    gain = votes.covariance @ wanted @ votes.covariance
    members = numpy.asarray(sets)
    odds = numpy.exp(votes.mean[members])
    shares = odds / odds.sum(1, keepdims=True)
    within = gain[members[:, :, None], members[:, None, :]]
    alone = (shares * numpy.diag(gain)[members]).sum(1)
    return alone - numpy.einsum("qi,qij,qj->q", shares, within, shares)
