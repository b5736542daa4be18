"""Which process renders which cell, when several work on one grid.

workers/<name>.json   the models a process works with, and the cells it has taken but not yet saved
workers/<name>.lock   held while the process lives; the system releases it even after a kill
workers/.lock         held while a process takes a cell
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

from .....trainer import bounded_json
from .....trainer.jobs.lock import is_held
from ..plan.plan import Cell

DOOR_POLL_S = 0.005


class Worker:
    """This process as one of those that work on a grid: it takes cells that no other has taken."""

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
        """A cell that nobody else has taken, or None if others have taken all that are left.

        With `wanted`, only a cell that it accepts and that needs the models loaded here. Cells for
        the loaded models come first, then those for models that no other process works with. Cells
        that others have finished in the meantime are removed from `work`.
        """
        if self._life is None:
            return self._choose(work, {}, is_finished, wanted)
        with self._enter():
            cell = self._choose(work, self._others(), is_finished, wanted)
            self._note()
        return cell

    def hold(self, work: Work, cell: Cell) -> bool:
        """Take this cell, whose picture is already being made; False if another process has it."""
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
        """The cell is saved: others see its file now."""
        with self._changes:
            self.taken.discard(key)

    def has_failed(self, key: str) -> None:
        """The cell failed here: others need not try it while this process works."""
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
        """The notes of other living processes. Removes the files of dead ones."""
        found = {}
        for file in self.folder.glob("*.lock"):
            if file.name in (".lock", f"{self.name}.lock"):
                continue
            note = file.with_suffix(".json")
            if is_held(file):
                try:
                    found[file.stem] = bounded_json.read(note)
                except (OSError, ValueError):
                    continue
            else:
                for left in (note, file.with_suffix(".part"), file):
                    left.unlink(missing_ok=True)
        return found

    def _note(self) -> None:
        """Replaces the file at once, without syncing it to the disk: it is not needed after a power
        cut.
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
    """The cells still to be rendered, in render order, by the models that they need."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._by_models: dict[tuple[str, ...], dict[str, Cell]] = {}
        for cell in cells:
            self.put(cell)

    def __bool__(self) -> bool:
        return bool(self._by_models)

    def count(self) -> int:
        return sum(len(alike) for alike in self._by_models.values())

    def take_alike(self, cell: Cell) -> list[Cell]:
        """Remove and return all cells that need the models of this one."""
        return list(self._by_models.pop(tuple(cell.settings.models), {}).values())

    def cells(self, models: tuple[str, ...]) -> list[Cell]:
        return list(self._by_models[models].values())

    def remove(self, cell: Cell) -> None:
        models = tuple(cell.settings.models)
        del self._by_models[models][cell.key]
        if not self._by_models[models]:
            del self._by_models[models]

    def put(self, cell: Cell) -> None:
        """Add a cell that must be rendered again."""
        self._by_models.setdefault(tuple(cell.settings.models), {})[cell.key] = cell

    def discard(self, cell: Cell) -> None:
        """Remove a cell, if it is in here."""
        if cell.key in self._by_models.get(tuple(cell.settings.models), {}):
            self.remove(cell)

    def by_preference(
        self, current: tuple[str, ...], occupied: set[tuple[str, ...]]
    ) -> list[tuple[str, ...]]:
        """Sets of models: the one in memory, then those that no other process works with."""
        return sorted(
            self._by_models,
            key=lambda models: (models != current, models in occupied),
        )
