"""What somebody asks of a run while it is at work: a signal, or control.json."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import TrainerError
from .jobs.process import record
from .runs import Run

if TYPE_CHECKING:
    from .training import Training


class Stopped(Exception):
    """Somebody asked the run to stop; its resume point is saved."""


def listen(training: Training) -> None:
    """Note what control.json asks for; a signal has noted a stop by itself."""
    if training.workers.main:
        command = training.run.take_request()
        training.stop = training.stop or command == "stop"
        training.save = training.save or command == "save"


def stop_on_signals(training: Training) -> None:
    """SIGTERM and Ctrl-C (Ctrl-Break on Windows) stop the run after the step it is in, saved."""

    def stop(*_: object) -> None:
        training.stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, stop)


@contextlib.contextmanager
def exclusive(run: Run) -> Iterator[None]:
    """Work on a run alone; the lock goes with the process that holds it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(run.folder / "process.lock", timeout=0):
            record(run, os.getpid())
            yield
    except Timeout as error:
        raise TrainerError(f"Another process trains {run.name} already.") from error
