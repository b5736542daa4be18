"""Leaving out what should not be trained on: pictures without content, and repeated pictures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import TrainerError
from ..manifest import TRAIN, Dataset, Pair
from .looks import Look, near_duplicates


@dataclass(frozen=True)
class CleanSettings:
    """What is left out.

    `min_side`: pictures whose shorter side has fewer pixels. `max_aspect`: pictures whose longer
    side is more than this many times the shorter one. `min_deviation`: nearly uniform pictures, see
    `looks.Look`; 0 = none. `same_picture`: "leave out" all but one pair of each picture, "same
    caption" = only where the caption is the same too, or "keep". `near_distance`: pictures of
    similar colours whose difference hash differs from another's by at most this many bits; -1 =
    none.
    """

    min_side: int = 64
    max_aspect: float = 4.0
    min_deviation: float = 2.0
    same_picture: str = "leave out"
    near_distance: int = 2


SAME_PICTURE = ("leave out", "same caption", "keep")


@dataclass(frozen=True)
class LeftOut:
    """A pair that was left out. Others may have the same `reason`; `detail` is about this pair."""

    id: str
    image: str
    reason: str
    detail: str


@dataclass(frozen=True)
class CleanReport:
    """The pairs that a cleaning left out, in the order of the dataset."""

    before: int
    left_out: tuple[LeftOut, ...]
    across: int
    """How many were left out of training because validation has the same or a similar picture."""

    def __str__(self) -> str:
        gone = len(self.left_out)
        lines = [f"{self.before} pairs, {self.before - gone} kept, {gone} left out"]
        reasons = Counter(entry.reason for entry in self.left_out).most_common()
        lines += [f"left out: {count} x {reason}" for reason, count in reasons]
        if self.across:
            lines.append(
                "of these, left out of training because validation has such a picture: "
                f"{self.across}"
            )
        return "\n".join(lines)


def clean(
    dataset: Dataset,
    settings: CleanSettings,
    looks: dict[str, Look],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Dataset, CleanReport]:
    """The dataset without what the settings leave out, and a report of that.

    Of similar pictures the one held back for validation is kept, otherwise the one with the most
    pixels, otherwise the first: training never sees a picture that validation measures. `looks`
    holds the looks by image hash, see looks.py; a picture that is not in it can no longer be read.
    Raises TrainerError when nothing would be left to train on.
    """
    left_out: dict[int, LeftOut] = {}

    def leave_out(place: int, reason: str, detail: str) -> None:
        pair = dataset.pairs[place]
        left_out.setdefault(place, LeftOut(pair.id, pair.image, reason, detail))

    for place, pair in enumerate(dataset.pairs):
        look = looks.get(pair.image_hash)
        aspect = max(pair.width, pair.height) / min(pair.width, pair.height)
        if look is None:
            leave_out(place, "the picture can no longer be read", pair.image)
        elif min(pair.width, pair.height) < settings.min_side:
            leave_out(
                place, f"a side below {settings.min_side} pixels", f"{pair.width} x {pair.height}"
            )
        elif aspect > settings.max_aspect:
            leave_out(
                place, f"longer than {settings.max_aspect:g} : 1", f"{pair.width} x {pair.height}"
            )
        elif look.deviation < settings.min_deviation:
            leave_out(place, "nearly uniform", f"deviation {look.deviation:g}")
    order = sorted(
        (place for place in range(len(dataset.pairs)) if place not in left_out),
        key=lambda place: _preference(dataset.pairs[place], place),
    )
    across = 0
    for place, like, reason, detail in _duplicates(dataset, settings, looks, order, progress):
        leave_out(place, reason, detail)
        across += dataset.pairs[place].split == TRAIN != dataset.pairs[like].split
    kept = tuple(pair for place, pair in enumerate(dataset.pairs) if place not in left_out)
    report = CleanReport(
        len(dataset.pairs), tuple(left_out[place] for place in sorted(left_out)), across
    )
    result = dataclasses.replace(dataset, pairs=kept)
    if not result.train:
        raise TrainerError(f"Nothing is left to train on.\n{report}\nLoosen the limits.")
    return result.noted(f"cleaned: {len(kept)} of {report.before} pairs kept"), report


def _preference(pair: Pair, place: int) -> tuple[bool, int, int]:
    """A sort key that puts the pair to keep before those similar to it."""
    return pair.split == TRAIN, -pair.width * pair.height, place


def _duplicates(
    dataset: Dataset,
    settings: CleanSettings,
    looks: dict[str, Look],
    order: list[int],
    progress: Callable[[int, int], None] | None,
) -> list[tuple[int, int, str, str]]:
    """The places to leave out, each with the place that it repeats, the reason and the detail;
    `order` has those to keep first.
    """
    pairs = dataset.pairs
    found: list[tuple[int, int, str, str]] = []
    first: dict[object, int] = {}
    pictures: list[int] = []
    for place in order:
        pair = pairs[place]
        crosses = pair.image_hash in first and pairs[first[pair.image_hash]].split != pair.split
        identity: object = pair.image_hash
        if settings.same_picture == "same caption" and not crosses:
            identity = (pair.image_hash, pair.caption)
        like = first.get(identity)
        if like is not None and (settings.same_picture != "keep" or crosses):
            found.append((place, like, "the same picture again", pairs[like].image))
            continue
        if pair.image_hash not in first:
            pictures.append(place)
        first.setdefault(pair.image_hash, place)
        first.setdefault((pair.image_hash, pair.caption), place)
    if settings.near_distance < 0:
        return found
    seen = [looks[pairs[place].image_hash] for place in pictures]
    dropped: dict[str, tuple[int, int]] = {}
    for likeness in near_duplicates(seen, settings.near_distance, progress):
        picture, like = pictures[likeness.picture], pictures[likeness.like]
        dropped[pairs[picture].image_hash] = (like, likeness.distance)
    gone = {place for place, *_ in found}
    for place in order:
        if place not in gone and pairs[place].image_hash in dropped:
            like, distance = dropped[pairs[place].image_hash]
            detail = f"{pairs[like].image}, {distance} of 64 bits differ"
            found.append((place, like, "very similar to another picture", detail))
    return found
