"""What somebody asks of a job's process while it works: a signal, or control.json."""

from __future__ import annotations

import signal
import sys

from .job import Job


class Control:
    """Wishes that have come so far. `stop` stays; who saves puts `save` back to False."""

    def __init__(self, job: Job | None = None) -> None:
        """Without a job only signals count: one of several processes reads control.json for all."""
        self.job = job
        self.stop = False
        self.save = False

    def listen(self) -> None:
        """Note what control.json asks for; a signal has been noted when it came."""
        command = self.job.take_request() if self.job else None
        self.stop = self.stop or command == "stop"
        self.save = self.save or command == "save"

    def asked_to_stop(self) -> bool:
        """Whether the job is to stop, as of now."""
        self.listen()
        return self.stop

    def stop_on_signals(self) -> None:
        """Let SIGTERM and Ctrl-C (Ctrl-Break on Windows) stop the job as soon as it is safe."""

        def stop(*_: object) -> None:
            self.stop = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        if sys.platform == "win32":
            signal.signal(signal.SIGBREAK, stop)
