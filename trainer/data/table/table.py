"""A table file with one record for each picture: its format, its columns, its identity, and how
DuckDB reads it.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import bounded_json
from ...errors import TrainerError
from ...files import literal

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
MAX_RECORD_BYTES = 1 << 20
"""Longer records are not read."""
MAX_FIELD = 20_000
"""Longest field in characters that is taken: as many as the caption of a picture in a folder may
have.
"""
PART_BYTES = 4 * MAX_RECORD_BYTES
"""The most that one of DuckDB's threads reads at a time; its buffers are four times as large."""
SAMPLE_ROWS = 1000
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Table:
    """A table file that could be opened. `name` is its name in messages; `samples` are its first
    rows, as text.
    """

    path: Path
    name: str
    format: str
    compressed: bool
    columns: tuple[str, ...]
    samples: tuple[tuple[str | None, ...], ...]


def open_table(path: Path, name: str = "") -> Table:
    """A table's format, header and first rows. Raises TrainerError when it is not a table."""
    name = name or path.name
    if path.is_dir():
        raise TrainerError(f"{name} is a folder. Choose a table file in it: {_suffixes()}.")
    if not path.is_file():
        raise TrainerError(f"There is no table {name}.")
    compressed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem).suffix.lower() if compressed else path.suffix.lower()
    if suffix not in FORMATS or (compressed and suffix == ".parquet"):
        raise TrainerError(
            f"{name} does not have the name of a table. Tables end in one of {_suffixes()}; "
            "give the file the right suffix."
        )
    if path.stat().st_size == 0:
        raise TrainerError(f"{name} is empty (0 bytes). Export or copy the table again.")
    kind = FORMATS[suffix]
    if kind == "parquet":
        columns, samples = _parquet_head(path, name)
    else:
        head, whole = _head(path, name, compressed)
        text = _text(head, name, kind)
        columns, samples = (
            _jsonl_head(text, whole, name)
            if kind == "jsonl"
            else _csv_head(text, whole, name, kind)
        )
    if not samples:
        raise TrainerError(f"{name} has a header but no records. Export or copy the table again.")
    return Table(path, name, kind, compressed, columns, samples)


def fingerprint(path: Path) -> dict[str, Any]:
    """Identity of a big file, cheaply: size in bytes, time of change in ns, and the SHA-256 of its
    first and last MiB.
    """
    status = path.stat()
    with path.open("rb") as file:
        first = file.read(MEBIBYTE)
        file.seek(max(0, status.st_size - MEBIBYTE))
        last = file.read(MEBIBYTE)
    return {
        "size_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256_first_mib": hashlib.sha256(first).hexdigest(),
        "sha256_last_mib": hashlib.sha256(last).hexdigest(),
    }


def check_compression(table: Table) -> None:
    """Unpack a .gz file once and throw the bytes away: some versions of DuckDB take half of a torn
    one for all of it.
    """
    if not table.compressed:
        return
    for _ in blocks(table):
        pass


def blocks(table: Table) -> Iterator[bytes]:
    """The bytes of a table that is not Parquet, unpacked, a MiB at a time."""
    if table.compressed:
        yield from _unpacked(table.path, table.name)
        return
    with table.path.open("rb") as file:
        while block := file.read(MEBIBYTE):
            yield block


def source_sql(
    table: Table, columns: Sequence[str], one_thread: bool = False
) -> tuple[str, list[Any]]:
    """SQL of a relation with the given columns as text, named c0, c1, ..., and `readable`; and the
    values to bind.

    DuckDB skips damaged records and notes them (see rejects.py), except that rows with `readable`
    false stand for lines of a JSONL file without an object, and for records with a field that is
    too long. In a CSV or TSV file with line ends of several kinds, DuckDB
    fails, except with `one_thread`, when it is lenient: so only for files without damage.
    """
    if table.format == "parquet":
        return _parquet_sql(table, columns)
    if table.format == "jsonl":
        return _lines_sql(table, columns, one_thread)
    return _cells_sql(table, columns, one_thread)


def _parquet_sql(table: Table, columns: Sequence[str]) -> tuple[str, list[Any]]:
    picked = ", ".join(
        f"CAST({identifier(name)} AS VARCHAR) AS c{number}" for number, name in enumerate(columns)
    )
    places = [f"c{number}" for number in range(len(columns))]
    cells = f"(SELECT {picked} FROM read_parquet(?, hive_partitioning = false))"
    return f"(SELECT {_are_short(places)} AS readable, * FROM {cells})", [literal(table.path)]


