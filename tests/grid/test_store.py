"""The folder of a grid: finished cells are found again, failed ones are remembered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import Plan
from cocktail.nodes.grid.engine.store import store as store_file
from cocktail.nodes.grid.engine.store.cell_file import PNG, encode
from cocktail.nodes.grid.engine.store.export import manifest
from cocktail.nodes.grid.engine.store.store import Store, list_grids

from .test_plan import FIXED, content_of, typed


@pytest.fixture
def plan() -> Plan:
    return make_plan("g", FIXED, [typed("seed", 1, 2, 3)], content_of)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "grids" / "g")


def png() -> bytes:
    return encode(numpy.zeros((8, 8, 3), numpy.uint8), PNG, None, "")


def test_a_finished_cell_is_not_missing_any_more(plan: Plan, store: Store):
    assert store.missing(plan) == list(plan.render_order)
    store.save_cell(plan.cells[1], png(), {})
    assert store.missing(plan) == [plan.cells[0], plan.cells[2]]
    key = plan.cells[1].key
    with Image.open(store.folder / "cells" / key[:2] / f"{key}.png") as file:
        assert file.size == (8, 8)


def test_another_plan_of_the_same_name_finds_the_cells_that_are_the_same(plan: Plan, store: Store):
    store.save_cell(plan.cells[1], png(), {})
    other = make_plan("g", FIXED, [typed("steps", 20, 30), typed("seed", 3, 2)], content_of)
    assert [cell.settings.seed for cell in other.cells if store.is_finished(cell.key)] == [2]


def test_a_failed_cell_stays_missing_until_it_succeeds(plan: Plan, store: Store):
    cell = plan.cells[0]
    store.save_failure(cell, "out of memory")
    assert store.failures() == {cell.key: "out of memory"}
    assert cell in store.missing(plan)
    store.save_cell(cell, png(), {})
    assert store.failures() == {}
    log = [json.loads(line) for line in (store.folder / "cells.jsonl").read_text().splitlines()]
    assert [(line["key"], line["status"]) for line in log] == [
        (cell.key, "failed"),
        (cell.key, "finished"),
    ]


def test_a_name_that_is_used_for_another_grid_is_noticed(plan: Plan, store: Store):
    def with_seeds(*seeds: int) -> Plan:
        return make_plan("g", FIXED, [typed("seed", *seeds)], content_of)

    assert store.others(plan) == 0
    store.save_plan(with_seeds(1, 2, 3))
    assert [store.others(with_seeds(*seeds)) for seeds in ((3, 2, 1, 4), (1, 2), (8, 9))] == [
        0,
        1,
        3,
    ]


def test_a_plan_that_could_not_be_read_again_is_not_written(plan, store, monkeypatch):
    size = len(json.dumps(plan.to_json(), ensure_ascii=False, indent=1).encode()) + 1
    monkeypatch.setattr(store_file, "MOST_BYTES", size - 1)
    with pytest.raises(GridError, match="plan of the grid g takes .* Shorten the prompts"):
        store.save_plan(plan)
    assert not (store.folder / "plan.json").exists()
    monkeypatch.setattr(store_file, "MOST_BYTES", size)
    store.save_plan(plan)
    assert (store.folder / "plan.json").stat().st_size == size


def test_a_damaged_plan_of_before_stops_no_new_one(plan: Plan, store: Store):
    store.save_plan(plan)
    for content in (b"", b"[]", b"{}", b"\xff"):
        (store.folder / "plan.json").write_bytes(content)
        assert store.others(plan) == 0


def test_a_line_that_was_cut_off_does_not_matter(plan: Plan, store: Store):
    store.save_failure(plan.cells[0], "out of memory")
    with (store.folder / "cells.jsonl").open("ab") as file:
        file.write(b'{"key": "abc", "sta')
    assert list(store.failures().values()) == ["out of memory"]


def test_grids_are_listed_with_what_is_finished_and_failed(plan: Plan, store: Store):
    assert list_grids(store.folder.parent) == []
    store.save_plan(plan)
    store.save_cell(plan.cells[0], png(), {})
    store.save_failure(plan.cells[1], "out of memory")
    assert list_grids(store.folder.parent) == [
        {"name": "g", "cells": 3, "finished": 1, "failed": 1}
    ]


def test_the_plan_on_disk_names_every_cell(plan: Plan, store: Store):
    store.save_plan(plan)
    saved = json.loads((store.folder / "plan.json").read_text(encoding="utf-8"))
    assert [cell["key"] for cell in saved["cells"]] == [cell.key for cell in plan.cells]
    assert [value["label"] for value in saved["axes"][0]["values"]] == [
        "seed 1",
        "seed 2",
        "seed 3",
    ]


def test_what_was_read_of_a_log_is_not_read_again(plan: Plan, store: Store):
    log = store.folder / "cells.jsonl"
    for number in range(8):
        store.save_failure(plan.cells[0], f"reason {number}")
    store.save_failure(plan.cells[1], "no memory")
    assert store.failures() == {plan.cells[0].key: "reason 7", plan.cells[1].key: "no memory"}
    with log.open("r+b") as file:
        file.write(b" " * (log.stat().st_size - 256))
    store.save_failure(plan.cells[2], "no file")
    assert [*store.failures().values()] == ["reason 7", "no memory", "no file"]


def test_a_log_that_was_replaced_is_read_from_its_beginning(plan: Plan, store: Store):
    log = store.folder / "cells.jsonl"
    store.save_failure(plan.cells[0], "out of memory")
    assert store.failures() == {plan.cells[0].key: "out of memory"}
    log.unlink()
    assert store.failures() == {}
    store.save_failure(plan.cells[1], "another reason, which is longer than the one before it")
    assert [*store.failures()] == [plan.cells[1].key]


@pytest.mark.parametrize("indent", [1, None, 2])
def test_a_plan_is_read_in_parts_in_every_layout(store: Store, indent: int | None):
    evil = '\n "cells": [\n  {\n   "position": [0],\n   "key": "00",\n ]'
    plan = make_plan("g", FIXED, [typed("prompt", "x", "y"), typed("seed", 1, 2, 3)], content_of)
    described = json.loads(json.dumps(plan.to_json()))
    described["fixed"]["negative_prompt"] = described["cells"][3]["settings"]["prompt"] = evil
    store.folder.mkdir(parents=True)
    (store.folder / "plan.json").write_text(json.dumps(described, indent=indent) + "\n")
    read = store.saved_plan()
    assert read.keys == [cell.key for cell in plan.cells]
    assert read.positions() == [[*cell.position] for cell in plan.cells]
    for cell in described["cells"]:
        assert read.cell(cell["key"]) == cell
    assert read.cell("0" * 64) is None
    del described["cells"]
    assert read.head == described


def test_a_grid_with_a_damaged_plan_is_listed_with_the_reason(plan: Plan, store: Store):
    store.save_plan(plan)
    other = Store(store.folder.with_name("other"))
    other.save_plan(plan)
    for content in (b"", b"[]", b"{}", b"\xff", b'{"cells": [1]}'):
        (other.folder / "plan.json").write_bytes(content)
        whole, damaged = list_grids(store.folder.parent)
        assert whole == {"name": "g", "cells": 3, "finished": 0, "failed": 0}
        assert "plan.json of the grid other is damaged" in damaged["unreadable"]
        with pytest.raises(GridError, match="Queue the grid again"):
            manifest(other)
