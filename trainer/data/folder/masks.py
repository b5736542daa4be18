"""The masks of a reading: each goes with its picture, and is no picture to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .listing import Listing
from .mask_names import is_labelled
from .reading import Entry, Problem, Reading, listed


def add_masks(listing: Listing, reading: Reading, results: Mapping[str, list | Problem]) -> None:
    """Give the entries of a reading their masks, and say which files are masks.

    `results` are the facts about pictures and masks: [size, time, SHA-256, width, height], or a
    problem. A picture whose mask cannot be used becomes a problem: without it, training would learn
    from what was to be left out.
    """
    masks = listing.masks
    if listing.no_masks:
        reading.notes.append(
            "pictures in folders of masks that are pairs of their own, as their proportions are "
            f"not those of the picture called like them: {listed(sorted(listing.no_masks))}"
        )
    doubtful = [file for file in masks.doubtful if file in reading.named]
    if doubtful:
        reading.notes.append(
            f"named like masks of pictures that are not there, pairs all the same: "
            f"{listed(doubtful)}"
        )
    if not masks.files:
        return
    reading.read.update(masks.files)
    kept = []
    for entry in reading.entries:
        mask, facts = masks.mask(entry.file), results.get(entry.file)
        found = (
            _with_mask(entry, mask, facts, results) if mask and isinstance(facts, list) else entry
        )
        if isinstance(found, Problem):
            reading.problems.append(found)
        else:
            kept.append(found)
    reading.entries[:] = kept
    if masks.of:
        reading.notes.append(
            f"masks of pictures, no pairs of their own: {len(masks.of)} (used when "
            "loss.mask_outside is below 1)"
        )
    used = {entry.file for entry in kept}
    if others := [file for file in masks.others if file not in used]:
        reading.notes.append(
            "masks or conditioning of other pictures by their names, left out: "
            f"{listed(others)} (a mask is used when it is named like a-masklabel.png)"
        )
    if masks.alone:
        reading.notes.append(f"masks that no picture has, left out: {listed(masks.alone)}")


def no_masks(
    listing: Listing, reading: Reading, results: Mapping[str, list | Problem]
) -> frozenset[str]:
    """The files in folders of masks that are no masks but pictures of their own, as they have the
    proportions of none of the pictures called like them.
    """
    fits: dict[str, list[bool]] = {}
    for entry in reading.entries:
        mask = listing.masks.mask(entry.file)
        of_mask, of_picture = results.get(mask), results.get(entry.file)
        if isinstance(of_mask, list) and isinstance(of_picture, list) and not is_labelled(mask):
            fits.setdefault(mask, []).append(_fits(of_mask, of_picture))
    return frozenset(mask for mask, found in fits.items() if not any(found))


def _with_mask(
    entry: Entry, mask: str, facts: Sequence, results: Mapping[str, list | Problem]
) -> Entry | Problem:
    """A picture's entry with its mask and the mask's hash, or why it cannot have it."""
    found = results[mask]
    if isinstance(found, Problem):
        return Problem(entry.file, "its mask cannot be read", f"{mask}: {found.reason}")
    if not _fits(found, facts):
        (width, height), (wide, high) = facts[3:5], found[3:5]
        return Problem(
            entry.file,
            "its mask has other proportions",
            f"{mask} is {wide} x {high}, the picture {width} x {height}",
        )
    return replace(entry, options={**entry.options, "mask": mask, "mask_hash": found[2]})


def _fits(mask: Sequence, picture: Sequence) -> bool:
    """Whether a mask has the proportions of a picture, by the facts about both."""
    (wide, high), (width, height) = mask[3:5], picture[3:5]
    return abs(width * high - height * wide) <= max(width, height, wide, high)
