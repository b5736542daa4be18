"""The whole records of a CSV or TSV file in which some are damaged, copied for DuckDB to read, and
the damaged ones listed.

DuckDB itself, when it is lenient, cuts fields off, drops the last letter of a field and takes all
that follows an open quote for one field, without noting it. When it is strict, it can go on at a
wrong place behind a damaged record. So it only tells that something is damaged.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...errors import TrainerError
from ...files import DISK_FULL
from .rejects import KEPT, Reject, Rejects, with_gap
from .table import MAX_FIELD, MAX_RECORD_BYTES, Table, blocks

NEVER_CLOSED = "a quote that is never closed"


def copy_whole_records(table: Table, wanted: Sequence[int], copy: Path | None) -> Rejects:
    """Write the header and the whole records of a table to `copy`, compressed if the table is, or
    nowhere, and return what is wrong with the others.

    A record is whole when it has as many fields as the header (further ones may follow if they are
    empty), when each of its quotes is closed and followed by a delimiter or the end of the line,
    and when the fields in the columns `wanted` are UTF-8 of at most MAX_FIELD characters. Reading
    goes on in the line after a damaged record, or in the line after an open quote. Empty lines are
    no records. Raises TrainerError when the disk has no room.
    """
    if copy is None:
        return _Records(table, wanted, None).copy()
    needed = 0 if table.compressed else table.path.stat().st_size
    free = shutil.disk_usage(copy.parent).free
    if free < needed:
        raise _no_room(table, f"{needed / 1e9:.1f} GB for a copy, {free / 1e9:.1f} GB are free")
    try:
        with _opened(copy, table.compressed) as out:
            return _Records(table, wanted, out).copy()
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _no_room(table, str(error.strerror)) from error
        raise


@contextmanager
def _opened(copy: Path, compressed: bool) -> Iterator[IO[bytes]]:
    with copy.open("wb") as plain:
        if not compressed:
            yield plain
            return
        with gzip.GzipFile(fileobj=plain, mode="wb", compresslevel=1) as packed:
            yield packed  # type: ignore[misc]


def _no_room(table: Table, why: str) -> TrainerError:
    return TrainerError(
        f"{table.name} has damaged records, and to leave them out takes room on the disk ({why}). "
        "Free some, or repair the table."
    )


class _Records:
    """One pass over a table, in pieces that hold the longest record."""

    def __init__(self, table: Table, wanted: Sequence[int], out: IO[bytes] | None) -> None:
        self.table, self.wanted, self.out = table, tuple(wanted), out
        self.width = len(table.columns)
        self.delimiter = b"\t" if table.format == "tsv" else b","
        self.blocks = blocks(table)
        self.data, self.place, self.is_last = b"", 0, False
        self.line, self.counted, self.count = 1, 0, 0
        self.whole = 0
        self.first: list[Reject] = []
        self.gaps: list[tuple[int, int]] = []

    def copy(self) -> Rejects:
        """Copy the header and every whole record."""
        self._begin()
        match, ends = self.record.match, self.ends
        while self._fill():
            start = self.place
            stop = len(self.data) - (0 if self.is_last else MAX_RECORD_BYTES)
            data, place, whole = self.data, start, self.whole
            damage = None
            while place < stop:
                if data[place] in ends:
                    place += 1
                    continue
                found = match(data, place)
                if found is None or (found.end() == len(data) and not self.is_last):
                    damage = self._damage(place)
                elif len(found[0]) > MAX_FIELD or not found[0].isascii():
                    damage = self._damage_inside(place, found.end())
                if damage:
                    break
                place = found.end() if found else place
                whole += 1
            self._write(start, place)
            self.place, self.whole = place, whole
            if damage:
                self._leave_out(*damage)
        return Rejects(self.count, tuple(self.first), tuple(self.gaps))

    def _fill(self) -> bool:
        """Have at least the longest record ahead, or the end of the file; False at that end."""
        while not self.is_last and len(self.data) - self.place <= MAX_RECORD_BYTES + 1:
            block = next(self.blocks, b"")
            self.is_last = not block
            self._count_lines(self.place)
            self.data, self.place, self.counted = self.data[self.place :] + block, 0, 0
        return self.place < len(self.data)

    def _begin(self) -> None:
        """Copy the header, and learn from it how lines end."""
        self._compile(rb"\r\n|\n", b"\r\n")
        self._fill()
        if self.data.startswith(b"\xef\xbb\xbf"):
            self.place = 3
        while self.data[self.place : self.place + 1] in (b"\r", b"\n"):
            self.place += 1
        text = re.compile(rb'(?:"[^"]*"|[^"\r\n])*').match(self.data, self.place)
        end = text.end() if text else 0
        if self.data[end : end + 1] == b"\r" and self.data[end + 1 : end + 2] != b"\n":
            self._compile(rb"\r", b"\r")
        header = self.any_record.match(self.data, self.place)
        end = header.end() if header else self._line_end(self.place)
        self._write(0, end)
        self.place = end

    def _write(self, start: int, end: int) -> None:
        if self.out:
            self.out.write(self.data[start:end])

    def _compile(self, end: bytes, ends: bytes) -> None:
        self.ends, self.newline = ends, ends[-1:]
        quoted = rb'"[^"]*(?:""[^"]*)*"'
        # DuckDB takes a quote for a letter behind more than one space.
        plain = rb'(?! ?")[^' + self.delimiter + rb"\r\n]*"
        field = b"(?: ?" + quoted + b" *|" + plain + b")"
        nothing = b"(?:" + self.delimiter + b'(?: ?"" *)?)*'
        end = b"(?:" + end + rb"|\Z)"
        more = b"(?:" + self.delimiter + field + b")"
        self.field = re.compile(field)
        self.record = re.compile(field + more + b"{%d}" % (self.width - 1) + nothing + end)
        self.any_record = re.compile(field + more + b"*" + end)

    def _line_end(self, place: int) -> int:
        """Where the line after this one begins; the end of the data when there is none."""
        return self.data.find(self.newline, place) + 1 or len(self.data)

    def _count_lines(self, place: int) -> None:
        self.line += self.data.count(self.newline, self.counted, place)
        self.counted = place

    def _leave_out(self, reason: str, column: int | None, end: int) -> None:
        """List the record at `place`, and go on at `end`."""
        self._count_lines(self.place)
        self.count += 1
        with_gap(self.gaps, self.whole)
        if len(self.first) < KEPT:
            name = "" if column is None else self.table.columns[column]
            self.first.append(Reject(self.line, name, reason))
        self.place = end
        while self.data[end - 1 : end] != self.newline and not self.is_last:
            block = next(self.blocks, b"")
            self.is_last = not block
            self._count_lines(len(self.data))
            self.data, self.counted = block, 0
            self.place = end = self._line_end(0)

    def _fields(self, start: int) -> tuple[list[tuple[int, int]], int]:
        """Begin and end of every field of the record at `start`, up to the first that cannot be
        read, and where the reading ends.
        """
        found: list[tuple[int, int]] = []
        place = start
        while text := self.field.match(self.data, place):
            found.append(text.span())
            place = text.end()
            if self.data[place : place + 1] != self.delimiter:
                return found, place
            place += 1
        return found, place

    def _damage(self, start: int) -> tuple[str, int | None, int]:
        """What is wrong with the record at `start`, in which column, and where to go on."""
        after = self._line_end(start)
        whole = self.any_record.match(self.data, start)
        fields, place = self._fields(start)
        if whole and (self.is_last or whole.end() < len(self.data)):
            if self._swallows(after, whole.end()):
                return NEVER_CLOSED, None, after
            wrong = f"{len(fields)} field{'s' if len(fields) > 1 else ''} instead of {self.width}"
            return wrong, None, whole.end()
        if after - start > MAX_RECORD_BYTES:
            return f"longer than {MAX_RECORD_BYTES} bytes", None, after
        column = min(len(fields), self.width) - 1
        if fields and place == fields[-1][1]:
            if self.data[fields[-1][0] : place].removeprefix(b" ")[:1] != b'"':
                return "a line end in a field without quotes", column, after
            if place < after:
                return "text behind a closing quote", column, after
        return NEVER_CLOSED, None if place >= after else min(len(fields), self.width - 1), after

    def _damage_inside(self, start: int, end: int) -> tuple[str, int | None, int] | None:
        """What is wrong with a field of a record that is whole in other respects."""
        if end - start > MAX_RECORD_BYTES:
            return f"longer than {MAX_RECORD_BYTES} bytes", None, end
        fields, _ = self._fields(start)
        for column in self.wanted:
            data = self.data[slice(*fields[column])]
            try:
                letters = len(data.decode())
            except UnicodeDecodeError:
                return "not UTF-8", column, end
            if letters > MAX_FIELD + 2:
                after = self._line_end(start)
                if self._swallows(after, end):
                    return NEVER_CLOSED, column, after
                wrong = f"{letters:,} characters, of which at most {MAX_FIELD:,} are taken"
                return wrong, column, end
        return None

    def _swallows(self, start: int, end: int) -> bool:
        """Whether one of the lines from the second of a record to the one before its last is a
        record by itself, which means that a quote before it was never closed.
        """
        while (after := self._line_end(start)) < end:
            line: Any = self.record.match(self.data, start)
            if line and line.end() == after:
                return True
            start = after
        return False
