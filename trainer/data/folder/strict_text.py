"""Text, JSON and YAML that somebody else wrote, read strictly and with limits on size and depth."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ... import bounded_json

MAX_DEPTH = 20
MAX_VALUES = 60_000
"""Larger YAML is not read: it takes a hundred times as much memory as JSON."""
MAX_TEXT_BYTES = 1 << 20
"""Larger files of captions and settings are not read."""
MAX_JSON_BYTES = 32 << 20
"""Larger lists of pairs in one JSON value are not read: parsed, they would take about ten times as
much memory.
"""


class Unreadable(Exception):
    """Why a text cannot be read. Others may have the same `reason`; `detail` is about this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


def read_text(file: Path, what: str = "the caption", most_bytes: int = MAX_TEXT_BYTES) -> str:
    """The UTF-8 text of a file, without byte order marks. Raises Unreadable, which calls the text
    `what`.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(most_bytes + 1)
    except OSError as error:
        raise Unreadable(f"{what} cannot be read", f"{file.name}: {error.strerror}") from error
    if len(data) > most_bytes:
        raise Unreadable(f"{what} is too large", f"{file.name}, more than {most_bytes:,} bytes")
    return decode(data, file.name, what)


def decode(data: bytes, name: str, what: str = "the caption") -> str:
    """Bytes as UTF-8 text, without byte order marks. Raises Unreadable."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            raise Unreadable(f"{what} is not UTF-8", f"{name} is {encoding}; save it as UTF-8")
    try:
        text = data.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        where = f"{name}, byte {data[error.start]:#04x} at {error.start}; save it as UTF-8"
        raise Unreadable(f"{what} is not UTF-8", where) from error
    if "\0" in text:
        raise Unreadable(
            f"{what} contains NUL characters", f"{name}; if it is UTF-16, save it as UTF-8"
        )
    return text


MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def parse_json(text: str) -> Any:
    """A JSON value. Raises ValueError, which says what and where, also for NaN and for an object
    with the same key twice.
    """
    try:
        return bounded_json.parse(
            text,
            MAX_JSON_BYTES,
            parse_constant=_no_constant,
            object_pairs_hook=_no_key_twice,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"it is not JSON: {error.msg} at {where}") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"it has {name}, which is not a number in JSON")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"it has the key {_twice(key for key, _ in pairs)!r} twice")
    return values


def _twice(keys: Iterable[str]) -> str | None:
    """The first key that is there again; None if each is there once."""
    seen: set[str] = set()
    return next((key for key in keys if key in seen or seen.add(key)), None)


def parse_yaml(text: str) -> Any:
    """A YAML value of plain types. Raises ValueError, which says what and where, also for aliases,
    tags and a mapping with the same key twice.

    The parser's events are checked first: what is built from them could be too large (aliases of
    aliases) or too deep for the stack.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth, count = 0, 0
    try:
        for event in yaml.parse(text, Loader=loader):
            where = f"line {event.start_mark.line + 1}"
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(
                    f"it has an alias (*{event.anchor} in {where}); write out the value"
                )
            if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                depth += 1
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                depth -= 1
            count += isinstance(event, yaml.NodeEvent)
            if count > MAX_VALUES:
                raise ValueError(f"it has more than {MAX_VALUES:,} values ({where})")
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested too deeply ({where})")
            tag = getattr(event, "tag", None)
            if tag not in (None, "!"):
                raise ValueError(f"it has a tag ({tag} in {where}); write plain values")
        reader = loader(text)
        node = reader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            twice = _twice(str(key.value) for key, _ in node.value)
            if twice is not None:
                raise ValueError(f"it has the key {twice!r} twice")
        return None if node is None else reader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        # Newer parsers have a limit of their own and reach it before they deliver an event.
        if mark and "nesting depth" in (error.problem or ""):
            raise ValueError(f"it is nested too deeply (line {mark.line + 1})") from error
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"it is not YAML: {error.problem}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error
