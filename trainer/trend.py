"""Whether the validation loss has been rising, judged pair by pair to tell it from noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LAST = 3
"""This many of the newest validations must all be worse than the best."""
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Change:
    """The mean difference between two validations over their pairs, and its standard error."""

    mean: float
    standard_error: float

    def rise(self, validations: int) -> bool:
        """Whether it is a rise over the best of this many validations.

        The lowest of n equally good ones is too low by about sqrt(2 ln n) of its own standard
        deviations, which is sqrt(ln n) standard errors of a difference of two: a rise has to be two
        standard errors beyond that.
        """
        return (
            self.mean > (STANDARD_ERRORS + math.sqrt(math.log(validations))) * self.standard_error
        )


@dataclass(frozen=True)
class Rising:
    """A validation loss that has been rising since `best_epoch`; `share` and `change` compare the
    newest validation with the best.
    """

    best_epoch: int
    share: float
    change: Change

    def __str__(self) -> str:
        return (
            f"+{100 * self.share:.2f} % over the best, {self.change.mean:.5f} "
            f"with a standard error of {self.change.standard_error:.5f} over its pairs"
        )


def change(before: Mapping[str, float], after: Mapping[str, float]) -> Change:
    """The paired difference after - before. Both had the same noise and noise levels, so that most
    of the spread cancels out.
    """
    differences = [after[pair] - before[pair] for pair in before if pair in after]
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return Change(mean, math.inf)
    variance = sum((difference - mean) ** 2 for difference in differences) / (count - 1)
    return Change(mean, math.sqrt(variance / count))


def trend(validations: Sequence[Mapping[str, Any]], patience: int) -> Rising | None:
    """Judge validations in order of their steps, each with `epoch`, `step` and `pairs` (the loss of
    each pair by id).

    Rising: at least `patience` validations since the lowest mean, and each of the last three worse
    than it by more than two standard errors of the paired difference beyond the luck of the best
    (`Change.rise`).
    """
    return _judge(validations, _means(validations), patience)


def trends(validations: Sequence[Mapping[str, Any]], patience: int) -> list[Rising | None]:
    """What `trend` said, or would have said, after each of the validations."""
    means = _means(validations)
    return [
        _judge(validations[:count], means[:count], patience) for count in range(1, len(means) + 1)
    ]


def _means(validations: Sequence[Mapping[str, Any]]) -> list[float]:
    return [sum(v["pairs"].values()) / len(v["pairs"]) for v in validations]


def _judge(
    validations: Sequence[Mapping[str, Any]], means: Sequence[float], patience: int
) -> Rising | None:
    if len(means) <= patience:
        return None
    best = min(range(len(means)), key=means.__getitem__)
    if len(means) - 1 - best < patience:
        return None
    changes = [change(validations[best]["pairs"], v["pairs"]) for v in validations[-LAST:]]
    if not all(found.rise(len(means)) for found in changes):
        return None
    found = validations[best]
    return Rising(found["epoch"], means[-1] / means[best] - 1, changes[-1])
