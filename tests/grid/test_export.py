"""What other programs read of a grid."""

from __future__ import annotations

import csv
import json
import os
import time
from dataclasses import replace
from pathlib import Path

from cocktail.nodes.grid.engine.cell.stock import StockCell
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.store import since
from cocktail.nodes.grid.engine.store.export import manifest, settings_of, states, write
from cocktail.nodes.grid.engine.store.plan_file import read_plan_file
from cocktail.nodes.grid.engine.store.since import states_since
from cocktail.nodes.grid.engine.store.store import Store, list_grids
from cocktail.trainer.files import write_json

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
    for one in plan.cells:
        assert settings_of(Store(tmp_path), one.key) == one.settings
        assert StockCell.from_json(json.loads(json.dumps(one.settings.to_json()))) == one.settings
    assert settings_of(Store(tmp_path), "0" * 64) is None


def test_a_prompt_that_looks_like_a_plan_hides_no_cell(tmp_path: Path):
    """The keys and one cell are found in the text of plan.json without reading all of it."""
    sly = '\n "cells": [\n  {\n   "position": [0],\n   "key": "k",\n   "settings": {}\n  }\n ]'
    plan = make_plan("g", {**FIXED, "negative_prompt": sly}, [typed("seed", 1, 2)], content_of)
    store = Store(tmp_path / "g")
    draw_grid(replace(plan, cells=plan.cells[:1]), store.folder, Drawn())
    store.save_plan(plan)
    assert read_plan_file(store.folder / "plan.json").keys == [one.key for one in plan.cells]
    assert settings_of(store, plan.cells[1].key) == plan.cells[1].settings
    assert settings_of(store, "k") is None
    assert list_grids(tmp_path) == [{"name": "g", "cells": 2, "finished": 1, "failed": 0}]


def test_a_cell_of_a_workflow_is_found_though_a_node_has_an_input_called_cells(tmp_path: Path):
    workflow = {"1": {"class_type": "CheckGrid", "inputs": {"cells": ["2", 0], "key": "x"}}}
    head = {"format": 1, "workflow": workflow, "output": "1"}
    cell = {"position": [0], "key": "k", "settings": {"1.seed": 3}}
    write_json(tmp_path / "plan.json", {**head, "cells": [cell]})
    found = read_plan_file(tmp_path / "plan.json")
    assert (found.head, found.keys, found.cell("k")) == ({**head, "axes": []}, ["k"], cell)


def test_who_has_looked_before_is_told_what_is_new_and_of_a_grid_at_rest_nothing(tmp_path: Path):
    plan = make_plan("g", FIXED, [typed("prompt", "a", "b"), typed("seed", 1, 2)], content_of)
    store = Store(tmp_path)
    store.save_plan(plan)
    fresh = states_since(store, "")
    whole = states(store)
    assert {**fresh, "files": {}} == {**whole, "mark": fresh["mark"]}
    assert states_since(store, fresh["mark"]).keys() == fresh.keys(), "it may change unseen still"
    settle(tmp_path)
    first = states_since(store, fresh["mark"])
    assert first.keys() == fresh.keys()
    name, mark = first["name"], first["mark"]
    assert states_since(store, mark) == {"name": name, "mark": mark}
    failing = plan.cells[1].key
    draw_grid(plan, tmp_path, Drawn(fails=lambda cell: cell.key == failing))
    drawn = states_since(store, mark)
    told = {"states": "fxff", "reasons": {failing: "out of memory"}}
    assert {**drawn, "mark": ""} == {"name": name, "mark": "", **told}
    settle(tmp_path)
    mark = states_since(store, drawn["mark"])["mark"]
    store.cell_path(plan.cells[0].key).unlink()
    assert states_since(store, mark)["states"] == ".xff", "told at once, and at any time later"
    settle(tmp_path)
    changed = states_since(store, mark)
    assert changed["states"] == ".xff" and changed.keys() == {"name", "mark", *told}
    other = make_plan("g", FIXED, [typed("prompt", "a", "c"), typed("seed", 1, 2)], content_of)
    store.save_plan(other)
    settle(tmp_path)
    assert states_since(store, changed["mark"])["keys"] == [cell.key for cell in other.cells]


def test_a_plan_that_is_replaced_while_it_is_read_is_told_whole(tmp_path: Path, monkeypatch):
    first, second = (
        make_plan("g", FIXED, [typed("prompt", *texts)], content_of)
        for texts in (("a", "b"), ("a", "b", "c"))
    )
    store = Store(tmp_path)
    store.save_plan(first)
    settle(tmp_path)
    mark = states_since(store, "")["mark"]
    draw_grid(first, tmp_path, Drawn())

    def replaced(store: Store) -> dict:
        store.save_plan(second)
        return states(store)

    monkeypatch.setattr(since, "states", replaced)
    assert states_since(store, mark)["keys"] == [cell.key for cell in second.cells]


def settle(folder: Path) -> None:
    """As if nothing had changed for a while. A change of later has another time all the same."""
    for path in folder.rglob("*"):
        changed = path.stat().st_mtime_ns
        if changed > time.time_ns() - 30 * 10**9:
            os.utime(path, ns=(changed - 60 * 10**9,) * 2)
