"""Copies of a grid's pictures, small enough for a page that is sent around."""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from .reading import Unreadable, read_bytes

FORMATS = ("PNG", "WEBP")
"""What Pillow may open: for some other formats it starts programs."""
MOST_PIXELS = 64_000_000
LARGEST_FILE = 256 << 20
LONGEST_SIDE = 768
LARGEST_COPY = 200_000
QUALITIES = (88, 80, 70, 60, 45, 30)
SMALL = 160
"""Pixels of a side up to which a picture is shown enlarged, each pixel as a square."""
THUMBNAIL = 512


@dataclass(frozen=True)
class Picture:
    """A copy as WebP; `file` is its name in the card's folder, `original` the SHA-256 of the file
    that it was made of.
    """

    file: str
    data: bytes
    width: int
    height: int
    original: str
    key: str
    grid: str
    source: str
    """The original, relative to the folder of grids."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def address(self) -> str:
        """The picture as a data URI."""
        return "data:image/webp;base64," + base64.b64encode(self.data).decode("ascii")


def copy(path: Path, file: str, key: str, grid: str, source: str) -> Picture:
    """A copy of at most LONGEST_SIDE pixels a side and LARGEST_COPY bytes. Raises Unreadable."""
    data = read_bytes(path, LARGEST_FILE)
    small, width, height = _reduced(data, LONGEST_SIDE, "WEBP")
    return Picture(file, small, width, height, hashlib.sha256(data).hexdigest(), key, grid, source)


def thumbnail(picture: Picture) -> bytes:
    """A JPEG of at most THUMBNAIL pixels a side, as model sites and managers take it."""
    return _reduced(picture.data, THUMBNAIL, "JPEG")[0]


def _reduced(data: bytes, side: int, kind: str) -> tuple[bytes, int, int]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise Unreadable("it has more than 64 million pixels")
                picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError):
        raise Unreadable("it is no picture, or damaged") from None
    picture.thumbnail((side, side))
    found = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        picture.save(file, kind, quality=quality)
        found = file.getvalue()
        if len(found) <= LARGEST_COPY:
            break
    return found, picture.width, picture.height