def _lines_sql(table: Table, columns: Sequence[str], one_thread: bool) -> tuple[str, list[Any]]:
    """A JSONL file, whose lines DuckDB reads as a CSV file of one column."""
    picked = ", ".join(f"cells[{number + 1}] AS c{number}" for number in range(len(columns)))
    is_object = "CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END"
    pointers = ["/" + name.replace("~", "~0").replace("/", "~1") for name in columns]
    lines = (
        "read_csv(?, columns = {'line': 'VARCHAR'}, header = false, delim = '\x1f',"
        f" quote = '', escape = '', strict_mode = false, {_lenient(table, one_thread)})"
    )
    return (
        f"(SELECT is_object AND CASE WHEN strlen(line) > {MAX_FIELD} THEN"
        f" coalesce(list_max([length(cell) for cell in cells]), 0) <= {MAX_FIELD}"
        f" ELSE true END AS readable, {picked} FROM (SELECT line, is_object,"
        f" CASE WHEN is_object THEN json_extract_string(line, ?::VARCHAR[]) END AS cells"
        f" FROM (SELECT line, {is_object} AS is_object FROM {lines}"
        " WHERE trim(line, ' \t\r') <> '')))",
        [pointers, literal(table.path)],
    )


def _cells_sql(table: Table, columns: Sequence[str], one_thread: bool) -> tuple[str, list[Any]]:
    """A CSV or TSV file."""
    import duckdb

    wanted = [table.columns.index(name) for name in columns]
    places = range(len(table.columns))
    names = ", ".join(f"'f{number}': 'VARCHAR'" for number in places)
    # Before 2.0, DuckDB fails at a record that is not UTF-8 unless it reads every column.
    every = f" WHERE coalesce({', '.join(f'f{number}' for number in places)}, '') IS NOT NULL"
    every = every if int(duckdb.__version__.split(".")[0]) < 2 else ""
    delimiter = "\t" if table.format == "tsv" else ","
    picked = ", ".join(f"f{place} AS c{number}" for number, place in enumerate(wanted))
    are_short = _are_short([f"f{place}" for place in wanted])
    return (
        f"(SELECT {are_short} AS readable, {picked} FROM read_csv(?, columns = {{{names}}},"
        f" header = true, delim = '{delimiter}', quote = '\"', escape = '\"',"
        f" strict_mode = {not one_thread}, {_lenient(table, one_thread)}){every})",
        [literal(table.path)],
    )


def _are_short(cells: Sequence[str]) -> str:
    """SQL of whether no cell is too long. Letters are counted only where there are that many bytes:
    it takes longer.
    """
    bytes_long = ", ".join(f"strlen({cell})" for cell in cells)
    letters_long = ", ".join(f"length({cell})" for cell in cells)
    return (
        f"CASE WHEN greatest({bytes_long}) > {MAX_FIELD}"
        f" THEN greatest({letters_long}) <= {MAX_FIELD} ELSE true END"
    )


def _lenient(table: Table, one_thread: bool) -> str:
    """Options of DuckDB that let it go on after a damaged record and note it."""
    return (
        "auto_detect = false, hive_partitioning = false,"
        " ignore_errors = true, store_rejects = true,"
        f" max_line_size = {MAX_RECORD_BYTES}, {_buffers(table, one_thread)}"
    )


