"""A rising validation loss is told from noise, pair by pair."""

from __future__ import annotations

import numpy

from cocktail.trainer.trend import change, trend


def validations(means, noise: float, seed: int = 0, pairs: int = 60) -> list[dict]:
    """Losses of pairs that differ far more from each other than from epoch to epoch."""
    draw = numpy.random.default_rng(seed)
    own = draw.uniform(0.05, 0.3, pairs)
    return [
        {
            "epoch": epoch,
            "step": epoch * 10,
            "pairs": {str(n): float(own[n] * mean + draw.normal(0, noise)) for n in range(pairs)},
        }
        for epoch, mean in enumerate(means)
    ]


def bowl(best: int, epochs: int, depth: float) -> list[float]:
    return [1 + depth * ((epoch - best) / best) ** 2 for epoch in range(epochs)]


def test_a_loss_that_has_been_rising_is_noticed_soon_after_its_best():
    curve = validations(bowl(34, 60, 0.0267), noise=0.0005)
    first = next(n for n in range(1, 61) if trend(curve[:n], 5))
    assert 39 < first < 50
    rising = trend(curve, 5)
    assert abs(rising.best_epoch - 34) <= 5 and "% over the best" in str(rising)


def test_a_falling_or_flat_loss_raises_no_alarm():
    falling = validations([1 - 0.002 * epoch for epoch in range(40)], noise=0.0005)
    assert not any(trend(falling[:n], 5) for n in range(1, 41))
    alarms = 0
    for seed in range(40):
        flat = validations([1.0] * 30, noise=0.002, seed=seed)
        alarms += any(trend(flat[:n], 5) for n in range(1, 31))
    assert alarms <= 1


def test_fewer_points_than_the_patience_are_not_judged():
    assert trend(validations([1.0, 1.1, 1.2, 1.3], noise=0.0), 5) is None
    assert trend([], 5) is None


def test_a_change_is_the_paired_mean_and_its_standard_error():
    before = {"a": 1.0, "b": 2.0, "c": 3.0}
    after = {"a": 1.1, "b": 2.3, "c": 3.2}
    found = change(before, after)
    differences = numpy.array([0.1, 0.3, 0.2])
    assert abs(found.mean - differences.mean()) < 1e-12
    assert abs(found.standard_error - differences.std(ddof=1) / 3**0.5) < 1e-12
