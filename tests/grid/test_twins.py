"""Values of an axis that change no pixel are found and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest

from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis
from cocktail.nodes.grid.engine.check.twins import Twins, _joined, find, pixel_hashes
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import Cell
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.trainer.files import sha256_text

from .drawn import Drawn, draw_grid, drawn_plan, picture_of
from .test_plan import FIXED, typed


class Deaf(Drawn):
    """A renderer that takes some cells for others."""

    def __init__(self, heard) -> None:
        super().__init__()
        self.heard = heard

    def pictures(self, cells: Sequence[Cell], done: int, total: int) -> list[numpy.ndarray]:
        self.drawn += cells
        return [picture_of(Cell(c.position, c.settings, self.heard(c))) for c in cells]


def twins_of(tmp_path: Path, heard, *axes, missing=()) -> list[Twins]:
    plan, store = make_plan("g", FIXED, list(axes), lambda kind, name: "same"), Store(tmp_path)
    draw_grid(plan, tmp_path, Deaf(lambda cell: sha256_text(repr(heard(cell.settings)))))
    for number in missing:
        store.cell_path(plan.cells[number].key).unlink()
    return find(plan, pixel_hashes(plan, store))


def test_a_grid_whose_values_all_matter_has_no_twins(tmp_path: Path):
    axes = typed("seed", "1", "2"), typed("clip skip", "1", "2")
    assert twins_of(tmp_path, lambda cell: cell, *axes) == []


def test_an_axis_that_changes_nothing_is_named_with_its_labels(tmp_path: Path):
    axes = typed("seed", "1", "2", "3"), typed("clip skip", "1", "2", "3")
    (found,) = twins_of(tmp_path, lambda cell: cell.seed, *axes)
    assert (found.axis, found.equal, found.places) == ("clip skip", 3, 3)
    assert len(found.labels) == 3
    assert "in all 3 places; they change nothing" in found.sentence()


def test_values_that_are_equal_in_some_places_are_counted(tmp_path: Path):
    def heard(cell):
        return (cell.seed, cell.steps if cell.seed > 1 else 0)

    axes = typed("seed", "1", "2", "3"), typed("steps", "4", "8")
    (found,) = twins_of(tmp_path, heard, *axes)
    assert (found.axis, found.labels) == ("steps", ("4 steps", "8 steps"))
    assert (found.equal, found.places) == (1, 3)
    assert "1 of 3 places" in found.sentence()


def test_missing_cells_and_cells_that_are_one_count_neither_way(tmp_path: Path):
    axes = typed("seed", "1", "2"), typed("steps", "4", "8")
    (found,) = twins_of(tmp_path / "missing", lambda cell: cell.seed, *axes, missing=[3])
    assert (found.axis, found.equal, found.places) == ("steps", 1, 1)

    copies = checkpoint_axis([("one", ""), ("copy of one", "")])
    assert twins_of(tmp_path / "one", lambda cell: cell, copies, typed("seed", "1", "2")) == []


def test_every_two_twins_stand_together_once():
    assert _joined({(0, 1), (0, 2), (1, 2), (2, 3)}) == [(0, 1, 2), (2, 3)]


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path):
    plan, store = drawn_plan(), Store(tmp_path)
    draw_grid(plan, tmp_path, Drawn())
    file = store.cell_path(plan.cells[4].key)
    for data in (file.read_bytes()[:200], b"no picture"):
        file.write_bytes(data)
        with pytest.raises(
            GridError, match=f"{file.name}, cannot be read .*Queue Render Grid again"
        ):
            pixel_hashes(plan, store)
