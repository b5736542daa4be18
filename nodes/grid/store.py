"""The folder of a grid: its plan, its finished cells by content key, and what went wrong.

plan.json           the plan that was rendered last
cells.jsonl         one line for every cell that was finished or failed; append-only
cells/<ab>/<key>.png  finished cells, with the graph that makes each; <ab> is how the key begins
sheets/             pictures of the grid
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...trainer.files import append_line, read_lines, write_bytes, write_json
from .plan import Cell, Plan


@dataclass(frozen=True)
class Store:
    """A grid's folder. A cell is finished when its file is there: files appear whole or not at all."""

    folder: Path

    def cell_path(self, key: str) -> Path:
        return self.folder / "cells" / key[:2] / f"{key}.png"

    def is_finished(self, key: str) -> bool:
        return self.cell_path(key).is_file()

    def missing(self, plan: Plan) -> list[Cell]:
        """The pictures that are not there yet, in the order to render them."""
        return [cell for cell in plan.render_order if not self.is_finished(cell.key)]

    def save_plan(self, plan: Plan) -> None:
        write_json(self.folder / "plan.json", plan.to_json())

    def save_cell(self, cell: Cell, png: bytes, seconds: float) -> None:
        write_bytes(self.cell_path(cell.key), png)
        self._log(cell, {"status": "finished", "seconds": round(seconds, 3)})

    def save_failure(self, cell: Cell, reason: str) -> None:
        self._log(cell, {"status": "failed", "reason": reason})

    def _log(self, cell: Cell, outcome: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {"key": cell.key, **outcome, "settings": asdict(cell.settings), "time": time.time()}
        append_line(self.folder / "cells.jsonl", line)

    def failures(self) -> dict[str, str]:
        """Why the cells failed that did when they were last tried, by key."""
        found: dict[str, str] = {}
        for line in read_lines(self.folder / "cells.jsonl"):
            if line["status"] == "failed":
                found[line["key"]] = line["reason"]
            else:
                found.pop(line["key"], None)
        return {key: reason for key, reason in found.items() if not self.is_finished(key)}


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
