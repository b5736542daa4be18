"""How strong candidates are by votes, with intervals: the arithmetic of the Ranking node, small.

A pair follows Davidson (1970, "On extending the Bradley-Terry model to accommodate ties in paired
comparison experiments", JASA 65), a ranking Luce (1959) and Plackett (1975): the best is chosen
with odds e^strength, the next among the rest, and so on. Strengths have a normal prior.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

SPREADS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Standard deviations of strengths, in logits, that are taken for equally likely at first."""
WIDER = 2.0
"""The prior of the strengths is so many times as wide as the spread that the votes suggest."""
TIE_SPREAD = 2.0
"""The same of the logarithm of Davidson's nu."""
NORMAL_95 = 1.959963984540054
STEPS, PRECISE = 100, 1e-10
TIE = -1


@dataclass(frozen=True)
class Comparison:
    """What a vote says of candidates, by number: those `shown`, and the `order` of the ones that
    were told apart, the best first. Of a pair an order of one is a win and an empty one a tie.
    """

    shown: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class Strengths:
    """In logits, 0 in the mean; `covariance` [candidates, candidates] is that of their errors."""

    mean: numpy.ndarray
    covariance: numpy.ndarray

    def interval(self, number: int) -> tuple[float, float]:
        """Of 95 %."""
        half = NORMAL_95 * math.sqrt(self.covariance[number, number])
        return float(self.mean[number]) - half, float(self.mean[number]) + half

    def ahead(self, one: int, other: int) -> tuple[float, float, float]:
        """By how much one is stronger than another, and the interval of 95 %."""
        gap = float(self.mean[one] - self.mean[other])
        matrix = self.covariance
        variance = matrix[one, one] + matrix[other, other] - 2 * matrix[one, other]
        half = NORMAL_95 * math.sqrt(max(0.0, float(variance)))
        return gap, gap - half, gap + half


def strengths(comparisons: Sequence[Comparison], candidates: int) -> Strengths:
    """The strengths that make the votes most probable."""
    import numpy

    tally = _choices(comparisons)
    fits = [_fit(tally, candidates, spread) for spread in SPREADS]
    most = max(evidence for _, _, evidence in fits)
    weights = [math.exp(evidence - most) for _, _, evidence in fits]
    shares = zip(weights, SPREADS, strict=True)
    spread = math.sqrt(sum(share * spread**2 for share, spread in shares) / sum(weights))
    at, covariance = _told(tally, candidates, WIDER * spread)
    centre = numpy.eye(candidates) - 1 / candidates
    return Strengths(centre @ at, centre @ covariance @ centre)


def _told(
    tally: dict[Offers, Counter[int]], candidates: int, spread: float
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The mean of two answers to what ties say, each weighed by how probable it makes the votes:
    the candidates are close, as Davidson has it, or nothing. Strengths and their covariance.
    """
    import numpy

    at, covariance, close = _fit(tally, candidates, spread)
    at, covariance = at[:candidates], covariance[:candidates, :candidates]
    ties = sum(taken[TIE] for taken in tally.values())
    if not ties:
        return at, covariance
    pairs = sum(taken.total() for (_, is_pair), taken in tally.items() if is_pair)
    decided = {
        offers: Counter({one: count for one, count in taken.items() if one != TIE})
        for offers, taken in tally.items()
    }
    other, other_covariance, apart = _fit(decided, candidates, spread)
    # How probable so many ties are if every share of them is equally likely beforehand.
    rate = math.lgamma(ties + 1) + math.lgamma(pairs - ties + 1) - math.lgamma(pairs + 2)
    share = 0.5 + 0.5 * math.tanh((apart + rate - close) / 2)
    gap = other - at
    mixed = (1 - share) * covariance + share * other_covariance
    return at + share * gap, mixed + share * (1 - share) * numpy.outer(gap, gap)


def _fit(
    tally: dict[Offers, Counter[int]], candidates: int, spread: float
) -> tuple[numpy.ndarray, numpy.ndarray, float]:
    """The maximum under a prior of this spread, by Newton's method, its covariance, and the log of
    how probable the votes are under that prior, but for a constant (Laplace's approximation).
    """
    import numpy

    ties = any(TIE in taken for taken in tally.values())
    precision = numpy.full(candidates + ties, 1 / spread**2)
    if ties:
        precision[-1] = 1 / TIE_SPREAD**2
    at = numpy.zeros(len(precision))
    value, gradient, curvature = _derivatives(tally, at, ties)
    for _ in range(STEPS):
        step = numpy.linalg.solve(curvature + numpy.diag(precision), gradient - precision * at)
        before, share = value - 0.5 * float(precision @ at**2), 1.0
        while True:
            there = at + share * step
            value, gradient, curvature = _derivatives(tally, there, ties)
            after = value - 0.5 * float(precision @ there**2)
            if after >= before - 1e-12 * abs(before) or share < PRECISE:
                break
            share /= 2
        at = there
        if float(numpy.abs(step).max()) < PRECISE:
            break
    hessian = curvature + numpy.diag(precision)
    evidence = value - 0.5 * float(precision @ at**2) + 0.5 * float(numpy.log(precision).sum())
    evidence -= 0.5 * float(numpy.linalg.slogdet(hessian)[1])
    return at, numpy.linalg.inv(hessian), evidence


Offers = tuple[tuple[int, ...], bool]
"""Candidates among whom one is chosen, and whether a tie is possible."""


def _choices(comparisons: Sequence[Comparison]) -> dict[Offers, Counter[int]]:
    """How often each was taken of the same offers."""
    tally: dict[Offers, Counter[int]] = {}
    for comparison in comparisons:
        left = sorted(comparison.shown)
        if len(left) == 2:
            taken = comparison.order[0] if comparison.order else TIE
            tally.setdefault((tuple(left), True), Counter())[taken] += 1
            continue
        for taken in comparison.order:
            if len(left) > 1:
                tally.setdefault((tuple(left), False), Counter())[taken] += 1
            left.remove(taken)
    return tally


def _derivatives(
    tally: dict[Offers, Counter[int]], at: numpy.ndarray, ties: bool
) -> tuple[float, numpy.ndarray, numpy.ndarray]:
    """The log likelihood, its gradient, and its Hessian with the sign turned."""
    import numpy

    value, gradient = 0.0, numpy.zeros(len(at))
    curvature = numpy.zeros((len(at), len(at)))
    for (members, pair), taken in tally.items():
        features = numpy.zeros((len(members) + (pair and ties), len(at)))
        counts = numpy.zeros(len(features))
        for row, number in enumerate(members):
            features[row, number], counts[row] = 1.0, taken[number]
        if pair and ties:
            features[-1, [*members, len(at) - 1]] = 0.5, 0.5, 1.0
            counts[-1] = taken[TIE]
        scores = features @ at
        logs = scores - (scores.max() + math.log(numpy.exp(scores - scores.max()).sum()))
        shares, total = numpy.exp(logs), counts.sum()
        mean = shares @ features
        value += float(counts @ logs)
        gradient += (counts - total * shares) @ features
        spread = (features.T * shares) @ features - numpy.outer(mean, mean)
        curvature += total * spread
    return value, gradient, curvature
