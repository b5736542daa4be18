"""Small copies of a grid's pictures. They are in ComfyUI's temp folder: newer ComfyUIs list what is
in the output folder.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .....trainer.litter import temporary
from ..store.picture import open_picture

if TYPE_CHECKING:
    import numpy
    from PIL import Image

SIDES = (128, 256, 512)
"""The sides of the squares, in pixels, that thumbnails fit into."""
FIRST = 256
"""The one that is made when a cell is written: that of a viewer which was just opened."""
QUALITY = 82
AT_ONCE = threading.BoundedSemaphore(4)
"""Thumbnails that are made at a time: a viewer asks for hundreds, and ComfyUI is at work beside."""


def thumbnail(picture: Path, side: int, folder: Path) -> Path:
    """The WebP file in `folder` of a cell's picture, made unless it is there: at most `side` wide
    and high, one of SIDES. Raises OSError when the picture cannot be read.
    """
    file = _place(picture, side, folder)
    if not file.is_file():
        with AT_ONCE:
            _write(file, read_picture(picture), side)
    return file


def keep(picture: Path, pixels: numpy.ndarray, folder: Path) -> None:
    """Make the first thumbnail in `folder` of a cell that was just written, from its uint8 pixels
    [height, width, 3]. Where that is not possible, it is made when it is asked for.
    """
    from PIL import Image

    with contextlib.suppress(OSError):
        _write(_place(picture, FIRST, folder), Image.fromarray(pixels), FIRST)


def read_picture(path: Path) -> Image.Image:
    """The picture of a cell. Raises OSError when it cannot be read."""
    with open_picture(path) as opened:
        return opened.convert("RGB")


def _place(picture: Path, side: int, folder: Path) -> Path:
    """Where the thumbnail of a picture as it is now belongs."""
    return folder / str(side) / f"{picture.stem}-{picture.stat().st_mtime_ns}.webp"


def _write(file: Path, picture: Image.Image, side: int) -> None:
    """Write a thumbnail whole or not at all. ComfyUI empties the folder when it starts, so that
    nothing is brought to the disk for good.
    """
    from PIL import Image

    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(file)
    try:
        small.save(part, "WEBP", quality=QUALITY)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
