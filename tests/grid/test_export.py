"""What other programs read of a grid."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from cocktail.nodes.grid.engine.cell.stock import StockCell
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.store.export import manifest, settings_of, write
from cocktail.nodes.grid.engine.store.store import Store

from .drawn import Drawn, draw_grid
from .test_plan import FIXED, content_of, typed


def test_manifest_and_table_tell_how_every_cell_stands(tmp_path: Path):
    axes = [typed("prompt", "a, b", 'c "d"'), typed("LoRA", "none, ink:0.5")]
    plan = make_plan("g", FIXED, axes, content_of)
    store = Store(tmp_path)
    store.save_plan(plan)
    failing = plan.cells[1].key
    draw_grid(plan, tmp_path, Drawn(fails=lambda cell: cell.key == failing))
    gone = store.cell_path(plan.cells[2].key)
    gone.unlink()
    write(store)
    found = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(manifest(store)))
    assert [cell["status"] for cell in found["cells"]] == [
        "finished",
        "failed",
        "missing",
        "finished",
    ]
    assert found["cells"][1]["reason"] == "out of memory"
    assert found["cells"][3]["labels"] == ['c "d"', "ink:0.5"]
    assert found["numerics"][found["cells"][0]["numerics"]] == {"device": "pencil"}
    assert (tmp_path / found["cells"][0]["file"]).is_file()

    with (tmp_path / "cells.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["axis 1: prompt"] for row in rows] == ["a, b", "a, b", 'c "d"', 'c "d"']
    assert [row["status"] for row in rows] == [cell["status"] for cell in found["cells"]]
    assert json.loads(rows[1]["loras"]) == [["ink", 0.5, 0.5]]


def test_the_settings_of_a_cell_come_back_as_they_were(tmp_path: Path):
    plan = make_plan("g", FIXED, [typed("LoRA", "none, ink:0.5")], content_of)
    Store(tmp_path).save_plan(plan)
    for cell in plan.cells:
        assert settings_of(Store(tmp_path), cell.key) == cell.settings
        assert StockCell.from_json(json.loads(json.dumps(cell.settings.to_json()))) == cell.settings
    assert settings_of(Store(tmp_path), "0" * 64) is None
