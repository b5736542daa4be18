"""What every layout of a folder is read into: the pictures that it names, each with its caption and
how training shows it; and what the layouts share.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..captions import chosen
from .listing import Listing
from .strict_text import Unreadable, read_text

LAYOUTS = ("auto", "plain", "everydream", "kohya", "hugging face")
DRAWN = "drawn line"
CAPTION_TEXTS = ("first line", "whole file", DRAWN)
MAX_CAPTION = 20_000
"""Longest caption in characters. A text encoder reads about 75 tokens, but there are prompts of
several thousand characters.
"""
LONE_RETURN = re.compile(r"\r(?!\n)")
"""How lines ended on old Macs."""
MAX_SHOWN = 300
"""The most characters of a name or a value that a message repeats."""
MAX_WEIGHT = 10_000
"""The most times that an epoch may show a pair."""


@dataclass(frozen=True)
class Problem:
    """Why a picture is not a pair. Other files may have the same `reason`; `detail` is about this
    one.
    """

    file: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({shown(self.detail)})" if self.detail else ""
        return f"{shown(self.file)}: {shown(self.reason)}{detail}"


def shown(text: str) -> str:
    """A text for a message, cut if it is too long, with \\n, \\u202e and everything else that does
    not print written out.
    """
    if len(text) > MAX_SHOWN:
        text = f"{text[:MAX_SHOWN]}..."
    if text.isprintable():
        return text
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode("ascii")
        for mark in text
    )


@dataclass(frozen=True)
class Entry:
    """A picture that a layout names: its path in the listing, its caption, and further fields of
    its Pair.
    """

    file: str
    caption: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reading:
    """What a layout has found, filled while it is read.

    `problems` lists pictures (or rows that should name one) that cannot be pairs. `unread` lists
    files of settings that cannot be understood; their pictures are pairs all the same. `read` holds
    the files that have been used, `named` the pictures captioned by their names. `cut_lines` counts
    the caption files of which only the first line is used. `notes` says what else is worth knowing,
    in a line each. `unused` counts settings that training does not have.
    """

    layout: str
    why: str = ""
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unread: list[Problem] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    cut_lines: int = 0
    notes: list[str] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    awake: Callable[[], None] = lambda: None
    """Called for every picture or row; raises when the person has interrupted."""


def check_caption(value: Any, where: str) -> str:
    """A caption without white space around it. Raises Unreadable for anything that cannot be a
    caption; `where` says whose it is.
    """
    if value is None:
        raise Unreadable("the caption is empty", where)
    if not isinstance(value, str):
        raise Unreadable("the caption is not text", f"{where}: {kind(value)}")
    caption = value.strip()
    if not caption:
        raise Unreadable("the caption is empty", where)
    if "\0" in caption:
        raise Unreadable("the caption contains NUL characters", where)
    if len(caption) > MAX_CAPTION:
        raise Unreadable(
            "the caption is too long",
            f"{where}: {len(caption):,} characters; at most {MAX_CAPTION:,} are taken",
        )
    try:
        caption.encode()
    except UnicodeEncodeError:
        raise Unreadable("the caption contains half of a character", where) from None
    return caption


def kind(value: Any) -> str:
    """What kind of value it is, for a message, with the value itself where it is short."""
    if isinstance(value, bool):
        return f"it is {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"it is the number {value}"
    if isinstance(value, str):
        return f"it is the text {value[:40]!r}"
    if value is None:
        return "it is empty"
    return {list: "it is a list", dict: "it is a mapping"}.get(
        type(value), f"it is a {type(value).__name__}"
    )


def caption_from_file(listing: Listing, file: str, caption_text: str, reading: Reading) -> str:
    """The caption in a text file of the listing: its first line or all of it. Counts in `reading`
    the files with further lines. Raises Unreadable.
    """
    text = text_from_file(listing, file).strip()
    if caption_text == "first line":
        text, _, further = text.partition("\n")
        reading.cut_lines += bool(further)
    return check_caption(text, posixpath.basename(file))


def caption_and_choices(
    listing: Listing, file: str, caption_text: str, reading: Reading
) -> tuple[str, dict[str, str]]:
    """The caption in a text file, and what it is drawn from as a field of the pair, if `DRAWN`
    says so and there is anything to choose. Raises Unreadable.
    """
    caption = caption_from_file(listing, file, caption_text, reading)
    if caption_text != DRAWN:
        return caption, {}
    first = check_caption(chosen(caption, lambda several: several[0]), posixpath.basename(file))
    return first, {} if first == caption else {"choices": caption}


def text_from_file(listing: Listing, file: str, what: str = "the caption") -> str:
    """The text of a file of the listing. Raises Unreadable; only regular files are opened."""
    name = posixpath.basename(file)
    if file in listing.folders:
        raise Unreadable(f"{what} cannot be read", f"{name} is a folder")
    if file in listing.odd:
        raise Unreadable(f"{what} cannot be read", f"{name}: {listing.odd[file]}")
    return LONE_RETURN.sub("\n", read_text(listing.root / file, what))


def caption_from_name(file: str) -> str:
    """The name of a picture up to its first `_`, as in EveryDream2. Raises Unreadable when nothing
    is there.
    """
    stem = posixpath.splitext(posixpath.basename(file))[0]
    name = stem.split("_", 1)[0]
    return check_caption(
        name, "no caption file, and nothing before the first _ of the picture's name"
    )


def group_of(file: str) -> dict[str, Any]:
    """The group of a pair: the folder of its picture; none for the top folder."""
    folder = posixpath.dirname(file)
    return {"group": folder} if folder else {}


def locate(listing: Listing, path: str, inside: str = "") -> str:
    """The picture that a file of pairs means by `path`, relative to the folder `inside` of the
    listing.

    Of a path from another machine, the longest end that exists below the folder counts. A path
    without a suffix counts when exactly one picture has that name. Only what is in the listing can
    be found. Raises Unreadable.
    """
    plain = path.replace("\\", "/")
    if "://" in plain or "\0" in plain:
        raise Unreadable("it is not a path", path)
    absolute = plain.startswith("/") or plain[1:2] == ":"
    joined = posixpath.normpath(plain if absolute else posixpath.join(inside, plain))
    if ".." in plain.split("/") and (absolute or joined.startswith("..")):
        raise Unreadable("the path leads out of the folder", path)
    if not absolute and inside and not joined.startswith(f"{inside}/"):
        raise Unreadable("the path leads out of the folder", path)
    parts = joined.split("/")
    ends = ["/".join(parts[start:]) for start in range(1, len(parts))] if absolute else [joined]
    for end in ends:
        if end in listing.files or end in listing.odd:
            return end
    for end in ends:
        named = listing.by_stem.get(end, [])
        if len(named) > 1:
            names = ", ".join(map(posixpath.basename, named))
            raise Unreadable("several pictures have this name", names)
        if named:
            return named[0]
    raise Unreadable("there is no such picture", path)


def count_notes(unused: Counter[str]) -> list[str]:
    """The line about settings that training does not have; none without such settings."""
    if not unused:
        return []
    return [
        "not used: "
        + ", ".join(f"{shown(name)} ({count} x)" for name, count in unused.most_common())
    ]


def number(value: Any, what: str, least: float, most: float, above: bool = False) -> float:
    """A number from `least` (or above it) to `most`. Raises Unreadable for anything else; a number
    written as text is not one.
    """
    fine = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fine or not (least < value if above else least <= value) or not value <= most:
        limits = f"above {least:g}, at most {most:g}" if above else f"from {least:g} to {most:g}"
        raise Unreadable(f"{what} is not a number {limits}", kind(value))
    return float(value)


def listed(names: Iterable[str], most: int = 5) -> str:
    """Up to `most` names for a line of a report, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
