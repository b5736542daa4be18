"""The folder of a grid: its plan, its finished cells by content key, and what went wrong.

plan.json              the plan that was rendered last
plans/<id>.json        every plan that was rendered under this name, without its cells
cells.jsonl            one line for every cell that was finished or failed; append-only
cells/<ab>/<key>.png   finished cells (or .webp), each with the graph that makes it; <ab> is how the
                       key begins
numerics/<id>.json     what the numerics classes in cells.jsonl are
damaged/               files of cells that were found damaged, kept for whoever wants to look
workers/               who is rendering which cell
sheets/                pictures of the grid
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .....trainer import bounded_json
from .....trainer.files import (
    canonical_json,
    real,
    sha256_text,
    write_bytes,
    write_json,
)
from .....trainer.jobs.lines import Lines
from .....trainer.links import foreign_link, was_free_of_links
from .....trainer.litter import sweep_below
from ..errors import GridError
from ..plan.plan import Cell, Plan
from .cell_file import PNG, SUFFIXES, examine
from .cell_log import DAMAGED, FAILED, FINISHED, CellLog, Failure, followed, sound
from .plan_file import MOST_BYTES, PlanFile, read_plan_file

NOTING_S = 5
"""How long after its file a cell is noted at the latest, unless its process was killed."""


@dataclass(frozen=True)
class Store:
    """A grid's folder. A cell is finished if its file exists: files appear whole or not at all."""

    folder: Path

    def cell_path(self, key: str) -> Path:
        """The file of a cell; if there is none, where its PNG would be."""
        paths = [self._path(key, suffix) for suffix in SUFFIXES.values()]
        return next((path for path in paths if path.is_file()), paths[0])

    def is_finished(self, key: str) -> bool:
        return self.cell_path(key).is_file()

    def is_own(self, path: Path) -> bool:
        """Whether a file below the folder lies in it, or behind a link to a folder that the owner
        has made since the grid was begun here: what has come from elsewhere does not say which
        files are read. Raises OSError for links that lead in a circle.
        """
        if real(path).is_relative_to(real(self.folder)):
            return True
        return not path.is_symlink() and was_free_of_links(self.folder)

    def files(self) -> dict[str, str]:
        """The file of every finished cell by key, relative to the folder; of all plans that were
        rendered under this name.
        """
        found: dict[str, str] = {}
        for folder in _entries(self.folder / "cells"):
            for file in _entries(folder.path):
                key, suffix = os.path.splitext(file.name)  # noqa: PTH122
                if suffix not in SUFFIXES.values() or not file.is_file():
                    continue
                if suffix == SUFFIXES[PNG] or key not in found:
                    found[key] = f"cells/{folder.name}/{file.name}"
        return found

    def missing(self, plan: Plan) -> list[Cell]:
        """The pictures that do not exist yet, in the order to render them."""
        finished = self.files()
        return [cell for cell in plan.render_order if cell.key not in finished]

    def set_aside_damaged(self, plan: Plan) -> list[str]:
        """Read the files of all cells, and move those that are damaged or belong to another cell
        out of the way; their keys.

        A good file that cells.jsonl does not mention, because its process was killed right after
        writing it, is noted.
        """
        found = []
        noted = self._cell_log.finished()
        for cell in plan.render_order:
            path = self.cell_path(cell.key)
            try:
                wrong, note = examine(path, cell.key)
                if wrong is None and cell.key not in noted:
                    self._note_late(cell, path, note)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if wrong is not None:
                aside = self.folder / "damaged" / f"{time.time_ns()}-{path.name}"
                aside.parent.mkdir(exist_ok=True)
                path.rename(aside)
                self._log(cell, {"status": DAMAGED, "reason": f"its file {wrong}"})
                found.append(cell.key)
        return found

    def _note_late(self, cell: Cell, path: Path, note: dict[str, Any]) -> None:
        file = path.stat()
        if time.time() - file.st_mtime < NOTING_S:
            return
        save_as = next(name for name, suffix in SUFFIXES.items() if suffix == path.suffix)
        found = {"bytes": file.st_size, "save_as": save_as, "numerics": note.get("numerics", "")}
        self._log(cell, {"status": FINISHED, **found, "time": file.st_mtime})

    def sweep(self) -> None:
        """Remove the temporary files of processes that were killed."""
        sweep_below(self.folder)

    def save_plan(self, plan: Plan) -> None:
        """Raises OSError, and GridError for a plan that could not be read again, and if something
        in the folder is a link that leads out of it: cells would be written there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if link := foreign_link(self.folder):
            raise GridError(
                f"{link.relative_to(self.folder)} of the grid {self.folder.name} is a link that "
                "leads out of its folder, or no file. Put what it leads to in its place, or "
                "delete it. Links that you make once the grid has been begun here are followed."
            )
        described = plan.to_json()
        data = json.dumps(described, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
        if len(data) > MOST_BYTES:
            raise GridError(
                f"The plan of the grid {self.folder.name} takes {len(data) / 2**20:.1f} MB, and "
                f"only {MOST_BYTES >> 20} MB can be read again. Shorten the prompts, or make "
                "several grids of it."
            )
        write_bytes(self.folder / "plan.json", data)
        del described["cells"]
        file = self.folder / "plans" / f"{sha256_text(canonical_json(described))[:12]}.json"
        if not file.is_file():
            write_json(file, described)

    def others(self, plan: Plan) -> int:
        """How many cells the last plan of this name has that this one does not have."""
        try:
            keys = set(self.saved_plan().keys)
        except (OSError, GridError):
            return 0
        return len(keys - {cell.key for cell in plan.cells})

    def save_cell(
        self,
        cell: Cell,
        data: bytes,
        times: dict[str, float],
        save_as: str = PNG,
        numerics: str = "",
        pixels: str = "",
    ) -> None:
        """Save the file of a cell and note it, with the seconds that it took and the hash of its
        pixels. Raises OSError.
        """
        write_bytes(self._path(cell.key, SUFFIXES[save_as]), data)
        found = {"bytes": len(data), "save_as": save_as, "numerics": numerics}
        if pixels:
            found["pixels"] = pixels
        self._log(cell, {"status": FINISHED, **times, **found})

    def saved_plan(self) -> PlanFile:
        """The plan that was rendered last. Raises OSError, and GridError if it is damaged."""
        return read_plan_file(self.folder / "plan.json")

    def save_failure(self, cell: Cell, reason: str) -> None:
        self._log(cell, {"status": FAILED, "reason": reason})

    def save_numerics(self, id: str, described: dict[str, Any]) -> None:
        file = self.folder / "numerics" / f"{id}.json"
        if not file.is_file():
            write_json(file, described)

    def log(self) -> list[dict[str, Any]]:
        """The lines of cells.jsonl."""
        return list(sound(Lines(self._log_path).read().lines))

    def failures(self) -> dict[str, str]:
        """Why the cells failed that did when they were last tried, by key."""
        return {key: failure.reason for key, failure in self.failed().items()}

    def failed(self) -> dict[str, Failure]:
        """The same with the time of each."""
        found = self._cell_log.failures()
        return {key: failure for key, failure in found.items() if not self.is_finished(key)}

    def classes(self) -> dict[str, Any]:
        """The numerics classes that cells were made in, by the names that `numerics` gives."""
        found = {}
        for file in sorted(self.folder.glob("numerics/*.json")):
            with contextlib.suppress(OSError, ValueError):
                found[file.stem] = bounded_json.read(file, 1 << 20)
        return found

    def numerics(self) -> dict[str, str]:
        """The numerics class of every finished cell of which it is known, by key."""
        return self._cell_log.numerics()

    def pixels(self) -> dict[str, tuple[str, int]]:
        """The hash of the pixels of every finished cell, and the size of its file then, by key,
        where they were noted.
        """
        return self._cell_log.pixels()

    @property
    def _cell_log(self) -> CellLog:
        return followed(self._log_path)

    @property
    def _log_path(self) -> Path:
        return self.folder / "cells.jsonl"

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / "cells" / key[:2] / f"{key}{suffix}"

    def _log(self, cell: Cell, outcome: dict[str, Any]) -> None:
        line = {
            "key": cell.key,
            "time": time.time(),
            **outcome,
            "settings": cell.settings.to_json(),
        }
        self._cell_log.append(line)


def list_grids(root: Path) -> list[dict[str, Any]]:
    """Every grid below `root` by name, with how many cells it has, and how many of them are
    finished and failed. One whose plan is damaged has the reason as "unreadable".
    """
    return [_listed(Store(file.parent)) for file in sorted(root.glob("[!.]*/plan.json"))]


def _listed(store: Store) -> dict[str, Any]:
    name = {"name": store.folder.name}
    try:
        keys = store.saved_plan().keys
        finished, failed = store.files(), store.failures()
    except (OSError, GridError) as error:
        return {**name, "cells": 0, "finished": 0, "failed": 0, "unreadable": str(error)}
    return {
        **name,
        "cells": len(keys),
        "finished": sum(key in finished for key in keys),
        "failed": sum(key in failed for key in keys),
    }


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What is in a folder, without hidden files; nothing when there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
