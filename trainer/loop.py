"""The training of a run, from its folder to its checkpoints."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from .data.buckets import Showing
from .disk import check_disk
from .errors import TrainerError
from .jobs.control import Control
from .jobs.device import device_name
from .jobs.job import UNREADABLE, LockLost, Stopped, exclusive
from .journal import Journal
from .measuring import EndedEarly, show_samples, validate
from .model.memory import estimate, out_of_memory_advice
from .model.single_file import read_shapes
from .preparation import prepare
from .resume import Position, drop_points
from .runs import Run
from .saving import save, save_and_stop, save_point
from .step import Batch, StepResult, make_batches, take_step
from .training import Training
from .workers import Workers

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory")
"""How torch puts it, by system, that a CPU's memory is too small."""


def train(folder: Path, places: Mapping[str, str] | None = None) -> int:
    """Train a run from where it stands to its last epoch; returns the exit status of the process.

    `places` are paths to use instead of those in run.json (see Run.at).

    However it ends, the run's state says so: finished, stopped, or failed with the reason. Under
    `accelerate launch` every process calls this; only the first writes.
    """
    run = Run.open(folder).at(places or {})
    state = run.state()
    if state.status == UNREADABLE:
        raise TrainerError(state.message)
    if state.status == "finished":
        print(f"{run.name} is finished. Give it more epochs to go on.")
        return 0
    try:
        workers = Workers(run.settings)
    except TrainerError as error:
        with exclusive(run):
            run.write_state(replace(run.state(), status="failed", message=str(error)))
        raise
    status = 1
    try:
        status = _train(run, workers)
        return status
    finally:
        workers.end(meet=status == 0)


def _train(run: Run, workers: Workers) -> int:
    """`train` in one of the processes of a run."""
    device = device_name(workers.device.type, workers.device.index)
    with exclusive(run, device) if workers.main else contextlib.nullcontext() as lock:
        journal = Journal(run, lock, silent=not workers.main)
        try:
            message = _train_to_the_end(run, journal, workers)
            journal.update(status="finished", message=message, eta_s=0.0)
            return 0
        except LockLost as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except Stopped:
            journal.update(status="stopped", message="Stopped on request. Queue it again to go on.")
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


def _train_to_the_end(run: Run, journal: Journal, workers: Workers) -> str:
    """From the run's folder to its last checkpoint; returns how it ended."""
    journal.start_wandb()
    if workers.main:
        check_disk(run)
        print(f"Estimated memory: {estimate(read_shapes(Path(run.base.path)), run.settings)}")
    training = prepare(run, journal, workers)
    try:
        training.control = Control(run if workers.main else None)
        training.control.stop_on_signals()
        _begin(training)
        train_epochs(training)
        message = f"Finished {run.settings.epochs} epochs"
    except EndedEarly as reason:
        save(training)
        save_point(training, wait=True)
        message = str(reason)
    finally:
        training.writer.close()
    if workers.main:
        drop_points(run.folder / "resume", keep=1)
    return message


def train_epochs(training: Training) -> None:
    """The training loop: epochs of steps, each epoch closed by validation and saving.

    Raises EndedEarly when the validation loss says that it is time, and Stopped on request.
    """
    for epoch in range(training.position.epoch, training.run.settings.epochs):
        plan = begin_epoch(training, epoch)
        for batches in ready_batches(training, plan):
            advance(training, batches)
            if training.position.batch < len(plan):
                _do_what_is_due(training)
            _obey(training)
        _close_epoch(training)


def _begin(training: Training) -> None:
    """Validate and draw samples before the first step, or make up for a validation that was due at
    the resume point.
    """
    journal, start = training.journal, training.position
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
    elif start.batch and _due(start.step, training.run.settings.validation.every_steps):
        measured = {line["step"] for line in training.run.validations()}
        if start.step not in measured:
            validate(training, start.epoch + 1)


def begin_epoch(training: Training, epoch: int) -> list[list[list[Showing]]]:
    """Start the clocks of an epoch; returns its plan."""
    training.journal.update(status="running", message="", epoch=epoch, steps=training.total_steps)
    training.epoch_began, training.waited_s = time.monotonic(), 0.0
    return training.plan(epoch)


def ready_batches(training: Training, plan: Sequence[list[list[Showing]]]) -> Iterator[list[Batch]]:
    """The batches of every step of a plan that is left, each made ready during the step before."""
    start, first_step = training.position.batch, training.position.step
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        coming: deque[Future[list[Batch]]] = deque()
        for index in range(start, len(plan) + 1):
            if index < len(plan):
                step = first_step + index - start
                coming.append(pool.submit(make_batches, training, plan[index], step))
            if index > start:
                began = time.monotonic()
                batches = coming.popleft().result()
                training.waited_s += time.monotonic() - began
                yield batches


def advance(training: Training, batches: Sequence[Batch]) -> None:
    """Take the next step and note its figures; a step whose pairs are all skipped moves nothing."""
    began, position = time.monotonic(), training.position
    result = take_step(training, batches, position.step) if batches else None
    training.position = replace(position, batch=position.batch + 1, step=position.step + 1)
    if result:
        _note_step(training, result, time.monotonic() - began)


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


def _do_what_is_due(training: Training) -> None:
    """Between two steps of an epoch: validate, draw samples and save."""
    settings, position = training.run.settings, training.position
    if _due(position.step, settings.validation.every_steps):
        validate(training, position.epoch + 1)
    if _due(position.step, settings.samples.every_steps):
        show_samples(training, position.epoch + 1)
    due_by_time = settings.saving.every_minutes and training.workers.agree(
        _minutes_since(training.saved_at) >= settings.saving.every_minutes
    )
    if _due(position.step, settings.saving.every_steps) or due_by_time:
        save(training)
    every_minutes = settings.saving.resume_minutes if training.workers.main else 0
    if every_minutes and _minutes_since(training.safe_at) >= every_minutes:
        save_point(training, wait=False)


def _minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60


def _due(count: int, every: int) -> bool:
    return bool(every) and count % every == 0


def _obey(training: Training) -> None:
    """Save or stop if the run is asked to."""
    control = training.control
    control.listen()
    control.stop, wanted = training.workers.agree((control.stop, control.save))
    control.save = False
    if wanted:
        save(training)
    if control.stop:
        save_and_stop(training)


def _close_epoch(training: Training) -> None:
    """Note how the epoch went, validate, save what is due, and save a resume point: only then is
    the epoch over.
    """
    epoch, settings = training.position.epoch + 1, training.run.settings
    last = epoch == settings.epochs
    seconds = time.monotonic() - training.epoch_began
    training.journal.record(
        "epoch",
        epoch,
        training.position.step,
        minutes=seconds / 60,
        data_wait_share=training.waited_s / max(seconds, 1e-9),
    )
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
    """A failure in words. When the memory was too small they name settings that would fit."""
    import torch

    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in words for phrase in OUT_OF_MEMORY
    ):
        return out_of_memory_advice(run)
    return f"{type(error).__name__}: {error}"
