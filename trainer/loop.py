"""The training of a run, from its folder to its checkpoints."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn, TypeVar

from .checkpoints import prune_checkpoints, save_checkpoint
from .data.buckets import Showing
from .disk import check_disk
from .errors import TrainerError
from .files import DISK_FULL
from .journal import Journal
from .memory import estimate, out_of_memory_advice
from .process import record
from .resume import Position, drop_points
from .runs import Run
from .samples import draw_samples
from .single_file import read_shapes
from .step import Batch, StepResult, make_batches, take_step
from .training import Training, prepare
from .trend import trend
from .validation import Validation, mean
from .workers import Workers

T = TypeVar("T")
ROOM_POLL_S = 2.0


class Stopped(Exception):
    """Somebody asked the run to stop; its resume point is saved."""


class Left(Exception):
    """A measurement was left because somebody asked the run to stop; it is taken again after a resume."""


class EndedEarly(Exception):
    """The run has nothing more to learn: its validation loss has been rising."""


def train(folder: Path) -> int:
    """Train a run from where it stands to its last epoch; returns the process' exit status.

    Whatever happens is in the run's state afterwards: finished, stopped, or failed with the reason. Under
    `accelerate launch` all processes come here; only the first writes.
    """
    run = Run.open(folder)
    if run.state().status == "finished":
        print(f"{run.name} is finished. Give it more epochs to go on.")
        return 0
    workers, status = Workers(run.settings), 1
    try:
        status = _train(run, workers)
        return status
    finally:
        workers.end(meet=status == 0)


def _train(run: Run, workers: Workers) -> int:
    """`train` among the processes of a run; what goes wrong is in its state."""
    with _exclusive(run) if workers.main else contextlib.nullcontext():
        journal = Journal(run, silent=not workers.main)
        try:
            if workers.main:
                check_disk(run)
                print(
                    f"Memory, estimated: {estimate(read_shapes(Path(run.base.path)), run.settings)}"
                )
            training = prepare(run, journal, workers)
            try:
                _stop_on_signals(training)
                message = _train_epochs(training)
            except EndedEarly as reason:
                _save(training)
                _save_point(training, wait=True)
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
    """The loop: validate, then epoch after epoch of steps, each epoch closed by validation and saving.

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
            _validate(training, epoch=0)
        _draw_samples(training, epoch=0)
    elif start.batch and _due(start.step, settings.validation.every_steps):
        measured = {line["step"] for line in training.run.validations()}
        if start.step not in measured:
            _validate(training, start.epoch + 1)
    for epoch in range(training.position.epoch, settings.epochs):
        plan = training.plan(epoch)
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
        _close_epoch(training)
    return f"Finished {settings.epochs} epochs"


def _ahead(
    training: Training, plan: Sequence[list[list[Showing]]], start: int, step: int
) -> Iterator[tuple[int, list[Batch]]]:
    """The steps of a plan from number `start` on, each made ready while the one before it is at work."""
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
            _validate(training, position.epoch + 1)
        if _due(position.step, settings.samples.every_steps):
            _draw_samples(training, position.epoch + 1)
        minutes = (time.monotonic() - training.saved_at) / 60
        if _due(position.step, settings.saving.every_steps) or (
            settings.saving.every_minutes
            and training.workers.agree(minutes >= settings.saving.every_minutes)
        ):
            _save(training)
        minutes = (time.monotonic() - training.safe_at) / 60
        if (
            settings.saving.resume_minutes
            and training.workers.main
            and minutes >= settings.saving.resume_minutes
        ):
            _save_point(training, wait=False)
    _obey(training)


def _due(count: int, every: int) -> bool:
    return bool(every) and count % every == 0


def _listen(training: Training) -> None:
    """Note what control.json asks for; a signal has noted a stop by itself."""
    if training.workers.main:
        command = training.run.take_request()
        training.stop = training.stop or command == "stop"
        training.save = training.save or command == "save"


def _obey(training: Training) -> None:
    """Do what somebody has asked for."""
    _listen(training)
    training.stop, save = training.workers.agree((training.stop, training.save))
    training.save = False
    if save:
        _save(training)
    if training.stop:
        _stop(training)


def _stop(training: Training) -> NoReturn:
    training.journal.update(status="stopping", message="Saves its resume point")
    _save_point(training, wait=True)
    raise Stopped


def _close_epoch(training: Training) -> None:
    """Validate, save what is due, and make the epoch safe against any kill; until then it is not over."""
    epoch, settings = training.position.epoch + 1, training.run.settings
    last = epoch == settings.epochs
    training.journal.update(epoch=epoch)
    if last or _due(epoch, settings.validation.every_epochs):
        _validate(training, epoch)
    training.position = Position(epoch, 0, training.position.step)
    if last or _due(epoch, settings.samples.every_epochs):
        _draw_samples(training, epoch)
    if last or _due(epoch, settings.save_every_epochs):
        _save(training)
    _save_point(training, wait=last)


