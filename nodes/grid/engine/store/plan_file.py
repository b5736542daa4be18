"""plan.json of a grid, read in parts: most of it is the settings of its cells, and most readers
need none of them or those of one cell.

The parts are found by the layout in which this pack writes the file. A file in another layout is
read as a whole.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .....trainer import bounded_json
from .....trainer.files import read_bytes
from ..errors import GridError
from ..plan.plan import MOST_CELLS

MOST_BYTES = 128 << 20
MOST_WHOLE_MEMORY = 256 << 20
"""What the values of a whole plan may take: 20,000 cells of 200 settings and links each."""

LISTED = (b'\n "cells": [', b"\n ]")
"""How the list of cells begins and ends. A text in JSON has no line breaks of its own, so this can
only be the list itself.
"""
CELL = b"\n  {\n"
"""How a cell begins."""
KEY = re.compile(rb'\n   "key": "([^"\\]*)",\n')
POSITION = re.compile(rb'\n   "position": \[([\d,\s]*)\],\n')


@dataclass(frozen=True)
class PlanFile:
    """A plan as it was saved."""

    head: dict[str, Any]
    """The plan without its cells."""
    keys: list[str]
    """The key of every cell, in their order."""
    _data: bytes
    """The whole file."""
    _path: Path

    def positions(self) -> list[list[int]]:
        """The number of every cell's value on each axis. Raises GridError if a cell has none."""
        with naming(self._path):
            found = [[int(n) for n in part.split(b",") if n] for part in self._found(POSITION)]
            if len(found) != len(self.keys):
                found = [cell["position"] for cell in _parsed(self._data)["cells"]]
            counts = [len(axis["values"]) for axis in self.head["axes"]]
            for position in found:
                _check_position(position, counts)
        return found

    def cell(self, key: str) -> dict[str, Any] | None:
        """Position, key and settings of a cell."""
        if key not in self.keys:
            return None
        if bounds := _bounds(self._data):
            at = self._data.find(b'\n   "key": ' + json.dumps(key).encode(), *bounds)
            begin, end = self._data.rfind(CELL, 0, at), self._data.find(b"\n  }", at)
            if min(at, begin, end) >= 0:
                return _parsed(self._data[begin : end + len(b"\n  }")])
        return next(cell for cell in _parsed(self._data)["cells"] if cell["key"] == key)

    def _found(self, pattern: re.Pattern[bytes]) -> list[bytes]:
        bounds = _bounds(self._data)
        return pattern.findall(self._data, *bounds) if bounds else []


def read_plan_file(path: Path) -> PlanFile:
    """Raises OSError, and GridError for a file that is damaged."""
    with naming(path):
        data = read_bytes(path, MOST_BYTES)
        plan = _in_parts(data, path) or _of_whole(_parsed(data), data, path)
        _check_axes(plan.head.setdefault("axes", []))
        return plan


def read_whole_plan(path: Path) -> dict[str, Any]:
    """The same as one JSON object, with its "cells"."""
    with naming(path):
        data = read_bytes(path, MOST_BYTES)
        plan = _parsed(data, MOST_WHOLE_MEMORY)
        _check_axes(_of_whole(plan, data, path).head.get("axes", []))
        return plan


def _in_parts(data: bytes, path: Path) -> PlanFile | None:
    """The plan of a file in the layout of this pack, else None."""
    bounds = _bounds(data)
    if bounds is None:
        return None
    begin, end = bounds
    count = data.count(CELL, begin, end)
    _check_count(count, path)
    keys = KEY.findall(data, begin, end)
    if not keys or len(keys) != count:
        return None
    before, after = data[: begin - len(LISTED[0])], data[end + len(LISTED[1]) :]
    head = _parsed(before + b'\n "cells": []' + after)
    del head["cells"]
    return PlanFile(head, [key.decode() for key in keys], data, path)


def _parsed(data: bytes, most_memory: int = bounded_json.MOST_MEMORY) -> Any:
    return bounded_json.parse(data, MOST_BYTES, most_memory, bounded_json.DEEP)


def _bounds(data: bytes) -> tuple[int, int] | None:
    """Where the list of cells begins and ends."""
    begin = data.find(LISTED[0])
    end = data.find(LISTED[1], begin)
    return (begin + len(LISTED[0]), end) if min(begin, end) >= 0 else None


def _of_whole(plan: dict[str, Any], data: bytes, path: Path) -> PlanFile:
    head = {name: value for name, value in plan.items() if name != "cells"}
    _check_count(len(plan["cells"]), path)
    keys = [cell["key"] for cell in plan["cells"]]
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("the key of a cell is not text")
    return PlanFile(head, keys, data, path)


def _check_count(count: int, path: Path) -> None:
    if count > MOST_CELLS:
        raise GridError(
            f"plan.json of the grid {path.parent.name} has {count:,} cells, and {MOST_CELLS:,} is "
            "the most that is read. Make several grids of it."
        )


def _check_axes(axes: Any) -> None:
    """Raise ValueError unless every axis has a target, a label, and values that set something."""
    if not isinstance(axes, list):
        raise ValueError("its axes are no list")
    for axis in axes:
        texts = (axis["target"], axis["label"], *(value["label"] for value in axis["values"]))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a target or label of an axis is not text")
        if not all(isinstance(value["set"], dict) for value in axis["values"]):
            raise ValueError("a value of an axis sets nothing")


def _check_position(position: Any, counts: list[int]) -> None:
    """Raise ValueError unless it names one of the values on each axis, of which there are so
    many.
    """
    if not (
        isinstance(position, list)
        and len(position) == len(counts)
        and all(
            type(at) is int and 0 <= at < most for at, most in zip(position, counts, strict=True)
        )
    ):
        raise ValueError("the position of a cell is not one on the axes")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of what is in a plan's file as a GridError that names the grid."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise GridError(
            f"plan.json of the grid {path.parent.name} is damaged ({error}). Queue the grid again "
            "to write a new one."
        ) from None
