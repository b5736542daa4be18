"""The training of a run, from its folder to its checkpoints."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from .control import Stopped, exclusive, listen, stop_on_signals
from .data.buckets import Showing
from .disk import check_disk
from .errors import TrainerError
from .journal import Journal
from .measuring import EndedEarly, show_samples, validate
from .model.memory import estimate, out_of_memory_advice
from .model.single_file import read_shapes
from .resume import Position, drop_points
from .runs import Run
from .saving import save, save_and_stop, save_point
from .step import Batch, StepResult, make_batches, take_step
from .training import Training, prepare
from .workers import Workers

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory")
"""What torch says when a CPU's memory does not suffice, by system."""


def train(folder: Path) -> int:
    """Train a run from where it stands to its last epoch; returns the process' exit status.

    Whatever happens is in the run's state afterwards: finished, stopped, or failed with the reason.
    Under `accelerate launch` all processes come here; only the first writes.
    """
    run = Run.open(folder)
    if run.state().status == "finished":
        print(f"{run.name} is finished. Give it more epochs to go on.")
        return 0
    try:
        workers = Workers(run.settings)
    except TrainerError as error:
        run.write_state(replace(run.state(), status="failed", message=str(error)))
        raise
    status = 1
    try:
        status = _train(run, workers)
        return status
    finally:
        workers.end(meet=status == 0)


def _train(run: Run, workers: Workers) -> int:
    """`train` among the processes of a run; what goes wrong is in its state."""
    with exclusive(run) if workers.main else contextlib.nullcontext():
        journal = Journal(run, silent=not workers.main)
        try:
            journal.start_wandb()
            if workers.main:
                check_disk(run)
                print(
                    f"Memory, estimated: {estimate(read_shapes(Path(run.base.path)), run.settings)}"
                )
            training = prepare(run, journal, workers)
            try:
                stop_on_signals(training)
                message = _train_epochs(training)
            except EndedEarly as reason:
                save(training)
                save_point(training, wait=True)
                message = str(reason)
            finally:
                training.writer.close()
            if workers.main:
                drop_points(run.folder / "resume", keep=1)
            journal.update(status="finished", message=message, eta_s=0.0)
            return 0
        except Stopped:
            journal.update(status="stopped", message="Stopped on request; queue it again to go on")
            return 0
        except TrainerError as error:
            print(f"error: {error}", file=sys.stderr)
            journal.update(status="failed", message=str(error))
            return 1
        except Exception as error:
            traceback.print_exc()
            journal.update(status="failed", message=_explained(run, error))
            return 1
        finally:
            journal.close()


def _train_epochs(training: Training) -> str:
    """The loop: validate, then epoch after epoch of steps, each epoch closed by validation and
    saving.

    Returns what to say at the end. Raises EndedEarly when the validation says that it is time.
    """
    settings, journal = training.run.settings, training.journal
    start = training.position
    journal.record(
        "start",
        start.epoch,
        start.step,
        device=str(training.workers.device),
        processes=training.workers.count,
    )
    if start.step == 0:
        if journal.state.first_validation is None:
            validate(training, epoch=0)
        show_samples(training, epoch=0)
    elif start.batch and _due(start.step, settings.validation.every_steps):
        measured = {line["step"] for line in training.run.validations()}
        if start.step not in measured:
            validate(training, start.epoch + 1)
    for epoch in range(training.position.epoch, settings.epochs):
        train_epoch(training, epoch)
        _close_epoch(training)
    return f"Finished {settings.epochs} epochs"


def train_epoch(training: Training, epoch: int) -> None:
    """The steps of an epoch that are left, and what is due between them."""
    journal, plan = training.journal, training.plan(epoch)
    position, began = training.position, time.monotonic()
    training.waited_s = 0.0
    journal.update(status="running", message="", epoch=epoch, steps=training.total_steps)
    for index, batches in _ahead(training, plan, position.batch, position.step):
        started = time.monotonic()
        step = training.position.step
        result = take_step(training, batches, step) if batches else None
        training.position = Position(epoch, index + 1, step + 1)
        if result:
            _note_step(training, result, time.monotonic() - started)
        _after_step(training, last=index + 1 == len(plan))
    seconds = time.monotonic() - began
    journal.record(
        "epoch",
        epoch + 1,
        training.position.step,
        minutes=seconds / 60,
        data_wait_share=training.waited_s / max(seconds, 1e-9),
    )


