"""Pictures with a caption file each, or captioned by their names."""

from __future__ import annotations

from typing import Any

from .listing import Listing, split_suffix, suffix
from .reading import (
    Entry,
    Problem,
    Reading,
    caption_and_choices,
    caption_from_name,
    check_caption,
    group_of,
    text_from_file,
)
from .strict_text import Unreadable, parse_json

ENDS = (".txt", ".caption")


def read_plain(listing: Listing, reading: Reading, caption_text: str) -> None:
    """The caption of a.png is in a.txt, otherwise in a.caption, otherwise it is "caption" of
    a.json, otherwise the picture's name up to the first `_`.
    """
    both, shared = 0, 0
    for file in listing.pictures:
        reading.awake()
        sidecars = listing.sidecars(file, ENDS)
        both += len(sidecars) > 1
        shared += bool(sidecars) and len(listing.by_stem[split_suffix(file)[0]]) > 1
        sidecars = sidecars or _json_with_caption(listing, file)
        reading.read.update(sidecars)
        choices: dict[str, str] = {}
        try:
            if sidecars and suffix(sidecars[0]) == ".json":
                caption = check_caption(_from_json(listing, sidecars[0]), sidecars[0])
            elif sidecars:
                caption, choices = caption_and_choices(listing, sidecars[0], caption_text, reading)
            else:
                caption = caption_from_name(file)
        except Unreadable as error:
            reading.problems.append(Problem(file, error.reason, error.detail))
            continue
        if not sidecars:
            reading.named.add(file)
        reading.entries.append(Entry(file, caption, group_of(file) | choices))
    if both:
        reading.notes.append(
            f"pictures with a .txt and a .caption file, of which the first is used: {both}"
        )
    if shared:
        reading.notes.append(
            f"pictures that share a caption file with another of the same name: {shared}"
        )


def _json_with_caption(listing: Listing, picture: str) -> list[str]:
    """The JSON file of a picture, if it is an object with a text "caption"."""
    found = listing.sidecars(picture, (".json",))
    return found if found and isinstance(_from_json(listing, found[0]), str) else []


def _from_json(listing: Listing, file: str) -> Any:
    """What a JSON file says under "caption"; None when it says nothing or cannot be read."""
    try:
        value = parse_json(text_from_file(listing, file))
    except (Unreadable, ValueError):
        return None
    return value.get("caption") if isinstance(value, dict) else None
