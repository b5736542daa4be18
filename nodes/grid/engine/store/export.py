"""What other programs read of a grid: manifest.json and cells.csv in its folder.

Both tell how every cell of the plan that was rendered last stands. Files are named relative to the
folder, so that it can be copied as a whole.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from .....trainer.files import write_json, write_text
from ..cell.settings import CellSettings
from ..plan.plan_json import settings_from_json
from .store import Store

FORMAT = 1


def manifest(store: Store) -> dict[str, Any]:
    """The plan with its cells: position, labels, settings, status ("finished", "failed",
    "missing"), file, numerics.
    """
    plan = _plan(store)
    failures, made_by = store.failures(), store.numerics()
    cells = []
    for cell in plan["cells"]:
        key = cell["key"]
        finished = store.is_finished(key)
        found = {
            **cell,
            "labels": [
                axis["values"][number]["label"]
                for axis, number in zip(plan["axes"], cell["position"], strict=True)
            ],
            "status": "finished" if finished else "failed" if key in failures else "missing",
        }
        if finished:
            found["file"] = store.cell_path(key).relative_to(store.folder).as_posix()
            found["numerics"] = made_by.get(key, "")
        elif key in failures:
            found["reason"] = failures[key]
        cells.append(found)
    return {**plan, "format": FORMAT, "cells": cells, "numerics": store.classes()}


def states(store: Store) -> dict[str, Any]:
    """For a mini-map: the axes' labels, and for every cell its position, key and letter: "f"
    finished, "x" failed, "." missing.

    Cells stand in the order of the plan, those that rules leave out are not there.
    """
    plan, failures = _plan(store), store.failures()
    keys = [cell["key"] for cell in plan["cells"]]
    finished = {key for key in set(keys) if store.is_finished(key)}
    return {
        "name": store.folder.name,
        "axes": [
            {"label": axis["label"], "values": [value["label"] for value in axis["values"]]}
            for axis in plan["axes"]
        ],
        "positions": [cell["position"] for cell in plan["cells"]],
        "keys": keys,
        "states": "".join("f" if k in finished else "x" if k in failures else "." for k in keys),
        "files": {
            key: store.cell_path(key).relative_to(store.folder).as_posix() for key in finished
        },
    }


def settings_of(store: Store, key: str) -> CellSettings | None:
    """The settings of a cell of the plan."""
    plan = _plan(store)
    for cell in plan["cells"]:
        if cell["key"] == key:
            return settings_from_json(plan, cell["settings"])
    return None


def write(store: Store) -> None:
    """Write manifest.json and cells.csv anew."""
    found = manifest(store)
    write_json(store.folder / "manifest.json", found)
    write_text(store.folder / "cells.csv", table(found))


def table(found: dict[str, Any]) -> str:
    """The cells of a manifest as CSV: a column for each axis, then one for each setting, then state
    and file.
    """
    axes = [f"axis {number}: {axis['target']}" for number, axis in enumerate(found["axes"], 1)]
    settings = list(dict.fromkeys(name for cell in found["cells"] for name in cell["settings"]))
    last = ["status", "file", "reason", "numerics", "key"]
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow([*axes, *settings, *last])
    for cell in found["cells"]:
        values = [cell["settings"].get(name, "") for name in settings]
        plain = [json.dumps(v) if isinstance(v, list) else v for v in values]
        rows.writerow([*cell["labels"], *plain, *(cell.get(name, "") for name in last)])
    return text.getvalue()


def _plan(store: Store) -> dict[str, Any]:
    return json.loads((store.folder / "plan.json").read_text(encoding="utf-8"))
