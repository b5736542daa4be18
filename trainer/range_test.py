"""The learning rate range test: a short training whose learning rate rises from step to step, and
what its losses say about the rate to train with.

After Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3. A range test
is a run whose settings say so (`range_test.steps`). It validates before its first step only, saves
nothing, and ends early when its loss explodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy

from .errors import TrainerError
from .runs import Run
from .settings.groups import EmaSettings, RangeTestSettings, SamplesSettings, SavingSettings
from .settings.run_settings import RunSettings

if TYPE_CHECKING:
    from .training import Training

EXPLODED = 4.0
"""The test ends when the smoothed loss is this many times its start."""
LOOK_EVERY = 10
"""Steps between two looks whether the loss has exploded."""
WINDOW_SHARE = 0.1
"""Losses are smoothed over this share of the test's steps."""
START_SHARE = 0.25
"""The first quarter of the steps, whose rates are too low to change anything, is the start."""
NOISE = 4.0
"""A change of the smoothed loss counts when it is more than this many times its noise: the noise of
a test is looked at in some ten windows, two ways.
"""
SELF_ADJUSTING = ("d-adapt", "prodigy")
FEWEST = 20
ENDED = "Ended the range test"
"""How the message of a test begins whose loss has exploded or was not finite."""


class RangeEnded(Exception):
    """The range test has seen what it is for; its message says why it ended."""


@dataclass(frozen=True)
class Reading:
    """What a range test says. `rates` and `losses` are those of its steps, `smooth` the losses
    without most of their noise, `start` the mean of the first ones, and `noise` the standard
    deviation of what is left between these two.

    `steepest` and `diverges` are learning rates, None where the losses do not show one; `suggested`
    is the rate to train with and `reason` why, in words.
    """

    rates: numpy.ndarray
    losses: numpy.ndarray
    smooth: numpy.ndarray
    start: float
    noise: float
    steepest: float | None
    diverges: float | None
    suggested: float
    reason: str


def range_settings(settings: RunSettings, lowest: float, highest: float, steps: int) -> RunSettings:
    """The settings of a range test for a run with these settings.

    The rate of the UNet rises from `lowest` to `highest` in the given steps, that of the text
    encoder in proportion; where only the text encoder is trained, its rate. Noise levels are spread
    over each batch, so that losses are less noisy. Raises TrainerError for optimizers that find
    their step size themselves, and for bounds that do not rise.
    """
    if not 0 < lowest < highest:
        raise TrainerError(
            f"The learning rate is to rise from {lowest:g} to {highest:g}. The lowest must be "
            "above 0 and below the highest."
        )
    parts = {"UNet": settings.unet_optimizer} if settings.layers.train_unet else {}
    if settings.train_text_encoder:
        parts["text encoder"] = settings.text_encoder_optimizer
    for part, own in parts.items():
        if own.optimizer.startswith(SELF_ADJUSTING):
            raise TrainerError(
                f"The optimizer of the {part} is {own.optimizer}, which finds its step size "
                "itself: a range test says nothing about it. Give it a learning rate of 1."
            )
    ratio = 1.0
    if settings.layers.train_unet and settings.learning_rate:
        ratio = settings.text_encoder_learning_rate / settings.learning_rate
    return replace(
        settings,
        learning_rate=highest,
        text_encoder_learning_rate=min(1.0, highest * ratio),
        epochs=min(steps, 10_000),
        save_every_epochs=10_000,
        loss=replace(settings.loss, timestep_sampling="stratified"),
        validation=replace(settings.validation, every_epochs=0, every_steps=0, trend_action="warn"),
        ema=EmaSettings(),
        samples=SamplesSettings(),
        saving=SavingSettings(resume_minutes=0.0),
        range_test=RangeTestSettings(steps=steps, start_share=lowest / highest),
    )


def watch(training: Training) -> None:
    """To be called after each step. Raises RangeEnded when a range test has taken all its steps or
    its loss has exploded; other trainings go on.
    """
    steps, step = training.run.settings.range_test.steps, training.position.step
    if not steps:
        return
    if step >= steps:
        raise RangeEnded(f"Took all {steps} steps of the range test")
    if step % LOOK_EVERY == 0 and exploded(*recorded(training.run)):
        raise RangeEnded(f"{ENDED} at step {step} of {steps}: the loss has exploded")


def recorded(run: Run) -> tuple[list[float], list[float]]:
    """The learning rates and losses of a run's steps so far, in their order."""
    steps = {
        line["step"]: (line["learning_rate"], line["loss"])
        for line in run.metrics()
        if line["kind"] == "step"
        and isinstance(line.get("loss"), int | float)
        and isinstance(line.get("learning_rate"), int | float)
    }
    found = [steps[step] for step in sorted(steps)]
    return [rate for rate, _ in found], [loss for _, loss in found]


