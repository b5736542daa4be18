"""Sheets: a picture of a grid, with the first axis as columns, the second as rows and the others as
pages.
"""

from __future__ import annotations

import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .....trainer.files import canonical_json, sha256_text, write_bytes
from .....trainer.lettering import FAINT, FRAME, INK, PAPER, line_height, missing_scripts, wrap
from .....trainer.lettering import font as letters
from ..axes.typed import Axis
from ..cell.settings import clip_skip_label, lora_words
from ..errors import GridError
from ..plan.plan import Cell, Plan
from ..store.cell_file import fault
from ..store.store import Store

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

FORMAT = 3
"""Counts up when sheets come to look different, so that old files are not taken for new ones."""

READABLE_PX = 160
"""Cells smaller than this are enlarged, so that there is room for words beside them."""

MOST_PIXELS = 64_000_000
MOST_SIDE = 16_000
"""Below what WebP (16383), browsers' canvases (32767) and JPEG (65500) can hold."""

SMALLEST_CELL_PX = 16
SPLIT_BELOW_PX = 96
"""A page whose cells would become smaller than this, and than they are, is split."""

LABEL_LINES = 6
"""Lines of a label; what does not fit in them in the smallest font goes to a footnote."""

SMALLEST_FONT, LARGEST_FONT = 11, 30

OTHER_NUMERICS = (
    "* made with other versions, on another device or in other precision than the rest (numerics in the grid's folder): "
    "the last bits can differ for that reason."
)

NO_LETTERS = "Boxes stand for letters that the font of sheets does not have ({}). Give labels in others, such as Latin, on the axis."

FAILED = (253, 236, 234)
FAILED_INK = (163, 32, 24)
ABSENT = (238, 240, 242)


@dataclass(frozen=True)
class Page:
    """What one sheet shows: `cells[row][column]`, and what all of them have in common."""

    title: str
    subtitle: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    """None where a rule leaves the cell out."""
    marked: frozenset[str] = frozenset()
    """Keys of cells that bear a star, because they were made with other numerics than most."""


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels. `scale` is what the pictures' sides are multiplied with."""

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


