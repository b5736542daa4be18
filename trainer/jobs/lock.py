"""A lock on a file, which the system takes back when the process that holds it ends.

It proves that a process is at work. A process id or the clock proves nothing: both mean something
else in a container, on another machine, and after the clock was set.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ..errors import TrainerError
from ..files import SpecialFile, regular

POLL_S = 0.01
PROBES = 3
"""How often a lock is probed: its file may be replaced meanwhile, and on Windows, where probing
means taking it, two probes must not see each other.
"""


class Lock:
    """A lock that this process holds or can take. It works together with filelock's FileLock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int | None = None

    def take(self, wait_s: float = 0.0) -> bool:
        """Whether it is ours now; others are waited for. Raises TrainerError without file locks
        and OSError when its file cannot be opened.
        """
        deadline = time.monotonic() + wait_s
        while True:
            fd = regular(self.path, os.O_RDWR | os.O_CREAT)
            try:
                if _lock(fd, shared=False):
                    if _is_at(fd, self.path):
                        self.fd = fd
                        return True
                    _unlock(fd)
            finally:
                if self.fd is None:
                    os.close(fd)
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)

    def is_ours(self) -> bool:
        """Whether it still keeps others out: its file has not been removed or replaced."""
        return self.fd is not None and _is_at(self.fd, self.path)

    def let_go(self) -> None:
        """Let go of it, in child processes too that have inherited it."""
        if self.fd is not None:
            _unlock(self.fd)
            self.hand_over()

    def hand_over(self) -> None:
        """Only close it: a child process that has inherited it goes on holding it."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of that file, or it changes hands all the time. Raises
    OSError when it cannot be read.
    """
    for _ in range(PROBES):
        try:
            fd = regular(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
        except (FileNotFoundError, SpecialFile):
            return False
        try:
            if _lock(fd, shared=True):
                _unlock(fd)
                if _is_at(fd, path):
                    return False
            elif sys.platform != "win32":
                return True
        finally:
            os.close(fd)
        time.sleep(0.001)
    return True


def _lock(fd: int, shared: bool) -> bool:
    """Take the lock of an open file without waiting; whether that was possible.

    A shared one keeps out exclusive ones only, so that probes do not see each other.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise TrainerError(
            f"ComfyUI's output folder is on a file system without file locks ({error}). "
            "Put it on another one (--output-directory)."
        ) from error
    return True


def _unlock(fd: int) -> None:
    """Let go of the lock of an open file. Closing is not enough: a process that was forked
    meanwhile has the file open too, and would go on holding it.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        return
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_UN)


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