def _buffers(table: Table, one_thread: bool) -> str:
    """Options of DuckDB that let the last of the parts that its threads read begin inside the last
    line.

    When the first record after the beginning of the last part is damaged, DuckDB can drop all that
    follows, good records too, without noting it. After the last line nothing follows. The part is
    not a buffer of its own, because a damaged last line across two buffers is not noted either.
    """
    alone = f"buffer_size = {4 * PART_BYTES}, parallel = false"
    if table.compressed or one_thread:
        return alone
    size, last_line = _end(table.path)
    if size <= PART_BYTES:
        return f"buffer_size = {4 * PART_BYTES}"
    for count in range(-(-(size - 1) // PART_BYTES), (size - 1) // MAX_RECORD_BYTES + 1):
        part = (size - 1) // count // 4 * 4
        if count % 4 and last_line < count * part:
            return f"buffer_size = {4 * part}"
    return alone


def _end(path: Path) -> tuple[int, int]:
    """Size of a text file in bytes, and where its last line that is not empty begins."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - MAX_RECORD_BYTES))
        tail = file.read()
    text = tail.rstrip(b"\r\n")
    return size, size - len(tail) + max(text.rfind(b"\n"), text.rfind(b"\r")) + 1


def identifier(name: str) -> str:
    """A column name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def _suffixes() -> str:
    return ", ".join([*FORMATS, ".csv.gz", ".tsv.gz", ".jsonl.gz"])


def _unpacked(path: Path, name: str) -> Iterator[bytes]:
    try:
        with gzip.open(path) as file:
            while block := file.read(MEBIBYTE):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TrainerError(
            f"{name} is a damaged .gz file ({str(error).rstrip('.')}). Copy or download it again."
        ) from error


def _head(path: Path, name: str, compressed: bool) -> tuple[bytes, bool]:
    """The first bytes of the text, and whether they are all of it."""
    limit = 2 * MAX_RECORD_BYTES
    if not compressed:
        with path.open("rb") as file:
            head = file.read(limit + 1)
        return head[:limit], len(head) <= limit
    head = b""
    for block in _unpacked(path, name):
        head += block
        if len(head) > limit:
            return head[:limit], False
    if not head:
        raise TrainerError(f"{name} holds an empty file. Export or copy the table again.")
    return head, True


def _text(head: bytes, name: str, kind: str) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TrainerError(f"{name} is UTF-16 text. Save it as UTF-8.")
    if head.startswith(b"PAR1"):
        raise TrainerError(f"{name} is a Parquet file. Name it .parquet.")
    if head.startswith(b"\x1f\x8b"):
        raise TrainerError(f"{name} is compressed by gzip. Name it .{kind}.gz.")
    if head.startswith(b"PK\x03\x04"):
        raise TrainerError(
            f"{name} is a zip archive or a spreadsheet. Unpack it, or save it as CSV in UTF-8."
        )
    start = head[:4096]
    controls = sum(byte < 9 or 13 < byte < 32 for byte in start)
    if controls > len(start) / 20:
        raise TrainerError(f"{name} is not text: it begins with binary data. Choose a table file.")
    return head.decode("utf-8-sig", errors="replace")


def _csv_head(text: str, whole: bool, name: str, kind: str) -> tuple[tuple[str, ...], tuple]:
    delimiter, other, right = (",", "\t", "tsv") if kind == "csv" else ("\t", ",", "csv")
    kept = _csv_rows(text, delimiter, whole)
    if not kept or not any(cell.strip() for cell in kept[0]):
        raise TrainerError(
            f"{name} has no header: its first line is empty. Put the column names there."
        )
    header = kept[0]
    if len("".join(header)) > MAX_RECORD_BYTES:
        raise TrainerError(
            f"The header of {name} is longer than {MAX_RECORD_BYTES} bytes. "
            "Is there a quote that is never closed?"
        )
    if len(header) == 1 and other in header[0]:
        raise TrainerError(
            f"{name} has only one column, {_short(header[0])!r}; its columns seem to have another "
            f"separator. Name it .{right}, or save it again."
        )
    if len(header) == 1 and ";" in header[0]:
        raise TrainerError(
            f"{name} has only one column, {_short(header[0])!r}; its columns seem to be separated "
            "by semicolons. Save it again with commas."
        )
    names = tuple(cell.strip() or f"Unnamed: {place}" for place, cell in enumerate(header))
    _refuse_repeated(names, name)
    width = len(names)
    samples = tuple(
        tuple([*row[:width], *([None] * (width - len(row)))])
        for row in kept[1:]
        if len(row) >= width
    )
    if not samples and len(kept) > 1:
        raise TrainerError(
            f"{name} has {width} columns in its header, but none of the first {len(kept) - 1} "
            "records has as many. Is the first line the header?"
        )
    return names, samples


def _csv_rows(text: str, delimiter: str, whole: bool) -> list[list[str]]:
    """The header and the first records. When the text is cut off, the last record is left out,
    unless it is the header.
    """
    kept: list[list[str]] = []
    text = text.replace("\0", "\ufffd")  # Python 3.10 refuses NUL, newer ones do not.
    before = csv.field_size_limit(4 * MAX_RECORD_BYTES)
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if row:
                kept.append(row)
            if len(kept) > SAMPLE_ROWS:
                return kept
    finally:
        csv.field_size_limit(before)
    if not whole and len(kept) > 1:
        kept.pop()
    return kept


def _jsonl_head(text: str, whole: bool, name: str) -> tuple[tuple[str, ...], tuple]:
    lines = text.split("\n")
    if not whole and len(lines) > 1:
        lines.pop()
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            value = bounded_json.parse(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
        if len(found) >= SAMPLE_ROWS:
            break
    if not found:
        array = (
            " It begins with [: write one object on each line instead."
            if text.lstrip()[:1] == "["
            else ""
        )
        raise TrainerError(f"{name} holds no JSON object on any of its first lines.{array}")
    names = tuple(dict.fromkeys(key for value in found for key in value))
    if not names:
        raise TrainerError(f"{name} holds JSON objects without any keys.")
    samples = tuple(tuple(_cell(value.get(key)) for key in names) for value in found)
    return names, samples


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _parquet_head(path: Path, name: str) -> tuple[tuple[str, ...], tuple]:
    import duckdb

    with duckdb.connect() as connection:
        try:
            rows = connection.execute(
                "SELECT COLUMNS(*)::VARCHAR FROM read_parquet(?, hive_partitioning = false)"
                " LIMIT ?",
                [literal(path), SAMPLE_ROWS],
            )
            names = tuple(column[0] for column in rows.description)
            samples = tuple(rows.fetchall())
        except duckdb.Error as error:
            raise TrainerError(
                f"{name} is not a whole Parquet file. Copy or download it again."
            ) from error
    return names, samples


def _refuse_repeated(names: tuple[str, ...], name: str) -> None:
    repeated = [column for column, count in Counter(names).items() if count > 1]
    if repeated:
        raise TrainerError(
            f"The header of {name} names {', '.join(repeated)} more than once. "
            "Give every column its own name."
        )


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
