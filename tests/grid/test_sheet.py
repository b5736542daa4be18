"""Sheets: where pictures and words stand, what is marked, and when a sheet is drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.axes import checkpoint_axis
from cocktail.nodes.grid.cell_file import PNG, encode
from cocktail.nodes.grid.plan import Cell, Plan, make_plan
from cocktail.nodes.grid.sheet import MOST_PIXELS, lay_out, make_pages, make_sheets
from cocktail.nodes.grid.store import Store
from cocktail.trainer.lettering import font, wrap

from .test_plan import FIXED, content_of, typed

LONG = "a_very_long_checkpoint_name-with-epochs-e0012-s000480_and_more_of_it"


def plan_of(*axes, **settings) -> Plan:
    return make_plan("demo", {**FIXED, "width": 64, "height": 64, **settings}, axes, content_of)


def colour(cell: Cell) -> tuple[int, int, int]:
    """A colour of its own for every cell, found nowhere else on a sheet."""
    return tuple(20 + 40 * number for number in (*cell.position, 0, 0)[:3])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "demo")


def finish(store: Store, plan: Plan) -> None:
    for cell in plan.cells:
        pixels = numpy.empty((cell.settings.height, cell.settings.width, 3), numpy.uint8)
        pixels[:] = colour(cell)
        store.save_cell(cell, encode(pixels, PNG, None, ""), {})


def box(sheet: Path, cell: Cell) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a cell's picture on a sheet."""
    same = (numpy.asarray(Image.open(sheet)) == colour(cell)).all(axis=2)
    y, x = numpy.nonzero(same)
    assert len(x), f"the cell at {cell.position} is not on {sheet.name}"
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_the_first_axis_goes_across_the_second_down_and_the_third_over_pages(store: Store):
    plan = plan_of(typed("seed", 1, 2, 3), typed("cfg", 1, 2), typed("steps", 4, 5))
    finish(store, plan)
    pages = make_sheets(plan, store, 4096)
    assert len(pages) == 2
    for page, path in enumerate(pages):
        at = {cell.position: box(path, cell) for cell in plan.cells if cell.position[2] == page}
        lefts = [at[column, 0, page][0] for column in range(3)]
        assert lefts == sorted(set(lefts))
        assert {at[0, row, page][0] for row in range(2)} == {lefts[0]}
        assert at[0, 0, page][3] < at[0, 1, page][1]


def test_small_pictures_are_enlarged_by_a_whole_number_and_keep_their_proportions(store: Store):
    plan = plan_of(typed("size", 64, "64x96"))
    finish(store, plan)
    (path,) = make_sheets(plan, store, 4096)
    sizes = []
    for cell in plan.cells:
        left, top, right, bottom = box(path, cell)
        sizes.append((right - left, bottom - top))
    assert sizes == [(128, 128), (128, 192)]


@pytest.mark.parametrize("max_width", [256, 1000, 3000])
def test_no_sheet_is_wider_than_asked(store: Store, max_width: int):
    plan = plan_of(
        typed("seed", *range(30)), typed("prompt", "a red circle on a blue background", LONG)
    )
    (path,) = make_sheets(plan, store, max_width)
    with Image.open(path) as sheet:
        assert max_width * 0.6 < sheet.width <= max_width


def test_a_sheet_never_has_more_pixels_than_the_limit():
    axes = typed("seed", *range(40)), typed("cfg", *range(1, 41))
    (page,) = make_pages(plan_of(*axes, width=1024, height=1024))
    layout = lay_out(page, 16_384)
    assert MOST_PIXELS / 2 < layout.width * layout.height <= MOST_PIXELS


def test_words_never_run_over_their_width():
    for width in (40, 100, 200):
        lines = wrap(f"a red circle on a blue background {LONG}", width, 14, 100)
        assert all(font(14).getlength(line) <= width for line in lines)
        assert "".join(lines).replace(" ", "") == f"aredcircleonabluebackground{LONG}"


def test_words_that_are_too_many_end_with_dots():
    lines = wrap("word " * 100, 100, 14, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert font(14).getlength(lines[-1]) <= 100


def test_what_failed_or_is_missing_is_marked(store: Store):
    plan = plan_of(typed("seed", 1, 2, 3))
    finish(store, plan_of(typed("seed", 1)))
    (nothing_failed,) = make_sheets(plan, store, 4096)
    store.save_failure(plan.cells[1], "out of memory")
    (path,) = make_sheets(plan, store, 4096)
    assert path != nothing_failed
    reddish = numpy.asarray(Image.open(path)).astype(int)
    assert ((reddish[..., 0] - reddish[..., 2]) > 100).any()
    before = numpy.asarray(Image.open(nothing_failed)).astype(int)
    assert not ((before[..., 0] - before[..., 2]) > 100).any()


def test_a_sheet_is_drawn_once_and_again_when_something_on_it_changes(store: Store):
    plan = plan_of(typed("seed", 1, 2))
    first = make_sheets(plan, store, 4096)
    drawn = first[0].stat().st_mtime_ns
    content = first[0].read_bytes()
    assert make_sheets(plan, store, 4096) == first
    assert first[0].stat().st_mtime_ns == drawn
    first[0].unlink()
    assert make_sheets(plan, store, 4096) == first
    assert first[0].read_bytes() == content
    finish(store, plan)
    assert make_sheets(plan, store, 4096) != first


def test_the_heading_tells_what_all_cells_share():
    plan = plan_of(checkpoint_axis([("a", ""), ("b", "")]), typed("prompt", "x"), typed("seed", 5))
    (page,) = make_pages(plan)
    assert page.title == "demo · seed 5"
    assert (
        page.subtitle
        == "64 x 64 · 20 steps · cfg 7 · euler · normal · clip skip 1 (ComfyUI -1, EveryDream2 0 or 1)"
    )
    assert page.columns == ("a", "b")
    assert page.rows == ("x",)
