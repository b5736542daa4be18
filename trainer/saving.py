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

from .checkpoints import EMA_SUFFIX, prune_checkpoints, save_checkpoint
from .errors import TrainerError
from .files import disk_full
from .identity import check_identity, file_state
from .jobs.control import Control
from .journal import Journal
from .notices import FULL_DISK
from .resume import Position, take_point
from .training import Training

T = TypeVar("T")
ROOM_POLL_S = 2.0


def save(training: Training) -> Path:
    """Save checkpoints of this step and record them; returns the one recorded as the step's own.
    Raises TrainerError when the base, whose other tensors go into them, was replaced meanwhile;
    the run is safe up to here then.
    """
    position, run, ema = training.position, training.run, training.ema
    epoch = position.epoch if position.batch == 0 else position.epoch + 1
    saved = run.settings.ema.save if ema is not None else "plain only"
    training.journal.update(message="Saving a checkpoint")
    _check_base(training)

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
            file = write(kind, ema.swapped_in(), EMA_SUFFIX)
        if saved != "ema only":
            file = write("checkpoint", training.evaluation(), "")
        if run.settings.saving.keep_last:
            prune_checkpoints(run)
    training.saved_at = time.monotonic()
    training.journal.update(message="")
    return file


def _check_base(training: Training) -> None:
    """Raise TrainerError when the base has been replaced, or OSError, once the run is safe."""
    run, seen = training.run, training.base_seen
    try:
        if seen and file_state(Path(run.base.path)) != seen:
            training.base_seen = check_identity(run)
    except (OSError, TrainerError):
        position, before = training.position, training.position.epoch - 1
        if position.step and not position.batch:
            # Resumed there, it closes that epoch again and so saves the checkpoint that is due.
            training.position = Position(before, len(training.plan(before)), position.step)
        save_point(training, wait=True)
        raise


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
    """Save a checkpoint if one was asked for, and a resume point, then raise Stopped or Paused."""
    control = training.control
    training.journal.update(status="stopping", message="Saving its resume point")
    if training.workers.agree(control.save):
        control.save = False
        save(training)
    save_point(training, wait=True)
    raise control.ending()


def _when_there_is_room(training: Training, write: Callable[[], T]) -> T:
    return when_there_is_room(training.run.folder, training.journal, training.control, write)


def when_there_is_room(
    folder: Path, journal: Journal, control: Control, write: Callable[[], T]
) -> T:
    """Write. While the disk of a folder is full the run pauses, keeps everything in memory, and
    tries again. Raises Stopped and Paused on request.
    """
    status = journal.state.status
    while True:
        try:
            result = write()
            if journal.state.status == "paused":
                journal.update(status=status, message="")
            return result
        except Exception as error:
            if not disk_full(error):
                raise
        free = shutil.disk_usage(folder).free
        journal.update(
            status="paused",
            message=f"{FULL_DISK} ({free / 1e9:.1f} GB free in {folder}). "
            "Make room, and the run continues by itself.",
        )
        waited = time.monotonic() + ROOM_POLL_S
        while time.monotonic() < waited:
            if control.asked_to_stop():
                raise control.ending(
                    "Ended on request while the disk was full. Make room and resume it: it goes on "
                    "from its last resume point."
                )
            time.sleep(0.1)
