"""The contact sheet of the pictures that are farthest from the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .....trainer.lettering import FAINT, FRAME, INK, PAPER, line_height, wrap
from .....trainer.lettering import font as letters
from ..store.picture import open_picture
from ..store.store import Store
from ..vote.field import Field
from .baseline import Difference

if TYPE_CHECKING:
    from PIL import Image

SIDE = 256
"""Pixels of the longer side of a picture on the sheet."""
GAP = 12
FONT = 13
LINES = 3
COLUMNS = 2
"""Trios, of baseline, picture and difference, beside each other."""


def largest(found: Sequence[Difference], most: int) -> list[Difference]:
    """The largest differences, without those of 0."""
    ordered = sorted(found, key=lambda one: -one.mean)
    return [one for one in ordered if one.mean > 0][:most]


def contact_sheet(
    field: Field, baseline: int, store: Store, shown: Sequence[Difference], gain: float
) -> Image.Image:
    """Trios of the baseline's picture, the other one, and their difference times `gain`, in the
    order of `shown`.
    """
    from PIL import Image, ImageDraw

    trio = 3 * SIDE + 2 * GAP // 3
    block = SIDE + (LINES + 1) * line_height(FONT) + GAP
    columns = min(COLUMNS, max(1, len(shown)))
    rows = -(-max(1, len(shown)) // columns)
    heading = f"Farthest from {field.candidates[baseline].label}: baseline, picture, difference x "
    title = wrap(f"{heading}{gain:g}", columns * (trio + GAP) - GAP, FONT + 2, 2)
    top = GAP + len(title) * line_height(FONT + 2) + GAP
    size = (GAP + columns * (trio + 2 * GAP), top + rows * block)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for at, line in enumerate(title):
        height = GAP + at * line_height(FONT + 2)
        pen.text((GAP, height), line, INK, letters(FONT + 2, bold=True))
    if not shown:
        pen.text((GAP, top), "No picture differs from the baseline's.", FAINT, letters(FONT))
    for number, one in enumerate(shown):
        row, column = divmod(number, columns)
        x, y = GAP + column * (trio + 2 * GAP), top + row * block
        for at, picture in enumerate(_trio(store, one, gain)):
            left = x + at * (SIDE + GAP // 3) + (SIDE - picture.width) // 2
            above = y + (SIDE - picture.height) // 2
            pen.rectangle(
                (left - 1, above - 1, left + picture.width, above + picture.height), FRAME
            )
            sheet.paste(picture, (left, above))
        words = ", ".join(text for text in field.places[one.place].labels.values() if text)
        lines = (
            f"{one.mean:.2f} of 255: {field.candidates[one.candidate].label}",
            *wrap(words, trio, FONT, LINES),
        )
        for at, line in enumerate(lines):
            ink = FAINT if at else INK
            text = wrap(line, trio, FONT, 1)
            where = (x, y + SIDE + 4 + at * line_height(FONT))
            pen.text(where, text[0] if text else "", ink, letters(FONT))
    return sheet


def _trio(store: Store, one: Difference, gain: float) -> list[Image.Image]:
    from PIL import Image, ImageChops

    pictures = []
    for key in (one.baseline, one.key):
        with open_picture(store.cell_path(key)) as file:
            pictures.append(file.convert("RGB"))
    difference = ImageChops.difference(*pictures)
    pictures.append(difference.point([min(255, round(gain * n)) for n in range(256)] * 3))
    scale = SIDE / max(pictures[0].size)
    size = tuple(max(1, round(scale * side)) for side in pictures[0].size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return [picture.resize(size, how) for picture in pictures]
