"""Records of a table that could not be read: how many, with line and reason of the first ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...files import literal
from .table import MAX_FIELD, MAX_RECORD_BYTES, Table, blocks, identifier

KEPT = 1000
TOO_LONG = f"more than {MAX_FIELD:,} characters, the most that are taken"


@dataclass(frozen=True)
class Reject:
    """A record that could not be read. `line` is where it begins in the unpacked file, counted from
    1, or its row where `unit` says so; `column` may be "".
    """

    line: int
    column: str
    reason: str
    unit: str = "line"

    def __str__(self) -> str:
        where = f", column {self.column}" if self.column else ""
        return f"{self.unit} {self.line}{where}: {self.reason}"


@dataclass(frozen=True)
class Rejects:
    """How many records could not be read, and the first thousand of them. `gaps` says where
    records are missing among those that DuckDB delivered: behind how many of them, and how many.

    A damaged last line of a JSONL file is missing here if it has no line end and lies across two
    buffers of 16 MiB.
    """

    count: int = 0
    first: tuple[Reject, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()


def with_gap(gaps: list[tuple[int, int]], place: int) -> None:
    """Count a record that is missing behind `place` delivered ones."""
    if gaps and gaps[-1][0] == place:
        gaps[-1] = (place, gaps[-1][1] + 1)
    else:
        gaps.append((place, 1))


def read_rejects(connection: Any, table: Table, unreadable: str, cells: Sequence[str]) -> Rejects:
    """What DuckDB skipped on this connection of these columns, and the rows that are not
    `readable`.

    `unreadable` is the SQL of a relation of those rows; its `rowid` numbers the rows that DuckDB
    delivered. Of a CSV or TSV file with damage, only the count is sure to be above 0.
    """
    count, noted = _noted(connection, table)
    lines = dict(zip(_lines(table, list(noted)), noted.values(), strict=True)) if noted else {}
    first = tuple(Reject(line, *why) for line, why in lines.items())
    (more,) = connection.execute(f"SELECT count(*) FROM {unreadable}").fetchone()
    if more and table.format in ("jsonl", "parquet"):
        rows = connection.execute(
            f"SELECT rowid FROM {unreadable} ORDER BY rowid LIMIT {KEPT}"
        ).fetchall()
        numbers = [number for (number,) in rows]
        is_jsonl = table.format == "jsonl"
        first = (
            _walk(table, lines, {*numbers})
            if is_jsonl
            else _long_rows(connection, table, numbers, cells)
        )
    gaps = _gaps(connection, table) if count and table.format == "jsonl" else ()
    return Rejects(count + more, first, gaps)


def _long_rows(
    connection: Any, table: Table, numbers: Sequence[int], cells: Sequence[str]
) -> tuple[Reject, ...]:
    """The first rows of a Parquet file that have a field which is too long."""
    is_long = " ".join(
        f"WHEN length(CAST({identifier(cell)} AS VARCHAR)) > {MAX_FIELD} THEN {place}"
        for place, cell in enumerate(cells)
    )
    places = connection.execute(
        f"SELECT long FROM (SELECT CASE {is_long} END AS long"
        " FROM read_parquet(?, hive_partitioning = false))"
        f" WHERE long IS NOT NULL LIMIT {KEPT}",
        [literal(table.path)],
    ).fetchall()
    return tuple(
        Reject(number + 1, cells[int(place)], TOO_LONG, "row")
        for number, (place,) in zip(numbers, places, strict=True)
    )


def _gaps(connection: Any, table: Table) -> tuple[tuple[int, int], ...]:
    """The gaps that the lines leave which DuckDB skipped in a JSONL file."""
    places = connection.execute(
        "SELECT DISTINCT line_byte_position FROM reject_errors ORDER BY line_byte_position"
    ).fetchall()
    skipped = set(_lines(table, [place - 1 for (place,) in places]))
    gaps: list[tuple[int, int]] = []
    number = 0
    for line, text in enumerate(_text_lines(table), start=1):
        if line in skipped:
            with_gap(gaps, number)
        elif text.strip(b" \t\r\n"):
            number += 1
    return tuple(gaps)


def _noted(connection: Any, table: Table) -> tuple[int, dict[int, tuple[str, str]]]:
    """How many records DuckDB skipped; column and reason of the first ones by their position in
    bytes.
    """
    (known,) = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'"
    ).fetchone()
    if not known:
        return 0, {}
    (count,) = connection.execute(
        "SELECT count(DISTINCT line_byte_position) FROM reject_errors"
    ).fetchone()
    rows = connection.execute(
        "SELECT line_byte_position, min(column_idx),"
        " arg_min(error_message, coalesce(column_idx, 0)) FROM reject_errors"
        f" GROUP BY line_byte_position ORDER BY line_byte_position LIMIT {KEPT}"
    ).fetchall()
    # DuckDB counts bytes from 1, and from the line feed of a CRLF before the record.
    return count, {place - 1: (_column(table, column), _reason(why)) for place, column, why in rows}


def _column(table: Table, place: int | None) -> str:
    if table.format == "jsonl" or not place or place > len(table.columns):
        return ""
    return table.columns[place - 1]


def _reason(message: str) -> str:
    first = (message or "").split("\n", 1)[0].strip()
    if first.startswith("Invalid unicode"):
        return "not UTF-8"
    if first.startswith("Maximum line size"):
        return f"longer than {MAX_RECORD_BYTES} bytes"
    return first


def _lines(table: Table, places: list[int]) -> list[int]:
    """The line, from 1, of each position in bytes, ascending. A position on empty lines belongs to
    the line after them.
    """
    lines: list[int] = []
    line, offset, newline = 1, 0, b""
    for block in blocks(table):
        newline = newline or (b"\n" if b"\n" in block else b"\r")
        counted = 0
        while len(lines) < len(places) and places[len(lines)] < offset + len(block):
            place = places[len(lines)] - offset
            while block[place : place + 1] in (b"\r", b"\n"):
                place += 1
            line += block.count(newline, counted, place)
            counted = place
            lines.append(line)
        if len(lines) == len(places):
            break
        line += block.count(newline, counted)
        offset += len(block)
    return lines + [line] * (len(places) - len(lines))


def _walk(
    table: Table, noted: dict[int, tuple[str, str]], unreadable: set[int]
) -> tuple[Reject, ...]:
    """The first lines of a JSONL file that DuckDB noted, or delivered as `unreadable` (numbers in
    the order of delivery).
    """
    found: list[Reject] = []
    number = 0
    for line, text in enumerate(_text_lines(table), start=1):
        if line in noted:
            found.append(Reject(line, *noted[line]))
        elif text.strip(b" \t\r\n"):
            if number in unreadable:
                found.append(Reject(line, *_why_not(text, table.columns)))
            number += 1
        if len(found) == min(KEPT, len(noted) + len(unreadable)):
            break
    return tuple(found)


def _why_not(line: bytes, columns: Sequence[str]) -> tuple[str, str]:
    """The column and the reason of a line of a JSONL file that is not readable."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return "", "not a JSON object"
    long = (name for name in columns if len(str(value.get(name) or "")) > MAX_FIELD)
    return next(long, ""), TOO_LONG


def _text_lines(table: Table) -> Iterator[bytes]:
    rest = b""
    for block in blocks(table):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest
