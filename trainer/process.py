"""The background process of a run. The only file of the pack that starts a process.

It starts this Python on this pack's own `__main__.py` with a run folder as its argument, as a list and without a shell;
nothing that a user or a request wrote becomes part of the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .files import write_json
from .runs import Run


def start(run: Run) -> int:
    """Start training in a process of its own, which outlives this one; returns its pid."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTORCH_CUDA_ALLOC_CONF", None)
    detached: dict[str, Any] = (
        {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        if sys.platform == "win32"
        else {"start_new_session": True}
    )
    with (run.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-u",
                str(Path(__file__).with_name("__main__.py")),
                "run",
                str(run.folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=run.folder,
            env=environment,
            **detached,
        )
    record(run, process.pid)
    return process.pid


def record(run: Run, pid: int) -> None:
    """Note which process works on a run; the start time tells it from a later one with the same pid."""
    import psutil

    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = 0.0
    write_json(run.folder / "process.json", {"pid": pid, "started": started})


def is_alive(run: Run) -> bool:
    """Whether the process noted for the run is still there and still the same one."""
    import psutil

    try:
        noted = json.loads((run.folder / "process.json").read_text(encoding="utf-8"))
        process = psutil.Process(noted["pid"])
        return (
            abs(process.create_time() - noted["started"]) < 1.0
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (FileNotFoundError, psutil.NoSuchProcess):
        return False


def kill(run: Run) -> None:
    """End the run's process at once, without saving."""
    import psutil

    if is_alive(run):
        noted = json.loads((run.folder / "process.json").read_text(encoding="utf-8"))
        psutil.Process(noted["pid"]).kill()
