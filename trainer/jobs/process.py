"""The background process of a run, or of another job that is a folder.

It starts this Python on this pack's own `__main__.py` with the folder as its argument, as a list
and without a shell; nothing that a user or a request wrote becomes part of the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from ..files import write_json


class Job(Protocol):
    """Work that is described by a folder and done by a process: a run, a download, captioning."""

    @property
    def folder(self) -> Path: ...


def start(job: Job, command: str = "run") -> int:
    """Start a command of `python -m trainer` in a process of its own, which outlives this one;
    returns its pid.
    """
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTORCH_CUDA_ALLOC_CONF", None)
    detached: dict[str, Any] = (
        {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        if sys.platform == "win32"
        else {"start_new_session": True}
    )
    with (job.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-u",
                str(Path(__file__).parents[1] / "__main__.py"),
                command,
                str(job.folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=job.folder,
            env=environment,
            **detached,
        )
    record(job, process.pid)
    return process.pid


def record(job: Job, pid: int) -> None:
    """Note which process works on a job; the start time tells it from a later one with the same
    pid.
    """
    import psutil

    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = 0.0
    write_json(job.folder / "process.json", {"pid": pid, "started": started})


def is_alive(job: Job) -> bool:
    """Whether the process noted for the job is still there and still the same one."""
    import psutil

    try:
        noted = json.loads((job.folder / "process.json").read_text(encoding="utf-8"))
        process = psutil.Process(noted["pid"])
        return (
            abs(process.create_time() - noted["started"]) < 1.0
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (FileNotFoundError, psutil.NoSuchProcess):
        return False


def wait_until_gone(job: Job, seconds: float = 30.0) -> bool:
    """Wait for a process that has written its last state and is on its way out; whether it is gone."""
    deadline = time.monotonic() + seconds
    while is_alive(job):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill(job: Job) -> None:
    """End the job's process at once, without saving."""
    import psutil

    if is_alive(job):
        noted = json.loads((job.folder / "process.json").read_text(encoding="utf-8"))
        psutil.Process(noted["pid"]).kill()
