"""Whether groups of votes, such as those of a prompt or of a judge, prefer other candidates than
all votes together.

In each group a candidate's strength is its overall one plus an effect. Effects are normally
distributed around 0 with one standard deviation for all, whose probability under the votes is
computed by Laplace's approximation (Breslow and Clayton 1993, "Approximate inference in generalized
linear mixed models", JASA 88).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .strengths import (
    NORMAL_95,
    TIE_VARIANCE,
    Choices,
    Comparison,
    Normal,
    choices_of,
    derivatives,
    has_ties,
    maximum,
)

if TYPE_CHECKING:
    import numpy

EFFECTS = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Standard deviations of the effects in logits. Before any vote 0 is as likely as all others
together, and these are equally likely.
"""
NEGLIGIBLE = 1e-6
"""What stands for 0 among them."""
MOST_GROUPS = 64
MOST_EFFECTS = 1000
"""Of groups times candidates: the time for a fit grows with its cube."""


@dataclass(frozen=True)
class Effect:
    """How much stronger a candidate is in a group than in the mean of all groups, with a 95 %
    interval, in logits.
    """

    group: str
    candidate: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Effects:
    """The effects of all groups."""

    spread: float
    """Their standard deviation in logits: its mean over EFFECTS, weighed by the votes."""
    probability: float
    """That there are effects at all."""
    found: tuple[Effect, ...]
    """Every group and candidate, given that there are some; the farthest from 0 first, in standard
    errors.
    """


def effects(
    groups: Mapping[str, Sequence[Comparison]], candidates: int, variance: float
) -> Effects | None:
    """The effects of groups of votes on candidates whose overall strengths have this variance.
    None for fewer than two groups, more than MOST_GROUPS, or more than MOST_EFFECTS.
    """
    import numpy

    if not 2 <= len(groups) <= MOST_GROUPS or len(groups) * candidates > MOST_EFFECTS:
        return None
    ties = has_ties(itertools.chain(*groups.values()))
    tallies = [choices_of(votes, candidates, ties) for votes in groups.values()]
    fits = [_fit(tallies, candidates, variance, max(s, NEGLIGIBLE) ** 2) for s in EFFECTS]
    best = max(one.evidence for one in fits)
    weights = numpy.array([math.exp(one.evidence - best) for one in fits])
    weights[0] *= len(EFFECTS) - 1
    weights /= weights.sum()
    some = fits[1 + int(weights[1:].argmax())]
    found = []
    effect, error = _apart(some, candidates, len(groups))
    for number, group in enumerate(groups):
        for candidate in range(candidates):
            middle, half = effect[number, candidate], NORMAL_95 * error[number, candidate]
            values = float(middle), float(middle - half), float(middle + half)
            found.append(Effect(group, candidate, *values))
    found.sort(key=lambda one: -abs(one.effect) / (one.high - one.low))
    return Effects(float(weights @ EFFECTS), float(1 - weights[0]), tuple(found))


def _fit(
    tallies: Sequence[Choices], candidates: int, variance: float, effect_variance: float
) -> Normal:
    """Overall strengths, log(nu), and the effects of each group, in this order."""
    import numpy

    precision = numpy.full(candidates * (1 + len(tallies)) + 1, 1.0 / effect_variance)
    precision[:candidates], precision[candidates] = 1.0 / variance, 1.0 / TIE_VARIANCE
    return maximum(lambda at: _derivatives(tallies, at, candidates), precision)


def _apart(fitted: Normal, candidates: int, groups: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The effects [groups, candidates] and their standard errors, relative to the mean over these
    groups and over the candidates: only that can be told apart from the overall strengths.
    """
    import numpy

    own = slice(candidates + 1, None)
    centre = numpy.kron(numpy.eye(groups) - 1.0 / groups, numpy.eye(candidates) - 1.0 / candidates)
    errors = numpy.sqrt(numpy.maximum(((centre @ fitted.covariance[own, own]) * centre).sum(1), 0))
    shape = (groups, candidates)
    return (centre @ fitted.mean[own]).reshape(shape), errors.reshape(shape)


def _derivatives(
    tallies: Sequence[Choices], at: numpy.ndarray, candidates: int
) -> tuple[float, numpy.ndarray, numpy.ndarray]:
    """Those of all groups together: in each a strength is the overall one plus its effect."""
    import numpy

    total, gradient = 0.0, numpy.zeros(len(at))
    curvature = numpy.zeros((len(at), len(at)))
    overall = numpy.arange(candidates + 1)
    for number, choices in enumerate(tallies):
        own = candidates + 1 + number * candidates + numpy.arange(candidates)
        here = at[overall].copy()
        here[:-1] += at[own]
        value, slope, bend = derivatives(choices, here)
        total += value
        gradient[overall] += slope
        gradient[own] += slope[:-1]
        curvature[numpy.ix_(overall, overall)] += bend
        curvature[numpy.ix_(own, own)] += bend[:-1, :-1]
        curvature[numpy.ix_(overall, own)] += bend[:, :-1]
        curvature[numpy.ix_(own, overall)] += bend[:-1, :]
    return total, gradient, curvature