def _ahead(
    training: Training, plan: Sequence[list[list[Showing]]], start: int, step: int
) -> Iterator[tuple[int, list[Batch]]]:
    """The steps of a plan from number `start` on, each made ready while the one before it is at
    work.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        pending = (
            pool.submit(make_batches, training, plan[start], step) if start < len(plan) else None
        )
        for index in range(start, len(plan)):
            waited = time.monotonic()
            batches = pending.result()
            training.waited_s += time.monotonic() - waited
            if index + 1 < len(plan):
                step += 1
                pending = pool.submit(make_batches, training, plan[index + 1], step)
            yield index, batches


def _note_step(training: Training, result: StepResult, seconds: float) -> None:
    position, journal = training.position, training.journal
    figures = {
        "loss": result.loss,
        "loss_conditional": result.conditional,
        "loss_unconditional": result.unconditional,
        "learning_rate": result.rates.get("unet", result.rates.get("text_encoder")),
        "pairs_per_second": result.pairs / seconds,
        "memory_bytes": float(training.workers.memory_bytes()),
    }
    for name in result.rates:
        figures[f"learning_rate_{name}"] = result.rates[name]
        figures[f"gradient_norm_{name}"] = result.gradient_norms[name]
        figures[f"effective_rate_{name}"] = result.effective_rates.get(name)
        figures[f"update_ratio_{name}"] = result.update_ratios.get(name)
    journal.record(
        "step",
        position.epoch + 1,
        position.step,
        **{key: value for key, value in figures.items() if value is not None},
    )
    journal.note_speed(position.step, training.total_steps, result.loss, seconds)


def _after_step(training: Training, last: bool) -> None:
    """Between two steps: validate, draw, save what is due, and do what somebody asks for."""
    settings, position = training.run.settings, training.position
    if not last:
        if _due(position.step, settings.validation.every_steps):
            validate(training, position.epoch + 1)
        if _due(position.step, settings.samples.every_steps):
            show_samples(training, position.epoch + 1)
        minutes = (time.monotonic() - training.saved_at) / 60
        if _due(position.step, settings.saving.every_steps) or (
            settings.saving.every_minutes
            and training.workers.agree(minutes >= settings.saving.every_minutes)
        ):
            save(training)
        minutes = (time.monotonic() - training.safe_at) / 60
        if (
            settings.saving.resume_minutes
            and training.workers.main
            and minutes >= settings.saving.resume_minutes
        ):
            save_point(training, wait=False)
    _obey(training)


def _due(count: int, every: int) -> bool:
    return bool(every) and count % every == 0


def _obey(training: Training) -> None:
    """Do what somebody has asked for."""
    listen(training)
    training.stop, wanted = training.workers.agree((training.stop, training.save))
    training.save = False
    if wanted:
        save(training)
    if training.stop:
        save_and_stop(training)


def _close_epoch(training: Training) -> None:
    """Validate, save what is due, and make the epoch safe against any kill; until then it is not
    over.
    """
    epoch, settings = training.position.epoch + 1, training.run.settings
    last = epoch == settings.epochs
    training.journal.update(epoch=epoch)
    if last or _due(epoch, settings.validation.every_epochs):
        validate(training, epoch)
    training.position = Position(epoch, 0, training.position.step)
    if last or _due(epoch, settings.samples.every_epochs):
        show_samples(training, epoch)
    if last or _due(epoch, settings.save_every_epochs):
        save(training)
    save_point(training, wait=last)


def _explained(run: Run, error: Exception) -> str:
    """A failure in words; running out of memory with the settings that would fit."""
    import torch

    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in words for phrase in OUT_OF_MEMORY
    ):
        return out_of_memory_advice(run)
    return f"{type(error).__name__}: {error}"
