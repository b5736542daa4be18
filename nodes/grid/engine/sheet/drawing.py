"""The picture of one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .....trainer.lettering import FAINT, FRAME, INK, PAPER, line_height, wrap
from .....trainer.lettering import font as letters
from ..plan.plan import Cell
from ..store.cell_file import fault
from ..store.picture import open_picture
from ..store.store import Store
from .layout import SMALLEST_FONT, Layout, lay_out, scaled, title_size
from .pages import Page

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

FAILED = (253, 236, 234)


FAILED_INK = (163, 32, 24)


ABSENT = (238, 240, 242)


def draw(
    page: Page,
    store: Store,
    failures: dict[str, str],
    max_width: int,
    before_row: Callable[[int], None],
) -> Image.Image:
    """The sheet of one page. A failed cell shows the reason, a missing one says "not rendered"."""
    from PIL import Image, ImageDraw

    layout = lay_out(page, max_width)
    sheet = Image.new("RGB", (layout.width, layout.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_heading(pen, layout)
    left_of_cells = layout.margin + (layout.label_width + layout.gap if layout.label_width else 0)
    y = layout.top
    for row, height in enumerate(layout.row_heights):
        before_row(row)
        _write_block(pen, layout.rows[row], layout.margin, y + height / 2, layout.font, "left")
        x = left_of_cells
        for cell, width in zip(page.cells[row], layout.column_widths, strict=True):
            if cell is None:
                x += width + layout.gap
                continue
            tile = _tile(cell, store, failures, layout)
            left, top = x + (width - tile.width) // 2, y + (height - tile.height) // 2
            pen.rectangle((left - 1, top - 1, left + tile.width, top + tile.height), FRAME)
            sheet.paste(tile, (left, top))
            if cell.key in page.marked:
                _star(pen, left, top, layout.font)
            x += width + layout.gap
        y += height + layout.gap
    for number, line in enumerate(layout.footnotes):
        top = y + number * line_height(layout.font)
        pen.text((layout.margin, top), line, FAINT, letters(layout.font))
    x = left_of_cells
    for lines, width in zip(layout.columns, layout.column_widths, strict=True):
        block = line_height(layout.font) * len(lines)
        middle = layout.top - layout.gap - block / 2
        _write_block(pen, lines, x + width / 2, middle, layout.font, "middle")
        x += width + layout.gap
    if sheet.width > max_width:
        height = max(1, round(sheet.height * max_width / sheet.width))
        sheet = sheet.resize((max_width, height), Image.Resampling.LANCZOS)
    return sheet


def _draw_heading(pen: ImageDraw.ImageDraw, layout: Layout) -> None:
    y = layout.margin
    for line in layout.title:
        pen.text((layout.margin, y), line, INK, letters(title_size(layout.font), bold=True))
        y += line_height(title_size(layout.font))
    for line in layout.subtitle:
        pen.text((layout.margin, y), line, FAINT, letters(layout.font))
        y += line_height(layout.font)


def _write_block(
    pen: ImageDraw.ImageDraw,
    lines: Sequence[str],
    x: float,
    middle: float,
    size: int,
    align: str,
    ink: tuple[int, int, int] = INK,
) -> None:
    """Lines one below the other, vertically centred on `middle`; `x` is their left end or their
    middle.
    """
    step = line_height(size)
    y = middle - step * (len(lines) - 1) / 2
    for line in lines:
        pen.text((round(x), round(y)), line, ink, letters(size), "lm" if align == "left" else "mm")
        y += step


def _star(pen: ImageDraw.ImageDraw, left: int, top: int, size: int) -> None:
    pen.rectangle((left, top, left + size, top + size), PAPER, FRAME)
    pen.text((left + size / 2, top + size * 0.75), "*", INK, letters(size, bold=True), "mm")


def _tile(cell: Cell, store: Store, failures: dict[str, str], layout: Layout) -> Image.Image:
    from PIL import Image

    size = (scaled(cell.settings.width, layout.scale), scaled(cell.settings.height, layout.scale))
    if not store.is_finished(cell.key):
        return _blank_tile(size, failures.get(cell.key), layout.font)
    path = store.cell_path(cell.key)
    if wrong := fault(path, cell.key):
        return _blank_tile(size, f"its file {wrong}; queue Render Grid again", layout.font)
    with open_picture(path) as file:
        picture = file.convert("RGB")
    if picture.size == size:
        return picture
    enlarged = size[0] > picture.width
    return picture.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _blank_tile(size: tuple[int, int], reason: str | None, font: int) -> Image.Image:
    from PIL import Image, ImageDraw

    small = max(SMALLEST_FONT, font * 4 // 5)
    width, height = size
    tile = Image.new("RGB", size, ABSENT if reason is None else FAILED)
    pen = ImageDraw.Draw(tile)
    room = max(1, (height - 8) // line_height(small))
    if reason is None:
        lines, ink = wrap("not rendered", width - 12, small, room), FAINT
    else:
        pen.rectangle((0, 0, width - 1, height - 1), outline=FAILED_INK, width=2)
        lines, ink = wrap(f"failed: {reason}", width - 12, small, room), FAILED_INK
    _write_block(pen, lines, width / 2, height / 2, small, "middle", ink)
    return tile