def make_sheets(
    plan: Plan, store: Store, max_width: int, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """The files of all pages, drawn unless a file of the same content is there already.

    No sheet is wider than `max_width` or MOST_SIDE, or has more than MOST_PIXELS: pictures are made
    smaller for that. `progress(rows drawn, all rows)` is called before every row; what it raises
    ends the drawing. Raises GridError when a sheet cannot be saved.
    """
    plan, max_width = _measured(plan, store), min(max_width, MOST_SIDE)
    failures = store.failures()
    marked = _of_other_numerics(plan, store)
    pages = [
        replace(part, marked=marked & {cell.key for row in part.cells for cell in row if cell})
        for page in make_pages(plan)
        for part in split(page, max_width)
    ]
    rows = sum(len(page.rows) for page in pages)
    drawn = 0
    paths: list[Path] = []
    for number, page in enumerate(pages, start=1):
        states = {
            cell.key: "finished" if store.is_finished(cell.key) else failures.get(cell.key, "")
            for row in page.cells
            for cell in row
            if cell is not None
        }
        shown = _content_hash(page, states, max_width)
        path = store.folder / "sheets" / f"{plan.name}-{shown[:12]}-{number}.png"
        if not path.is_file():

            def before_row(row: int, drawn: int = drawn) -> None:
                if progress:
                    progress(drawn + row, rows)

            _save(path, draw(page, store, failures, max_width, before_row))
        drawn += len(page.rows)
        paths.append(path)
    return paths


def _measured(plan: Plan, store: Store) -> Plan:
    """The plan of any workflow with the sizes that its pictures have: only their files tell them."""
    from PIL import Image

    if plan.workflow is None:
        return plan
    cells = []
    for cell in plan.cells:
        width, height = cell.settings.width, cell.settings.height
        if store.is_finished(cell.key):
            try:
                with Image.open(store.cell_path(cell.key)) as file:
                    width, height = file.size
            except OSError:
                pass
        cells.append(replace(cell, settings=replace(cell.settings, width=width, height=height)))
    return replace(plan, cells=tuple(cells))


def _of_other_numerics(plan: Plan, store: Store) -> frozenset[str]:
    """The cells that were not made as most of them were: by other versions, on another device, in
    other precision.
    """
    made_by = store.numerics()
    classes = {cell.key: made_by[cell.key] for cell in plan.cells if cell.key in made_by}
    if len(set(classes.values())) < 2:
        return frozenset()
    ((usual, _),) = Counter(classes.values()).most_common(1)
    return frozenset(key for key, made in classes.items() if made != usual)


def make_pages(plan: Plan) -> list[Page]:
    """The pages of a plan, in the order of the third and further axes."""
    columns = _labels(plan.axes, 0)
    rows = _labels(plan.axes, 1)
    further = plan.axes[2:]
    at = {cell.position: cell for cell in plan.cells}
    fixed = fixed_words(plan.fixed)
    pages = []
    for place in itertools.product(*(range(len(axis.values)) for axis in further)):
        words = [axis.values[number].label for axis, number in zip(further, place, strict=True)]
        cells = tuple(
            tuple(at.get((column, row, *place)[: len(plan.axes)]) for column in range(len(columns)))
            for row in range(len(rows))
        )
        if any(cell is not None for row in cells for cell in row):
            pages.append(Page(" · ".join([plan.name, *words]), fixed, columns, rows, cells))
    return pages


def split(page: Page, max_width: int) -> list[Page]:
    """The page, or its parts, so that cells need not be drawn too small."""
    layout = lay_out(page, max_width)
    sides = [max(c.settings.width, c.settings.height) for row in page.cells for c in row if c]
    largest = max(sides, default=0)
    small = largest * layout.scale < min(SPLIT_BELOW_PX, largest)
    too_large = (
        layout.width > max_width
        or layout.width * layout.height > MOST_PIXELS
        or layout.height > MOST_SIDE
    )
    count = (len(page.columns), len(page.rows))
    if not (small or too_large) or count == (1, 1):
        return [page]
    across = count[1] == 1 or (count[0] > 1 and layout.width > max_width * 0.9)
    half = (count[0] if across else count[1] + 1) // 2
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


def fixed_words(fixed: dict[str, Any]) -> str:
    """The settings that all cells share, as one line."""
    words = []
    if fixed.get("checkpoint"):
        words.append(fixed["checkpoint"])
    if fixed.get("prompt"):
        words.append(fixed["prompt"])
    if fixed.get("negative_prompt"):
        words.append(f"negative: {fixed['negative_prompt']}")
    if "seed" in fixed:
        words.append(f"seed {fixed['seed']}")
    if "width" in fixed:
        words.append(f"{fixed['width']} x {fixed['height']}")
    if "steps" in fixed:
        words.append(f"{fixed['steps']} steps")
    if "cfg" in fixed:
        words.append(f"cfg {fixed['cfg']:g}")
    words += [fixed[name] for name in ("sampler", "scheduler") if name in fixed]
    if fixed.get("batch_size", 1) > 1:
        words.append(f"batches of {fixed['batch_size']}")
    if "clip_skip" in fixed:
        words.append(clip_skip_label(fixed["clip_skip"]))
    words += [fixed["vae"]] if "vae" in fixed else []
    words += [lora_words(lora) for lora in fixed.get("loras", ())]
    words += [f"from {fixed['image']}"] if "image" in fixed else []
    words += [f"denoise {fixed['denoise']:g}"] if "denoise" in fixed else []
    words += [f"{name} {value}" for name, value in fixed.items() if "." in name]
    return " · ".join(words)


def lay_out(page: Page, max_width: int) -> Layout:
    """The layout with the largest pictures that fits, small pictures enlarged by a whole number."""
    sides = [(c.settings.width, c.settings.height) for row in page.cells for c in row if c]
    scale: float = max(1, math.ceil(READABLE_PX / max(max(side) for side in sides)))
    while True:
        layout = _lay_out(page, max_width, scale)
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


def draw(
    page: Page,
    store: Store,
    failures: dict[str, str],
    max_width: int,
    before_row: Callable[[int], None],
) -> Image.Image:
    """The sheet of one page. A cell that failed shows why, one that was not rendered says so."""
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


def _lay_out(page: Page, max_width: int, scale: float) -> Layout:
    smallest = min(c.settings.width for row in page.cells for c in row if c)
    column_widths = [
        _scaled(max((c.settings.width for c in column if c), default=smallest), scale)
        for column in zip(*page.cells, strict=True)
    ]
    row_heights = [
        _scaled(max((c.settings.height for c in row if c), default=0), scale) for row in page.cells
    ]
    typical = sorted(column_widths)[len(column_widths) // 2]
    font = _fitting_font(
        page, column_widths, min(LARGEST_FONT, max(SMALLEST_FONT, round(typical / 11)))
    )
    margin, gap = font * 3 // 2, max(4, font // 2)
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
    title = wrap(page.title, across, _title_size(font), 3)
    subtitle = wrap(page.subtitle, across, font, 4)
    top = margin + line_height(_title_size(font)) * len(title) + line * len(subtitle) + line // 2
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
    """The size in which all labels of columns fit, at most `size` and at least the smallest one."""
    while size > SMALLEST_FONT and any(
        len(wrap(label, width - 2, size, LABEL_LINES + 1)) > LABEL_LINES
        for label, width in zip(page.columns, widths, strict=True)
    ):
        size -= 1
    return size


def _label(label: str, width: float, font: int, notes: list[str]) -> tuple[str, ...]:
    """The lines of a label. One that is too long is cut, and numbered for a footnote with all of
    it.
    """
    if len(wrap(label, width, font, LABEL_LINES + 1)) <= LABEL_LINES:
        return wrap(label, width, font, LABEL_LINES)
    notes.append(f"[{len(notes) + 1}] {label}")
    mark = f"... [{len(notes)}]"
    lines = list(wrap(label, width, font, 10_000)[:LABEL_LINES])
    last = lines[-1]
    while last and letters(font).getlength(last + mark) > width:
        last = last[:-1]
    return (*lines[:-1], last.rstrip() + mark)


def _row_labels(
    labels: Sequence[str], typical: int, max_width: int, font: int, notes: list[str]
) -> tuple[tuple[tuple[str, ...], ...], int]:
    """The wrapped labels of the rows, and how wide they are."""
    if not any(labels):
        return tuple(() for _ in labels), 0
    widest = min(max(typical * 1.25, font * 9), max(max_width // 4, font * 5))
    lines = tuple(_label(label, widest, font, notes) for label in labels)
    metrics = letters(font)
    longest = max((metrics.getlength(line) for block in lines for line in block), default=0)
    return lines, math.ceil(longest) + font // 2


def _draw_heading(pen: ImageDraw.ImageDraw, layout: Layout) -> None:
    y = layout.margin
    for line in layout.title:
        pen.text((layout.margin, y), line, INK, letters(_title_size(layout.font), bold=True))
        y += line_height(_title_size(layout.font))
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

    size = (_scaled(cell.settings.width, layout.scale), _scaled(cell.settings.height, layout.scale))
    if not store.is_finished(cell.key):
        return _blank_tile(size, failures.get(cell.key), layout.font)
    path = store.cell_path(cell.key)
    if wrong := fault(path, cell.key):
        return _blank_tile(size, f"its file {wrong}; queue Render Grid again", layout.font)
    with Image.open(path) as file:
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


def _labels(axes: Sequence[Axis], number: int) -> tuple[str, ...]:
    return tuple(value.label for value in axes[number].values) if number < len(axes) else ("",)


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def _title_size(font: int) -> int:
    return font * 4 // 3


def _content_hash(page: Page, states: dict[str, str], max_width: int) -> str:
    """The hash of all that is on a sheet."""
    keys = [[cell and cell.key for cell in row] for row in page.cells]
    return sha256_text(
        canonical_json(
            [
                FORMAT,
                page.title,
                page.subtitle,
                page.columns,
                page.rows,
                keys,
                states,
                max_width,
                sorted(page.marked),
            ]
        )
    )


def _save(path: Path, sheet: Image.Image) -> None:
    file = io.BytesIO()
    sheet.save(file, "PNG", compress_level=4)
    try:
        write_bytes(path, file.getvalue())
    except OSError as error:
        raise GridError(
            f"The sheet {path} cannot be saved: {error.strerror}. Free space or change the folder's rights, and queue again."
        ) from error
