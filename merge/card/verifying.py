"""Checks a card against the files that it speaks of, as they are today."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import MergeError
from .graph import plain
from .links import BEGINNING, CARD, GRIDS, MODELS, RUNS, SETTINGS, WHOLE
from .page import EMBEDDED, page_sha256, read_page
from .reading import (
    Unreadable,
    folders,
    inside,
    parse_json,
    read_bytes,
    read_json,
    sha256_json,
    sha256_of,
    text,
    whole,
)
from .record import FORMAT, KIND
from .runs import settings_hash
from .writing import PAGE_ENDING, README, RECORD_ENDING, text_sha256

SAME, CHANGED, MISSING, UNREACHABLE = STATES = ("same", "changed", "missing", "unreachable")
MOST_LINKS = 100_000
SHA256 = re.compile(r"[0-9a-f]{64}")
EVERY_ONE = (
    "The card is from before cards noted how large checkpoints are: every one in the folder of "
    "models is read to find those that are not where they were. That can take long."
)

Find = Callable[[str], Path | None]


@dataclass(frozen=True)
class Finding:
    """How something that a card speaks of is today: one of STATES, with the reason."""

    state: str
    what: str
    name: str
    why: str = ""

    def __str__(self) -> str:
        """One line."""
        return plain(
            f"{self.state}: {self.what} {self.name}" + (f" ({self.why})" if self.why else "")
        )


@dataclass(frozen=True)
class Places:
    """Where to look: files of checkpoints by name, and the folders of runs and grids; None for what
    was not given. `names` are those of all checkpoints, for one that has another name now. `say`
    is told what takes long.
    """

    find: Find | None = None
    runs: Path | None = None
    grids: Path | None = None
    sha256_of: Callable[[Path], str] = sha256_of
    names: Callable[[], Iterable[str]] = tuple
    say: Callable[[str], None] = lambda words: None


def verify(card: Path, places: Places) -> list[Finding]:
    """What became of everything that a card speaks of. `card` is its folder, or one of its files.

    Raises MergeError if it is no card, or one of a newer version.
    """
    record, own = _record(card)
    places = replace(
        places,
        sha256_of=cache(places.sha256_of),
        names=cache(places.names),
        say=cache(places.say),
    )
    links = record.get("links")
    if not isinstance(links, list) or len(links) > MOST_LINKS:
        raise MergeError(f"{card} is no release card, or a damaged one: it has no list of links.")
    return [*own, *(_checked(link, places) for link in links)]


def summary(found: Sequence[Finding]) -> str:
    """How many there are of each state, in words."""
    counts = Counter(one.state for one in found)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _record(card: Path) -> tuple[dict[str, Any], list[Finding]]:
    """The record of a card, and how the card's own files are."""
    try:
        path = _record_file(card)
        if path.name.endswith(PAGE_ENDING):
            page = read_bytes(path).decode("utf-8", "replace")
            record = parse_json(read_page(page).encode("utf-8"))
            own = [*_itself(record, path.name, page), *_embedded(record, page)]
        else:
            record = read_json(path)
            own = [*_itself(record, path.name), *_files(record, path.parent)]
    except Unreadable as error:
        raise MergeError(f"{card} is no release card that can be read: {error}.") from None
    if record.get("kind") != KIND:
        raise MergeError(f"{card} is no release card.")
    if record.get("format") != FORMAT:
        raise MergeError(
            f"{card} was written by a newer version of Cocktail (format "
            f"{plain(str(record.get('format')))[:20]}; this one reads {FORMAT}). Update Cocktail."
        )
    return record, own


def _record_file(card: Path) -> Path:
    """The file with the record: the given one, or the one in its folder."""
    if card.is_file() and card.name != README:
        return card
    folder = card if card.is_dir() else card.parent
    for ending in (RECORD_ENDING, PAGE_ENDING):
        found = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise Unreadable(f"its folder has several files *{ending}; name one of them")
    raise Unreadable(f"there is no file *{RECORD_ENDING} or *{PAGE_ENDING}")


def _itself(record: Mapping[str, Any], name: str, page: str | None = None) -> Iterator[Finding]:
    """Whether the record, and the words of a page, are those that were written. Cards from before
    there were these hashes say nothing of it.
    """
    if "record_sha256" in record:
        rest = {key: value for key, value in record.items() if key != "record_sha256"}
        try:
            same = sha256_json(rest) == record["record_sha256"]
        except RecursionError:
            same = False
        why = "" if same else "what it says was edited"
        yield Finding(SAME if same else CHANGED, "record of the card", name, why)
    if page is not None and "page_sha256" in record:
        same = page_sha256(page) == record["page_sha256"]
        why = "" if same else "they were edited"
        yield Finding(SAME if same else CHANGED, "words of the page", name, why)


