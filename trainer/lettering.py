"""Words on pictures: the font, and lines that are broken where they have to be."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import ImageFont

MOST_LINES = 14

NO_CHARACTER = "\U0010fffe"
"""Stands for nothing in any font, which draws a box for it."""

PAPER = (255, 255, 255)
INK = (31, 35, 40)
FAINT = (101, 109, 118)
FRAME = (216, 222, 228)


def wrap(text: str, width: float, size: int, most_lines: int = MOST_LINES) -> tuple[str, ...]:
    """A text in lines of at most `width` pixels; words that are too long are broken.

    Lines beyond `most_lines` are left out, and the last one ends in "...".
    """
    lines = list(islice(broken(text, width, size), most_lines + 1))
    if len(lines) > most_lines:
        last = lines[most_lines - 1]
        while last and length(last + "...", size) > width:
            last = last[:-1]
        lines = [*lines[: most_lines - 1], last.rstrip() + "..."]
    return tuple(lines)


def broken(text: str, width: float, size: int) -> Iterator[str]:
    """The lines of `wrap`, all of them, one by one: a reader who stops early measures no more."""
    line = ""
    for word in text.split():
        joined = f"{line} {word}".strip()
        if length(joined, size) <= width:
            line = joined
            continue
        if line:
            yield line
        while length(word, size) > width and len(word) > 1:
            fits = _fitting(word, width, size)
            yield word[:fits]
            word = word[fits:]
        line = word
    if line:
        yield line


@lru_cache(maxsize=65_536)
def length(text: str, size: int) -> float:
    """The width of a text in pixels. Labels repeat words, and are measured for several layouts."""
    return font(size).getlength(text)


def _fitting(word: str, width: float, size: int) -> int:
    """How many characters of a word that is too long fit on a line, up to a separator if one is
    near.
    """
    longer = range(2, len(word))
    fits = 1 + bisect_right(longer, width, key=lambda count: length(word[:count], size))
    separator = max(word.rfind(mark, 0, fits) for mark in "-_./\\,")
    return separator + 1 if separator >= fits // 2 else fits


def missing_scripts(text: str) -> list[str]:
    """The scripts ("CJK", "HANGUL") of the characters that the font lacks and draws as boxes."""
    found = {
        unicodedata.name(character, "unnamed").split()[0].split("-")[0]
        for character in set(text)
        if not character.isspace() and not _is_drawn(character)
    }
    return sorted(found)


@lru_cache(maxsize=4096)
def _is_drawn(character: str) -> bool:
    letters: Any = font(20)
    return bytes(letters.getmask(character)) != bytes(letters.getmask(NO_CHARACTER))


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return math.ceil(size * 1.3)


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters. Without
    matplotlib, Pillow's own font.
    """
    from PIL import ImageFont

    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
        file = folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size=size)
