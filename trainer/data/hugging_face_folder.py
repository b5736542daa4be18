"""A folder as Hugging Face datasets' imagefolder reads it (commit b7cb10b): metadata files that name pictures, split folders."""

from __future__ import annotations

import contextlib
import csv
import json
import posixpath
import re
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TrainerError
from .captions import OWN
from .layout import Entry, Problem, Reading, check_caption, group_of, kind, listed, locate
from .listing import Listing
from .manifest import TRAIN, VALIDATION
from .structured_text import Unreadable, parse_json

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Names of metadata files; where there are several kinds, the first is read. Hugging Face refuses that."""
FILE_NAME = "file_name"
CAPTION_COLUMNS = ("text", "caption", "prompt", "description", "additional_feature")
"""Columns taken for the caption, the likeliest first; the last is the name in Hugging Face's documentation."""
MAX_LINE_BYTES = 1 << 20
NOT_UTF8 = "it is not UTF-8; save the file as UTF-8"
MAX_ROW_LINES = 100
"""Longest row of a CSV file; a quote that is open longer than that was forgotten."""
SPLITS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "dev", "val"),
    f"{VALIDATION}/test": ("test", "testing", "eval", "evaluation"),
}
"""Names of split folders, as in its data_files.py. What is for testing must not be trained on either."""
_SPLIT = {
    split: re.compile(rf"(.*[-._ 0-9])?({'|'.join(words)})([-._ 0-9].*)?")
    for split, words in SPLITS.items()
}


class Row(NamedTuple):
    """A row of a metadata file: where it stands, and its values by column, or why it is not read."""

    where: str
    values: dict[str, Any]
    why_not: str = ""


def split_of(file: str) -> str | None:
    """The split that a folder in a path names; None without one."""
    for folder in posixpath.dirname(file).split("/"):
        for split, pattern in _SPLIT.items():
            if pattern.fullmatch(folder):
                return split
    return None


def metadata_files(listing: Listing) -> list[str]:
    """All metadata files of the kind that is read."""
    for name in METADATA:
        found = sorted(file for file in listing.files if posixpath.basename(file) == name)
        if found:
            return found
    return []


def names_pictures(listing: Listing, file: str) -> bool:
    """Whether the first rows of a metadata file have a column of file names."""
    try:
        rows = islice(_rows(listing.root / file), 20)
        return any(_file_column(row.values) is not None for row in rows)
    except Unreadable:
        return False


def read_hugging_face(listing: Listing, reading: Reading, caption_column: str = "") -> None:
    """A pair for every row of every metadata file, in the order of the rows.

    The caption is in `caption_column`, or in the likeliest text column; the other text columns are further captions.
    Where metadata files are in split folders, others do not count. Raises TrainerError when there is no metadata file, none with a column of file names, or no such caption column.
    """
    files = metadata_files(listing)
    if not files:
        raise TrainerError(
            f"There is no {', '.join(METADATA[:2])} or {METADATA[2]}, which says what picture has what caption. "
            "Choose another layout."
        )
    others = [file for name in METADATA for file in sorted(listing.files) if posixpath.basename(file) == name and file not in files]  # fmt: skip
    if others:
        reading.notes.append(f"metadata of another kind, not read: {listed(others)}")
    inside = [file for file in files if split_of(file)]
    if inside and len(inside) < len(files):
        outside = [file for file in files if file not in inside]
        reading.notes.append(f"outside of the split folders, not read: {listed(outside)}")
        reading.read.update(outside)
        files = inside
    rows: list[tuple[str, Row]] = []
    for file in files:
        reading.read.add(file)
        try:
            for row in _rows(listing.root / file):
                rows.append((posixpath.dirname(file), row._replace(where=f"{file}, {row.where}")))
                reading.awake()
        except Unreadable as error:
            reading.problems.append(Problem(file, error.reason, error.detail))
    column = _caption_column(files, rows, caption_column, reading)
    split_folders = {split_of(file) for file in listing.pictures} - {None}
    used: Counter[str] = Counter()
    not_text: Counter[str] = Counter()
    for inside, row in rows:
        reading.awake()
        entry = _entry(listing, reading, inside, row, column, not_text)
        if entry:
            reading.entries.append(entry)
            used[entry.file] += 1
    _note(listing, reading, used, not_text, split_folders)


