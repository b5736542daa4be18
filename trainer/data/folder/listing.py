"""What is in a folder and below it: names, sizes and times. One walk, and no file is opened."""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ...errors import TrainerError
from ..image import PACKAGES, SUFFIXES
from .mask_names import Masks, find_masks

TEXTS = (".txt", ".caption", ".json", ".yaml", ".yml")
"""The suffixes of files that may hold the caption of the picture with their name."""
LINK_AGAIN = "it is a link to a folder that is already read"
LINK_OUT = (
    "it is a link that leads out of the dataset's folder; copy the folder with cp -rL, which puts "
    "files in the place of links"
)
LINK_TO_NOTHING = "it is a link to nothing"
NO_FILE = "it is neither a file nor a folder"


class File(NamedTuple):
    """What is known about a file without opening it."""

    size: int
    time_ns: int


class Found(NamedTuple):
    """One thing found on a walk: a file, a folder (no `file`), or something that cannot be read,
    and why.
    """

    path: str
    file: File | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Listing:
    """Everything below a folder, by the path relative to it, with forward slashes; names that begin
    with a dot are left out.

    `odd` holds the names of what cannot be read, such as a link to nothing, each with the reason,
    `no_masks` files in folders of masks that are known to be pictures.
    """

    root: Path
    files: dict[str, File]
    folders: frozenset[str]
    odd: dict[str, str]
    no_masks: frozenset[str] = frozenset()

    @cached_property
    def masks(self) -> Masks:
        """The masks among the pictures."""
        captioned = {
            stem for stem, ends in self.beside.items() if not ends.keys().isdisjoint(TEXTS)
        }
        return find_masks(self._pictures, self.no_masks, captioned)

    @cached_property
    def pictures(self) -> list[str]:
        """Everything with the suffix of a picture, sorted, including the odd ones, but no masks."""
        masks = self.masks.files
        return [path for path in self._pictures if path not in masks]

    @cached_property
    def _pictures(self) -> list[str]:
        return sorted(path for path in (*self.files, *self.odd) if suffix(path) in SUFFIXES)

    @cached_property
    def beside(self) -> dict[str, dict[str, str]]:
        """All files and folders but pictures, by their path without suffix and then by their suffix
        in lower case.
        """
        found: dict[str, dict[str, str]] = {}
        for path in sorted((*self.files, *self.folders, *self.odd)):
            stem, end = split_suffix(path)
            end = end.lower()
            if end not in SUFFIXES:  # sorted: a.TXT comes before a.txt, which wins
                found.setdefault(stem, {})[end] = path
        return found

    def sidecars(self, picture: str, ends: Iterable[str]) -> list[str]:
        """The files that have the name of a picture and one of the suffixes `ends` (in any letter
        case), in the order of `ends`; without one, those that can only mean this picture.
        """
        ends = tuple(ends)
        there = self.beside.get(split_suffix(picture)[0], {})
        found = [there[end] for end in ends if end in there]
        if not found and (loose := self.loose.get(picture)):
            found = [loose[end] for end in ends if end in loose]
        return found

    @cached_property
    def loose(self) -> dict[str, dict[str, str]]:
        """Files whose names fit exactly one picture, but are not spelled like it (`a.png.txt` of
        `a.png`, `img_2.txt` of `IMG_2.JPG`, other Unicode normalisation), by picture and suffix.
        """
        whole: dict[str, list[str]] = {}
        stems: dict[str, list[str]] = {}
        for picture in self.pictures:
            whole.setdefault(spelling(picture), []).append(picture)
            stems.setdefault(spelling(split_suffix(picture)[0]), []).append(picture)
        found: dict[str, dict[str, str]] = {}
        for stem, ends in self.beside.items():
            if stem in self.by_stem:
                continue
            fitting = whole.get(spelling(stem)) or stems.get(spelling(stem)) or []
            if len(fitting) == 1:
                known = found.setdefault(fitting[0], {})
                for end, path in ends.items():
                    if path in self.files:
                        known.setdefault(end, path)
        return found

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Pictures by their path without suffix."""
        found: dict[str, list[str]] = {}
        for path in self.pictures:
            found.setdefault(split_suffix(path)[0], []).append(path)
        return found

    @property
    def state(self) -> str:
        """A hash of names, sizes and times, which stays the same while nothing changes."""
        digest = hashlib.sha256()
        for path, file in sorted(self.files.items()):
            digest.update(f"{path}\0{file.size}\0{file.time_ns}\n".encode())
        for path, why in sorted(self.odd.items()):
            digest.update(f"{path}\0{why}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def spelling(path: str) -> str:
    """A path without what tells spellings of a name apart: letter case, Unicode normalisation."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def split_suffix(path: str) -> tuple[str, str]:
    """A path without its suffix, and the suffix with its dot. Names must not begin with a dot."""
    stem, dot, end = path.rpartition(".")
    return (stem, f".{end}") if dot and "/" not in end else (path, "")


