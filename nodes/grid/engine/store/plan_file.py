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

from .....trainer.files import read_bytes
from ..errors import GridError

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

    def positions(self) -> list[list[int]]:
        """The number of every cell's value on each axis."""
        found = [[int(n) for n in numbers.split(b",") if n] for numbers in self._found(POSITION)]
        if len(found) == len(self.keys):
            return found
        return [cell["position"] for cell in json.loads(self._data)["cells"]]

    def cell(self, key: str) -> dict[str, Any] | None:
        """Position, key and settings of a cell."""
        if key not in self.keys:
            return None
        if bounds := _bounds(self._data):
            at = self._data.find(b'\n   "key": ' + json.dumps(key).encode(), *bounds)
            begin, end = self._data.rfind(CELL, 0, at), self._data.find(b"\n  }", at)
            if min(at, begin, end) >= 0:
                return json.loads(self._data[begin : end + len(b"\n  }")])
        return next(cell for cell in json.loads(self._data)["cells"] if cell["key"] == key)

    def _found(self, pattern: re.Pattern[bytes]) -> list[bytes]:
        bounds = _bounds(self._data)
        return pattern.findall(self._data, *bounds) if bounds else []


def read_plan_file(path: Path) -> PlanFile:
    """Raises OSError, and GridError for a file that is damaged."""
    with naming(path):
        data = read_bytes(path)
        return _in_parts(data) or _of_whole(json.loads(data), data)


def read_whole_plan(path: Path) -> dict[str, Any]:
    """The same as one JSON object, with its "cells"."""
    with naming(path):
        data = read_bytes(path)
        plan = json.loads(data)
        _of_whole(plan, data)
        return plan


def _in_parts(data: bytes) -> PlanFile | None:
    """The plan of a file in the layout of this pack, else None."""
    bounds = _bounds(data)
    if bounds is None:
        return None
    begin, end = bounds
    keys = KEY.findall(data, begin, end)
    if not keys or len(keys) != data.count(CELL, begin, end):
        return None
    before, after = data[: begin - len(LISTED[0])], data[end + len(LISTED[1]) :]
    head = json.loads(before + b'\n "cells": []' + after)
    del head["cells"]
    return PlanFile(head, [key.decode() for key in keys], data)


def _bounds(data: bytes) -> tuple[int, int] | None:
    """Where the list of cells begins and ends."""
    begin = data.find(LISTED[0])
    end = data.find(LISTED[1], begin)
    return (begin + len(LISTED[0]), end) if min(begin, end) >= 0 else None


def _of_whole(plan: dict[str, Any], data: bytes) -> PlanFile:
    head = {name: value for name, value in plan.items() if name != "cells"}
    keys = [cell["key"] for cell in plan["cells"]]
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("the key of a cell is not text")
    return PlanFile(head, keys, data)


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
