"""What a run measures and shows between its steps: validation, best weights, trend, samples."""

from __future__ import annotations

import math
import sys

from .checkpoints import prune_checkpoints
from .errors import TrainerError
from .giving_way import Left, leave_to_prompts
from .samples import draw_samples, own_samples
from .saving import save, save_and_stop
from .training import Training
from .trend import trend
from .validation import Levels, Validation, mean, over_levels


class EndedEarly(Exception):
    """The run has nothing left to learn: its validation loss has been rising."""


def validate(training: Training, epoch: int) -> None:
    """Measure all sets, keep the best weights, and watch the trend. Raises TrainerError when not
    even the base's loss is a number.
    """
    journal, step = training.journal, training.position.step
    try:
        figures, levels, training_levels = _measure_all(training)
    except Left:
        save_and_stop(training)
    if not step and not math.isfinite(figures["loss"]):
        raise TrainerError(
            f"Before its first step the validation loss of {training.run.base.name} is "
            f"{figures['loss']}: the base itself overflows in precision "
            f"{training.run.settings.precision}, whatever the other settings. "
            "Choose precision fp32, or another base."
        )
    journal.record("validation", epoch, step, **figures)
    journal.record_pairs(epoch, step, over_levels(levels), levels, training_levels)
    loss, first = figures["loss"], journal.state.first_validation
    journal.update(
        message="", first_validation=loss if first is None else first, last_validation=loss
    )
    if step:
        _keep_best(training, epoch, loss)
        _watch_trend(training, epoch, training.run.settings.validation.trend_action)


def _measure_all(training: Training) -> tuple[dict[str, float], Levels, Levels]:
    """The mean losses of a validation by name, and the losses at every noise level of the
    validation pairs and of the training pairs that are measured like them.
    """
    followed: Levels = {}
    with training.evaluation():
        levels = _measure(training, training.validation, "Validating")
        losses = over_levels(levels)
        figures = {"loss": mean(losses)}
        if len(training.sets) > 1:
            for name, ids in training.sets.items():
                figures[f"loss_{name}"] = mean({pair_id: losses[pair_id] for pair_id in ids})
        if training.measured is not None:
            followed = _measure(training, training.measured, "Measuring training pairs")
            figures["train_loss"] = mean(over_levels(followed))
    if training.ema is not None:
        with training.ema.swapped_in():
            levels_of_mean = _measure(training, training.validation, "Validating EMA")
            figures["ema_loss"] = mean(over_levels(levels_of_mean))
    return figures, levels, followed


def _measure(training: Training, validation: Validation, words: str) -> Levels:
    def progress(done: int, total: int) -> None:
        training.journal.progress(message=f"{words} ({done} of {total})")
        alone = training.workers.count == 1
        if alone and (training.control.asked_to_stop() or not leave_to_prompts(training)):
            raise Left

    return validation.losses(
        training.unet, training.workers, training.run.settings.batch_size, progress
    )


def _keep_best(training: Training, epoch: int, loss: float) -> None:
    """Save the weights if they are the best so far; the former best goes unless it was due."""
    journal = training.journal
    best = journal.state.best
    better = math.isfinite(loss) and (best is None or loss < best["loss"])
    if not training.workers.agree(better):
        return
    file = save(training)
    step = training.position.step
    journal.update(best={"epoch": epoch, "step": step, "loss": loss, "checkpoint": file.name})
    if best and training.workers.main:
        prune_checkpoints(training.run, former_best=best)


def _watch_trend(training: Training, epoch: int, action: str) -> None:
    """Warn, save or end the run when the validation loss has kept rising since its best."""
    rising = training.workers.agree(
        trend(training.run.validations(), training.run.settings.validation.trend_patience)
    )
    if rising is None:
        training.journal.update(trend="")
        return
    words = f"The validation loss has been rising since epoch {rising.best_epoch}: {rising}"
    if training.journal.state.trend != words:
        training.journal.update(trend=words)
        print(words, file=sys.stderr)
    if action == "save":
        save(training)
    if action == "stop":
        raise EndedEarly(f"Ended after epoch {epoch}. {words}")


def show_samples(training: Training, epoch: int) -> None:
    """Draw the sample prompts. If the run ends meanwhile, they are drawn when it is resumed; one of
    several processes, which end together after their next step, says that they are left out.
    """
    settings, alone = training.run.settings.samples, training.workers.count == 1
    own = own_samples(training, epoch)
    if not training.workers.main or not own or not (settings.every_epochs or settings.every_steps):
        return
    left = draw_samples(training, epoch, own)
    if left and alone:
        save_and_stop(training)
    if left:
        text = f"{len(left)} of {len(own)} samples were not drawn, because the run is to end."
        training.journal.warn(epoch, training.position.step, text)
