"""What a run saves on its way, checkpoints and resume points, and how it waits when the disk is
full.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from .checkpoints import prune_checkpoints, save_checkpoint
from .files import DISK_FULL
from .jobs.job import Stopped
from .resume import take_point
from .training import Training

T = TypeVar("T")
ROOM_POLL_S = 2.0


def save(training: Training) -> Path:
    """Save checkpoints of this step and record them; returns the one recorded as the step's own."""
    position, run, ema = training.position, training.run, training.ema
    epoch = position.epoch if position.batch == 0 else position.epoch + 1
    saved = run.settings.ema.save if ema is not None else "plain only"
    training.journal.update(message="Saving a checkpoint")

    def write(kind: str, weights: contextlib.AbstractContextManager, suffix: str) -> Path:
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
            file = write(kind, ema.swapped_in(), "-ema")
        if saved != "ema only":
            file = write("checkpoint", training.evaluation(), "")
        if run.settings.saving.keep_last:
            prune_checkpoints(run)
    training.saved_at = time.monotonic()
    training.journal.update(message="")
    return file


def save_point(training: Training, wait: bool) -> None:
    """Make the run safe against any kill up to here."""
    if training.workers.main:
        point = take_point(training.position, training.components())
        in_background = _when_there_is_room(training, lambda: training.writer.write(point, wait))
        if not wait and not in_background:
            print(
                "Not enough memory to write the resume point in the background "
                f"({point.bytes / 1e9:.1f} GB): the run waited until it was written.",
                file=sys.stderr,
            )
    training.safe_at = time.monotonic()


def save_and_stop(training: Training) -> NoReturn:
    training.journal.update(status="stopping", message="Saving its resume point")
    save_point(training, wait=True)
    raise Stopped


def _when_there_is_room(training: Training, write: Callable[[], T]) -> T:
    """Write. While the disk is full the run pauses, keeps everything in memory, and tries again."""
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
            message=f"The disk is full ({free / 1e9:.1f} GB free in {folder}). "
            "Make room, and the run continues by itself.",
        )
        waited = time.monotonic() + ROOM_POLL_S
        while time.monotonic() < waited:
            if training.control.asked_to_stop():
                raise Stopped
            time.sleep(0.1)


def _disk_full(error: Exception) -> bool:
    """Whether a write failed because the disk is full; safetensors says so only in words."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return type(error).__name__ == "SafetensorError" and "os error 28" in str(error)
