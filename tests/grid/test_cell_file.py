"""The file of a cell: what it carries, and that no damage goes unnoticed."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.engine.store.cell_file import PNG, SUFFIXES, WEBP, encode, fault

from .test_plan import SETTINGS

PIXELS = numpy.random.default_rng(1).integers(0, 256, (24, 16, 3), dtype=numpy.uint8)
KEY = "ab" * 32


def data(save_as: str, key: str = KEY) -> bytes:
    return encode(PIXELS, save_as, SETTINGS, "cell", {"key": key, "numerics": "abc"})


def texts(save_as: str) -> dict[str, str]:
    """The texts of a file, found where the page looks for them."""
    picture = Image.open(io.BytesIO(data(save_as)))
    if save_as == PNG:
        return picture.info
    return dict(picture.getexif()[tag].split(":", 1) for tag in (0x0110, 0x010F))


@pytest.mark.parametrize("save_as", SUFFIXES)
def test_a_file_carries_both_graphs_and_its_pixels(save_as: str):
    with Image.open(io.BytesIO(data(save_as))) as picture:
        assert numpy.array_equal(numpy.asarray(picture.convert("RGB")), PIXELS)
    assert json.loads(texts(save_as)["prompt"]) == SETTINGS.api_prompt("cell")
    assert json.loads(texts(save_as)["workflow"]) == SETTINGS.ui_workflow("cell")


def test_a_file_without_graphs_says_nothing():
    picture = Image.open(io.BytesIO(encode(PIXELS, PNG, None, "")))
    picture.load()
    assert picture.info == {}
    assert not Image.open(io.BytesIO(encode(PIXELS, WEBP, None, ""))).getexif()


@pytest.mark.parametrize("save_as", SUFFIXES)
def test_a_whole_file_has_no_fault(save_as: str, tmp_path: Path):
    path = tmp_path / "cell"
    path.write_bytes(data(save_as))
    assert fault(path, KEY) is None
    assert fault(path, "cd" * 32) == "is another cell's"
    path.write_bytes(encode(PIXELS, save_as, None, ""))
    assert fault(path, KEY) is None


@pytest.mark.parametrize("save_as", SUFFIXES)
def test_every_damage_is_noticed(save_as: str, tmp_path: Path):
    path, whole = tmp_path / "cell", data(save_as)
    chance = random.Random(3)
    broken = [
        b"",
        b"text",
        whole[:-1],
        whole + b"\0",
        *(whole[: chance.randrange(len(whole))] for _ in range(50)),
    ]
    for _ in range(200):
        at = chance.randrange(len(whole))
        broken.append(
            whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
        )
    for content in broken:
        path.write_bytes(content)
        assert fault(path, KEY) is not None
