"""A folder as kohya's sd-scripts read it (commit 48d368fa): N_name folders with repeats, or a
metadata file.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from typing import Any

from ...errors import TrainerError
from ..image import PACKAGES
from .listing import Listing, suffix
from .reading import (
    MAX_WEIGHT,
    Entry,
    Problem,
    Reading,
    caption_and_choices,
    check_caption,
    group_of,
    kind,
    listed,
    locate,
    shown,
)
from .strict_text import MAX_JSON_BYTES, Unreadable, parse_json, read_text

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", *PACKAGES))
"""The pictures that kohya's scripts read, and those of other packages."""
METADATA = (
    "metadata.json",
    "meta_lat.json",
    "meta_clean.json",
    "meta_cap_dd.json",
    "meta_cap.json",
)
"""Names of the metadata file in its documentation, the most complete first."""
ENDS = (".caption", ".txt")
"""Caption files; the first is the scripts' default, the second what most people set."""
LIKELY = re.compile(r"\d{1,3}_[^/]*")
"""Folder names that are recognized as repeats."""
CERTAIN = re.compile(r"[1-9]\d{0,2}_[^/]*")
"""Such names that are no months: 05_may."""
OF_KOHYA = frozenset(("img", "image", "images", "reg", "regularization", "regularisation"))
"""What kohya's tools and their users call the folder above those with repeats."""
FOR_ITSELF = frozenset(("caption", "tags", "train_resolution", "image_size"))
"""Keys that kohya's tools write into a metadata entry and that are not reported as unused; the two
sizes are its own bookkeeping.
"""


def repeats(folder: str) -> int | None:
    """The number before the first `_` of a folder's name; None when there is no number."""
    try:
        return int(folder.split("_")[0])
    except ValueError:
        return None


def looks_like_repeats(listing: Listing) -> bool:
    """Whether all pictures are directly in folders named like 10_cat, with small numbers
    (2024_summer is an album).
    """
    folders = {posixpath.dirname(file) for file in listing.pictures}
    return all(LIKELY.fullmatch(folder) for folder in folders)


def folders_of_repeats(listing: Listing) -> list[str]:
    """Folders below the top with pictures in folders of theirs that are named like 10_cat, as in
    kohya's img/10_cat and reg/1_cat.
    """
    found = {posixpath.split(posixpath.dirname(file)) for file in listing.pictures}
    return sorted({above for above, name in found if above and LIKELY.fullmatch(name)})


def holds_repeats(listing: Listing, above: str) -> bool:
    """Whether a folder, one of `folders_of_repeats`, is meant as kohya's: by its name, or because
    all pictures are in folders of repeats and nothing is named like dates (2024/05_may).
    """
    name = posixpath.basename(above).lower()
    folders = {posixpath.split(posixpath.dirname(file)) for file in listing.pictures}
    dated = name.isdigit() or not all(CERTAIN.fullmatch(inner) for _, inner in folders)
    return name in OF_KOHYA or not dated


def _where(listing: Listing) -> str:
    found = folders_of_repeats(listing)
    return " or ".join(f"the folder {shown(folder)}" for folder in found) or "the folder above"


def metadata_file(listing: Listing) -> str | None:
    """The metadata file in the top folder; None without one."""
    return next((name for name in METADATA if name in listing.files), None)


def read_kohya(listing: Listing, reading: Reading, caption_text: str) -> None:
    """The pairs of the metadata file, or, without one, those of the folders with repeats."""
    name = metadata_file(listing)
    if name:
        _read_metadata(listing, reading, name)
    else:
        _read_repeats(listing, reading, caption_text)


def _read_repeats(listing: Listing, reading: Reading, caption_text: str) -> None:
    """The pictures directly in folders N_name, shown N times each; without a caption file, `name`
    is the caption.
    """
    passed_over: Counter[str] = Counter()
    both = 0
    for file in listing.pictures:
        reading.awake()
        folder, _, name = file.partition("/")
        times = repeats(folder) if name else None
        if times is None or times < 1 or "/" in name or suffix(file) not in SUFFIXES:
            passed_over[posixpath.dirname(file) or "the top folder"] += 1
            continue
        found = _captions(listing, file)
        both += len(found) > 1
        reading.read.update(found)
        choices: dict[str, str] = {}
        try:
            if times > MAX_WEIGHT:
                raise Unreadable(
                    "its folder has too many repeats", f"{times}; at most {MAX_WEIGHT:,}"
                )
            if found:
                caption, choices = caption_and_choices(listing, found[0], caption_text, reading)
            else:
                where = "no caption file, and no name after the repeats of its folder"
                caption = check_caption(folder.partition("_")[2], where)
        except Unreadable as error:
            reading.problems.append(Problem(file, error.reason, error.detail))
            continue
        if not found:
            reading.named.add(file)
        reading.entries.append(
            Entry(file, caption, {"weight": float(times), **group_of(file), **choices})
        )
    if not reading.entries and not reading.problems:
        raise TrainerError(
            "There is neither a metadata.json nor a folder of pictures with a name like 10_cat. "
            f"kohya's layout needs one of them. Choose another layout, or {_where(listing)}."
        )
    if passed_over:
        places = (f"{count} in {place}" for place, count in passed_over.most_common())
        reading.notes.append(f"pictures that kohya skips: {listed(places)}")
    if both:
        reading.notes.append(
            f"pictures with a .caption and a .txt file, of which the first is used: {both}"
        )


def _captions(listing: Listing, file: str) -> list[str]:
    """The caption files of a picture; also those of its name without the last four parts, which
    kohya's face cropper adds.
    """
    found = listing.sidecars(file, ENDS)
    stem = posixpath.splitext(posixpath.basename(file))[0].split("_")
    if not found and len(stem) >= 5:
        shorter = posixpath.join(posixpath.dirname(file), "_".join(stem[:-4]) + ".png")
        found = listing.sidecars(shorter, ENDS)
    return found


def _read_metadata(listing: Listing, reading: Reading, name: str) -> None:
    """The pairs of a JSON object whose keys are pictures and whose values hold caption and tags."""
    reading.read.add(name)
    try:
        values = parse_json(read_text(listing.root / name, "the file", MAX_JSON_BYTES))
        if not isinstance(values, dict):
            raise ValueError(f"{kind(values)}, not a mapping of pictures to captions")
    except (Unreadable, ValueError) as error:
        raise TrainerError(
            f"{name} is not understood: {error}. Repair it, or choose another layout."
        ) from error
    named = set()
    for key, value in values.items():
        reading.awake()
        try:
            file = locate(listing, key)
            named.add(file)
            caption = _caption(value, key)
        except Unreadable as error:
            reading.problems.append(Problem(key, error.reason, error.detail))
            continue
        reading.unused.update(str(extra)[:40] for extra in value if extra not in FOR_ITSELF)
        reading.entries.append(Entry(file, caption, group_of(file)))
    others = [file for file in listing.pictures if file not in named]
    if others:
        reading.notes.append(f"pictures that {name} does not name, not read: {len(others)}")


def _caption(value: Any, key: str) -> str:
    """Caption and tags of an entry, joined by ", ". kohya joins them by ",", which gives the same
    tokens.
    """
    if not isinstance(value, dict):
        raise Unreadable("its entry is not understood", kind(value))
    parts = []
    for name in ("caption", "tags"):
        part = value.get(name)
        if part is not None and not isinstance(part, str):
            raise Unreadable("the caption is not text", f"{name}: {kind(part)}")
        if part and part.strip():
            parts.append(part.strip())
    return check_caption(", ".join(parts), "its entry has neither caption nor tags")
