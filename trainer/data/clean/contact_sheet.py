"""A contact sheet: pictures of a dataset with their captions, to be looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import TrainerError
from ...files import sha256_text
from ...lettering import FAINT, FRAME, INK, PAPER, font, line_height, wrap
from ..image import open_rgb
from ..manifest import TRAIN, Dataset, Pair

if TYPE_CHECKING:
    from PIL import Image

ORDERS = ("drawn by seed", "as in the dataset", "longest caption", "smallest", "most elongated")
CAPTION_LINES = 4
GAP = 12
FONT = 13


def choose_pairs(dataset: Dataset, count: int, order: str, seed: int) -> list[Pair]:
    """The pairs that a sheet shows; "drawn by seed" draws the same ones every time."""
    pairs = list(dataset.pairs)
    if order == "drawn by seed":
        pairs.sort(key=lambda pair: sha256_text(f"{seed}/sheet/{pair.id}"))
    elif order == "longest caption":
        pairs.sort(key=lambda pair: -len(pair.caption))
    elif order == "smallest":
        pairs.sort(key=lambda pair: pair.width * pair.height)
    elif order == "most elongated":
        pairs.sort(key=lambda pair: -abs(math.log(pair.width / pair.height)))
    return pairs[:count]


def contact_sheet(
    dataset: Dataset,
    count: int = 40,
    columns: int = 8,
    side: int = 192,
    order: str = ORDERS[0],
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    may_read: Callable[[Path], bool] = lambda file: True,
) -> Image.Image:
    """One picture with `count` pairs in rows of `columns`, each within side x side pixels above its
    size and caption. `title` replaces the usual one, `facts` the size by what is said of a pair's
    id.

    Pictures are decoded one at a time. Where one can no longer be read, or `may_read` does not
    allow its file, the sheet says so.
    """
    from PIL import Image, ImageDraw

    pairs = choose_pairs(dataset, count, order, seed)
    if not pairs:
        raise TrainerError(f"{dataset.name} has no pairs to show.")
    columns = min(columns, len(pairs))
    line = line_height(FONT)
    captions = [wrap(pair.caption, side, FONT, CAPTION_LINES) for pair in pairs]
    rows = [captions[start : start + columns] for start in range(0, len(pairs), columns)]
    heights = [side + line * (max(map(len, row)) + 1) + GAP for row in rows]
    title = title or f"{dataset.name}: {len(pairs)} of {len(dataset.pairs)} pairs, {order}"
    width = GAP + columns * (side + GAP)
    heading = wrap(title, width - 2 * GAP, FONT + 3, 3)
    top = GAP + line_height(FONT + 3) * len(heading) + GAP
    sheet = Image.new("RGB", (width, top + sum(heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, words in enumerate(heading):
        pen.text((GAP, GAP + number * line_height(FONT + 3)), words, INK, font(FONT + 3, bold=True))
    for place, (pair, caption) in enumerate(zip(pairs, captions, strict=True)):
        row, column = divmod(place, columns)
        x, y = GAP + column * (side + GAP), top + sum(heights[:row])
        tile = _tile(dataset, pair, side, may_read)
        left, upper = x + (side - tile.width) // 2, y + side - tile.height
        pen.rectangle((left - 1, upper - 1, left + tile.width, upper + tile.height), FRAME)
        sheet.paste(tile, (left, upper))
        said = (facts or {}).get(pair.id) or _facts(pair)
        (line_of_facts,) = wrap(said, side, FONT - 2, most_lines=1)
        pen.text((x, y + side + 2), line_of_facts, FAINT, font(FONT - 2))
        for number, words in enumerate(caption, start=1):
            pen.text((x, y + side + 2 + number * line), words, INK, font(FONT))
        if progress:
            progress(place + 1, len(pairs))
    return sheet


def _facts(pair: Pair) -> str:
    facts = [f"{pair.width} x {pair.height}"]
    if pair.weight != 1:
        facts.append(f"x {pair.weight:g}")
    if pair.split != TRAIN:
        facts.append(pair.split)
    return " · ".join(facts)


def _tile(dataset: Dataset, pair: Pair, side: int, may_read: Callable[[Path], bool]) -> Image.Image:
    """A picture made to fit into side x side, or a tile that says why there is none."""
    from PIL import Image

    file = dataset.path(pair)
    if not may_read(file):
        return _blank(side, "not in a folder\nfor datasets")
    try:
        image = open_rgb(file, (side, side), dataset.background)
    except (TrainerError, OSError):
        return _blank(side, "cannot be read")
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _blank(side: int, words: str) -> Image.Image:
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (side, side), FRAME)
    where = (side / 2, side / 2)
    ImageDraw.Draw(tile).text(where, words, INK, font(FONT), anchor="mm", align="center")
    return tile
