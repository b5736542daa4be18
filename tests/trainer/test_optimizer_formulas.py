"""Each optimizer takes the steps of its paper, against float64 arithmetic that is written here from
the formulas.
"""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.optim.optimizers import effective_rate, make_part_optimizer
from cocktail.trainer.settings.groups import OPTIMIZERS, OptimizerSettings

STEPS = 25
START = numpy.random.default_rng(3).normal(size=(6, 4))
GRADIENTS = numpy.random.default_rng(4).normal(size=(STEPS, 6, 4)) + 1.0
DECAY = 0.1
D0 = 1e-3


def adamw(x, gradients, rate=1e-2):
    m = n = 0.0
    for step, g in enumerate(gradients, start=1):
        m, n = 0.9 * m + 0.1 * g, 0.999 * n + 0.001 * g**2
        x = x * (1 - rate * DECAY)
        x = x - rate * (m / (1 - 0.9**step)) / (numpy.sqrt(n / (1 - 0.999**step)) + 1e-8)
    return x, None


def lion(x, gradients, rate=1e-2):
    m = 0.0
    for g in gradients:
        x = x * (1 - rate * DECAY) - rate * numpy.sign(0.9 * m + 0.1 * g)
        m = 0.999 * m + 0.001 * g
    return x, None


def adafactor(x, gradients, rate=1e-2):
    rows = columns = 0.0
    for step, g in enumerate(gradients, start=1):
        b = min(0.999, 1 - step**-0.8)
        rows = b * rows + (1 - b) * (g**2).mean(axis=1)
        columns = b * columns + (1 - b) * (g**2).mean(axis=0)
        update = g / numpy.sqrt(numpy.outer(rows, columns) / rows.mean())
        update = update / max(1.0, math.sqrt((update**2).mean()))
        x = x * (1 - rate * DECAY) - rate * update
    return x, None


def d_adapt_adam(x, gradients, decouple=True):
    m = n = s = numerator = 0.0
    d, root = D0, math.sqrt(0.999)
    for step, g in enumerate(gradients, start=1):
        g = g if decouple else g + DECAY * x
        rate = d * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        seen = rate * (g * s / (numpy.sqrt(n) + 1e-8)).sum()
        m, n = 0.9 * m + 0.1 * rate * g, 0.999 * n + 0.001 * g**2
        s = root * s + (1 - root) * rate * g
        numerator = root * numerator + (1 - root) * seen
        d = max(d, numerator / ((1 - root) * numpy.abs(s).sum()))
        x = x * (1 - rate * DECAY * decouple) - m / (numpy.sqrt(n) + 1e-8)
    return x, d


def d_adapt_adan(x, gradients, decouple=True):
    m = v = n = s = q = 0.0
    d, before = D0, gradients[0]
    for g in gradients:
        change, before = g - before, g
        m, v = 0.98 * m + 0.02 * d * g, 0.92 * v + 0.08 * d * change
        n, s = 0.99 * n + 0.01 * (g + 0.92 * change) ** 2, 0.99 * s + 0.01 * d * g
        root = numpy.sqrt(n) + 1e-8
        q = 0.99 * q + 0.01 * d**2 * (g**2 / root).sum()
        rate, d = d, max(d, ((s**2 / root).sum() / 0.01 - q) / numpy.abs(s).sum())
        x = x * (1 - rate * DECAY * decouple) - (m + 0.92 * v) / root
        x = x / (1 + rate * DECAY * (not decouple))
    return x, d


def d_adapt_lion(x, gradients):
    m = s = numerator = 0.0
    d, root = D0, math.sqrt(0.999)
    for g in gradients:
        update = numpy.sign(0.9 * m + 0.1 * g)
        x = x * (1 - d * DECAY) - d * update
        m = 0.999 * m + 0.001 * d * g
        numerator = root * numerator + (1 - root) * d * (update * s).sum()
        s = root * s + (1 - root) * d * update
        d = max(d, numerator / ((1 - root) * numpy.abs(s).sum()))
    return x, d


