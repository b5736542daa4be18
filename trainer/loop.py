"""The training of a run, from its folder to its checkpoints."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from .checkpoints import sweep_checkpoints
from .data.buckets import Showing
from .disk import check_disk
from .errors import TrainerError
from .giving_way import leave_to_prompts
from .identity import check_identity
from .jobs.control import Control
from .jobs.device import device_name, slow_precision
from .jobs.job import UNREADABLE, exclusive
from .jobs.work import carry_out, in_words
from .journal import Journal
from .latents import FOLDER as LATENTS
from .litter import sweep, sweep_below, sweep_own
from .masks import FOLDER as MASKS
from .measuring import EndedEarly, show_samples, validate
from .model.memory import estimate, out_of_memory_advice
from .model.single_file import read_shapes
from .model.text import FOLDER as TEXTS
from .preparation import prepare
from .range_test import ENDED, RangeEnded, watch
from .resume import Position, drop_points
from .runs import Run
from .samples import own_samples
from .saving import save, save_and_stop, save_point
from .sharing import Sharing
from .steering import grant_wishes, obey
from .step import Batch, NotFinite, StepResult, make_batches, take_step
from .training import Training
from .workers import Workers

CHECKPOINTS = ("checkpoint", "ema checkpoint")
"""The kinds of lines in metrics.jsonl that record one."""
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory")
"""How torch puts it, by system, that a CPU's memory is too small."""


def train(
    folder: Path, places: Mapping[str, str] | None = None, settings_file: Path | None = None
) -> int:
    """Train a run from where it stands to its last epoch; returns the exit status of the process.

    `places` are paths to use instead of those in run.json (see Run.at), `settings_file` is where
    the owner says whom to tell how it went (see notices.py).

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
        status = _train(run, workers, settings_file)
        return status
    finally:
        workers.end(meet=status == 0)


def _train(run: Run, workers: Workers, settings_file: Path | None) -> int:
    """`train` in one of the processes of a run."""
    device = device_name(workers.device.type, workers.device.index)
    with exclusive(run, device) if workers.main else contextlib.nullcontext() as lock:
        if workers.main and run.state().status != "preparing":
            # Started by hand: what was asked before is not meant.
            (run.folder / "control.json").unlink(missing_ok=True)
        if workers.main:
            _sweep(run)
        journal = Journal(run, lock, not workers.main, settings_file)
        try:
            return carry_out(
                lambda: _train_to_the_end(run, journal, workers),
                journal.update,
                lambda error: _explained(run, error),
            )
        finally:
            journal.close()


def _sweep(run: Run) -> None:
    """Remove what processes that were killed have left of files of this run and of its cache. A
    folder that run.json names may be anybody's: only what has our names is looked at there.
    """
    sweep_checkpoints(run)
    sweep_own(run.folder, lambda name: name == "state.json")
    sweep_own(run.folder / "samples", lambda name: True)
    sweep(run.folder)
    cache = Path(run.paths.cache)
    sweep(cache, only="room")
    for folder in (LATENTS, MASKS, TEXTS):
        sweep_below(cache / folder)


def _train_to_the_end(run: Run, journal: Journal, workers: Workers) -> dict[str, Any]:
    """From the run's folder to its last checkpoint; returns how its state changes with that."""
    control = Control(run if workers.main else None)
    control.stop_on_signals()
    journal.start_wandb()
    # One of several processes cannot leave while the others wait for it.
    alone = workers.count == 1
    journal.update(status="preparing", message="Checking the base")
    heed = control.heed if alone else lambda: None
    base_seen = check_identity(run, heed) if workers.main else None
    shapes = read_shapes(Path(run.base.path))
    needed = estimate(shapes, run.settings)
    sharing = Sharing(run, journal, workers, needed, shapes)
    if workers.main:
        check_disk(run)
        print(f"Estimated memory: {needed}")
        _warn_of_slow_precision(journal, workers)
        if not sharing.begin(control.asked_to_stop):
            raise control.ending()
    asked = (control, sharing) if alone else (None, None)
    training = prepare(run, journal, workers, asked[0], asked[1])
    training.control, training.sharing, training.base_seen = control, sharing, base_seen
    try:
        obey(training)
        _begin(training)
        train_epochs(training)
        message = f"Finished {run.settings.epochs} epochs"
    except EndedEarly as reason:
        save(training)
        save_point(training, wait=True)
        message = str(reason)
    except RangeEnded as reason:
        message = str(reason)
    except NotFinite as error:
        if not run.settings.range_test.steps:
            raise
        message = f"{ENDED}. {error}"
    finally:
        training.writer.close()
    if workers.main:
        drop_points(run.folder / "resume", keep=1)
    control.listen()
    return {"status": "finished", "message": control.told(message), "eta_s": 0.0}


def _warn_of_slow_precision(journal: Journal, workers: Workers) -> None:
    text = slow_precision(journal.run.settings.precision, workers.device.type)
    if text:
        print(text, file=sys.stderr)
        journal.record("warning", journal.state.epoch, journal.state.step, text=text)


