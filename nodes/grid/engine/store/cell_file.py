"""The file of a cell: pixels, the graph that makes them, whose cell it is, and proof that it is
whole.

A PNG has a checksum for every part. A WebP has none, so it ends with a chunk that holds the SHA-256
of everything before it; readers skip chunks that they do not know.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .....trainer import bounded_json
from .....trainer.files import SpecialFile, read_bytes, real
from ..cell.settings import CellSettings
from .picture import open_picture

if TYPE_CHECKING:
    import numpy

PNG, WEBP = "PNG", "WebP lossless"
SUFFIXES = {PNG: ".png", WEBP: ".webp"}

WEBP_SIDE = 16_383
"""The longest side of a WebP."""

PNG_LEVEL = 1
"""Takes half the time of level 4; files are a fifth larger."""

NOTE = "cocktail"
"""The text in a file that names its cell and its numerics class."""

WEBP_CHUNK = b"CKTL"
EXIF_MAKE, EXIF_MODEL, EXIF_SOFTWARE = 0x010F, 0x0110, 0x0131
"""Where ComfyUI looks for the workflow and the prompt in a WebP, and where our note is."""


def format_for(pixels: numpy.ndarray, save_as: str) -> str:
    """The format asked for, or PNG if a picture [height, width, 3] is too large for it."""
    return PNG if max(pixels.shape[:2]) > WEBP_SIDE else save_as


def encode(
    pixels: numpy.ndarray,
    save_as: str,
    cell: CellSettings | None,
    prefix: str,
    note: dict[str, Any] | None = None,
) -> bytes:
    """A file of uint8 pixels [height, width, 3] that carries the graph of `cell`, or none when it
    is None.

    Of a cell of any workflow it carries the API prompt, which the page opens too.
    """
    from PIL import Image

    texts = {} if note is None else {NOTE: json.dumps(note)}
    if cell is not None:
        texts.update({name: json.dumps(graph) for name, graph in cell.graphs(prefix).items()})
    picture = Image.fromarray(pixels)
    return _webp(picture, texts) if save_as == WEBP else _png(picture, texts)


def fault(path: Path, key: str) -> str | None:
    """What is wrong with a cell's file; None if it is whole and does not name another cell."""
    return examine(path, key)[0]


def examine(path: Path, key: str) -> tuple[str | None, dict[str, Any]]:
    """What `fault` says about the file of a cell, and the note in it."""
    try:
        data = read_bytes(real(path))
    except (SpecialFile, ValueError) as error:
        return f"is no picture ({getattr(error, 'strerror', error)})", {}
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        note = _png_note(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        note = _webp_note(data)
    else:
        return "is no picture", {}
    if note is None:
        return "is damaged", {}
    if note.get("key", key) != key:
        return "is another cell's", note
    return None, note


def _png(picture: Any, texts: dict[str, str]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for name, value in texts.items():
        text.add_text(name, value)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=text, compress_level=PNG_LEVEL)
    return file.getvalue()


def _webp(picture: Any, texts: dict[str, str]) -> bytes:
    exif = picture.getexif()
    tags = {"prompt": EXIF_MODEL, "workflow": EXIF_MAKE, NOTE: EXIF_SOFTWARE}
    for name, value in texts.items():
        exif[tags[name]] = f"{name}:{value}"
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=True, quality=0, method=0, exact=True, exif=exif)
    data = file.getvalue()
    chunk = WEBP_CHUNK + struct.pack("<I", 32) + hashlib.sha256(data[12:]).digest()
    return data[:4] + struct.pack("<I", len(data) - 8 + len(chunk)) + data[8:] + chunk


def _png_note(data: bytes) -> dict[str, Any] | None:
    """The note in a PNG, {} without one; None if any part of the file is damaged."""
    at, note = 8, {}
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 12 + length
        if end > len(data):
            return None
        (checksum,) = struct.unpack(">I", data[end - 4 : end])
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != checksum:
            return None
        kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if kind == b"tEXt" and body.startswith(NOTE.encode() + b"\0"):
            note = _json(body.split(b"\0", 1)[1])
        if kind == b"IEND":
            return note if end == len(data) else None
        at = end
    return None


def _webp_note(data: bytes) -> dict[str, Any] | None:
    end = len(data) - 40
    if end < 12 or data[end : end + 8] != WEBP_CHUNK + struct.pack("<I", 32):
        return None
    if hashlib.sha256(memoryview(data)[12:end]).digest() != data[end + 8 :]:
        return None
    try:
        with open_picture(data) as picture:
            text = picture.getexif().get(EXIF_SOFTWARE, "")
    except OSError:
        return None
    if not isinstance(text, str) or not text.startswith(f"{NOTE}:"):
        return {}
    return _json(text.removeprefix(f"{NOTE}:").encode("utf-8", "surrogateescape"))


def _json(text: bytes) -> dict[str, Any]:
    try:
        value = bounded_json.parse(text, 1 << 20)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
