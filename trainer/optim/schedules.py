"""Learning rate schedules: the share of the learning rate at each step. They are pure functions, so
that a resume has nothing to restore.
"""

from __future__ import annotations

import math

from ..settings.groups import OptimizerSettings, RangeTestSettings


def rate_factor(settings: OptimizerSettings, step: int, total_steps: int) -> float:
    """The factor on the learning rate of optimizer step `step` (from 0) of `total_steps`.

    A linear warm-up from 0, then the schedule until `decay_steps` (the last step if 0), then its
    final value. Constant, linear, cosine and cosine with restarts are those of diffusers'
    `get_scheduler`; polynomial is (1 - progress)^power. All but the constant one end at `end_share`
    of the learning rate.
    """
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    end = settings.decay_steps or total_steps
    progress = (step - settings.warmup_steps) / max(1, end - settings.warmup_steps)
    progress = min(1.0, progress)
    if settings.schedule == "linear":
        share = 1 - progress
    elif settings.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    elif settings.schedule == "cosine with restarts":
        around = (settings.cycles * progress) % 1.0
        share = 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * around))
    else:
        share = (1 - progress) ** settings.power
    return settings.end_share + (1 - settings.end_share) * share


def range_factor(settings: RangeTestSettings, step: int) -> float:
    """The factor on the learning rate of step `step` (from 0) of a range test: it rises
    exponentially from `start_share` to 1 at the last step.
    """
    progress = min(1.0, step / max(1, settings.steps - 1))
    return settings.start_share ** (1 - progress)
