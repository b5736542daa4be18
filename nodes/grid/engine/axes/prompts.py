"""Axes of prompts: the captions of a dataset, or the prompts in a file of the input folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .....trainer import bounded_json
from .....trainer.data.manifest import Dataset
from ....host import names
from ..errors import GridError
from .axis import Axis, Value

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
LARGEST_BYTES = 64_000_000

Prompts = list[tuple[str, str]]
"""Prompts with their labels, "" for no label."""


def prompt_axis(prompts: Sequence[tuple[str, str]]) -> Axis:
    """The axis of (prompt, label) pairs. A prompt without a label is its own label. Raises
    GridError if there are none.
    """
    values: dict[str, Value] = {}
    for prompt, label in prompts:
        values.setdefault(prompt, Value(label or prompt or "no prompt", {"prompt": prompt}))
    if not values:
        raise GridError("The prompt axis is empty: the dataset or file has no prompts.")
    return Axis("prompt", "prompt", tuple(values.values()))


def listed() -> list[str]:
    """The files that can hold prompts in the input folder and in the folders directly in it."""
    import folder_paths

    root = Path(folder_paths.get_input_directory())
    if not root.is_dir():
        return []
    found = [*root.glob("[!.]*"), *root.glob("[!.]*/[!.]*")]
    return sorted(
        file.relative_to(root).as_posix() for file in found if file.suffix.lower() in SUFFIXES
    )


def path_of(name: str) -> Path:
    """The file of a name that `listed` gives. Raises GridError."""
    import folder_paths

    try:
        path = names.within(Path(folder_paths.get_input_directory()), name, "File")
    except names.BadName as error:
        raise GridError(str(error)) from None
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise GridError(
            f"There is no file {name!r} with prompts in ComfyUI's input folder. Its name must end "
            "in "
            f"{', '.join(SUFFIXES)}."
        )
    return path


def state(name: str | None) -> list[int]:
    """Size and modification time of a file; nothing if there is none."""
    try:
        status = path_of(name or "none").stat()
    except (GridError, OSError):
        return []
    return [status.st_size, status.st_mtime_ns]


def captions(dataset: Dataset, part: str, most: int) -> Prompts:
    """Different captions of a part of a dataset ("validation", "training" or "all"), spread evenly
    over it.
    """
    pairs = {
        "validation": dataset.validation,
        "training": dataset.train,
        "all": dataset.pairs,
    }[part]
    found = list(dict.fromkeys(pair.caption for pair in pairs))
    if not found:
        raise GridError(
            f"The dataset {dataset.name} has no {part} pairs. Split it, or choose another part."
        )
    count = min(most, len(found))
    return [(found[number * len(found) // count], "") for number in range(count)]


def of_file(path: Path, column: str, label_column: str, most: int) -> Prompts:
    """The first prompts of a file. Raises GridError if it is not UTF-8, too large, or does not have
    that column.
    """
    if path.stat().st_size > LARGEST_BYTES:
        raise GridError(
            f"{path.name} is larger than {LARGEST_BYTES // 1_000_000} MB. Keep only the prompts "
            "that the "
            "grid needs."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise GridError(
            f"{path.name} is not UTF-8 at byte {error.start}. Save it as UTF-8."
        ) from None
    if path.suffix.lower() == ".txt":
        lines = [line.strip() for line in text.splitlines()]
        return [(line, "") for line in lines if line][:most]
    found: Prompts = []
    for number, row in enumerate(_named(path, text), start=2):
        for name in (column, label_column):
            if name and name not in row:
                there = ", ".join(row) or "none"
                raise GridError(
                    f"{path.name}, row {number} has no column {name!r}. Its columns: {there}."
                )
        label = str(row[label_column]) if label_column else ""
        found.append((str(row[column]), label))
        if len(found) == most:
            break
    return found


def _named(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """The rows of a table by the names of its columns. Raises GridError."""
    try:
        yield from _rows(path, text)
    except csv.Error as error:
        raise GridError(f"{path.name} is no table that can be read: {error}.") from None


def _rows(path: Path, text: str) -> Iterator[dict[str, Any]] | Sequence[dict[str, Any]]:
    if path.suffix.lower() != ".jsonl":
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        return ({name: value or "" for name, value in row.items() if name} for row in rows)
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = bounded_json.parse(line)
        except ValueError as error:
            raise GridError(f"{path.name}, line {number} is not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise GridError(f"{path.name}, line {number} is not a JSON object.")
        found.append(row)
    return found
