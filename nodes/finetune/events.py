"""What happens to runs, told to every open page by the websocket event "cocktail.runs"."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...trainer import notes
from ...trainer.files import finite
from ...trainer.jobs.job import QUEUED
from .. import supervisor
from ..host.names import cocktail_dir
from .routes import summary

EVENT = "cocktail.runs"
BUSY_S, IDLE_S = 0.25, 1.0
"""Seconds between two looks while a run waits or is at work, and while no run does."""
BEATING = ("updated", "heartbeat_age_s")
"""What changes all the time although nothing has happened."""
FILES = ("run.json", "state.json", "process.json", notes.FILE)

_starting = threading.Lock()
_thread: threading.Thread | None = None


class Watcher:
    """Finds the runs that have changed since the last look.

    A run whose files are the same is not read again, unless it waits or its process may have died.
    """

    def __init__(self) -> None:
        self._told: dict[str, dict[str, Any]] = {}
        self._files: dict[str, list[tuple[int, ...]]] = {}
        self._looked = False

    def look(self) -> dict[str, Any] | None:
        """{"runs": the summaries of those that changed, "gone": names}, None when none did; the
        first look only takes note.
        """
        changed, there, queue = [], set(), supervisor.jobs()
        for folder in _folders(cocktail_dir("runs")):
            files, known = _stamps(folder), self._told.get(folder.name)
            if not files[0]:
                continue
            there.add(folder.name)
            if known and self._files[folder.name] == files and not _moves(known):
                continue
            told = finite(summary(supervisor.run_in(folder), queue))
            self._told[folder.name], self._files[folder.name] = told, files
            if known is None or _lasting(known) != _lasting(told):
                changed.append(told)
        gone = sorted(self._told.keys() - there)
        for name in gone:
            del self._told[name], self._files[name]
        looked, self._looked = self._looked, True
        return {"runs": changed, "gone": gone} if looked and (changed or gone) else None

    def pause_s(self) -> float:
        """How long to wait until the next look."""
        return BUSY_S if any(map(_moves, self._told.values())) else IDLE_S


def watch() -> None:
    """Start the one thread that tells every page what happens to runs, unless it is at work."""
    global _thread
    with _starting:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_watch, name="cocktail events", daemon=True)
            _thread.start()


def _watch() -> None:
    import server

    watcher, complaint = Watcher(), ""
    while True:
        instance = getattr(server.PromptServer, "instance", None)
        if instance is not None and instance.sockets:
            try:
                tell(watcher, instance.send_sync)
                complaint = ""
            except Exception as error:
                if str(error) != complaint:
                    complaint = str(error)
                    logging.exception("Cocktail cannot tell how runs stand. It keeps trying")
        time.sleep(watcher.pause_s())


def tell(watcher: Watcher, send: Callable[[str, Any], None]) -> None:
    """Send what has changed since the last look, if something has."""
    if (changes := watcher.look()) is not None:
        send(EVENT, changes)


def _folders(runs: Path) -> list[Path]:
    try:
        return sorted(path for path in runs.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stamps(folder: Path) -> list[tuple[int, ...]]:
    """What tells each of a run's files from what it was before; () for one that is not there."""
    found: list[tuple[int, ...]] = []
    for name in FILES:
        try:
            status = (folder / name).stat()
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        except OSError:
            found.append(())
    return found


def _moves(told: dict[str, Any]) -> bool:
    """Whether a run may change without its files, or soon."""
    return told["status"] == QUEUED or told["heartbeat_age_s"] is not None


def _lasting(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in BEATING}
