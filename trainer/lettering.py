"""Words on pictures: the font, and lines that are broken where they have to be."""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from importlib.util import find_spec
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
    letters = font(size)
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}".strip()
        if letters.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while letters.getlength(word) > width and len(word) > 1:
            fits = _fitting(word, width, letters)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    if line:
        lines.append(line)
    if len(lines) > most_lines:
        last = lines[most_lines - 1]
        while last and letters.getlength(last + "...") > width:
            last = last[:-1]
        lines = [*lines[: most_lines - 1], last.rstrip() + "..."]
    return tuple(lines)


def _fitting(word: str, width: float, letters: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """How many characters of a word that is too long fit on a line, up to a separator if one is
    near.
    """
    fits = 1
    while fits < len(word) and letters.getlength(word[: fits + 1]) <= width:
        fits += 1
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
