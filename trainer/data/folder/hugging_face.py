"""A folder as imagefolder of Hugging Face datasets reads it (commit b7cb10b): metadata files that
name pictures, and split folders.
"""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import TrainerError
from ...files import literal
from ..captions import OWN
from ..manifest import TRAIN, VALIDATION
from .listing import Listing
from .reading import Entry, Problem, Reading, check_caption, group_of, kind, listed, locate
from .strict_text import Unreadable, parse_json

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Names of metadata files; when there are several kinds, the first is read. Hugging Face refuses
such a folder.
"""
FILE_NAME = "file_name"
CAPTION_COLUMNS = ("text", "caption", "prompt", "description", "additional_feature")
"""Columns that are taken for the caption, the likeliest first; the last one is the name in Hugging
Face's documentation.
"""
MAX_LINE_BYTES = 1 << 20
NUMBER = re.compile(r"[-+]?[\d.,]+([eE][-+]?\d+)?%?")
NOT_UTF8 = "it is not UTF-8; save the file as UTF-8"
MAX_ROW_LINES = 100
"""Longest row of a CSV file; a quote that is open for longer was never closed."""
SPLITS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "dev", "val"),
    f"{VALIDATION}/test": ("test", "testing", "eval", "evaluation"),
}
"""Names of split folders, as in its data_files.py. Pictures for testing must not be trained on
either.
"""
_SPLIT = {
    split: re.compile(rf"(.*[-._ 0-9])?({'|'.join(words)})([-._ 0-9].*)?")
    for split, words in SPLITS.items()
}


class Row(NamedTuple):
    """A row of a metadata file: its place, and its values by column or the reason why it cannot be
    read.
    """

    where: str
    values: dict[str, Any]
    why_not: str = ""


class Columns(NamedTuple):
    """The column of captions, and the columns of further captions with the names under which pairs
    keep them.
    """

    caption: str
    others: dict[str, str]


def split_of(file: str) -> str | None:
    """The split that a folder of the path names; None without one."""
    for folder in posixpath.dirname(file).split("/"):
        for split, pattern in _SPLIT.items():
            if pattern.fullmatch(folder):
                return split
    return None


def metadata_files(listing: Listing) -> list[str]:
    """All metadata files of the first kind that there is."""
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

    The caption is in `caption_column`, or in the likeliest text column; the other text columns are
    further captions. When some metadata files are in split folders, the others are not read. Raises
    TrainerError when there is no metadata file, none has a column of file names, or there is no
    such caption column.
    """
    files = metadata_files(listing)
    if not files:
        raise TrainerError(
            f"There is no {', '.join(METADATA[:2])} or {METADATA[2]} to say which caption belongs "
            "to which picture. Choose another layout."
        )
    others = [
        file
        for name in METADATA
        for file in sorted(listing.files)
        if posixpath.basename(file) == name and file not in files
    ]
    if others:
        reading.notes.append(f"metadata of another kind, not read: {listed(others)}")
    inside = [file for file in files if split_of(file)]
    if inside and len(inside) < len(files):
        outside = [file for file in files if file not in inside]
        reading.notes.append(f"outside the split folders, not read: {listed(outside)}")
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
    columns = _columns(files, rows, caption_column, reading)
    left_out: Counter[str] = Counter()
    for folder, row in rows:
        reading.awake()
        entry = _entry(listing, reading, folder, row, columns, left_out)
        if entry:
            reading.entries.append(entry)
    _note(listing, reading, left_out)


def _entry(
    listing: Listing,
    reading: Reading,
    folder: str,
    row: Row,
    columns: Columns,
    left_out: Counter[str],
) -> Entry | None:
    """The pair of a row; None, with the problem noted, when it is not one. Further captions that
    cannot be used are counted in `left_out`.
    """
    try:
        if row.why_not:
            raise Unreadable("the row is not understood", row.why_not)
        name = _file_column(row.values)
        if name is None or not isinstance(row.values[name], str) or not row.values[name].strip():
            raise Unreadable(
                "the row names no picture", "" if name is None else kind(row.values[name])
            )
        file = locate_row(listing, row.values[name], folder)
        caption = check_caption(row.values.get(columns.caption), f"column {columns.caption!r}")
    except Unreadable as error:
        reading.problems.append(Problem(row.where, error.reason, error.detail))
        return None
    captions = {}
    for column, kept_as in columns.others.items():
        value = row.values.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            captions[kept_as] = check_caption(value, column)
        except Unreadable:
            left_out[column] += 1
    options: dict[str, Any] = group_of(file)
    if captions:
        options["captions"] = captions
    if split := split_of(file):
        options["split"] = split
    return Entry(file, caption, options)


def locate_row(listing: Listing, name: str, inside: str) -> str:
    """The picture that a row means, relative to the folder of its metadata file and inside it.
    Raises Unreadable.
    """
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        raise Unreadable("the path leads out of the folder", name)
    return locate(listing, name, inside)


def _note(listing: Listing, reading: Reading, left_out: Counter[str]) -> None:
    """Add the report's notes. Splits are ignored when none of the pairs is for training."""
    used = Counter(entry.file for entry in reading.entries)
    again = sum(count > 1 for count in used.values())
    if again:
        reading.notes.append(f"pictures with more than one row: {again}")
    if left_out:
        counts = (f"{count} of {column}" for column, count in left_out.most_common())
        reading.notes.append(
            f"further captions that are not text or too long, left out: {listed(counts)}"
        )
    missing = [file for file in listing.pictures if file not in used]
    if missing:
        understood = " that is understood" if reading.problems else ""
        reading.notes.append(f"pictures without a row{understood}, not read: {len(missing)}")
    splits = Counter(entry.options.get("split", TRAIN) for entry in reading.entries)
    if splits and TRAIN not in splits:
        for entry in reading.entries:
            entry.options.pop("split", None)
        reading.notes.append(
            "none of the split folders is for training: all pairs are used for training"
        )
    elif any(map(split_of, listing.pictures)):
        parts = (f"{count} {split}" for split, count in sorted(splits.items()))
        reading.notes.append(f"split by folder: {', '.join(parts)}")


