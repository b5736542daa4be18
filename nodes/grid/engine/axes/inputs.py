"""Axes of any input of any node: KSampler.cfg, and one value a line."""

from __future__ import annotations

import re
from typing import Any

from ..errors import GridError
from . import lists
from .axis import Axis, Value, labelled

NUMERIC = re.compile(rf"\s*(?:{lists.NUMBER}|{lists.RANGE.pattern}|\.\.\.?|…)\s*")


def input_axis(target: str, values: Any, labels: str = "") -> Axis:
    """The axis of an input, "NODE.INPUT". Its values are checked when the workflow is known.

    `values` is a text with one a line, where a line of numbers, ranges and commas means numbers and
    a line in quotes is taken literally, or a list of values as JSON has them. Raises GridError.
    """
    found: list[Any] = []
    if isinstance(values, list):
        found = values
    else:
        for number, line in lists.lines(str(values or "")):
            try:
                found += _line(line)
            except GridError as error:
                raise GridError(f"Line {number} of the values: {error}") from None
    if not found:
        raise GridError(f"The axis {target} has no values. Write one a line.")
    short = target.rpartition(".")[2].replace("_", " ")
    named = [Value(_words(short, value), {target: value}) for value in found]
    return Axis(target, target, tuple(labelled(named, labels)))


def _line(line: str) -> list[str]:
    seeds = lists.seeds(line)
    if seeds is not None:
        return seeds
    if all(NUMERIC.fullmatch(part) for part in line.split(",")):
        return lists.numbers(line, whole=False)
    if len(line) > 1 and line[0] == line[-1] == '"':
        return [line[1:-1].replace('""', '"')]
    return [line]


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool | int | float) or (
        isinstance(value, str) and NUMERIC.fullmatch(value)
    ):
        return f"{name} {value}"
    return str(value) or f"no {name}"