def d_adapt_sgd(x, gradients):
    s = numerator = 0.0
    d, start, norm = D0, x, math.sqrt((gradients[0] ** 2).sum())
    for g in gradients:
        g, rate = g + DECAY * x, d / norm
        numerator += rate * (g * s).sum()
        s = s + rate * g
        d = max(d, 2 * numerator / math.sqrt((s**2).sum()))
        x = start - s
    return x, d


def prodigy(x, gradients, decouple=True):
    m = n = s = numerator = 0.0
    d, start, root = D0, x, math.sqrt(0.999)
    for step, g in enumerate(gradients, start=1):
        g = g if decouple else g + DECAY * x
        rate = d * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        numerator = root * numerator + d / D0 * rate * (g * (start - x)).sum()
        m, n = 0.9 * m + 0.1 * d * g, 0.999 * n + 0.001 * d**2 * g**2
        s = root * s + d / D0 * d * g
        d = max(d, numerator / numpy.abs(s).sum())
        x = x * (1 - rate * DECAY * decouple) - rate * m / (numpy.sqrt(n) + d * 1e-8)
    return x, d


def schedule_free(x, gradients, rate=1e-2):
    z, mean, n = x, x, 0.0
    y = x
    for step, g in enumerate(gradients, start=1):
        n = 0.999 * n + 0.001 * g**2
        update = g / (numpy.sqrt(n / (1 - 0.999**step)) + 1e-8) + DECAY * y
        z = z - rate * update
        mean = (1 - 1 / step) * mean + z / step
        y = 0.1 * z + 0.9 * mean
    return y, None


FORMULAS = [
    ("adamw", adamw, {}),
    ("lion", lion, {}),
    ("adafactor", adafactor, {}),
    ("d-adapt adam", d_adapt_adam, {"decouple": True}),
    ("d-adapt adam", d_adapt_adam, {"decouple": False}),
    ("d-adapt adan", d_adapt_adan, {"decouple": True}),
    ("d-adapt adan", d_adapt_adan, {"decouple": False}),
    ("d-adapt lion", d_adapt_lion, {}),
    ("d-adapt sgd", d_adapt_sgd, {}),
    ("prodigy", prodigy, {"decouple": True}),
    ("prodigy", prodigy, {"decouple": False}),
    ("schedule-free adamw", schedule_free, {}),
]


@pytest.mark.parametrize(("kind", "formula", "options"), FORMULAS)
def test_it_takes_the_steps_of_its_paper(kind, formula, options):
    adaptive = kind.startswith(("d-adapt", "prodigy"))
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float32))
    optimizer = make_part_optimizer(
        [parameter],
        OptimizerSettings(optimizer=kind, d0=D0, **options),
        1.0 if adaptive else 1e-2,
        DECAY,
    )
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    expected, d = formula(START, GRADIENTS, **options)
    moved = numpy.abs(expected - START).max()
    assert numpy.abs(parameter.detach().numpy() - expected).max() < 1e-4 * max(moved, 1.0)
    if adaptive:
        assert effective_rate(optimizer) == pytest.approx(d, rel=1e-4)
        assert d > D0, "the step size has been adapted"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_without_gradient_or_rate_leaves_it_able_to_go_on(kind):
    if kind == "adamw 8 bit":
        pytest.importorskip("bitsandbytes")
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float32))
    optimizer = make_part_optimizer([parameter], OptimizerSettings(optimizer=kind), 0.0, 0.0)
    for gradient, rate in [(0.0, 0.0), (0.0, 1e-2), (1.0, 0.0), (1.0, 1e-2), (1.0, 1e-2)]:
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(gradient * GRADIENTS[0], dtype=torch.float32)
        before = parameter.detach().clone()
        optimizer.step()
        assert parameter.isfinite().all()
        if rate == 0.0:
            assert torch.equal(parameter, before), "a rate of 0 moves nothing"
    assert not torch.equal(parameter, torch.tensor(START, dtype=torch.float32))


def test_values_that_an_optimizer_refuses_are_reported():
    with pytest.raises(TrainerError, match="schedule-free adamw"):
        make_part_optimizer(
            [torch.nn.Parameter(torch.zeros(2))],
            OptimizerSettings(optimizer="schedule-free adamw", beta1=0.0),
            1e-3,
            0.0,
        )