def _entry(
    listing: Listing, reading: Reading, inside: str, row: Row, column: str, not_text: Counter[str]
) -> Entry | None:
    """The pair of a row; None, with a problem noted, when it is none."""
    where = row.where
    try:
        if row.why_not:
            raise Unreadable("the row is not understood", row.why_not)
        name = _file_column(row.values)
        if name is None or not isinstance(row.values[name], str) or not row.values[name].strip():
            raise Unreadable("the row names no picture", "" if name is None else kind(row.values[name]))  # fmt: skip
        file = locate_row(listing, row.values[name], inside)
        caption = check_caption(row.values.get(column), f"column {column!r}")
        captions = {}
        for key, value in row.values.items():
            if key in (name, column) or value is None or value == "":
                continue
            if isinstance(value, str):
                if value.strip():
                    captions[_kept_as(key)] = check_caption(value, f"column {key!r}")
            else:
                not_text[key] += 1
    except Unreadable as error:
        reading.problems.append(Problem(where, error.reason, error.detail))
        return None
    options: dict[str, Any] = group_of(file)
    if captions:
        options["captions"] = captions
    if split := split_of(file):
        options["split"] = split
    return Entry(file, caption, options)


def _kept_as(column: str) -> str:
    """The name of a further caption: its column's, but not that of the pair's own caption. Raises Unreadable."""
    check_caption(column, "the name of a column")
    return f"{column}_" if column == OWN else column


def locate_row(listing: Listing, name: str, inside: str) -> str:
    """The picture that a row means, seen from the folder of its metadata file, which it cannot leave. Raises Unreadable."""
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        raise Unreadable("the path leads out of the folder", name)
    return locate(listing, name, inside)


def _note(
    listing: Listing,
    reading: Reading,
    used: Counter[str],
    not_text: Counter[str],
    split_folders: set[str | None],
) -> None:
    """What the report says beside the pairs; without a pair to train on, splits do not count."""
    again = sum(count > 1 for count in used.values())
    if again:
        reading.notes.append(f"pictures that stand in more than one row: {again}")
    if not_text:
        columns = (f"{name!r}" for name in not_text)
        reading.notes.append(f"columns that are no text, not read: {listed(columns)}")
    missing = [file for file in listing.pictures if file not in used]
    if missing:
        reading.notes.append(f"pictures without a row, not read: {len(missing)}")
    splits = Counter(entry.options.get("split", TRAIN) for entry in reading.entries)
    if splits and TRAIN not in splits:
        for entry in reading.entries:
            entry.options.pop("split", None)
        reading.notes.append("split folders without one to train on: all pairs are for training")
    elif split_folders:
        parts = (f"{count} {split}" for split, count in sorted(splits.items()))
        reading.notes.append(f"split by folder: {', '.join(parts)}")


def _caption_column(
    files: list[str], rows: list[tuple[str, Row]], wanted: str, reading: Reading
) -> str:
    """The column to take captions from; the guess is noted."""
    good = [row for _, row in rows if not row.why_not]
    if good and all(_file_column(row.values) is None for row in good):
        raise TrainerError(
            f"{files[0]} has no column {FILE_NAME}, only {listed(good[0].values)}. "
            "Name the column of picture files file_name, or choose another layout."
        )
    texts: dict[str, None] = {}
    for row in good:
        name = _file_column(row.values)
        texts |= {key: None for key, value in row.values.items() if isinstance(value, str) and key != name}  # fmt: skip
    if wanted:
        if wanted not in texts and not any(wanted in row.values for row in good):
            raise TrainerError(
                f"There is no column {wanted!r} in {files[0]}; there are {listed(texts) or 'none with text'}. "
                "Choose one as caption_column, or leave it empty."
            )
        column = wanted
    elif texts:
        lower = {name.lower(): name for name in reversed(list(texts))}
        column = next((lower[name] for name in CAPTION_COLUMNS if name in lower), next(iter(texts)))
    elif any(CAPTION_COLUMNS[0] in row.values for row in good) or not good:
        column = CAPTION_COLUMNS[0]
    else:
        present = {key: None for row in good for key in row.values}
        column = next((name for name in CAPTION_COLUMNS if name in present), "")
        if not column:
            raise TrainerError(f"{files[0]} has no column of captions, only {listed(present)}. Add a column text.")  # fmt: skip
    how = "as asked" if wanted else "the likeliest; caption_column chooses another"
    others = []
    for name in texts:
        with contextlib.suppress(Unreadable):  # its rows have told
            others += [_kept_as(name)] if name != column else []
    kept = f"; further captions: {listed(others)}" if others else ""
    reading.notes.append(f"captions from the column {shown_column(column)} ({how}){kept}")
    return column


