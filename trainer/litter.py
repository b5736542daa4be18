"""Temporary files: how they are named, and what becomes of those that a killed process has left.

Every file and folder that is not whole yet is named `.NAME.PROCESS.THREAD.part` after what it will
be, so that it can be told from everything that a person may have put beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

ABANDONED_AFTER_S = 3600
"""Nobody writes to a temporary file any more that has not been written to for so long."""
_TEMPORARY = re.compile(r"\.(.+?)\.\d+(?:\.\d+)?\.part(?:\.wal)?|\.spill-\d+-\w+", re.DOTALL)


def temporary(path: Path) -> Path:
    """The name under which this thread writes what will be `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")


def final_name(name: str) -> str | None:
    """What the temporary file of this name was to be, "" for a scratch folder, and None for a file
    that is not temporary.
    """
    found = _TEMPORARY.fullmatch(name)
    return found and (found[1] or "")


def sweep(folder: Path, only: str | None = None) -> None:
    """Remove the temporary files and folders in a folder that were abandoned an hour ago, with
    `only` those of that final name.
    """
    _remove_those(folder, lambda name, entry: only in (None, name) and _is_abandoned(entry))


def sweep_own(folder: Path, own: Callable[[str], bool]) -> None:
    """Remove at once the temporary files in a folder whose final names are the caller's `own`:
    nobody else writes such files, and whoever wrote these is dead, which a lock tells the caller.
    """
    _remove_those(folder, lambda name, entry: own(name))


def _remove_those(folder: Path, wanted: Callable[[str, os.DirEntry[str]], bool]) -> None:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            name = final_name(entry.name)
            with contextlib.suppress(OSError):
                if name is not None and wanted(name, entry):
                    _remove(entry)


def sweep_below(folder: Path) -> None:
    """The same in a folder and all those in it, links not followed."""
    for path, folders, _ in os.walk(folder):
        sweep(Path(path))
        folders[:] = [name for name in folders if final_name(name) is None]


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    return time.time() - _newest(entry.path) > ABANDONED_AFTER_S


def _newest(path: str) -> float:
    """When something was last written to a file, or to a folder and the files in it."""
    found = os.lstat(path)
    times = [found.st_mtime]
    if stat.S_ISDIR(found.st_mode):
        with os.scandir(path) as entries:
            times += [entry.stat(follow_symlinks=False).st_mtime for entry in entries]
    return max(times)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        os.unlink(entry.path)  # noqa: PTH108 - an entry, not a path
