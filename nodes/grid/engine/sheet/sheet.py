"""Sheets: a picture of a grid, with the first axis as columns, the second as rows and a page for
each choice of values on the other axes.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .....trainer.files import canonical_json, sha256_text, write_bytes
from ..errors import GridError
from ..plan.plan import Plan
from ..store.picture import open_picture
from ..store.store import Store
from .drawing import draw
from .layout import MOST_SIDE, split
from .pages import Page, make_pages

if TYPE_CHECKING:
    from PIL import Image

FORMAT = 4
"""Goes up when sheets come to look different, so that old files are not taken for new ones."""


def make_sheets(
    plan: Plan, store: Store, max_width: int, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """The files of all pages. A sheet whose file exists already is not drawn again.

    Pictures are made smaller where a sheet would become wider than `max_width` or MOST_SIDE, or
    larger than MOST_PIXELS. `progress(rows drawn, all rows)` is called before every row; an
    exception that it raises ends the drawing. Raises GridError when a sheet cannot be saved.
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
    """The plan, with the real sizes of pictures that any workflow made: only their files know."""
    if plan.rendered_here:
        return plan
    cells = []
    for cell in plan.cells:
        width, height = cell.settings.width, cell.settings.height
        if store.is_finished(cell.key):
            try:
                with open_picture(store.cell_path(cell.key)) as file:
                    width, height = file.size
            except OSError:
                pass
        cells.append(replace(cell, settings=replace(cell.settings, width=width, height=height)))
    return replace(plan, cells=tuple(cells))


def _of_other_numerics(plan: Plan, store: Store) -> frozenset[str]:
    """The keys of cells made with other versions, on another device or in another precision than
    most.
    """
    made_by = store.numerics()
    classes = {cell.key: made_by[cell.key] for cell in plan.cells if cell.key in made_by}
    if len(set(classes.values())) < 2:
        return frozenset()
    ((usual, _),) = Counter(classes.values()).most_common(1)
    return frozenset(key for key, made in classes.items() if made != usual)


def _content_hash(page: Page, states: dict[str, str], max_width: int) -> str:
    """The hash of everything that a sheet shows."""
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
            f"The sheet {path} cannot be saved: {error.strerror}. Free some space or change the "
            "folder's rights, then queue again."
        ) from error