def train_epochs(training: Training) -> None:
    """The training loop: epochs of steps, each epoch closed by validation and saving.

    Raises EndedEarly when the validation loss says that it is time, RangeEnded at the end of a
    range test, and Stopped on request.
    """
    for epoch in range(training.position.epoch, training.run.settings.epochs):
        plan = begin_epoch(training, epoch)
        for batches in ready_batches(training, plan):
            advance(training, batches)
            watch(training)
            between_steps(training, epoch_ends=training.position.batch == len(plan))
        _close_epoch(training)


def between_steps(training: Training, epoch_ends: bool) -> None:
    """All that may happen at the boundary of a step: what is due, and what a person asks for.

    What is due at the end of an epoch is left to `_close_epoch`. Raises EndedEarly, Stopped and
    Paused.
    """
    if not epoch_ends:
        _do_what_is_due(training)
    if not leave_to_prompts(training):
        save_and_stop(training)
    obey(training)


def _begin(training: Training) -> None:
    """Validate and draw samples before the first step, or make up for what was due at the resume
    point.
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
    elif not start.batch:
        make_up_for_samples(training, start.epoch)
    elif start.batch < len(training.plan(start.epoch)):
        make_up_for_what_was_due(training)


def make_up_for_samples(training: Training, epoch: int) -> None:
    """Draw samples at a resume point if its run ended before all of them were there."""
    settings, start = training.run.settings, training.position
    ended = not start.batch and not settings.range_test.steps
    due = _due(start.step, settings.samples.every_steps) or (
        ended and (epoch == settings.epochs or _due(epoch, settings.samples.every_epochs))
    )
    if due and not all(file.exists() for file in own_samples(training, epoch)):
        show_samples(training, epoch)


def make_up_for_what_was_due(training: Training) -> None:
    """Validate, draw samples and save at a resume point in an epoch if its run ended before it
    could.
    """
    settings, start = training.run.settings, training.position
    if _due(start.step, settings.validation.every_steps):
        measured = {line["step"] for line in training.run.validations()}
        if start.step not in measured:
            validate(training, start.epoch + 1)
    make_up_for_samples(training, start.epoch + 1)
    if _due(start.step, settings.saving.every_steps):
        lines = training.run.metrics()
        saved = {line["step"] for line in lines if line["kind"] in CHECKPOINTS}
        if start.step not in saved:
            save(training)


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
    memory = int(figures["memory_bytes"] or 0)
    journal.note_speed(position.step, training.total_steps, result.loss, seconds, memory)


def _do_what_is_due(training: Training) -> None:
    """Between two steps of an epoch: validate, draw samples and save."""
    settings, position = training.run.settings, training.position
    if _due(position.step, settings.validation.every_steps):
        validate(training, position.epoch + 1)
    if _due(position.step, settings.samples.every_steps):
        show_samples(training, position.epoch + 1)
    if _due(position.step, settings.saving.every_steps) or _due_by_time(training):
        save(training)
    every_minutes = settings.saving.resume_minutes if training.workers.main else 0
    if every_minutes and _minutes_since(training.safe_at) >= every_minutes:
        save_point(training, wait=False)


def _due_by_time(training: Training) -> bool:
    """Whether the last checkpoint is as old as the settings allow."""
    minutes = training.run.settings.saving.every_minutes
    return bool(minutes) and training.workers.agree(_minutes_since(training.saved_at) >= minutes)


def _minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60


def _due(count: int, every: int) -> bool:
    return bool(every) and count % every == 0


def _close_epoch(training: Training) -> None:
    """Note how the epoch went, validate, save what is due by its number or by that of its last
    step, do what the run is asked for, and save a resume point: only then is the epoch over. The
    last one is brought to its end.
    """
    epoch, settings = training.position.epoch + 1, training.run.settings
    step = training.position.step
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
    if settings.range_test.steps:
        training.position = Position(epoch, 0, step)
        grant_wishes(training)
        return
    validation, samples, saving = settings.validation, settings.samples, settings.saving
    if last or _due(epoch, validation.every_epochs) or _due(step, validation.every_steps):
        validate(training, epoch)
    training.position = Position(epoch, 0, step)
    due = _due(epoch, settings.save_every_epochs) or _due(step, saving.every_steps)
    if last or due or _due_by_time(training):
        save(training)
    if last or _due(epoch, samples.every_epochs) or _due(step, samples.every_steps):
        show_samples(training, epoch)
    if last:
        training.control.listen()
        grant_wishes(training)
    else:
        obey(training)
    save_point(training, wait=last)


def _explained(run: Run, error: Exception) -> str:
    """A failure in words. When the memory was too small they name settings that would fit."""
    import torch

    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in words for phrase in OUT_OF_MEMORY
    ):
        return out_of_memory_advice(run)
    return in_words(error)
