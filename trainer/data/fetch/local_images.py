"""The images of a selection that are already on this machine: rows of a table joined to the files
of a folder.

Files are recognized by their names, as downloads and exports write them: `000123.png` or
`123.webp` (row index), `<attachment id>.png` or a folder of that name, `<anything>_<job uuid>.png`,
the uuid first, or a folder of that name, and plain file names. Letter case, the two Unicode
spellings of an accent, and the two slashes make no difference.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ...errors import TrainerError
from ..image import SUFFIXES
from ..table.selection import read_columns

KEYS = ("row index", "attachment id", "job uuid", "file name", "column")
UUID = re.compile(
    r"(?<![0-9a-f])[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}(?![0-9a-f])"
)
ATTACHMENT = re.compile(r"(?<![0-9])[0-9]{15,20}(?![0-9])")
"""Discord's ids: 17 digits in 2015, 19 today."""
NUMBER = re.compile(r"[0-9]{1,18}")
NAMED = 20
"""The most rows and files that a report names."""


@dataclass(frozen=True)
class SelectedRow:
    """What a row of a selection says about its image."""

    row: int
    image: str
    attachment: str
    job: str
    file: str


@dataclass(frozen=True)
class LocalImages:
    """The files found: row to path below the folder, with forward slashes, in the order of the
    rows.

    `missing` and `ambiguous` count rows with no file and with several, `unused` the image files
    that belong to no row; the first of each are named.
    """

    files: dict[int, str]
    rows: int
    missing: int = 0
    ambiguous: int = 0
    unused: int = 0
    missing_first: tuple[str, ...] = ()
    ambiguous_first: tuple[str, ...] = ()
    unused_first: tuple[str, ...] = ()

    @property
    def matched(self) -> int:
        return len(self.files)

    def __str__(self) -> str:
        lines = [f"{self.matched} of {self.rows} rows have an image"]
        for count, what, first in (
            (self.missing, "rows have none", self.missing_first),
            (self.ambiguous, "rows have several, so none is used", self.ambiguous_first),
            (self.unused, "files belong to no row", self.unused_first),
        ):
            if count:
                lines.append(f"{count} {what}:")
                lines += [f"  {name}" for name in first]
                lines += [f"  and {count - len(first)} more"] if count > len(first) else []
        return "\n".join(lines)


