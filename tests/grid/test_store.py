"""The folder of a grid: finished cells are found again, failed ones are remembered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import Plan
from cocktail.nodes.grid.engine.store.cell_file import PNG, encode
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
