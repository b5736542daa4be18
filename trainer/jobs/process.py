"""Starting the processes of background work.

Each is this Python on this pack's own code, with its arguments as a list and without a shell.
Nothing that a user, a request or a job's folder says becomes part of a command but the paths that
the server has made of it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import bounded_json
from ..files import regular, unshare, write_json
from .lock import POLL_S, Lock, is_held

MAIN = Path(__file__).parents[1] / "__main__.py"
PACK = Path(__file__).absolute().parents[2]
"""Where jobs work, so that Python never looks for modules in a job's folder."""
LINE_POLL_S = 0.2
MOST_NOTED_BYTES = 1 << 16
INHERITED = "COCKTAIL_LAUNCH_LOCK"
"""Names the file descriptor of the lock that a job's process has inherited."""


def launch(
    folder: Path,
    lock: Lock,
    own_lock: Path,
    command: str,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start a command of `python -m trainer` on a job's folder in a process that outlives this one;
    returns its pid.

    `lock` keeps others from starting it too. The process inherits it, so that it is held until the
    process has `own_lock` or ends, even if this one is killed now. Where locks cannot be inherited
    (Windows) it is held here until then.
    """
    given = {**os.environ, "PYTHONIOENCODING": "utf-8", **(environment or {})}
    given.pop("PYTORCH_CUDA_ALLOC_CONF", None)
    detached: dict[str, Any] = (
        {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        if sys.platform == "win32"
        else {"start_new_session": True, "pass_fds": [lock.fd]}
    )
    if sys.platform != "win32":
        given[INHERITED] = str(lock.fd)
    unshare(folder / "log.txt")
    with open(folder / "log.txt", "ab", opener=regular) as log:
        process = subprocess.Popen(
            [sys.executable, "-u", str(MAIN), command, str(folder.absolute()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=PACK,
            env=given,
            **detached,
        )
    if sys.platform == "win32":
        threading.Thread(target=_hand_over, args=(process, lock, own_lock), daemon=True).start()
    else:
        lock.hand_over()
    record(folder, process.pid)
    return process.pid


def _hand_over(process: subprocess.Popen, lock: Lock, own_lock: Path) -> None:
    while process.poll() is None and not is_held(own_lock):
        time.sleep(POLL_S)
    lock.let_go()


def let_go_of_inherited(path: Path) -> None:
    """Let go of the lock that this process was started with, now that it has its own. Until it ends
    its children would hold it too.
    """
    number = os.environ.pop(INHERITED, "")
    if number.isdecimal():
        lock = Lock(path)
        lock.fd = int(number)
        # In a process that another than the job's has started it is not open.
        with contextlib.suppress(OSError):
            if lock.is_ours():
                lock.let_go()


def record(folder: Path, pid: int, device: str = "") -> None:
    """Note which process works in a folder and on which device, for people and for `kill`."""
    import psutil

    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = 0.0
    noted = {
        "pid": pid,
        "host": socket.gethostname(),
        "started": started,
        "born": _birth(pid),
        "device": device,
    }
    write_json(folder / "process.json", noted)


def noted(folder: Path) -> dict[str, Any]:
    """What is noted of the process that works, or worked last, in a folder: its `pid`, its
    `device`, "" while it does not use one yet, and when it `started` in seconds since 1970. Each is
    None when it is not known.
    """
    try:
        value = bounded_json.read(folder / "process.json", MOST_NOTED_BYTES)
    except (OSError, ValueError):
        value = None
    value = value if isinstance(value, dict) else {}
    kinds = {"pid": int, "device": str, "started": int | float}
    return {
        name: value[name] if isinstance(value.get(name), kind) else None
        for name, kind in kinds.items()
    }


def kill(folder: Path) -> None:
    """End the process noted in a folder at once, without saving; not another that has its pid, here
    or on another machine.
    """
    import psutil

    try:
        noted = bounded_json.read(folder / "process.json", MOST_NOTED_BYTES)
        pid, born, host = noted["pid"], noted["born"], noted["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        if isinstance(pid, int) and host == socket.gethostname() and born and born == _birth(pid):
            psutil.Process(pid).kill()


def _birth(pid: int) -> str:
    """What tells a process from every other: the boot of its machine and when it began after that,
    whatever the clock was set to; "" when it is gone.
    """
    import psutil

    if sys.platform != "linux":
        try:
            return str(psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot} {Path(f'/proc/{pid}/ns/pid').readlink()} {ticks}"
    except OSError:
        return ""


def follow(
    command: Sequence[str | Path],
    show: Callable[[str], None],
    should_stop: Callable[[], Any] | None = None,
    started: Callable[[int], None] | None = None,
) -> tuple[int, str]:
    """Run a command that does not outlive the call; returns its exit status and the last line of
    what it said on standard error.

    `show` is called with every line that it prints, `should_stop` several times a second; what
    either raises ends the command at once and is passed on. `started` is called with its pid.
    """
    hidden: dict[str, Any] = (
        {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
    )
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            **hidden,
        )
        lines: queue.Queue[bytes | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        reader.start()
        try:
            if started:
                started(child.pid)
            while True:
                if should_stop:
                    should_stop()
                try:
                    line = lines.get(timeout=LINE_POLL_S)
                except queue.Empty:
                    continue
                if line is None:
                    break
                if text := line.decode("utf-8", errors="replace").strip():
                    show(text)
        except BaseException:
            child.kill()
            raise
        finally:
            child.wait()
            reader.join()
        errors.seek(0)
        said = errors.read().decode("utf-8", errors="replace").strip()
    return child.returncode, said.splitlines()[-1] if said else ""


def _read(output: Any, lines: queue.Queue[bytes | None]) -> None:
    with output:
        for line in output:
            lines.put(line)
    lines.put(None)
