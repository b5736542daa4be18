"""Axes of any input of any node: KSampler.cfg, and one value per line."""

from __future__ import annotations

import re
from typing import Any

from ..errors import GridError
from . import lists
from .axis import Axis, Value, labelled

NUMERIC = re.compile(rf"\s*(?:{lists.NUMBER}|{lists.RANGE.pattern}|\.\.\.?|…)\s*")


def input_axis(
    target: str, values: Any, labels: str = "", kind: Any = None, search: str = ""
) -> Axis:
    """The axis of an input, "NODE.INPUT". Its values are checked when the workflow is known.

    `values` is a text with one per line, or a list of values as JSON has them. A line is read by
    the input's type, `kind`, as `node_inputs.specs` gives it: as a text, as numbers and ranges, or,
    for other types and where none is known, as numbers if it looks like them. A line in quotes is
    taken literally. With `search`, each value replaces these words in the input's text. Raises
    GridError.
    """
    found: list[Any] = []
    if isinstance(values, list):
        found = values
    else:
        for number, line in lists.lines(str(values or "")):
            try:
                found += _line(line, "STRING" if search else kind)
            except GridError as error:
                raise GridError(f"Line {number} of the values: {error}") from None
    if not found:
        raise GridError(f"The axis {target} has no values. Write one per line.")
    if search:
        name = f"{target}: {search}"
        named = [_replacing(target, search, text) for text in found]
    else:
        name, short = target, target.rpartition(".")[2].replace("_", " ")
        named = [Value(_words(short, value, kind), {target: value}) for value in found]
    return Axis(name, name, tuple(labelled(named, labels)))


def _line(line: str, kind: Any) -> list[str]:
    if kind == "STRING":
        return lists.texts(line)
    if kind in ("INT", "FLOAT"):
        return _numbers(line, kind == "INT")
    seeds = lists.seeds(line)
    if seeds is not None:
        return seeds
    is_choice = isinstance(kind, list) and line in map(str, kind)
    if not is_choice and all(NUMERIC.fullmatch(part) for part in line.split(",")):
        return lists.numbers(line, whole=False)
    return lists.texts(line)


def _numbers(line: str, whole: bool) -> list[str]:
    return [_plain(text) for text in lists.seeds(line) or lists.numbers(line, whole)]


def _plain(text: str) -> str:
    """A number as the input takes it; 3/5 and 60% become 0.6."""
    try:
        value = lists.number(text)
    except ValueError:
        raise GridError(
            f"the input takes a number, not {text!r}. Write numbers with commas, or a range: "
            "1-5, 0.5-1 (+0.1), 0-10 [6], 1, 2, .., 8."
        ) from None
    if "/" not in text and "%" not in text:
        return text
    return str(int(value)) if value.is_integer() else repr(value)


def _replacing(target: str, search: str, text: Any) -> Value:
    if not isinstance(text, str):
        raise GridError(f"{text!r} cannot take the place of {search!r}: it is no text.")
    return Value(text or f"without {search}", {target: {"search": search, "replace": text}})


def _words(name: str, value: Any, kind: Any) -> str:
    is_number = isinstance(value, bool | int | float) or (
        isinstance(value, str) and kind != "STRING" and NUMERIC.fullmatch(value)
    )
    return f"{name} {value}" if is_number else str(value) or f"no {name}"
