"""Who renders which cell, when several processes work on one grid.

workers/<name>.json   the checkpoint a process is at, and the cells that it has taken and not saved yet
workers/<name>.lock   held for as long as the process lives: the system lets go of it even after a kill
workers/.lock         held by whoever takes a cell
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..plan.plan import Cell

DOOR_POLL_S = 0.005


class Worker:
    """This process as one of those that work on a grid: takes cells so that no other takes them
    too.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock

        self.folder = folder / "workers"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.models: tuple[str, ...] = ()
        self.taken: set[str] = set()
        self.failed: set[str] = set()
        self._changes = threading.Lock()
        self._door = FileLock(self.folder / ".lock")
        self._life: Any = None
        life = FileLock(self._file(".lock"))
        try:
            with self._enter():
                life.acquire()
                self._life = life
        except (NotImplementedError, OSError) as error:
            logging.warning(
                "Cocktail: %s has no file locks (%s). Let only one ComfyUI work on this grid.",
                self.folder,
                error,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._life is not None:
            with self._enter():
                for suffix in (".json", ".part"):
                    self._file(suffix).unlink(missing_ok=True)
                self._life.release()
                self._file(".lock").unlink(missing_ok=True)

    def take(
        self,
        work: Work,
        is_finished: Callable[[str], bool],
        wanted: Callable[[Cell], bool] | None = None,
    ) -> Cell | None:
        """A cell that nobody else has taken, or None if others have all that are left.

        With `wanted`, only one that this says yes to and that needs the models this process is at.

        Cells of the checkpoint that this process is at come first, then those of one that no other
        is at. Cells that others have finished meanwhile leave `work`.
        """
        if self._life is None:
            return self._choose(work, {}, is_finished, wanted)
        with self._enter():
            cell = self._choose(work, self._others(), is_finished, wanted)
            self._note()
        return cell

    def hold(self, work: Work, cell: Cell) -> bool:
        """Take this very cell, whose picture is on its way already; False if another has it."""
        with self._enter():
            if any(cell.key in other["taken"] for other in self._others().values()):
                return False
            with self._changes:
                self.taken.add(cell.key)
            self.models = tuple(cell.settings.models)
            work.discard(cell)
            self._note()
        return True

    def saved(self, key: str) -> None:
        """The cell is there: others see its file now."""
        with self._changes:
            self.taken.discard(key)

    def has_failed(self, key: str) -> None:
        """The cell failed here: others need not try it too as long as this process is at work."""
        with self._changes:
            self.failed.add(key)
            self.taken.discard(key)

    def _enter(self) -> AbstractContextManager[Any]:
        return self._door.acquire(poll_interval=DOOR_POLL_S)

    def _choose(
        self,
        work: Work,
        others: dict[str, dict[str, Any]],
        is_finished: Callable[[str], bool],
        wanted: Callable[[Cell], bool] | None,
    ) -> Cell | None:
        occupied = {tuple(other["models"]) for other in others.values()}
        taken = {key for other in others.values() for key in other["taken"]}
        failed = {key for other in others.values() for key in other["failed"]}
        for models in work.by_preference(self.models, occupied):
            if wanted and models != self.models:
                break
            for cell in work.cells(models):
                if cell.key in taken or (wanted and not wanted(cell)):
                    continue
                if is_finished(cell.key) or cell.key in failed:
                    work.remove(cell)
                    continue
                self.models = models
                with self._changes:
                    self.taken.add(cell.key)
                work.remove(cell)
                return cell
        return None

    def _others(self) -> dict[str, dict[str, Any]]:
        """What the living others note; the files of dead ones are removed."""
        found = {}
        for file in self.folder.glob("*.lock"):
            if file.name in (".lock", f"{self.name}.lock"):
                continue
            note = file.with_suffix(".json")
            if _is_held(file):
                try:
                    found[file.stem] = json.loads(note.read_text(encoding="utf-8"))
                except FileNotFoundError:
                    continue
            else:
                note.unlink(missing_ok=True)
                file.unlink(missing_ok=True)
        return found

    def _note(self) -> None:
        """Replaces the file in one go, without bringing it to the disk: after a power cut nobody
        needs it.
        """
        with self._changes:
            note = {"models": self.models, "taken": [*self.taken], "failed": [*self.failed]}
        text = json.dumps(note)
        temporary = self._file(".part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._file(".json"))

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"


class Work:
    """The cells still to be done, in the order to render them, by the models that they need."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._by_models: dict[tuple[str, ...], dict[str, Cell]] = {}
        for cell in cells:
            self.put(cell)

    def __bool__(self) -> bool:
        return bool(self._by_models)

    def count(self) -> int:
        return sum(len(alike) for alike in self._by_models.values())

    def take_alike(self, cell: Cell) -> list[Cell]:
        """Take out all cells that need the models of this one."""
        return list(self._by_models.pop(tuple(cell.settings.models), {}).values())

    def cells(self, models: tuple[str, ...]) -> list[Cell]:
        return list(self._by_models[models].values())

    def remove(self, cell: Cell) -> None:
        models = tuple(cell.settings.models)
        del self._by_models[models][cell.key]
        if not self._by_models[models]:
            del self._by_models[models]

    def put(self, cell: Cell) -> None:
        """Add a cell: it is to be done again."""
        self._by_models.setdefault(tuple(cell.settings.models), {})[cell.key] = cell

    def discard(self, cell: Cell) -> None:
        """Take a cell out, if it is there."""
        if cell.key in self._by_models.get(tuple(cell.settings.models), {}):
            self.remove(cell)

    def by_preference(
        self, current: tuple[str, ...], occupied: set[tuple[str, ...]]
    ) -> list[tuple[str, ...]]:
        """Sets of models: the one in memory, then those that no other process is at."""
        return sorted(
            self._by_models,
            key=lambda models: (models != current, models in occupied),
        )


def _is_held(lock: Path) -> bool:
    from filelock import FileLock, Timeout

    probe = FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False
