"""The pictures that a run has drawn on its way, as a strip: prompts are rows, steps are columns."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

FILE = re.compile(r"e(?P<epoch>\d{1,9})-s(?P<step>\d{1,12})(?P<own>-own)?-(?P<number>\d{1,6})\.png")
LONGEST_TEXT = 20_000


@dataclass(frozen=True)
class Drawn:
    """A picture in a run's samples folder: its row and column in the strip."""

    file: str
    prompt: int
    column: int


@dataclass(frozen=True)
class Strip:
    """`columns` are (epoch, step); of prompts with the same words each seed and size has a row."""

    prompts: tuple[str, ...]
    columns: tuple[tuple[int, int], ...]
    pictures: tuple[Drawn, ...]


def strip_of(folder: Path) -> Strip:
    """The pictures in the samples folder of a run; what else is there does not count."""
    try:
        entries = [entry for entry in os.scandir(folder) if FILE.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        entries = []
    found = []
    for entry in entries:
        parts = FILE.fullmatch(entry.name)
        if parts and entry.is_file(follow_symlinks=False):
            text = _parameters(entry.path, entry.stat().st_mtime_ns)
            place = (int(parts["epoch"]), int(parts["step"]))
            found.append((bool(parts["own"]), int(parts["number"]), place, text, entry.name))
    found.sort()
    texts = dict.fromkeys(text for _, _, _, text, _ in found)
    places = sorted({place for _, _, place, _, _ in found}, key=lambda place: place[::-1])
    rows = {text: number for number, text in enumerate(texts)}
    columns = {place: number for number, place in enumerate(places)}
    return Strip(
        tuple(map(prompt_in, texts)),
        tuple(places),
        tuple(Drawn(name, rows[text], columns[place]) for _, _, place, text, name in found),
    )


def prompt_in(parameters: str) -> str:
    """The prompt in a picture's settings as A1111 writes them."""
    words = parameters.rpartition("\nSteps: ")[0]
    return words.rpartition("\nNegative prompt: ")[0] or words


@lru_cache(maxsize=4096)
def _parameters(file: str, changed: int) -> str:
    """The settings in a picture that was last written at `changed`; "" where there are none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=("PNG",)) as picture:
            text = picture.info.get("parameters", "")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return ""
    return text[:LONGEST_TEXT] if isinstance(text, str) else ""
