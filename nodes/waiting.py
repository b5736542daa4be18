"""Waiting for a background job: with progress, and without taking it along when the waiting is
interrupted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..trainer.errors import TrainerError
from ..trainer.jobs.device import device_name
from ..trainer.jobs.job import ACTIVE, QUEUED
from . import supervisor
from .host.progress import Progress, show_text, stop_if_interrupted
from .host.sharing import only_waits, unload_if_asked

POLL_S = 0.25


@contextlib.contextmanager
def take_turns(device: Any) -> Iterator[None]:
    """Have a torch device in turns with trainings and captionings; Interrupt ends the waiting."""

    def wait() -> None:
        stop_if_interrupted()
        show_text("waits until a training or captioning on this device has finished")
        unload_if_asked()
        time.sleep(POLL_S)

    with contextlib.ExitStack() as waiting:
        waiting.enter_context(only_waits())
        with supervisor.jobs().lease(device_name(device.type, device.index), "check", wait):
            waiting.close()
            yield


def work_off(
    job: Any,
    describe: Callable[[Any], str],
    counts: Callable[[Any], tuple[int, int]] = lambda state: (state.done, state.total),
    unit: str = "",
) -> Any:
    """Wait for the end of a job that is queued or at work; returns its last state. `counts` says
    how much of it is done, and of how much.

    Interrupt ends the waiting, not the job. Raises TrainerError when the job was stopped or has
    failed.
    """
    with only_waits():
        return _until_it_ends(job, describe, counts, unit)


def _until_it_ends(
    job: Any,
    describe: Callable[[Any], str],
    counts: Callable[[Any], tuple[int, int]],
    unit: str,
) -> Any:
    progress, shown = Progress(), ""
    while True:
        stop_if_interrupted()
        unload_if_asked()
        state = job.state()
        done, total = counts(state)
        if total:
            progress(done, total)
        text = describe(state)
        if text != shown:
            show_text(text)
            shown = text
        if state.status == "finished":
            return state
        if state.status == "failed":
            end = job.log_tail()
            raise TrainerError(
                f"{job.name} has failed: {state.message}\n{state.advice}"
                + (f"\n\nThe end of its log.txt:\n{end}" if end else "")
            )
        if state.status not in (QUEUED, *ACTIVE):
            raise TrainerError(
                f"{job.name} was {state.status} at {unit}{done} of {total}. {state.message}"
            )
        time.sleep(POLL_S)
