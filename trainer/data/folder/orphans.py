"""Files of a folder that probably hold captions or pictures, but belong to no pair."""

from __future__ import annotations

import codecs
import posixpath
import re
from collections.abc import Iterable

from ..image import PACKAGES
from .hugging_face import METADATA, names_pictures
from .listing import TEXTS, Listing, spelling, split_suffix, suffix
from .reading import Problem, Reading, listed, shown
from .strict_text import Unreadable

CAPTIONS = TEXTS
TABLES = (".jsonl", ".csv", ".tsv", ".json")
ARCHIVES = frozenset((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"))
NO_CAPTIONS = frozenset(
    ("readme", "license", "licence", "copying", "notice", "credits", "changelog", "requirements")
)
"""Names of text files that come with many folders."""
PICTURE_NAME = re.compile(rb"\.(png|jpe?g|webp|bmp|gif|tiff?|avif|heic|jxl)\b", re.IGNORECASE)
HEAD_BYTES = 65536
NO_TEXTS = frozenset((".xmp", ".aae", ".svg", ".html", ".htm", ".log", ".py", ".js"))
"""Texts of the name of a picture that hold no caption."""


def add_orphans(listing: Listing, reading: Reading) -> None:
    """Add to a reading what its layout has left out: pictures that cannot be read without another
    package (unless another of the same name can), archives, and files that may hold the captions of
    pictures that are captioned by name: beside them, or called like them in another folder.
    """
    named = {entry.file for entry in reading.entries} | {p.file for p in reading.problems}
    for file in sorted(listing.files):
        package = PACKAGES.get(suffix(file))
        if not package or file in listing.masks.files | named or file in listing.pictures:
            continue
        if _is_of_none(listing, file):
            what = suffix(file)[1:].upper()
            reading.problems.append(
                Problem(file, f"{what} pictures need the package {package}", "or save it as PNG")
            )
    lacking = {posixpath.dirname(file) for file in reading.named}
    called = _by_name(reading.named)
    alone = []
    for file in sorted(listing.files):
        name = posixpath.basename(split_suffix(file)[0])
        if suffix(file) in ARCHIVES:
            why = "it is an archive; unpack it, or move it away"
            reading.unread.append(Problem(file, why))
            continue
        if file in reading.read or file in named or name.lower() in NO_CAPTIONS:
            continue
        own = listing.by_stem.get(split_suffix(file)[0], ())
        is_of_another = bool(own) and reading.named.isdisjoint(own)
        picture = "" if is_of_another else called.get(spelling(name), "")
        if found := _unread(listing, file, posixpath.dirname(file) in lacking, picture):
            reading.unread.append(found)
        elif suffix(file) in CAPTIONS[:2] and _is_of_none(listing, file):
            alone.append(file)
    if alone:
        reading.notes.append(f"caption files of no picture: {listed(alone)}")


def _unread(listing: Listing, file: str, is_beside: bool, picture: str) -> Problem | None:
    """What a file may hold that is not read: it is beside pictures that are captioned by their
    names, or is named like such a `picture`. None if that is not to be feared.
    """
    if is_beside and suffix(file) in (*TABLES, ".parquet") and _names_pictures(listing, file):
        if posixpath.basename(file) in METADATA:
            return Problem(file, "no row of it names a picture in a way that is understood")
        return Problem(
            file,
            "it names pictures, but is not called as a file of pairs is",
            f"such as {METADATA[0]}",
        )
    if is_beside and suffix(file) in CAPTIONS:
        none = _is_of_none(listing, file)
        return Problem(
            file,
            "it may hold a caption that is not read",
            "no picture has its name" if none else "none is in it",
        )
    if picture and _may_be_caption(listing, file):
        return Problem(
            file,
            f"it may be the caption of {shown(picture)}, which is captioned by its name",
            f"put it beside the picture, with the name {_caption_of(picture)}",
        )
    return None


def _caption_of(picture: str) -> str:
    return f"{posixpath.basename(split_suffix(picture)[0])}.txt"


def may_matter(file: str) -> bool:
    """Whether a file may hold captions, or settings of pictures, going by its name."""
    stem = posixpath.basename(split_suffix(file)[0]).lower()
    return suffix(file) in (*CAPTIONS, *TABLES, ".parquet") and stem not in NO_CAPTIONS


def _is_of_none(listing: Listing, file: str) -> bool:
    return split_suffix(file)[0] not in listing.by_stem


def _by_name(pictures: Iterable[str]) -> dict[str, str]:
    """Pictures by the spellings of their names, with the suffix and without."""
    found: dict[str, str] = {}
    for picture in sorted(pictures):
        name = posixpath.basename(picture)
        for one in (name, split_suffix(name)[0]):
            found.setdefault(spelling(one), picture)
    return found


def _may_be_caption(listing: Listing, file: str) -> bool:
    """Whether a file, named like a picture, is a text that may be its caption."""
    if suffix(file) in NO_TEXTS:
        return False
    try:
        with (listing.root / file).open("rb") as opened:
            start = opened.read(HEAD_BYTES)
        return bool(codecs.getincrementaldecoder("utf-8")().decode(start).strip("\ufeff \r\n\t"))
    except (OSError, UnicodeDecodeError):
        return False


def _names_pictures(listing: Listing, file: str) -> bool:
    """Whether a table has a column of file names, or begins with text that names pictures."""
    if suffix(file) == ".parquet":
        try:
            return names_pictures(listing, file)
        except (Unreadable, OSError):
            return False
    try:
        with (listing.root / file).open("rb") as opened:
            return bool(PICTURE_NAME.search(opened.read(HEAD_BYTES)))
    except OSError:
        return False
