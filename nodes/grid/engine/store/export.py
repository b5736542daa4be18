"""What other programs read of a grid: manifest.json and cells.csv in its folder.

Both say what became of every cell of the plan that was rendered last. Files are named relative to
the folder, so that it can be copied as a whole.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from .....trainer.csv_cells import as_cell
from .....trainer.files import write_json, write_text
from ..cell.settings import CellSettings
from ..plan.plan_json import settings_from_json
from .plan_file import naming, read_whole_plan
from .store import Store

FORMAT = 1


def manifest(store: Store) -> dict[str, Any]:
    """The plan with its cells: position, labels, settings, status ("finished", "failed",
    "missing"), file, numerics.
    """
    with naming(store.folder / "plan.json"):
        return _manifest(store, read_whole_plan(store.folder / "plan.json"))


def _manifest(store: Store, plan: dict[str, Any]) -> dict[str, Any]:
    files, failures, made_by = store.files(), store.failures(), store.numerics()
    cells = []
    for cell in plan["cells"]:
        key = cell["key"]
        finished = key in files
        found = {
            **cell,
            "labels": [
                axis["values"][number]["label"]
                for axis, number in zip(plan["axes"], cell["position"], strict=True)
            ],
            "status": "finished" if finished else "failed" if key in failures else "missing",
        }
        if finished:
            found["file"] = files[key]
            found["numerics"] = made_by.get(key, "")
        elif key in failures:
            found["reason"] = failures[key]
        cells.append(found)
    return {**plan, "format": FORMAT, "cells": cells, "numerics": store.classes()}


def states(store: Store) -> dict[str, Any]:
    """What a map of the grid shows: the axes' labels, and every cell's position, key and letter:
    "f" finished, "x" failed, "." missing; and why cells failed, by key.

    Cells are in the order of the plan, without those that rules leave out.
    """
    plan, files, failures = store.saved_plan(), store.files(), store.failures()
    with naming(store.folder / "plan.json"):
        positions = plan.positions()
        axes = [
            {
                "label": axis["label"],
                "target": axis["target"],
                "values": [value["label"] for value in axis["values"]],
            }
            for axis in plan.head["axes"]
        ]
    return {
        "name": store.folder.name,
        "axes": axes,
        "positions": positions,
        "keys": plan.keys,
        "states": "".join("f" if k in files else "x" if k in failures else "." for k in plan.keys),
        "reasons": {
            key: failures[key]
            for key in dict.fromkeys(plan.keys)
            if key in failures and key not in files
        },
        "files": {key: files[key] for key in dict.fromkeys(plan.keys) if key in files},
    }


def settings_of(store: Store, key: str) -> CellSettings | None:
    """The settings of a cell of the plan; None if it has no such cell."""
    plan = store.saved_plan()
    with naming(store.folder / "plan.json"):
        cell = plan.cell(key)
        return None if cell is None else settings_from_json(plan.head, cell["settings"])


def write(store: Store) -> None:
    """Write manifest.json and cells.csv, in place of the last ones."""
    found = manifest(store)
    write_json(store.folder / "manifest.json", found)
    write_text(store.folder / "cells.csv", table(found))


def table(found: dict[str, Any]) -> str:
    """The cells of a manifest as CSV: a column for each axis, one for each setting, then status,
    file and the like.
    """
    axes = [f"axis {number}: {axis['target']}" for number, axis in enumerate(found["axes"], 1)]
    settings = list(dict.fromkeys(name for cell in found["cells"] for name in cell["settings"]))
    last = ["status", "file", "reason", "numerics", "key"]
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(map(as_cell, [*axes, *settings, *last]))
    for cell in found["cells"]:
        values = [cell["settings"].get(name, "") for name in settings]
        plain = [json.dumps(v) if isinstance(v, list | dict) else v for v in values]
        row = [*cell["labels"], *plain, *(cell.get(name, "") for name in last)]
        rows.writerow(map(as_cell, row))
    return text.getvalue()
