"""Sheets: where pictures and words stand, what is marked, and when a sheet is drawn again."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import Cell, Plan
from cocktail.nodes.grid.engine.sheet.drawing import ABSENT, FAILED, FAILED_INK
from cocktail.nodes.grid.engine.sheet.layout import (
    LABEL_LINES,
    MOST_PIXELS,
    MOST_SIDE,
    SMALLEST_FONT,
    SPLIT_BELOW_PX,
    Layout,
    lay_out,
    split,
)
from cocktail.nodes.grid.engine.sheet.pages import make_pages
from cocktail.nodes.grid.engine.sheet.sheet import make_sheets
from cocktail.nodes.grid.engine.store.cell_file import PNG, encode
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.trainer.lettering import FAINT, FRAME, INK, PAPER, font, line_height, wrap

from .test_plan import FIXED, content_of, typed

MAX_WIDTH = 2000
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
        typed("seed", *range(12)), typed("prompt", "a red circle on a blue background", LONG)
    )
    for path in make_sheets(plan, store, max_width):
        with Image.open(path) as sheet:
            assert max_width * 0.3 < sheet.width <= max_width


def test_a_page_whose_cells_would_be_too_small_is_split_and_shows_every_cell_once():
    plan = plan_of(typed("seed", *range(40)), typed("cfg", *range(1, 11)), width=512, height=512)
    (page,) = make_pages(plan)
    assert split(page, 16_000) == [page]
    parts = split(page, 1200)
    shown = [cell for part in parts for row in part.cells for cell in row]
    assert sorted(cell.position for cell in shown) == sorted(cell.position for cell in plan.cells)
    assert len({cell.position for cell in shown}) == 400
    assert parts[0].title == f"demo · part 1 of {len(parts)}"
    for part in parts:
        layout = lay_out(part, 1200)
        assert 512 * layout.scale >= SPLIT_BELOW_PX
        assert layout.width <= 1200
        assert len(part.columns) == len(part.cells[0])
        for row in part.cells:
            assert [typed("seed", cell.settings.seed).values[0].label for cell in row] == [
                *part.columns
            ]


def test_a_tall_page_is_split_before_it_is_higher_than_formats_allow():
    plan = plan_of(typed("cfg", 4), typed("seed", *range(200)), width=512, height=512)
    (page,) = make_pages(plan)
    parts = split(page, 2000)
    assert len(parts) > 1
    assert all(lay_out(part, 2000).height <= MOST_SIDE for part in parts)


@pytest.mark.parametrize(("target", "count"), [("seed", 1000), ("prompt", 300)])
def test_a_long_row_is_laid_out_without_measuring_its_words_over_and_over(
    target: str, count: int, monkeypatch: pytest.MonkeyPatch
):
    measured = 0
    letters = type(font(SMALLEST_FONT))
    getlength = letters.getlength

    def counted(self, text, *more, **options):
        nonlocal measured
        measured += 1
        return getlength(self, text, *more, **options)

    monkeypatch.setattr(letters, "getlength", counted)
    words = {"seed": "{}", "prompt": f"number {{}} {LONG} in a row of {LONG}"}[target]
    plan = plan_of(typed(target, *map(words.format, range(count))), width=512, height=512)
    (page,) = make_pages(plan)
    parts = split(page, 8192)
    assert sum(len(part.columns) for part in parts) == count
    assert all(512 * lay_out(part, 8192).scale >= SPLIT_BELOW_PX for part in parts)
    assert measured < count * {"seed": 5, "prompt": 30}[target]


def test_a_label_that_is_too_long_goes_to_a_footnote():
    words = " ".join(f"word{number}" for number in range(120))
    (page,) = make_pages(plan_of(typed("prompt", words, "a circle")))
    layout = lay_out(page, 2000)
    assert layout.font == SMALLEST_FONT
    assert len(layout.columns[0]) == LABEL_LINES
    assert layout.columns[0][-1].endswith("... [1]")
    assert " ".join(layout.footnotes) == f"[1] {words}"
    assert layout.columns[1] == ("a circle",)


def test_a_label_that_fits_in_a_smaller_font_is_not_cut():
    words = " ".join(f"word{number}" for number in range(22))
    (page,) = make_pages(plan_of(typed("prompt", words, "a circle"), width=256, height=256))
    layout = lay_out(page, 2000)
    assert SMALLEST_FONT <= layout.font < round(256 / 11)
    assert " ".join(layout.columns[0]) == words
    assert layout.footnotes == ()


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


@pytest.mark.parametrize(
    ("prompt", "scripts"),
    [
        ("a red circle, café, красный круг, κύκλος", None),
        ("赤い円", "CJK, HIRAGANA"),
        ("빨간 원", "HANGUL"),
    ],
)
def test_a_footnote_says_which_letters_the_font_does_not_have(prompt: str, scripts: str | None):
    for axes in ([typed("prompt", prompt)], [typed("seed", 1), typed("prompt", prompt)]):
        (page,) = make_pages(plan_of(*axes))
        notes = " ".join(lay_out(page, 2000).footnotes)
        assert f"does not have ({scripts})" in notes if scripts else not notes


def test_words_that_are_too_many_end_with_dots():
    lines = wrap("word " * 100, 100, 14, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert font(14).getlength(lines[-1]) <= 100


def test_no_sheet_is_wider_than_image_formats_allow(store: Store):
    plan = plan_of(typed("seed", *range(17)), width=1024, height=16)
    for path in make_sheets(plan, store, 16_384):
        with Image.open(path) as sheet:
            assert sheet.width <= MOST_SIDE < 17 * 1024


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
    assert page.subtitle == (
        "64 x 64 · 20 steps · cfg 7 · euler · normal · clip skip 1 (ComfyUI -1, EveryDream2 0 or 1)"
    )
    assert page.columns == ("a", "b")
    assert page.rows == ("x",)


def region(path: Path, left: int, top: int, right: int, bottom: int) -> numpy.ndarray:
    with Image.open(path) as sheet:
        assert right <= sheet.width and bottom <= sheet.height
        return numpy.asarray(sheet.convert("RGB"))[top:bottom, left:right]


def tile(path: Path, plan: Plan, column: int, row: int = 0) -> numpy.ndarray:
    """The pixels where the picture of a cell belongs, on the only page of a plan."""
    layout, left, top = place(plan, column, row)
    right, bottom = left + layout.column_widths[column], top + layout.row_heights[row]
    return region(path, left, top, right, bottom)


def place(plan: Plan, column: int, row: int) -> tuple[Layout, int, int]:
    """The layout of the only page of a plan, and where a cell of it begins."""
    (page,) = make_pages(plan)
    layout = lay_out(page, MAX_WIDTH)
    left = layout.margin + sum(layout.column_widths[:column]) + layout.gap * column
    left += layout.label_width + layout.gap if layout.label_width else 0
    return layout, left, layout.top + sum(layout.row_heights[:row]) + layout.gap * row


def share(pixels: numpy.ndarray, colour: tuple[int, int, int]) -> float:
    """The share of the pixels that have this colour."""
    return float((pixels == colour).all(axis=2).mean())


def test_a_failed_cell_is_a_red_tile_with_the_reason_and_a_missing_one_a_grey_tile(store: Store):
    plan = plan_of(typed("seed", 1, 2, 3))
    finish(store, plan_of(typed("seed", 1)))
    (nothing_failed,) = make_sheets(plan, store, MAX_WIDTH)
    assert (tile(nothing_failed, plan, 1) == tile(nothing_failed, plan, 2)).all()
    store.save_failure(plan.cells[1], "out of memory")
    (path,) = make_sheets(plan, store, MAX_WIDTH)
    assert path != nothing_failed
    finished, failed, missing = (tile(path, plan, column) for column in range(3))
    assert share(finished, colour(plan.cells[0])) == 1
    for edge in (failed[:2], failed[-2:], failed[:, :2], failed[:, -2:]):
        assert share(edge, FAILED_INK) == 1
    inside = failed[3:-3, 3:-3]
    assert 0.7 < share(inside, FAILED) < 1 and share(inside, FAILED_INK) > 0.0005
    assert 0.7 < share(missing, ABSENT) < 1 and share(missing, FAINT) > 0.0005
    assert share(missing, FAILED_INK) == 0
    store.save_failure(plan.cells[1], "the file is damaged")
    (other,) = make_sheets(plan, store, MAX_WIDTH)
    assert (tile(other, plan, 1) != failed).any(), "the reason is not on the tile"


def test_a_damaged_file_is_never_shown_and_its_tile_says_so(store: Store):
    plan = plan_of(typed("seed", 1, 2))
    finish(store, plan)
    file = store.cell_path(plan.cells[0].key)
    file.write_bytes(file.read_bytes()[:-30])
    (path,) = make_sheets(plan, store, MAX_WIDTH)
    damaged, whole = tile(path, plan, 0), tile(path, plan, 1)
    assert share(damaged, FAILED) > 0.6 and share(damaged[3:-3, 3:-3], FAILED_INK) > 0.0005
    with Image.open(path) as sheet:
        assert share(numpy.asarray(sheet.convert("RGB")), colour(plan.cells[0])) == 0
    assert share(whole, colour(plan.cells[1])) == 1


def test_cells_that_rules_leave_out_stay_empty(store: Store):
    axes = [typed("seed", 1, 2), typed("cfg", 1, 2), typed("steps", 1, 2)]
    settings = {**FIXED, "width": 64, "height": 64}
    rules = "seed = 1 and cfg = 1\nsteps = 2"
    plan = make_plan("demo", settings, axes, content_of, rules)
    finish(store, plan)
    (page,) = make_pages(plan)
    assert [[cell is None for cell in row] for row in page.cells] == [[True, False], [False, False]]
    (path,) = make_sheets(plan, store, MAX_WIDTH)
    assert share(tile(path, plan, 0, 0), PAPER) == 1
    for cell in plan.cells:
        assert share(tile(path, plan, *cell.position[:2]), colour(cell)) == 1


def test_cells_of_other_numerics_bear_a_star_and_a_footnote(store: Store):
    plan = plan_of(typed("seed", 1, 2, 3))
    finish(store, plan)
    (plain,) = make_sheets(plan, store, MAX_WIDTH)
    for cell, made_by in zip(plan.cells, ("a", "b", "a"), strict=True):
        pixels = numpy.full((64, 64, 3), colour(cell), numpy.uint8)
        store.save_cell(cell, encode(pixels, PNG, None, ""), {}, numerics=made_by)
    (path,) = make_sheets(plan, store, MAX_WIDTH)
    for column, cell in enumerate(plan.cells):
        for sheet in (plain, path):
            picture = tile(sheet, plan, column)
            if (sheet, column) != (path, 1):
                assert share(picture, colour(cell)) == 1
    layout, left, top = place(plan, 1, 0)
    corner = region(path, left, top, left + layout.font + 1, top + layout.font + 1)
    for edge in (corner[0], corner[-1], corner[:, 0], corner[:, -1]):
        assert share(edge[None], FRAME) == 1
    assert share(corner[1:-1, 1:-1], PAPER) > 0.5 and share(corner[1:-1, 1:-1], INK) > 0.005
    rest = tile(path, plan, 1)[layout.font + 1 :]
    assert share(rest, colour(plan.cells[1])) == 1
    # The footnote stands below the cells, where the plain sheet has nothing.
    with Image.open(plain) as before, Image.open(path) as after:
        assert after.height > before.height
        below = numpy.asarray(after.convert("RGB"))[top + layout.row_heights[0] + 2 :]
        nothing = numpy.asarray(before.convert("RGB"))[top + layout.row_heights[0] + 2 :]
    assert share(nothing, PAPER) == 1 and share(below, FAINT) > 0.0005


def test_every_label_stands_at_its_own_column_or_row(store: Store):
    plan = plan_of(
        typed("prompt", "a dot", "a blue square", "a green ring"),
        typed("negative prompt", "blurred and grey", "red", "text below"),
    )
    finish(store, plan)
    (path,), (page,) = make_sheets(plan, store, MAX_WIDTH), make_pages(plan)

    def check(label: str, words: numpy.ndarray, size: int) -> None:
        """The words are as wide as this label: no two of them are equally wide."""
        inked = numpy.nonzero((words != PAPER).any(axis=(0, 2)))[0]
        assert abs(inked[-1] - inked[0] - font(size).getlength(label)) < 4, label

    for number in range(3):
        layout, left, top = place(plan, number, number)
        high = layout.top - layout.gap - line_height(layout.font)
        right, low = left + layout.column_widths[number], layout.top - layout.gap
        check(page.columns[number], region(path, left, high, right, low), layout.font)
        right, low = layout.margin + layout.label_width, top + layout.row_heights[number]
        check(page.rows[number], region(path, layout.margin, top, right, low), layout.font)
    for labels in (page.columns, page.rows):
        widths = sorted(font(layout.font).getlength(label) for label in labels)
        assert all(wider - width > 8 for width, wider in itertools.pairwise(widths))


def test_the_whole_text_of_a_cut_label_is_drawn_below_the_cells(store: Store):
    words = " ".join(f"word{number}" for number in range(120))
    plan = plan_of(typed("prompt", words, "a circle"))
    finish(store, plan)
    (path,) = make_sheets(plan, store, MAX_WIDTH)
    layout, left, top = place(plan, 0, 0)
    step, top = line_height(layout.font), top + layout.row_heights[0] + layout.gap
    assert len(layout.footnotes) > 3
    for number in range(len(layout.footnotes)):
        line = region(path, left, top + number * step, layout.width, top + (number + 1) * step)
        assert share(line, FAINT) > 0.0005, f"line {number + 1} of the footnote is missing"
