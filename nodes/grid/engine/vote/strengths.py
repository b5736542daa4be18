"""Strengths of candidates from votes, by maximum likelihood with a Gaussian prior.

A strength is a logit: a candidate that is 1 above another is preferred e : 1. A pair follows
Davidson (1970, "On extending the Bradley-Terry model to accommodate ties in paired comparison
experiments", JASA 65): strengths x and y win with odds e^x : e^y and tie with nu e^((x + y) / 2);
without ties that is Bradley and Terry (1952). A ranking follows Luce (1959) and Plackett (1975,
"The analysis of permutations", Applied Statistics 24): the best is chosen among all with odds e^x,
the next among the rest, and so on.

Either is a sum of choices with odds e^(linear in the parameters), so the likelihood is concave and
Newton's method finds its one maximum.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

SPREADS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Standard deviations of the strengths, in logits, that the prior takes for equally likely: from
candidates that nobody can tell apart to one that wins 9 times in 10.
"""
WIDER = 2.0
"""Strengths and intervals are told under a prior that is so many times as wide as the spread that
the votes suggest: one of that spread itself shrinks them, and with a much wider one the candidates
that are asked about because they were lucky seem too strong. Simulated judges: the 95 % intervals
hold 94 to 97 % of the strengths of 480 random pairs with spreads from 0.2 to 1.2
(`benchmarks/votes.py`).
"""
TIE_VARIANCE = 4.0
"""The prior of log(nu) is Gaussian around 0 with this variance: when all votes are ties the rate
stays finite. It is the variance that matters least: ten votes outweigh it.
"""
NORMAL_95 = 1.959963984540054
"""A normal variable is within so many standard deviations in 95 of 100 cases."""
STEPS, PRECISE = 100, 1e-10


@dataclass(frozen=True)
class Comparison:
    """What one vote says of candidates, by number: those `shown`, and the `order` of the ones that
    were told apart, the best first. All that are shown and not in it are equal, and worse.

    Of two, an order of one is a win and an empty one a tie.
    """

    shown: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class Choices:
    """Choices with counts. Of `parameters` there is one for each candidate, and log(nu) last."""

    features: numpy.ndarray
    """[choices, alternatives, parameters]: what each alternative's log odds add up."""
    offers: numpy.ndarray
    """[choices, alternatives], true where there is such an alternative."""
    counts: numpy.ndarray
    """[choices, alternatives], how often each was taken."""


@dataclass(frozen=True)
class Normal:
    """The maximum of a posterior and its curvature there: Laplace's approximation."""

    mean: numpy.ndarray
    covariance: numpy.ndarray
    evidence: float
    """The log of the probability of the votes under the prior, but for a constant."""


def has_ties(comparisons: Iterable[Comparison]) -> bool:
    """Whether some pair is a tie."""
    return any(len(c.shown) == 2 and not c.order for c in comparisons)