def _columns(
    files: list[str], rows: list[tuple[str, Row]], wanted: str, reading: Reading
) -> Columns:
    """The column of captions and the columns of further captions; the guess is noted.

    Raises TrainerError when no column names pictures, or when there is no column of captions or no
    column named `wanted`.
    """
    good = [row for _, row in rows if not row.why_not]
    names = {name for row in good if (name := _file_column(row.values)) is not None}
    if good and not names:
        raise TrainerError(
            f"{files[0]} has no column {FILE_NAME}, only {listed(good[0].values)}. "
            "Rename the column of picture files to file_name, or choose another layout."
        )
    present = {key: None for row in good for key in row.values if key not in names}
    texts = [key for key in present if _is_text(key, good, files[0].endswith(".csv"))]
    lower = {name.lower(): name for name in reversed(texts or list(present))}
    likely = next((lower[name] for name in CAPTION_COLUMNS if name in lower), next(iter(texts), ""))
    if wanted and wanted not in present:
        raise TrainerError(
            f"There is no column {wanted!r} in {files[0]}. Its columns with text are: "
            f"{listed(texts) or 'none'}. Choose one as caption_column, or leave it empty."
        )
    if good and not wanted and not likely:
        raise TrainerError(
            f"{files[0]} has no column of captions, only {listed(present) or listed(names)}. "
            "Add a column named text."
        )
    caption = wanted or likely or CAPTION_COLUMNS[0]
    others = {key: f"{key}_" if key == OWN else key for key in texts if key != caption}
    how = "as asked" if wanted else "the likeliest; caption_column chooses another"
    kept = f"; further captions: {listed(others.values())}" if others else ""
    reading.notes.append(f"captions from the column {listed([caption])} ({how}){kept}")
    no_text = [repr(key) for key in present if key not in (caption, *others)]
    if no_text:
        reading.notes.append(f"columns that are not text, not read: {listed(no_text)}")
    return Columns(caption, others)


def _is_text(column: str, rows: list[Row], csv_file: bool) -> bool:
    """Whether a column holds texts and its name can be kept. In a CSV file numbers are texts too,
    but not captions.
    """
    try:
        check_caption(column, "")
    except Unreadable:
        return False
    texts = (row.values[column] for row in rows if isinstance(row.values.get(column), str))
    return any(text.strip() and not (csv_file and NUMBER.fullmatch(text.strip())) for text in texts)


def _file_column(values: dict[str, Any]) -> str | None:
    """The column that names the picture: file_name, or the first that ends in _file_name."""
    if FILE_NAME in values:
        return FILE_NAME
    return next((name for name in values if name and name.endswith(f"_{FILE_NAME}")), None)


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a metadata file, one after the other. Raises Unreadable when the file as a whole
    cannot be read.
    """
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
    """Lines of at most MAX_LINE_BYTES + 1 bytes; longer ones are cut off there. Raises Unreadable
    for UTF-16.
    """
    if opened.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Unreadable("the file is not UTF-8", "it is UTF-16; save it as UTF-8")
    while line := opened.readline(MAX_LINE_BYTES + 1):
        end = line
        while len(end) > MAX_LINE_BYTES and not end.endswith(b"\n"):
            end = opened.readline(MAX_LINE_BYTES + 1)
        yield line


def _csv(file: Path) -> Iterator[Row]:
    """The rows of a CSV file. A row with more or fewer values than the header, or with a quote that
    is not closed, cannot be read.
    """
    header: list[str] | None = None
    with file.open("rb") as opened:
        for where, values in _csv_rows(_csv_lines(opened)):
            if isinstance(values, str):
                yield Row(where, {}, values)
            elif header is None:
                header = [name.strip() for name in values]
                twice = next((name for name in header if header.count(name) > 1), None)
                if twice is not None:
                    raise Unreadable("the header repeats a column", twice)
            elif len(values) != len(header):
                yield Row(where, {}, f"{len(values)} values for {len(header)} columns")
            else:
                yield Row(where, dict(zip(header, values, strict=True)))


def _csv_rows(lines: Iterator[str]) -> Iterator[tuple[str, list[str] | str]]:
    """The place of each row, and its values or what is wrong with it. After a wrong row, the next
    line begins a new one.
    """
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
                    why = "a quote is not closed" if open_quote else f"it is not CSV: {error}"
                    yield where, why
                    taken.extendleft(reversed(row[1:]))
                    break
                row.append(more)


def _csv_lines(opened: Any) -> Iterator[str]:
    """Lines as text. Bytes that are not UTF-8 are kept, so that they are reported for their own
    row.
    """
    for number, line in enumerate(_lines(opened)):
        text = line.decode("utf-8", "surrogateescape")
        yield text.lstrip("\ufeff") if number == 0 else text


def _parquet(file: Path) -> Iterator[Row]:
    import duckdb

    try:
        with duckdb.connect() as database:
            database.execute("SET memory_limit='128MB'; SET threads=1")
            result = database.execute(
                "SELECT * FROM read_parquet(?, hive_partitioning = false)", [literal(file)]
            )
            names = [column[0] for column in result.description or []]
            number = 0
            while block := result.fetchmany(1000):
                for values in block:
                    number += 1
                    yield Row(f"row {number}", dict(zip(names, values, strict=True)))
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise Unreadable("the file is not understood", json.dumps(reason)[1:-1]) from error
