"""Image files to RGB pictures of the size that a bucket wants."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TrainerError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded (Pillow's own limit against decompression bombs)."""
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
)


def open_rgb(
    source: Path | bytes, cover: tuple[int, int] | None = None, background: str = "#ffffff"
) -> Image.Image:
    """The first frame of a picture, upright, in RGB; transparency becomes `background` (#rrggbb), 16 bits become 8.

    With `cover` (width, height) a JPEG may be decoded at a half, quarter or eighth, not below that size.
    Raises TrainerError when the file is no picture, damaged or larger than MAX_PIXELS.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise TrainerError(
                        f"it has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read"
                    )
                if cover and image.format == "JPEG":
                    image.draft("RGB", (max(cover), max(cover)))
                return _rgb(ImageOps.exif_transpose(image), background)
    except TrainerError:
        raise
    except UnidentifiedImageError as error:
        raise TrainerError("it is not a picture of a known format") from error
    except Exception as error:
        raise TrainerError(f"it does not decode: {error}") from error


def _rgb(image: Image.Image, background: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, background), layer).convert(
            "RGB"
        )
    return image.convert("RGB")


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled (Lanczos) until it covers width x height, then cropped to that around its centre."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
