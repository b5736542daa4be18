"""Where everything on a sheet stands, and when a page is split into parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from .....trainer.lettering import broken, length, line_height, missing_scripts, wrap
from .pages import Page

READABLE_PX = 160
"""Cells smaller than this are enlarged, to make room for words beside them."""

MOST_PIXELS = 64_000_000

MOST_SIDE = 16_000
"""Below what WebP (16383), browsers' canvases (32767) and JPEG (65500) can hold."""

SMALLEST_CELL_PX = 16

LEAST_GAP = 4

SPLIT_BELOW_PX = 96
"""A page is split when its cells would have to be shrunk below this."""

LABEL_LINES = 6
"""Most lines of a label; one that needs more in the smallest font goes to a footnote."""

SMALLEST_FONT, LARGEST_FONT = 11, 30

OTHER_NUMERICS = (
    "* made with other versions, on another device or in another precision than the rest (see "
    "numerics/ in the grid's folder); the last bits can differ for that reason."
)

NO_LETTERS = (
    "Boxes stand for letters that the font of sheets does not have ({}). Give the axis labels in "
    "other letters, such as Latin."
)


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels. `scale` is the factor of the pictures' sides."""

    scale: float
    font: int
    margin: int
    gap: int
    title: tuple[str, ...]
    subtitle: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, ...], ...]
    label_width: int
    top: int
    column_widths: tuple[int, ...]
    row_heights: tuple[int, ...]
    footnotes: tuple[str, ...]

    @property
    def width(self) -> int:
        label = self.label_width + self.gap if self.label_width else 0
        cells = sum(self.column_widths) + self.gap * (len(self.column_widths) - 1)
        return 2 * self.margin + label + cells

    @property
    def height(self) -> int:
        cells = sum(self.row_heights) + self.gap * (len(self.rows) - 1)
        return self.top + cells + self.below + self.margin

    @property
    def below(self) -> int:
        """The height of the footnotes."""
        return line_height(self.font) * len(self.footnotes) + (self.gap if self.footnotes else 0)


def lay_out(page: Page, max_width: int) -> Layout:
    """The layout with the largest pictures that fit; small ones are enlarged by a whole number."""
    sides = [(c.settings.width, c.settings.height) for row in page.cells for c in row if c]
    scale: float = max(1, math.ceil(READABLE_PX / max(max(side) for side in sides)))
    while True:
        layout = _at_scale(page, max_width, scale)
        area = layout.width * layout.height
        excess = max(
            layout.width / max_width,
            layout.height / MOST_SIDE,
            math.sqrt(area / MOST_PIXELS),
        )
        if excess <= 1 or scale * max(max(side) for side in sides) <= SMALLEST_CELL_PX:
            return layout
        scale /= max(excess, 1.01)
        if scale >= 1:
            scale = float(math.floor(scale))


def split(page: Page, max_width: int) -> list[Page]:
    """The page, or its parts where its cells would be drawn too small otherwise."""
    count = (len(page.columns), len(page.rows))
    least = _least_size(page)
    if count != (1, 1) and (least[0] > max_width or least[1] > MOST_SIDE):
        return _halves(page, max_width, across=count[0] > 1 and least[0] > max_width)
    layout = lay_out(page, max_width)
    largest = _largest_side(page)
    small = largest * layout.scale < min(SPLIT_BELOW_PX, largest)
    too_large = (
        layout.width > max_width
        or layout.width * layout.height > MOST_PIXELS
        or layout.height > MOST_SIDE
    )
    if not (small or too_large) or count == (1, 1):
        return [page]
    across = count[1] == 1 or (count[0] > 1 and layout.width > max_width * 0.9)
    return _halves(page, max_width, across)


def _halves(page: Page, max_width: int, across: bool) -> list[Page]:
    """Both halves of a page, columns or rows, split further where they must be."""
    half = (len(page.columns) if across else len(page.rows) + 1) // 2
    parts = []
    for part in (slice(0, half), slice(half, None)):
        columns = page.columns[part] if across else page.columns
        rows = page.rows if across else page.rows[part]
        cells = tuple(row[part] for row in page.cells) if across else page.cells[part]
        if columns and rows and any(cell for row in cells for cell in row):
            parts += split(replace(page, columns=columns, rows=rows, cells=cells), max_width)
    return [
        replace(part, title=f"{page.title} · part {number} of {len(parts)}")
        for number, part in enumerate(parts, start=1)
    ]