def suffix(path: str) -> str:
    """The suffix of a path in lower case, with its dot."""
    return split_suffix(path)[1].lower()


def list_folder(folder: Path) -> Listing:
    """Walk through a folder. Raises TrainerError when the folder itself cannot be listed."""
    files: dict[str, File] = {}
    folders: set[str] = set()
    odd: dict[str, str] = {}
    for found in walk(folder):
        if found.why_not:
            odd[found.path] = found.why_not
        elif found.file is None:
            folders.add(found.path)
        else:
            files[found.path] = found.file
    if "" in odd:
        raise TrainerError(f"The folder {folder.name} cannot be listed: {odd['']}.")
    return Listing(folder, files, frozenset(folders), odd)


def walk(folder: Path) -> Iterator[Found]:
    """Files and folders as they are found. Linked folders are followed, but no folder is entered
    twice. Links to pictures may lead anywhere; other linked files are read only within the folder
    or the linked folder that they are in: a dataset from elsewhere could name a secret as a
    caption.

    Links are followed after all real folders, so that a folder with two paths gets the one without
    a link.
    """
    root = Path(folder).resolve()
    waiting, links, entered = [("", os.fspath(folder), root)], [], set()
    while waiting or links:
        inside, path, real = (waiting or links).pop()
        try:
            status = os.stat(path)  # noqa: PTH116 - making a Path takes longer than the walk
            if (status.st_dev, status.st_ino) in entered:
                yield Found(inside, why_not=LINK_AGAIN)
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(path) as listed:
                entries = sorted(listed, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield Found(inside, why_not=f"it cannot be listed: {error.strerror}")
            continue
        if inside:
            yield Found(inside)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            relative = f"{inside}/{entry.name}" if inside else entry.name
            try:
                relative.encode()
                if entry.is_dir() and entry.is_symlink():
                    links.append((relative, entry.path, Path(entry.path).resolve()))
                elif entry.is_dir():
                    waiting.append((relative, entry.path, real))
                elif entry.is_file():
                    if entry.is_symlink() and _leads_out(entry.path, (root, real)):
                        yield Found(relative, why_not=LINK_OUT)
                        continue
                    status = entry.stat()
                    yield Found(relative, File(status.st_size, status.st_mtime_ns))
                elif entry.is_symlink():
                    yield Found(relative, why_not=LINK_TO_NOTHING)
                else:
                    yield Found(relative, why_not=NO_FILE)
            except UnicodeEncodeError:
                yield Found(relative, why_not="its name is not UTF-8; rename it")
            except OSError as error:
                circle = error.errno == errno.ELOOP
                yield Found(relative, why_not=LINK_TO_NOTHING if circle else str(error.strerror))


def _leads_out(path: str, folders: Sequence[Path]) -> bool:
    """Whether a linked file that is no picture lies outside of these folders."""
    if suffix(path.replace(os.sep, "/")) in SUFFIXES:
        return False
    real = Path(path).resolve()
    return not any(real.is_relative_to(folder) for folder in folders)


def folder_state(folder: Path) -> str:
    """A hash of names, sizes and times below a folder, which stays the same while nothing in it
    changes. No file is opened.
    """
    return list_folder(folder).state


def has_picture(folder: Path) -> bool:
    """Whether at least one file below a folder has the suffix of a picture, even of one that cannot
    be read, or of a zip archive; the walk ends at the first.
    """
    ends = SUFFIXES.union(PACKAGES, (".zip",))
    return any(found.file and suffix(found.path) in ends for found in walk(folder))
