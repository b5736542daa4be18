"""How far judges agree about the same pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from .log import Vote


def agreement(votes: Sequence[Vote]) -> tuple[float | None, int]:
    """Krippendorff's alpha of the judges, and about how many pairs of pictures two of them or more
    have voted. 1 is full agreement, 0 as much as by chance. None where there is nothing to compare.

    The unit is two pictures, the value which is better or that both are equal (ordinal). A ranking
    of four says something of six pairs. Hayes and Krippendorff 2007, "Answering the call for a
    standard reliability measure for coding data".
    """
    judges = {judge: row for row, judge in enumerate(dict.fromkeys(v.judge for v in votes))}
    said: dict[tuple[str, str], dict[int, float]] = {}
    for vote in votes:
        for one, other in itertools.combinations(sorted(vote.shown), 2):
            said.setdefault((one, other), {})[judges[vote.judge]] = _said(vote, one, other)
    units = [values for values in said.values() if len(values) > 1]
    if len({value for values in units for value in values.values()}) < 2:
        return None, len(units)
    import krippendorff
    import numpy

    table = numpy.full((len(judges), len(units)), math.nan)
    for column, values in enumerate(units):
        for row, value in values.items():
            table[row, column] = value
    alpha = krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    return float(alpha), len(units)


def _said(vote: Vote, one: str, other: str) -> float:
    """1 where `one` is better, -1 where `other` is, 0 where they are equal."""
    last = len(vote.order)
    places = [vote.order.index(key) if key in vote.order else last for key in (one, other)]
    return float((places[1] > places[0]) - (places[1] < places[0]))
