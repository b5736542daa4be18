"""Pictures with a caption file each, or captioned by their names."""

from __future__ import annotations

from .listing import Listing, split_suffix
from .reading import Entry, Problem, Reading, caption_from_file, caption_from_name, group_of
from .strict_text import Unreadable

ENDS = (".txt", ".caption")


def read_plain(listing: Listing, reading: Reading, caption_text: str) -> None:
    """The caption of a.png is in a.txt, otherwise in a.caption, otherwise it is the picture's name
    up to the first `_`.
    """
    both, shared = 0, 0
    for file in listing.pictures:
        reading.awake()
        sidecars = listing.sidecars(file, ENDS)
        both += len(sidecars) > 1
        shared += bool(sidecars) and len(listing.by_stem[split_suffix(file)[0]]) > 1
        reading.read.update(sidecars)
        try:
            caption = (
                caption_from_file(listing, sidecars[0], caption_text)
                if sidecars
                else caption_from_name(file)
            )
        except Unreadable as error:
            reading.problems.append(Problem(file, error.reason, error.detail))
            continue
        if not sidecars:
            reading.named.add(file)
        reading.entries.append(Entry(file, caption, group_of(file)))
    if both:
        reading.notes.append(
            f"pictures with a .txt and a .caption file, of which the first is used: {both}"
        )
    if shared:
        reading.notes.append(
            f"pictures that share a caption file with another of the same name: {shared}"
        )
