"""Files of a folder that probably hold captions or pictures, but belong to no pair."""

from __future__ import annotations

import posixpath
import re

from ..image import PACKAGES
from .hugging_face import METADATA, names_pictures
from .listing import Listing, split_suffix, suffix
from .reading import Problem, Reading, listed
from .strict_text import Unreadable

CAPTIONS = (".txt", ".caption", ".json", ".yaml", ".yml")
TABLES = (".jsonl", ".csv", ".tsv", ".json")
ARCHIVES = frozenset((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"))
NO_CAPTIONS = frozenset(
    ("readme", "license", "licence", "copying", "notice", "credits", "changelog", "requirements")
)
"""Names of text files that come with many folders."""
PICTURE_NAME = re.compile(rb"\.(png|jpe?g|webp|bmp|gif|tiff?|avif|heic|jxl)\b", re.IGNORECASE)
HEAD_BYTES = 65536


def add_orphans(listing: Listing, reading: Reading) -> None:
    """Add to a reading what its layout has left out: pictures that cannot be read without another
    package (unless another of the same name can), archives, and files that may hold the captions of
    pictures that are captioned by name.
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
    archives = [file for file in sorted(listing.files) if suffix(file) in ARCHIVES]
    if reading.named or not listing.pictures:
        why = "it is an archive; unpack it, or move it away"
        reading.unread += [Problem(file, why) for file in archives]
    elif archives:
        reading.notes.append(f"archives, not read: {listed(archives)}")
    lacking = {posixpath.dirname(file) for file in reading.named}
    alone = []
    for file in sorted(listing.files):
        stem = posixpath.basename(split_suffix(file)[0]).lower()
        if file in reading.read or file in named or stem in NO_CAPTIONS:
            continue
        if posixpath.dirname(file) not in lacking:
            is_alone = suffix(file) in CAPTIONS[:2] and _is_of_none(listing, file)
            alone += [file] if is_alone else []
        elif suffix(file) in (*TABLES, ".parquet") and _may_name_pictures(listing, file):
            reading.unread.append(
                Problem(
                    file,
                    "it names pictures, but is not called as a file of pairs is",
                    f"such as {METADATA[0]}",
                )
            )
        elif suffix(file) in CAPTIONS:
            reading.unread.append(
                Problem(
                    file,
                    "it may hold a caption that is not read",
                    "no picture has its name" if _is_of_none(listing, file) else "none is in it",
                )
            )
    if alone:
        reading.notes.append(f"caption files of no picture: {listed(alone)}")


def may_matter(file: str) -> bool:
    """Whether a file may hold captions, or settings of pictures, going by its name."""
    stem = posixpath.basename(split_suffix(file)[0]).lower()
    return suffix(file) in (*CAPTIONS, *TABLES, ".parquet") and stem not in NO_CAPTIONS


def _is_of_none(listing: Listing, file: str) -> bool:
    return split_suffix(file)[0] not in listing.by_stem


def _may_name_pictures(listing: Listing, file: str) -> bool:
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
