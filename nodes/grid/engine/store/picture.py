"""Opening the pictures of a grid's folder, which may have come from anywhere."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .....trainer.files import regular

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "WEBP")
"""What Pillow may read a cell or a sheet as: for some other formats it starts programs."""
MOST_PIXELS = 178_956_970
"""The limit that Pillow sets too, unless another pack has switched that off."""
DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow raises beside OSError when a file is damaged."""


@contextmanager
def open_picture(source: Path | bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """A picture, to be decoded within the block. Raises OSError when it is damaged, has more than
    MOST_PIXELS, or is no regular file.
    """
    from PIL import Image

    name = "The picture" if isinstance(source, bytes) else source.name
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else _file(source) as file,
            Image.open(file, formats=formats) as picture,
        ):
            if picture.width * picture.height > MOST_PIXELS:
                raise OSError(f"{name} has more than {MOST_PIXELS:,} pixels")
            yield picture
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise OSError(f"{name} cannot be read: {error}") from error


def _file(path: Path) -> io.BufferedReader:
    return open(path, "rb", opener=regular)
