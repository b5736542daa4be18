"""The folder of a grid: its plan, its finished cells by content key, and what went wrong.

plan.json           the plan that was rendered last
plans/<id>.json     every plan that was rendered under this name, without its cells
cells.jsonl         one line for every cell that was finished or failed; append-only
cells/<ab>/<key>.png  finished cells (or .webp), with the graph that makes each; <ab> is how the key
begins numerics/<id>.json  what the numerics classes in cells.jsonl are
damaged/            files of cells that were found damaged, kept for whoever wants to look
workers/            who is rendering which cell
sheets/             pictures of the grid
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .....trainer.files import canonical_json, sha256_text, write_bytes, write_json
from ..plan.plan import Cell, Plan
from . import journal
from .cell_file import PNG, SUFFIXES, examine

LITTER_S = 600
"""A temporary file that is older than this was left by a process that is gone."""
NOTING_S = 5
"""How long after its file a cell is noted at the latest, if nobody was killed in between."""


@dataclass(frozen=True)
class Store:
    """A grid's folder. A cell is finished when its file is there: files appear whole or not at all."""

    folder: Path

    def cell_path(self, key: str) -> Path:
        """The file of a cell; where its PNG would be when there is none."""
        paths = [self._path(key, suffix) for suffix in SUFFIXES.values()]
        return next((path for path in paths if path.is_file()), paths[0])

    def is_finished(self, key: str) -> bool:
        return self.cell_path(key).is_file()

    def missing(self, plan: Plan) -> list[Cell]:
        """The pictures that are not there yet, in the order to render them."""
        return [cell for cell in plan.render_order if not self.is_finished(cell.key)]

    def set_aside_damaged(self, plan: Plan) -> list[str]:
        """Read the files of all cells, and move those that are damaged or another cell's out of the
        way; their keys.

        A good file that cells.jsonl does not know, because its process was killed when it had
        written it, is noted.
        """
        found = []
        noted = {line["key"] for line in self.log() if line["status"] == "finished"}
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
                self._log(cell, {"status": "damaged", "reason": f"its file {wrong}"})
                found.append(cell.key)
        return found

    def _note_late(self, cell: Cell, path: Path, note: dict[str, Any]) -> None:
        file = path.stat()
        if time.time() - file.st_mtime < NOTING_S:
            return
        save_as = next(name for name, suffix in SUFFIXES.items() if suffix == path.suffix)
        found = {"bytes": file.st_size, "save_as": save_as, "numerics": note.get("numerics", "")}
        self._log(cell, {"status": "finished", **found, "time": file.st_mtime})

    def sweep(self) -> None:
        """Remove the temporary files of processes that were killed."""
        for file in self.folder.glob("cells/*/.*.part"):
            try:
                if time.time() - file.stat().st_mtime > LITTER_S:
                    file.unlink()
            except FileNotFoundError:
                continue

    def save_plan(self, plan: Plan) -> None:
        described = plan.to_json()
        write_json(self.folder / "plan.json", described)
        del described["cells"]
        file = self.folder / "plans" / f"{sha256_text(canonical_json(described))[:12]}.json"
        if not file.is_file():
            write_json(file, described)

    def others(self, plan: Plan) -> int:
        """How many cells the plan that was rendered last under this name has and this one does not."""
        try:
            before = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
            keys = {cell["key"] for cell in before["cells"]}
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return len(keys - {cell.key for cell in plan.cells})

    def save_cell(
        self,
        cell: Cell,
        data: bytes,
        times: dict[str, float],
        save_as: str = PNG,
        numerics: str = "",
    ) -> None:
        """Save the file of a cell and note it, with the seconds that it took. Raises OSError."""
        write_bytes(self._path(cell.key, SUFFIXES[save_as]), data)
        found = {"bytes": len(data), "save_as": save_as, "numerics": numerics}
        self._log(cell, {"status": "finished", **times, **found})

    def save_failure(self, cell: Cell, reason: str) -> None:
        self._log(cell, {"status": "failed", "reason": reason})

    def save_numerics(self, id: str, described: dict[str, Any]) -> None:
        file = self.folder / "numerics" / f"{id}.json"
        if not file.is_file():
            write_json(file, described)

    def log(self) -> list[dict[str, Any]]:
        """The lines of cells.jsonl."""
        return list(journal.read(self.folder / "cells.jsonl"))

    def failures(self) -> dict[str, str]:
        """Why the cells failed that did when they were last tried, by key."""
        found: dict[str, str] = {}
        for line in journal.read(self.folder / "cells.jsonl"):
            if line["status"] == "failed":
                found[line["key"]] = line["reason"]
            else:
                found.pop(line["key"], None)
        return {key: reason for key, reason in found.items() if not self.is_finished(key)}

    def classes(self) -> dict[str, Any]:
        """The numerics classes that cells were made in, by the names that `numerics` gives."""
        return {
            file.stem: json.loads(file.read_text(encoding="utf-8"))
            for file in sorted(self.folder.glob("numerics/*.json"))
        }

    def numerics(self) -> dict[str, str]:
        """The numerics class of every finished cell of which it is known, by key."""
        return {
            line["key"]: line["numerics"]
            for line in journal.read(self.folder / "cells.jsonl")
            if line["status"] == "finished" and line.get("numerics")
        }

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / "cells" / key[:2] / f"{key}{suffix}"

    def _log(self, cell: Cell, outcome: dict[str, Any]) -> None:
        line = {
            "key": cell.key,
            "time": time.time(),
            **outcome,
            "settings": cell.settings.to_json(),
        }
        journal.append(self.folder / "cells.jsonl", line)


def list_grids(root: Path) -> list[dict[str, Any]]:
    """Every grid below `root` by name, with its numbers of cells, of finished and of failed ones."""
    found = []
    for file in sorted(root.glob("[!.]*/plan.json")):
        store = Store(file.parent)
        keys = [cell["key"] for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]]
        failures = store.failures()
        found.append(
            {
                "name": file.parent.name,
                "cells": len(keys),
                "finished": sum(store.is_finished(key) for key in keys),
                "failed": sum(key in failures for key in keys),
            }
        )
    return found
