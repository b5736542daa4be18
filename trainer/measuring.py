"""What a run measures and shows between its steps: validation, best weights, trend, samples."""

from __future__ import annotations

import sys
import traceback

from .checkpoints import prune_checkpoints
from .samples import draw_samples
from .saving import save, save_and_stop
from .training import Training
from .trend import trend
from .validation import Validation, mean


class Left(Exception):
    """A measurement was broken off because the run is to stop; it is repeated after a resume."""


class EndedEarly(Exception):
    """The run has nothing left to learn: its validation loss has been rising."""


def validate(training: Training, epoch: int) -> None:
    """Measure all sets, keep the best weights, and watch the trend."""
    journal, step = training.journal, training.position.step
    try:
        figures, losses = _measure_all(training)
    except Left:
        save_and_stop(training)
    journal.record("validation", epoch, step, **figures)
    journal.record_pairs(epoch, step, losses)
    loss, first = figures["loss"], journal.state.first_validation
    journal.update(
        message="", first_validation=loss if first is None else first, last_validation=loss
    )
    if step:
        _keep_best(training, epoch, loss)
        _watch_trend(training, epoch, training.run.settings.validation.trend_action)


def _measure_all(training: Training) -> tuple[dict[str, float], dict[str, float]]:
    """The mean losses of a validation by name, and the loss of every validation pair by its id."""
    with training.evaluation():
        losses = _measure(training, training.validation, "Validating")
        figures = {"loss": mean(losses)}
        if len(training.sets) > 1:
            for name, ids in training.sets.items():
                figures[f"loss_{name}"] = mean({pair_id: losses[pair_id] for pair_id in ids})
        if training.measured is not None:
            measured = _measure(training, training.measured, "Measuring training pairs")
            figures["train_loss"] = mean(measured)
    if training.ema is not None:
        with training.ema.swapped_in():
            figures["ema_loss"] = mean(_measure(training, training.validation, "Validating EMA"))
    return figures, losses


def _measure(training: Training, validation: Validation, words: str) -> dict[str, float]:
    def progress(done: int, total: int) -> None:
        training.journal.progress(message=f"{words} ({done} of {total})")
        if training.control.asked_to_stop() and training.workers.count == 1:
            raise Left

    return validation.losses(
        training.unet, training.workers, training.run.settings.batch_size, progress
    )


def _keep_best(training: Training, epoch: int, loss: float) -> None:
    """Save the weights if they are the best so far; the former best goes unless it was due."""
    journal = training.journal
    best = journal.state.best
    if training.workers.agree(best is not None and loss >= best["loss"]):
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
    """Draw the sample prompts. If that fails, the reason is recorded and the run goes on."""
    settings = training.run.settings.samples
    if not settings.prompts or not (settings.every_epochs or settings.every_steps):
        return
    if not training.workers.main:
        return
    try:
        with training.evaluation():
            files = draw_samples(training, epoch)
        step = training.position.step
        training.journal.record("samples", epoch, step, files=[file.name for file in files])
    except Exception as error:
        traceback.print_exc()
        training.journal.record(
            "warning", epoch, training.position.step, text=f"No samples: {error}"
        )
    training.journal.update(message="")
