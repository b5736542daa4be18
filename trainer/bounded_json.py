"""JSON that may come from anywhere, measured before it is parsed: how deep it is nested, and about
how much memory its values would take, which may be thirty times its length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .files import read_bytes

MOST_DEPTH, DEEP = 64, 400
"""How deep values are nested: those of states, and those in which recipes may stand."""
MOST_MEMORY = 96 << 20
"""Bytes that the values may take, by the estimate below."""
VALUE_BYTES, LIST_BYTES, OBJECT_BYTES = 40, 90, 250
"""What they take in memory, about."""
MOST_DIGITS = 300
"""A whole number with more of them is none that anybody counts or measures with: as a float it
would be infinite.
"""
BLOCK = 1 << 20
_DIGITS = bytes(48 if 48 <= byte < 58 else 32 for byte in range(256))
_NO_MARKS = bytes(byte for byte in range(256) if byte not in b"[]{},")
_BRACKETS = bytes.maketrans(b"{}", b"[]")


def parse(
    data: bytes | str,
    most_bytes: int = 32 << 20,
    most_memory: int = MOST_MEMORY,
    most_depth: int = MOST_DEPTH,
    **how: Any,
) -> Any:
    """A JSON value, read as `json.loads` does with the hooks in `how`. Raises ValueError, which
    says what is wrong.
    """
    encoded = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if len(encoded) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes / 1e6:.3g} MB")
    check(encoded, most_memory, most_depth)
    if b"0" * (MOST_DIGITS + 1) in encoded.translate(_DIGITS):
        how.setdefault("parse_int", _whole)
    try:
        return json.loads(encoded.decode("utf-8-sig") if data is encoded else data, **how)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read(
    path: Path,
    most_bytes: int = 32 << 20,
    most_memory: int = MOST_MEMORY,
    most_depth: int = MOST_DEPTH,
) -> Any:
    """The value in a regular file. Raises OSError and ValueError."""
    return parse(read_bytes(path, most_bytes), most_bytes, most_memory, most_depth)


def check(data: bytes, most_memory: int, most_depth: int) -> None:
    """Raise ValueError for JSON that is nested too deeply or holds too many values."""
    marks = _marks(data)
    values, lists, objects = (marks.count(mark) for mark in (b",", b"[", b"{"))
    if VALUE_BYTES * values + LIST_BYTES * lists + OBJECT_BYTES * objects > most_memory:
        raise ValueError(f"it holds too many values ({values + lists + objects:,})")
    left = marks.translate(_BRACKETS, b",")
    too_deep = b"[" * (most_depth + 1)
    for _ in range(most_depth):
        if not left:
            return
        if too_deep in left:
            break
        left = left.replace(b"[]", b"")
    if b"[]" in left or left.count(b"[") > most_depth:
        raise ValueError("it is nested too deeply")


def _marks(data: bytes) -> bytes:
    """The brackets, braces and commas that stand in no text."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    found, in_text = [], False
    for begin in range(0, len(data), BLOCK):
        pieces = data[begin : begin + BLOCK].split(b'"')
        found.append(b"".join(pieces[in_text::2]).translate(None, _NO_MARKS))
        in_text ^= len(pieces) % 2 == 0
    return b"".join(found)


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it holds a whole number of {len(text)} digits")
    return int(text)
