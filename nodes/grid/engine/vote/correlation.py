"""Whether votes and validation losses put checkpoints in the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST = 3
"""Two values are always in the same or in the opposite order."""


@dataclass(frozen=True)
class Loss:
    """The validation loss of a checkpoint, and its run: losses of different runs may be of
    different pairs.
    """

    run: str
    value: float


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values at their mean rank: the correlation of the ranks.
    None where one side has no order. Spearman 1904, "The proof and measurement of association
    between two things", American Journal of Psychology 15.
    """
    first, second = _ranks(one), _ranks(other)
    middle = (len(first) - 1) / 2
    together = sum((a - middle) * (b - middle) for a, b in zip(first, second, strict=True))
    spread = [math.sqrt(sum((rank - middle) ** 2 for rank in ranks)) for ranks in (first, second)]
    return together / (spread[0] * spread[1]) if all(spread) else None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    places: dict[float, list[int]] = {}
    for place, value in enumerate(ordered):
        places.setdefault(value, []).append(place)
    return [sum(places[value]) / len(places[value]) for value in values]


def with_losses(
    report: Mapping[str, Any], checkpoints: Sequence[Any], losses: Mapping[str, Loss]
) -> dict[str, Any]:
    """A ranking's report with the validation loss of every candidate whose checkpoint has one, and
    for each run with FEWEST of them or more how far votes and losses agree: 1 where a lower loss
    always is a higher strength. `checkpoints` are the candidates', in their order.
    """
    runs: dict[str, list[tuple[float, float]]] = {}
    ranks = []
    for rank in report["ranking"]:
        loss = losses.get(checkpoints[rank["number"]])
        ranks.append({**rank, "validation_loss": loss.value if loss else None})
        if loss:
            runs.setdefault(loss.run, []).append((rank["strength"], -loss.value))
    found = []
    for run, pairs in sorted(runs.items()):
        if len(pairs) >= FEWEST:
            strengths, values = zip(*pairs, strict=True)
            rho = spearman(strengths, values)
            found.append({"run": run, "checkpoints": len(pairs), "spearman": rho})
    return {**report, "ranking": ranks, "losses": found}