def ended_early(run: Run) -> bool:
    """Whether a finished test has ended before its last step. Its losses cannot tell: a step whose
    pairs could not be shown has none either.
    """
    return run.state().message.startswith(ENDED)


def exploded(rates: Sequence[float], losses: Sequence[float]) -> bool:
    """Whether the mean of the last few losses is far above the first ones."""
    if len(losses) < FEWEST:
        return False
    last = numpy.mean(losses[-LOOK_EVERY // 2 :])
    return bool(last > EXPLODED * numpy.mean(losses[:LOOK_EVERY]))


def read_test(
    rates: Sequence[float], losses: Sequence[float], steps: int, is_early: bool
) -> Reading:
    """What the losses of a range test say.

    `steps` is how many it was to take; `is_early` says that the loss exploded or was not finite.
    The loss diverges at the first rate from which on its smoothed value stays above its start by
    more than its noise; it falls if it sinks below the start by more than that before. The
    suggestion is the rate at which it falls most steeply over the logarithm of the rate, but at
    most a tenth of the rate at which it diverges; without a fall it is that tenth. Raises
    TrainerError when there are too few steps, or it neither falls nor diverges.
    """
    x, y = numpy.asarray(rates, float), numpy.asarray(losses, float)
    if len(y) < FEWEST:
        raise TrainerError(
            f"The range test ended after {len(y)} steps; {FEWEST} are needed to see anything. "
            "Lower the lowest learning rate."
        )
    # One that ended after few of its steps needs a window that fits into them.
    window = max(3, min(round(WINDOW_SHARE * steps), len(y) // 3)) | 1
    quiet = max(5, min(round(START_SHARE * steps), len(y) // 2))
    smooth, half = smoothed(y, window), window // 2
    start = float(y[:quiet].mean())
    noise = float(y[:quiet].std(ddof=1) * numpy.sqrt(1 / window + 1 / quiet))
    # Near the ends, where the window is cut off, there is more noise left.
    whole = slice(half, max(half + 1, len(y) - half))
    above = smooth[whole] > start + NOISE * noise
    from_on = half + int(numpy.flatnonzero(~above).max(initial=-1)) + 1
    if not above[-1]:
        from_on = len(y) - 1 if is_early else len(y)
    diverges = float(x[from_on]) if from_on < len(y) else None
    steepest = None
    before = smooth[half : min(from_on, len(y) - half)]
    if len(before) and before.min() < start - NOISE * noise:
        # A fall ends at the lowest loss, and its slope is taken over a whole window.
        at = numpy.arange(half, half + int(before.argmin()) + 1)
        slope = (smooth[at + half] - smooth[at - half]) / numpy.log(x[at + half] / x[at - half])
        steepest = float(x[at[slope.argmin()]])
    suggested, reason = _suggestion(steepest, diverges, float(x[-1]))
    return Reading(x, y, smooth, start, noise, steepest, diverges, suggested, reason)


def _suggestion(
    steepest: float | None, diverges: float | None, highest: float
) -> tuple[float, str]:
    if steepest is None and diverges is None:
        raise TrainerError(
            f"Up to a learning rate of {highest:.2g} the loss neither falls nor rises by more than "
            "its noise, so the range test suggests nothing. Raise highest, or take more steps or "
            "larger batches."
        )
    tenth = None if diverges is None else diverges / 10
    if steepest is None and tenth is not None:
        return _rounded(tenth), (
            f"{tenth:.2g}: a tenth of {diverges:.2g}, from where on the loss is above its start. "
            "It falls nowhere by more than its noise, so this is an upper bound rather than the "
            "best rate."
        )
    assert steepest is not None
    if tenth is not None and tenth < steepest:
        return _rounded(tenth), (
            f"{tenth:.2g}: a tenth of {diverges:.2g}, from where on the loss is above its start. "
            f"It falls most steeply at {steepest:.2g}, which is too near to that."
        )
    end = (
        f"It diverges at {diverges:.2g}."
        if diverges is not None
        else f"It does not diverge up to {highest:.2g}."
    )
    return _rounded(steepest), (
        f"{steepest:.2g}: there the smoothed loss falls most steeply over the logarithm of the "
        f"rate. {end}"
    )


def smoothed(losses: numpy.ndarray, window: int) -> numpy.ndarray:
    """The mean over a window around each step, which is cut off at both ends alike, so that it
    lags neither way.
    """
    sums = numpy.concatenate([[0.0], numpy.cumsum(losses)])
    at = numpy.arange(len(losses))
    half = numpy.minimum(window // 2, numpy.minimum(at, len(losses) - 1 - at))
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)


def _rounded(rate: float) -> float:
    """A rate to two digits: the test knows no more."""
    return float(f"{rate:.1e}")
