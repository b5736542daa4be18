"""Waiting for a background job: with progress, and without taking it along when the waiting is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..trainer.errors import TrainerError
from ..trainer.process import start
from .progress import Progress, show_text, stop_if_interrupted

POLL_S = 0.25


class Job(Protocol):
    """A job folder with a state: a download, or captioning."""

    @property
    def folder(self) -> Path: ...
    @property
    def name(self) -> str: ...
    def state(self) -> Any: ...
    def write_state(self, state: Any) -> None: ...


def work_off(
    job: Job, command: str, active: tuple[str, ...], describe: Callable[[Any], str]
) -> Any:
    """Start a job that is not at work and not finished, and wait for its end; returns its last state.

    Interrupt ends the waiting, not the job. Raises TrainerError when the job was stopped or has failed.
    """
    state = job.state()
    if state.status == "finished":
        return state
    if state.status not in active:
        (job.folder / "control.json").unlink(missing_ok=True)
        job.write_state(replace(state, status=active[0], message="Starts"))
        start(job, command)
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