def shown_column(name: str) -> str:
    return listed([name])


def _file_column(values: dict[str, Any]) -> str | None:
    """The column that names the picture: file_name, or the first whose name ends so."""
    if FILE_NAME in values:
        return FILE_NAME
    return next((name for name in values if name and name.endswith(f"_{FILE_NAME}")), None)


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a metadata file, one after the other. Raises Unreadable for the file as a whole."""
    reader = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[file.suffix]
    try:
        yield from reader(file)
    except OSError as error:
        raise Unreadable("the file cannot be read", str(error.strerror)) from error


def _jsonl(file: Path) -> Iterator[Row]:
    with file.open("rb") as opened:
        for number, line in enumerate(_lines(opened), start=1):
            where = f"line {number}"
            if not line.strip():
                continue
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError(f"more than {MAX_LINE_BYTES:,} bytes")
                value = parse_json(line.decode().lstrip("\ufeff").strip())
                if not isinstance(value, dict):
                    raise ValueError(kind(value))
            except UnicodeDecodeError:
                yield Row(where, {}, NOT_UTF8)
            except ValueError as error:
                yield Row(where, {}, str(error))
            else:
                yield Row(where, value)


def _lines(opened: Any) -> Iterator[bytes]:
    """Lines of at most MAX_LINE_BYTES + 1 bytes; of a longer one only its beginning. Raises Unreadable for UTF-16."""
    if opened.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Unreadable("the file is not UTF-8", "it is UTF-16; save it as UTF-8")
    while line := opened.readline(MAX_LINE_BYTES + 1):
        end = line
        while len(end) > MAX_LINE_BYTES and not end.endswith(b"\n"):
            end = opened.readline(MAX_LINE_BYTES + 1)
        yield line


def _csv(file: Path) -> Iterator[Row]:
    """Rows of a CSV file. A row with more or fewer values than the header, or a quote that is not closed, is no row."""
    header: list[str] | None = None
    with file.open("rb") as opened:
        for where, values in _csv_rows(_csv_lines(opened)):
            if isinstance(values, str):
                yield Row(where, {}, values)
            elif header is None:
                header = [name.strip() for name in values]
                twice = next((name for name in header if header.count(name) > 1), None)
                if twice is not None:
                    raise Unreadable("the header has a column twice", twice)
            elif len(values) != len(header):
                yield Row(where, {}, f"{len(values)} values for {len(header)} columns")
            else:
                yield Row(where, dict(zip(header, values, strict=True)))


def _csv_rows(lines: Iterator[str]) -> Iterator[tuple[str, list[str] | str]]:
    """Where each row stands and its values, or what is wrong with it. After a row that is wrong the next line is a new one."""
    taken: deque[str] = deque()
    number = 0
    while True:
        first = taken.popleft() if taken else next(lines, None)
        if first is None:
            return
        number += 1
        row, where = [first], f"line {number}"
        while True:
            try:
                values = next(csv.reader(row, strict=True), [])
                "".join(values).encode()
                if values:
                    yield where, values
                number += len(row) - 1
                break
            except UnicodeEncodeError:
                yield where, NOT_UTF8
                number += len(row) - 1
                break
            except csv.Error as error:
                open_quote = "unexpected end of data" in str(error)
                more = None
                if open_quote and len(row) < MAX_ROW_LINES:
                    more = taken.popleft() if taken else next(lines, None)
                if more is None:
                    yield where, "a quote is not closed" if open_quote else f"it is no CSV: {error}"
                    taken.extendleft(reversed(row[1:]))
                    break
                row.append(more)


def _csv_lines(opened: Any) -> Iterator[str]:
    """Lines as text; bytes that are not UTF-8 stay in it, so that they are seen in the row that has them."""
    for number, line in enumerate(_lines(opened)):
        text = line.decode("utf-8", "surrogateescape")
        yield text.lstrip("\ufeff") if number == 0 else text


def _parquet(file: Path) -> Iterator[Row]:
    import duckdb

    try:
        with duckdb.connect() as database:
            database.execute("SET memory_limit='128MB'; SET threads=1")
            result = database.execute("SELECT * FROM read_parquet(?)", [str(file)])
            names = [column[0] for column in result.description or []]
            number = 0
            while block := result.fetchmany(1000):
                for values in block:
                    number += 1
                    yield Row(f"row {number}", dict(zip(names, values, strict=True)))
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise Unreadable("the file is not understood", json.dumps(reason)[1:-1]) from error