def _validate(training: Training, epoch: int) -> None:
    """Measure all sets, keep the best weights, and watch the trend."""
    journal, step = training.journal, training.position.step
    try:
        figures, losses = _measure_all(training)
    except Left:
        _stop(training)
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
        losses = _measure(training, training.validation, "Validates")
        figures = {"loss": mean(losses)}
        if len(training.sets) > 1:
            for name, ids in training.sets.items():
                figures[f"loss_{name}"] = mean({pair_id: losses[pair_id] for pair_id in ids})
        if training.measured is not None:
            measured = _measure(training, training.measured, "Measures training pairs")
            figures["train_loss"] = mean(measured)
    if training.ema is not None:
        with training.ema.swapped_in():
            figures["ema_loss"] = mean(_measure(training, training.validation, "Validates EMA"))
    return figures, losses


def _measure(training: Training, validation: Validation, words: str) -> dict[str, float]:
    def progress(done: int, total: int) -> None:
        training.journal.progress(message=f"{words} ({done} of {total})")
        _listen(training)
        if training.stop and training.workers.count == 1:
            raise Left

    return validation.losses(
        training.unet, training.workers, training.run.settings.batch_size, progress
    )


def _keep_best(training: Training, epoch: int, loss: float) -> None:
    """Save the weights if they are the best so far; the former best goes unless it was due anyway."""
    journal = training.journal
    best = journal.state.best
    if training.workers.agree(best is not None and loss >= best["loss"]):
        return
    file = _save(training)
    step = training.position.step
    journal.update(best={"epoch": epoch, "step": step, "loss": loss, "checkpoint": file.name})
    if best and training.workers.main:
        prune_checkpoints(training.run, former_best=best)


def _watch_trend(training: Training, epoch: int, action: str) -> None:
    """Warn, save or end the run when the validation loss has been rising consistently since its best."""
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
        _save(training)
    if action == "stop":
        raise EndedEarly(f"Ended after epoch {epoch}. {words}")


def _draw_samples(training: Training, epoch: int) -> None:
    """Draw the sample prompts; whatever goes wrong there is written down and the run goes on."""
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


def _save(training: Training) -> Path:
    """Save checkpoints of this step and record them; returns the one that is recorded as the step's own."""
    position, run, ema = training.position, training.run, training.ema
    epoch = position.epoch if position.batch == 0 else position.epoch + 1
    saved = run.settings.ema.save if ema is not None else "plain only"
    training.journal.update(message="Saves a checkpoint")

    def save(kind: str, weights: contextlib.AbstractContextManager, suffix: str) -> Path:
        with weights:
            file = _when_there_is_room(
                training,
                lambda: save_checkpoint(
                    run, training.modules(), training.model.levels, epoch, position.step, suffix
                ),
            )
        if (kind, file.name) not in training.recorded:
            training.recorded.add((kind, file.name))
            training.journal.record(kind, epoch, position.step, file=file.name)
        return file

    file = Path()
    if training.workers.main:
        if saved != "plain only" and ema is not None:
            kind = "checkpoint" if saved == "ema only" else "ema checkpoint"
            file = save(kind, ema.swapped_in(), "-ema")
        if saved != "ema only":
            file = save("checkpoint", training.evaluation(), "")
        if run.settings.saving.keep_last:
            prune_checkpoints(run)
    training.saved_at = time.monotonic()
    training.journal.update(message="")
    return file


def _save_point(training: Training, wait: bool) -> None:
    """Make the run safe against any kill up to here."""
    if training.workers.main:
        point = training.point()
        in_background = _when_there_is_room(training, lambda: training.writer.write(point, wait))
        if not wait and not in_background:
            print(
                f"Not enough memory to write the resume point ({point.bytes / 1e9:.1f} GB) in the background: the run waited.",
                file=sys.stderr,
            )
    training.safe_at = time.monotonic()


def _when_there_is_room(training: Training, write: Callable[[], T]) -> T:
    """Write; while the disk is full the run pauses, keeps everything in memory, and tries again."""
    status = training.journal.state.status
    while True:
        try:
            result = write()
            if training.journal.state.status == "paused":
                training.journal.update(status=status, message="")
            return result
        except Exception as error:
            if not _disk_full(error):
                raise
        folder = training.run.folder
        free = shutil.disk_usage(folder).free
        training.journal.update(
            status="paused",
            message=f"The disk is full ({free / 1e9:.1f} GB free in {folder}). Make room: the run goes on by itself.",
        )
        waited = time.monotonic() + ROOM_POLL_S
        while time.monotonic() < waited:
            _listen(training)
            if training.stop:
                raise Stopped
            time.sleep(0.1)


def _disk_full(error: Exception) -> bool:
    """Whether a write failed for want of room; safetensors says so in words only."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return type(error).__name__ == "SafetensorError" and "os error 28" in str(error)


def _explained(run: Run, error: Exception) -> str:
    """A failure in words; running out of memory with the settings that would fit."""
    import torch

    out_of_memory = isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError | MemoryError)
        and ("not enough memory" in str(error) or isinstance(error, MemoryError))
    )
    if out_of_memory:
        return out_of_memory_advice(run)
    return f"{type(error).__name__}: {error}"


def _stop_on_signals(training: Training) -> None:
    """SIGTERM and Ctrl-C (Ctrl-Break on Windows) stop the run after the step it is in, saved."""

    def stop(*_: object) -> None:
        training.stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, stop)


@contextlib.contextmanager
def _exclusive(run: Run) -> Iterator[None]:
    """Work on a run alone; the lock goes with the process that holds it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(run.folder / "process.lock", timeout=0):
            record(run, os.getpid())
            yield
    except Timeout as error:
        raise TrainerError(f"Another process trains {run.name} already.") from error