def _files(record: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    files = record.get("files")
    for name, sha256 in files.items() if isinstance(files, dict) else ():
        try:
            data = read_bytes(inside(folder, name))
            same = text_sha256(data) == sha256
            why = "" if same else "it is another one than when the card was made"
            yield Finding(SAME if same else CHANGED, "file of the card", name, why)
        except Unreadable as error:
            yield _absent(error, "file of the card", name)


def _embedded(record: Mapping[str, Any], page: str) -> Iterator[Finding]:
    """Whether the pictures of a page alone are those that its record speaks of, and no others."""
    within = set()
    for data in EMBEDDED.findall(page):
        try:
            within.add(hashlib.sha256(base64.b64decode(data)).hexdigest())
        except (binascii.Error, ValueError):
            within.add("")
    what, pictures = "picture of the page", record.get("pictures")
    known = [one for one in pictures if isinstance(one, dict)] if isinstance(pictures, list) else []
    for one in known:
        same = one.get("sha256") in within
        why = "" if same else "the page has no such picture"
        yield Finding(SAME if same else CHANGED, what, text(one.get("file")), why)
    others = within - {text(one.get("sha256")) for one in known}
    if others:
        yield Finding(CHANGED, what, f"{len(others)} more", "the card does not speak of them")


def _checked(link: Any, places: Places) -> Finding:
    if not isinstance(link, dict):
        return Finding(UNREACHABLE, "link", "", "it is damaged")
    what, name, file = (text(link.get(key), 300) for key in ("what", "name", "file"))
    name = name or file
    sha256, under, kind = (text(link.get(key), 100) for key in ("sha256", "under", "kind"))
    if not SHA256.fullmatch(sha256) or kind not in (WHOLE, BEGINNING, SETTINGS):
        return Finding(UNREACHABLE, what, name, "the card does not say what it was")
    try:
        path = _path(under, file, places)
        if path is None:
            return Finding(UNREACHABLE, what, name, f"no folder with its {under} was given")
        found, more = _hash(path, link, kind, places)
    except Unreadable as error:
        absent = _absent(error, what, name)
        moved = _moved(link, places) if absent.state == MISSING else ""
        return Finding(SAME, what, name, f"it is {moved} now") if moved else absent
    except MergeError as error:
        return Finding(UNREACHABLE, what, name, str(error))
    except OSError as error:
        return Finding(UNREACHABLE, what, name, f"it cannot be read ({error.strerror})")
    if found == sha256:
        return Finding(SAME, what, name, more)
    why = more or f"SHA-256 {found[:12]}... now, {sha256[:12]}... then"
    moved = _moved(link, places) if under == MODELS else ""
    return Finding(CHANGED, what, name, why + f"; what it was is {moved} now" * bool(moved))


def _moved(link: Mapping[str, Any], places: Places) -> str:
    """The name under which what a link speaks of is in its folder now, found by its hash, ""
    without one. Only files of its size are read, where the card knows that.
    """
    under, file = text(link.get("under")), text(link.get("file"))
    size = whole(link.get("size_bytes"))
    if under == MODELS and not size:
        places.say(EVERY_ONE)
    for name in _names(under, file, places):
        try:
            path = _path(under, name, places)
            if path is None or not path.is_file():
                continue
            if under == MODELS and size and path.stat().st_size != size:
                continue
            if _hash(path, link, text(link.get("kind")), places)[0] == link.get("sha256"):
                return name
        except (Unreadable, MergeError, OSError):
            continue
    return ""


def _names(under: str, file: str, places: Places) -> Iterable[str]:
    """What may be a file under another name: any checkpoint, or what is at the same place in the
    folder of another run or grid.
    """
    if under == MODELS:
        return places.names()
    root = {RUNS: places.runs, GRIDS: places.grids}.get(under)
    rest = file.partition("/")[2]
    return [f"{one.name}/{rest}" for one in folders(root)] if root is not None and rest else ()


def _absent(error: Unreadable, what: str, name: str) -> Finding:
    """Of something that is not there, or that cannot be read."""
    why = str(error)
    if "become shorter" in why:
        return Finding(CHANGED, what, name, why)
    return Finding(MISSING if why == "it is not there" else UNREACHABLE, what, name, why)


def _path(under: str, file: str, places: Places) -> Path | None:
    """The file of a link, None if its folder was not given."""
    if under == MODELS:
        if places.find is None:
            return None
        found = places.find(file)
        if found is None:
            raise Unreadable("it is not there")
        return found
    root = {RUNS: places.runs, GRIDS: places.grids}.get(under)
    if under == CARD or root is None:
        return None
    return inside(root, file)


def _hash(path: Path, link: Mapping[str, Any], kind: str, places: Places) -> tuple[str, str]:
    """What a link's hash is today, and what else there is to say."""
    if kind == WHOLE:
        is_model = link.get("under") == MODELS
        return (places.sha256_of if is_model else sha256_of)(path), ""
    if kind == BEGINNING:
        size = whole(link.get("size_bytes")) or 0
        if size < 1:
            raise Unreadable("the card does not say how much of it there was")
        found = sha256_of(path, size)
        more = path.stat().st_size - size
        return found, "more have been cast since" if more else ""
    try:
        return settings_hash(read_json(path, 16 << 20)), ""
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return "", "it cannot be read as a run's any more"