def _least_size(page: Page) -> tuple[int, int]:
    """Width and height of a page with the smallest cells for which it is not split, without words.

    Words are slow to measure: a page that is larger than this allows is split before.
    """
    largest = _largest_side(page)
    scale = min(SPLIT_BELOW_PX, largest) / largest
    widths, heights = _cell_sizes(page, scale)
    return sum(widths) + LEAST_GAP * len(widths), sum(heights) + LEAST_GAP * len(heights)


def _largest_side(page: Page) -> int:
    return max(max(c.settings.width, c.settings.height) for row in page.cells for c in row if c)


def _cell_sizes(page: Page, scale: float) -> tuple[list[int], list[int]]:
    """Widths of the columns and heights of the rows in pixels, as far as pictures need them."""
    smallest = min(c.settings.width for row in page.cells for c in row if c)
    column_widths = [
        scaled(max((c.settings.width for c in column if c), default=smallest), scale)
        for column in zip(*page.cells, strict=True)
    ]
    row_heights = [
        scaled(max((c.settings.height for c in row if c), default=0), scale) for row in page.cells
    ]
    return column_widths, row_heights


def _at_scale(page: Page, max_width: int, scale: float) -> Layout:
    column_widths, row_heights = _cell_sizes(page, scale)
    typical = sorted(column_widths)[len(column_widths) // 2]
    font = _fitting_font(
        page, column_widths, min(LARGEST_FONT, max(SMALLEST_FONT, round(typical / 11)))
    )
    margin, gap = font * 3 // 2, max(LEAST_GAP, font // 2)
    notes: list[str] = []
    general = [OTHER_NUMERICS] if page.marked else []
    scripts = missing_scripts(" ".join([page.title, page.subtitle, *page.columns, *page.rows]))
    general += [NO_LETTERS.format(", ".join(scripts))] if scripts else []
    column_lines = tuple(
        _label(label, width - 2, font, notes)
        for label, width in zip(page.columns, column_widths, strict=True)
    )
    row_lines, label_width = _row_labels(page.rows, typical, max_width, font, notes)
    line = line_height(font)
    row_heights = [
        max(height, line * len(lines)) for height, lines in zip(row_heights, row_lines, strict=True)
    ]
    label_space = label_width + gap if label_width else 0
    across = label_space + sum(column_widths) + gap * (len(column_widths) - 1)
    title = wrap(page.title, across, title_size(font), 3)
    subtitle = wrap(page.subtitle, across, font, 4)
    top = margin + line_height(title_size(font)) * len(title) + line * len(subtitle) + line // 2
    top += line * max((len(lines) for lines in column_lines), default=0) + gap
    return Layout(
        scale,
        font,
        margin,
        gap,
        title,
        subtitle,
        column_lines,
        row_lines,
        label_width,
        top,
        tuple(column_widths),
        tuple(row_heights),
        tuple(line for note in [*general, *notes] for line in wrap(note, across, font, 40)),
    )


def _fitting_font(page: Page, widths: Sequence[int], size: int) -> int:
    """The font size in which all column labels fit, from the smallest one up to `size`."""
    while size > SMALLEST_FONT and any(
        next(islice(broken(label, width - 2, size), LABEL_LINES, None), None)
        for label, width in zip(page.columns, widths, strict=True)
    ):
        size -= 1
    return size


def _label(label: str, width: float, font: int, notes: list[str]) -> tuple[str, ...]:
    """The lines of a label. One that is too long is cut, and its whole text becomes a footnote."""
    lines = tuple(islice(broken(label, width, font), LABEL_LINES + 1))
    if len(lines) <= LABEL_LINES:
        return lines
    notes.append(f"[{len(notes) + 1}] {label}")
    mark = f"... [{len(notes)}]"
    last = lines[LABEL_LINES - 1]
    while last and length(last + mark, font) > width:
        last = last[:-1]
    return (*lines[: LABEL_LINES - 1], last.rstrip() + mark)


def _row_labels(
    labels: Sequence[str], typical: int, max_width: int, font: int, notes: list[str]
) -> tuple[tuple[tuple[str, ...], ...], int]:
    """The wrapped labels of the rows, and their width in pixels."""
    if not any(labels):
        return tuple(() for _ in labels), 0
    widest = min(max(typical * 1.25, font * 9), max(max_width // 4, font * 5))
    lines = tuple(_label(label, widest, font, notes) for label in labels)
    longest = max((length(line, font) for block in lines for line in block), default=0)
    return lines, math.ceil(longest) + font // 2


def scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def title_size(font: int) -> int:
    return font * 4 // 3
