"""Pictures on their way to ComfyUI: as IMAGE tensors, and as files that the page shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..trainer.files import sha256_text, write_bytes
from .host import names

if TYPE_CHECKING:
    import torch
    from PIL import Image


def as_image(picture: Image.Image) -> torch.Tensor:
    """A picture as ComfyUI's IMAGE: (1, height, width, 3) fp32 from 0 to 1."""
    import numpy
    import torch

    pixels = numpy.asarray(picture.convert("RGB"), dtype=numpy.float32) / 255.0
    return torch.from_numpy(pixels)[None]


def read_image(path: Path) -> torch.Tensor:
    """A picture file as ComfyUI's IMAGE."""
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as picture:
        return as_image(picture)


def keep_png(picture: Image.Image | bytes, kind: str, content: str) -> dict[str, str]:
    """Keep a picture below `output/cocktail/<kind>`, named by a hash of `content`, and say where,
    as the page wants it.
    """
    path = names.cocktail_dir(kind, f"{sha256_text(content)[:16]}.png")
    if not path.is_file():
        if not isinstance(picture, bytes):
            file = io.BytesIO()
            picture.save(file, "PNG", compress_level=4)
            picture = file.getvalue()
        write_bytes(path, picture)
    return {"filename": path.name, "subfolder": f"cocktail/{kind}", "type": "output"}
