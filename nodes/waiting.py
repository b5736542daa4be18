"""Waiting for a background job: with progress, and without taking it along when the waiting is
interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..trainer.errors import TrainerError
from .host.progress import Progress, show_text, stop_if_interrupted

POLL_S = 0.25


class Job(Protocol):
    """A job folder with a state: a download, or captioning."""

    @property
    def folder(self) -> Path: ...
    @property
    def name(self) -> str: ...
    def state(self) -> Any: ...


def work_off(job: Job, active: tuple[str, ...], describe: Callable[[Any], str]) -> Any:
    """Wait for the end of a job that has been started; returns its last state.

    Interrupt ends the waiting, not the job. Raises TrainerError when the job was stopped or has
    failed.
    """
    progress, shown = Progress(), ""
    while True:
        stop_if_interrupted()
        state = job.state()
        if state.total:
            progress(state.done, state.total)
        text = describe(state)
        if text != shown:
            show_text(text)
            shown = text
        if state.status == "finished":
            return state
        if state.status == "failed":
            raise TrainerError(f"{job.name} has failed: {state.message}")
        if state.status not in active:
            raise TrainerError(
                f"{job.name} was {state.status} at {state.done} of {state.total}. {state.message}\n"
                "Queue the graph again: it goes on from there."
            )
        time.sleep(POLL_S)