def find_images(
    selection: Path,
    folder: Path,
    key: str,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> LocalImages:
    """Join the rows of a selection to the image files below `folder` by `key` (see KEYS); messages
    call the folder `name`.

    "column" takes the image column as a path below the folder. When a key fits several files (the
    four images of a job), the row's own file name decides. A path that leads out of the folder, by
    `..` or by a link, finds nothing. Raises TrainerError when the key is unknown, when no row has
    such a key, and when no row finds a file.
    """
    if key not in KEYS:
        raise TrainerError(f"Unknown key {key!r}; images can be joined by: {', '.join(KEYS)}.")
    name = name or folder.name
    rows, listing = read_selection(selection), list_images(folder)
    if not listing:
        raise TrainerError(f"There is no image file in {name}.")
    if not any(_keys_of_row(row, key) for row in rows):
        raise TrainerError(
            f"None of the {len(rows)} rows has {_article(key)}. "
            f"Join by another key: {', '.join(KEYS)}."
        )
    index = _index(listing, key)
    files: dict[int, str] = {}
    missing, ambiguous = [], []
    for done, row in enumerate(rows, start=1):
        found = _candidates(index, row, key)
        if len(found) == 1:
            files[row.row] = found[0]
        elif found:
            ambiguous.append(f"row {row.row}: {', '.join(found[:4])}{' ...' if found[4:] else ''}")
        else:
            wanted = next(iter(_keys_of_row(row, key)), f"it has no {key}")
            missing.append(f"row {row.row}: {wanted}")
        if progress and (done % 1000 == 0 or done == len(rows)):
            progress(done, len(rows))
    used = set(files.values())
    unused = [file for file in listing if file not in used]
    if not files and not ambiguous:
        raise TrainerError(
            f"None of the {len(rows)} rows finds an image in {name} by its {key}. One of them is "
            f"{missing[0]}; one of the files is {listing[0]}. "
            "Is this the right folder, and the right key?"
        )
    return LocalImages(
        files,
        len(rows),
        len(missing),
        len(ambiguous),
        len(unused),
        tuple(missing[:NAMED]),
        tuple(ambiguous[:NAMED]),
        tuple(unused[:NAMED]),
    )


def read_selection(selection: Path) -> list[SelectedRow]:
    """The rows of a selection file, by number. Raises TrainerError when it is not one."""
    rows = read_columns(selection, "image", "attachment", "job", "file")
    return [SelectedRow(*values) for values in rows]


def list_images(folder: Path) -> list[str]:
    """The relative paths of all image files below a folder, with forward slashes, sorted.

    Names that begin with a dot are skipped, linked folders are not entered, and linked files count
    only when the link leads into the folder.
    """
    if not folder.is_dir():
        raise TrainerError(f"There is no folder {folder}.")
    real, found = folder.resolve(), []
    for place, folders, names in os.walk(real):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(real):
                continue
            if path.is_file():
                found.append(path.relative_to(real).as_posix())
    return sorted(found)


def _index(listing: Iterable[str], key: str) -> dict[str, list[str]]:
    """The files by every key in their names."""
    index: dict[str, list[str]] = {}
    for file in listing:
        for value in dict.fromkeys(_keys_of_file(file, key)):
            index.setdefault(value, []).append(file)
    return index


def _keys_of_file(file: str, key: str) -> list[str]:
    path = PurePosixPath(_same(file))
    if key == "row index":
        return [str(int(path.stem))] if NUMBER.fullmatch(path.stem) else []
    if key == "attachment id":
        return ATTACHMENT.findall(path.stem) + ATTACHMENT.findall(path.parent.name)
    if key == "job uuid":
        found = UUID.findall(path.stem) or UUID.findall(path.parent.name)
        return [uuid.replace("-", "") for uuid in found]
    if key == "file name":
        return [path.name, path.stem]
    return [str(path)]


def _keys_of_row(row: SelectedRow, key: str) -> list[str]:
    """The keys of a row, the best first."""
    if key == "row index":
        return [str(row.row)]
    if key == "attachment id":
        return [row.attachment.strip()] if row.attachment.strip() else []
    if key == "job uuid":
        job = row.job.strip().lower().replace("-", "")
        return [job] if job else []
    if key == "file name":
        name = PurePosixPath(_file_name(row))
        return [name.name, name.stem] if name.name else []
    path = _same(row.image)
    while path.startswith("./"):
        path = path[2:]
    return [path] if path else []


def _candidates(index: dict[str, list[str]], row: SelectedRow, key: str) -> list[str]:
    """The files that fit a row best; several when nothing tells them apart."""
    found: list[str] = next(
        (index[value] for value in _keys_of_row(row, key) if value in index), []
    )
    name = _file_name(row)
    tests: list[Callable[[str], bool]] = [
        lambda file: _same(file).endswith(f"/{name}") or _same(file) == name,
        lambda file: PurePosixPath(_same(file)).name == PurePosixPath(name).name,
        lambda file: PurePosixPath(_same(file)).stem == PurePosixPath(name).stem,
        lambda file: _spelled(file).endswith(_spelled(row.image if key == "column" else row.file)),
    ]
    for test in tests:
        if len(found) > 1:
            found = [file for file in found if test(file)] or found
    return found


def _file_name(row: SelectedRow) -> str:
    """The name of a row's file, or the last part of its image's path or URL."""
    if row.file.strip():
        return _same(row.file)
    if "://" in row.image:
        return _same(unquote(urlsplit(row.image).path)).rsplit("/", 1)[-1]
    return _same(row.image)


def _spelled(path: str) -> str:
    """A path with forward slashes and composed accents."""
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/"))


def _same(path: str) -> str:
    """One spelling for all paths that differ only in case, Unicode spelling or slashes."""
    return unicodedata.normalize("NFC", _spelled(path).casefold())


def _article(key: str) -> str:
    return f"an {key}" if key[0] in "aeiou" else f"a {key}"
