"""Doing a job in the process that was started for it."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from ..errors import TrainerError
from .control import Control
from .job import UNREADABLE, Job, LockLost, Paused, State, Stopped, exclusive
from .lines import Lines
from .lock import Lock

STATE_EVERY_S = 0.5
S = TypeVar("S", bound=State)


class Work(Generic[S]):
    """Keeps the state.json of a job at work current, as long as the job is this process' own."""

    def __init__(self, job: Job[S], lock: Lock, control: Control) -> None:
        self.job, self.lock, self.control = job, lock, control
        self.state: S = replace(job.state(), at_rest=False)
        self._written = 0.0

    def update(self, **changes: Any) -> None:
        """Change the state and write it at once. Raises LockLost."""
        self.state = replace(self.state, **changes)
        check(self.job, self.lock)
        self.job.write_state(self.state)
        self._written = time.monotonic()

    def note(self, **changes: Any) -> None:
        """Change the state; it is written at most twice a second."""
        self.state = replace(self.state, **changes)
        if time.monotonic() - self._written >= STATE_EVERY_S:
            self.update()

    def append(self, file: str, line: dict[str, Any]) -> None:
        """Append a line to a file of the job. Raises LockLost."""
        check(self.job, self.lock)
        Lines(self.job.folder / file).append(line)


def check(job: Job, lock: Lock) -> None:
    """Raise LockLost if the job's folder is not this process' own any more."""
    if not lock.is_ours():
        raise LockLost(
            f"{job.folder} was removed or taken over by another process. This one ends and writes "
            "nothing more."
        )


def work(job: Job[S], do: Callable[[Work[S]], str]) -> int:
    """Do a job from where it stands; returns the exit status for its process.

    Whatever happens is in its state afterwards: finished with the message that `do` returns,
    stopped, or failed with the reason.
    """
    with exclusive(job) as lock:
        state = job.state()
        if state.status == UNREADABLE:
            raise TrainerError(state.message)
        progress = Work(job, lock, Control(job))
        if state.status != "preparing":
            # Started by hand: what was asked before is not meant. What is asked after `start` is.
            (job.folder / "control.json").unlink(missing_ok=True)
        progress.control.stop_on_signals()
        return carry_out(
            lambda: {"status": "finished", "message": do(progress)}, progress.update, in_words
        )


def in_words(error: Exception) -> str:
    """An error that is a bug, or comes from elsewhere."""
    return f"{type(error).__name__}: {error}"


def carry_out(
    do: Callable[[], dict[str, Any]],
    update: Callable[..., None],
    explained: Callable[[Exception], str],
) -> int:
    """Do a job to its end, however it ends, and note it by `update`; returns the exit status for
    its process.

    `do` returns what its state is changed to when it is done, `explained` puts what nobody has
    foreseen into words.
    """
    try:
        return _carried_out(do, update, explained)
    except LockLost as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _carried_out(
    do: Callable[[], dict[str, Any]],
    update: Callable[..., None],
    explained: Callable[[Exception], str],
) -> int:
    """The same; LockLost, which no state can tell of any more, is passed on."""
    try:
        update(**do())
        return 0
    except LockLost:
        raise
    except Paused as pause:
        message = str(pause) or "Paused on request. Resume it, and it goes on from here."
        print(message)
        update(status="paused", at_rest=True, message=message)
        return 0
    except Stopped as stop:
        message = str(stop) or "Stopped on request. Queue it again to go on."
        print(message)
        update(status="stopped", message=message)
        return 0
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        update(status="failed", message=str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        update(status="failed", message=explained(error))
        return 1
