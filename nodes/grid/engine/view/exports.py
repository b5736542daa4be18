"""Exports in the background, one of a grid at a time."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import GridError
from ..store.store import Store
from .folder import ExportStopped, export_folder

RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


class Busy(GridError):
    """The grid is being exported already."""


@dataclass
class Export:
    """An export, and how far it is."""

    name: str
    state: str = RUNNING
    done: int = 0
    total: int = 0
    folder: str = ""
    """The new folder, relative to ComfyUI's output folder."""
    message: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "folder": self.folder,
            "message": self.message,
        }

    def show(self, done: int, total: int) -> None:
        self.done, self.total = done, total


_exports: dict[str, Export] = {}
_door = threading.Lock()


def start(store: Store, output: Path, thumbnails_dir: Path) -> dict[str, Any]:
    """Begin to export a grid to `output`/cocktail/exports; how it stands. Raises Busy."""
    name = store.folder.name
    with _door:
        if name in _exports and _exports[name].state == RUNNING:
            raise Busy(f"The grid {name} is being exported already.")
        job = _exports[name] = Export(name)
    root = output / "cocktail" / "exports"

    def work() -> None:
        try:
            folder = export_folder(store, root, thumbnails_dir, job.show, job.stopped.is_set)
            job.folder = folder.relative_to(output).as_posix()
            job.state = FINISHED
        except ExportStopped:
            job.state = STOPPED
        except Exception as error:
            if not isinstance(error, GridError):
                logging.exception("Cocktail: the grid %s could not be exported", name)
            job.message, job.state = str(error), FAILED

    threading.Thread(target=work, name="cocktail export", daemon=True).start()
    return job.to_json()


def status(name: str) -> dict[str, Any]:
    """How the last export of a grid stands, or stood. Raises GridError if there was none."""
    return _known(name).to_json()


def stop(name: str) -> dict[str, Any]:
    """Stop an export, which leaves nothing; how it stands. Raises GridError if there is none."""
    job = _known(name)
    job.stopped.set()
    return job.to_json()


def _known(name: str) -> Export:
    with _door:
        if name in _exports:
            return _exports[name]
    raise GridError(f"The grid {name} has not been exported since ComfyUI was started.")