def choices_of(comparisons: Sequence[Comparison], candidates: int, ties: bool) -> Choices:
    """The choices that comparisons consist of, equal ones counted together.

    `ties` says whether pairs may be ties. Where there is none among all votes, nu is 0: that is
    where its likelihood is greatest.
    """
    import numpy

    tally: dict[tuple[int, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for comparison in comparisons:
        left = sorted(comparison.shown)
        if len(left) == 2:
            tally[tuple(left)][comparison.order[0] if comparison.order else -1] += 1
            continue
        for taken in comparison.order:
            if len(left) > 1:
                # A choice among the last two of a ranking is not a pair: nobody asked for a tie.
                tally[(*left, -1) if len(left) == 2 else tuple(left)][taken] += 1
            left.remove(taken)
    width = max(3, *(len(key) for key in tally)) if tally else 3
    features = numpy.zeros((len(tally), width, candidates + 1))
    counts = numpy.zeros((len(tally), width))
    offers = numpy.zeros((len(tally), width), dtype=bool)
    for row, (key, taken) in enumerate(tally.items()):
        members = [number for number in key if number >= 0]
        for column, number in enumerate(members):
            features[row, column, number] = 1.0
            counts[row, column] = taken.get(number, 0.0)
            offers[row, column] = True
        if len(key) == 2 and ties:
            features[row, 2, [*members, candidates]] = 0.5, 0.5, 1.0
            counts[row, 2] = taken.get(-1, 0.0)
            offers[row, 2] = True
    return Choices(features, offers, counts)


def derivatives(choices: Choices, at: numpy.ndarray) -> tuple[float, numpy.ndarray, numpy.ndarray]:
    """The log likelihood at some parameters, its gradient, and its Hessian with the sign turned."""
    import numpy

    if not len(choices.counts):
        return 0.0, numpy.zeros(len(at)), numpy.zeros((len(at), len(at)))
    scores = numpy.where(choices.offers, choices.features @ at, -numpy.inf)
    logs = scores - _log_sum(scores)[:, None]
    shares = numpy.exp(logs)
    totals = choices.counts.sum(1, keepdims=True)
    value = float((choices.counts * numpy.where(choices.offers, logs, 0.0)).sum())
    flat = choices.features.reshape(-1, len(at))
    gradient = (choices.counts - totals * shares).reshape(-1) @ flat
    means = numpy.einsum("ca,cap->cp", shares, choices.features)
    curvature = (flat * (totals * shares).reshape(-1, 1)).T @ flat - (means * totals).T @ means
    return value, gradient, curvature


def fit(choices: Choices, variance: float, start: numpy.ndarray | None = None) -> Normal:
    """The strengths and log(nu) that make the votes most probable, where strengths are normally
    distributed around 0 with this variance.

    A wide prior gives plain maximum likelihood; any finite one keeps a candidate that won all its
    votes finite. It is the penalty sum(strengths^2) / (2 variance) of ridge regression, which
    `choix` calls alpha = 1 / (2 variance).
    """
    import numpy

    parameters = choices.features.shape[2]
    precision = numpy.full(parameters, 1.0 / variance)
    precision[-1] = 1.0 / TIE_VARIANCE
    return maximum(lambda at: derivatives(choices, at), precision, start)


def maximum(
    derivatives_at: Callable[[numpy.ndarray], tuple[float, numpy.ndarray, numpy.ndarray]],
    precision: numpy.ndarray,
    start: numpy.ndarray | None = None,
) -> Normal:
    """The maximum of a concave log likelihood and a Gaussian prior around 0 with these inverse
    variances, by Newton's method with halved steps.
    """
    import numpy

    at = numpy.zeros(len(precision)) if start is None else start
    value, gradient, curvature = derivatives_at(at)
    for _ in range(STEPS):
        step = numpy.linalg.solve(curvature + numpy.diag(precision), gradient - precision * at)
        before = value - 0.5 * float(precision @ at**2)
        share = 1.0
        while True:
            there = at + share * step
            value, gradient, curvature = derivatives_at(there)
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
    return Normal(at, numpy.linalg.inv(hessian), evidence)


@dataclass(frozen=True)
class Posterior:
    """What votes say of the strengths.

    Strengths and intervals are those under a prior that shrinks them little; see WIDER. How
    probable something is, such as that a candidate is the best, is counted in samples of the
    mixture of all priors with the weights that the votes give them: under a wide one the luckiest
    of many would seem the best too soon.
    """

    weights: tuple[float, ...]
    """Of SPREADS."""
    parts: tuple[Normal, ...]
    told: Normal
    """What strengths and intervals are told from."""
    ties: bool
    """Whether some pair was a tie. Without one nu is 0."""

    @property
    def candidates(self) -> int:
        return len(self.parts[0].mean) - 1

    @cached_property
    def strengths(self) -> numpy.ndarray:
        """[candidates], in logits, 0 in the mean."""
        return self._centre @ self.told.mean[:-1]

    @cached_property
    def mean(self) -> numpy.ndarray:
        """[candidates], of the mixture."""
        import numpy

        means = numpy.array([self._centre @ part.mean[:-1] for part in self.parts])
        return numpy.asarray(self.weights) @ means

    @cached_property
    def covariance(self) -> numpy.ndarray:
        """[candidates, candidates], of the mixture, the mean over its parts."""
        import numpy

        parts = numpy.array([part.covariance[:-1, :-1] for part in self.parts])
        within = numpy.tensordot(numpy.asarray(self.weights), parts, 1)
        return self._centre @ within @ self._centre

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the strengths in logits, as the votes suggest it."""
        return _spread(self.weights)

    def intervals(self) -> numpy.ndarray:
        """[candidates, 2]: the ends of the 95 % intervals of the strengths."""
        import numpy

        covariance = self._centre @ self.told.covariance[:-1, :-1] @ self._centre
        half = NORMAL_95 * numpy.sqrt(numpy.diag(covariance))
        return numpy.stack([self.strengths - half, self.strengths + half], 1)

    def samples(self, count: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Random strengths [count, candidates] and nu [count], as probable as the votes say."""
        import numpy

        random = numpy.random.default_rng(seed)
        shares = random.multinomial(count, numpy.asarray(self.weights))
        drawn = []
        for part, number in zip(self.parts, shares, strict=True):
            root = numpy.linalg.cholesky(part.covariance)
            drawn.append(part.mean + random.standard_normal((number, len(part.mean))) @ root.T)
        found = numpy.concatenate(drawn)
        nu = numpy.exp(found[:, -1]) if self.ties else numpy.zeros(count)
        return found[:, :-1], nu

    @cached_property
    def _centre(self) -> numpy.ndarray:
        import numpy

        return numpy.eye(self.candidates) - 1.0 / self.candidates


def posterior(comparisons: Sequence[Comparison], candidates: int) -> Posterior:
    """What these votes say of so many candidates, each number from 0 to `candidates` - 1."""
    choices = choices_of(comparisons, candidates, has_ties(comparisons))
    parts: list[Normal] = []
    for spread in SPREADS:
        parts.append(fit(choices, spread**2, parts[-1].mean if parts else None))
    best = max(part.evidence for part in parts)
    weights = [math.exp(part.evidence - best) for part in parts]
    shares = tuple(weight / sum(weights) for weight in weights)
    told = _told(comparisons, candidates, (WIDER * _spread(shares)) ** 2)
    return Posterior(shares, tuple(parts), told, has_ties(comparisons))


def _told(comparisons: Sequence[Comparison], candidates: int, variance: float) -> Normal:
    """The mean of two answers to what ties say, each weighed by how probable it makes the votes:
    the candidates are close, as Davidson has it, or nothing, as of judges who find a share of all
    pairs equal. Then a tie at a large distance does not draw the two together.
    """
    import numpy

    close = fit(choices_of(comparisons, candidates, has_ties(comparisons)), variance)
    pairs = [c for c in comparisons if len(c.shown) == 2]
    told_apart = sum(bool(c.order) for c in pairs)
    ties = len(pairs) - told_apart
    if not ties:
        return close
    apart = fit(choices_of([c for c in comparisons if c.order], candidates, False), variance)
    # How probable so many ties are if every share of them is equally likely beforehand.
    rate = math.lgamma(ties + 1) + math.lgamma(told_apart + 1) - math.lgamma(len(pairs) + 2)
    share = 0.5 + 0.5 * math.tanh((apart.evidence + rate - close.evidence) / 2)
    gap = apart.mean - close.mean
    return Normal(
        close.mean + share * gap,
        (1 - share) * close.covariance
        + share * apart.covariance
        + share * (1 - share) * numpy.outer(gap, gap),
        close.evidence,
    )


def _spread(weights: Sequence[float]) -> float:
    pairs = zip(weights, SPREADS, strict=True)
    return math.sqrt(sum(weight * spread**2 for weight, spread in pairs))


def probability_best(strengths: numpy.ndarray) -> numpy.ndarray:
    """How often each candidate is the strongest in samples [count, candidates]."""
    import numpy

    return numpy.bincount(strengths.argmax(1), minlength=strengths.shape[1]) / len(strengths)


def _log_sum(scores: numpy.ndarray) -> numpy.ndarray:
    import numpy

    most = scores.max(1)
    return most + numpy.log(numpy.exp(scores - most[:, None]).sum(1))
