"""Folders of real pictures, with captions and settings, made in a few lines each."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from cocktail.trainer.data.folder.folder import LoadReport, load_folder
from cocktail.trainer.data.manifest import Dataset, Pair


def picture(folder: Path, name: str, mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Path:
    """A small picture of one colour that depends on its name, so that no two are the same."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = zlib.crc32(name.encode())
    colour = (mark & 255, mark >> 8 & 255, mark >> 16 & 255)
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


def bomb(folder: Path, name: str) -> None:
    """A PNG of one pixel that says it has 400 million."""
    data = bytearray(picture(folder, name, size=(1, 1)).read_bytes())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (folder / name).write_bytes(data)


def text(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def jsonl(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    return text(folder, name, "".join(json.dumps(row) + "\n" for row in rows))


def load(folder: Path, **options: Any) -> tuple[Dataset, LoadReport]:
    return load_folder(folder, "input/few", **{"on_problem": "skip", **options})


def by_image(dataset: Dataset) -> dict[str, Pair]:
    assert len({pair.image for pair in dataset.pairs}) == len(dataset.pairs)
    return {pair.image: pair for pair in dataset.pairs}
