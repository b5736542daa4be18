"""What somebody asks of a job's process while it works: a signal, or control.json."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..errors import TrainerError
from .job import Job, Paused, Stopped, exclusive

LEFT_OUT = "Samples that were asked for are not drawn: ask again while it runs."


class Ended(BaseException):
    """A signal came before the process was at its job. No library takes it for a fault."""


@contextlib.contextmanager
def ending_early(open_job: Callable[[], Job]) -> Iterator[None]:
    """Until a job listens for signals itself (see `Control.stop_on_signals`), while its libraries
    are imported: SIGTERM and Ctrl-C end the process at once, and its state says so.
    """
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        raise Ended

    before = {number: signal.signal(number, end) for number in _signals()}
    try:
        with contextlib.suppress(Ended):
            yield
        if ended:
            for number in before:
                signal.signal(number, signal.SIG_IGN)
            _note_early_end(open_job())
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) in (end, signal.SIG_IGN):
                signal.signal(number, handler)


def _note_early_end(job: Job) -> None:
    """Nothing is noted by one of several processes while another is at it."""
    with contextlib.suppress(TrainerError), exclusive(job):
        message = "Stopped on request before it began. Queue it again to go on."
        job.write_state(replace(job.written(), status="stopped", message=message))


def _signals() -> tuple[int, ...]:
    """What asks a process to end, on this system."""
    windows = (signal.SIGBREAK,) if sys.platform == "win32" else ()
    return (signal.SIGTERM, signal.SIGINT, *windows)


class Control:
    """Wishes that have come so far. `stop` and `pause` stay; who saves puts `save` back to False,
    who draws samples takes them out of `samples`, a list of prompts each.
    """

    def __init__(self, job: Job | None = None) -> None:
        """Without a job only signals count: one of several processes reads control.json for all."""
        self.job = job
        self.stop = False
        self.pause = False
        self.save = False
        self.samples: list[tuple[str, ...]] = []

    def listen(self) -> None:
        """Note what control.json asks for; a signal has been noted when it came."""
        for asked in self.job.take_requests() if self.job else ():
            command = asked["command"]
            self.stop = self.stop or command == "stop"
            self.pause = self.pause or command == "pause"
            self.save = self.save or command == "save"
            if command == "sample":
                self.samples.append(_prompts(asked.get("prompts")))

    @property
    def ends(self) -> bool:
        """Whether the process is to end, as of the last look: it was asked to stop or to pause."""
        return self.stop or self.pause

    def asked_to_stop(self) -> bool:
        """Whether the process is to end, as of now, be it that it stops or pauses."""
        self.listen()
        return self.ends

    def ending(self, message: str = "") -> Stopped:
        """How it is to end, with another message than the usual one if there is more to say. A stop
        counts for more than a pause.
        """
        if self.samples:
            message = self.told(message or "Ended on request. Resume it, and it goes on.")
        return Paused(message) if self.pause and not self.stop else Stopped(message)

    def told(self, message: str) -> str:
        """A message on the end of the process, which says so if samples are left out."""
        return f"{message.rstrip('.')}. {LEFT_OUT}" if self.samples else message

    def heed(self) -> None:
        """Raise Stopped or Paused if the process is to end, as of now."""
        if self.asked_to_stop():
            raise self.ending()

    def stop_on_signals(self) -> None:
        """Let SIGTERM and Ctrl-C (Ctrl-Break on Windows) stop the job as soon as it is safe."""

        def stop(*_: object) -> None:
            self.stop = True

        for number in _signals():
            signal.signal(number, stop)


def _prompts(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else []
    return tuple(text for text in texts if isinstance(text, str))
