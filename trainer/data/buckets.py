"""Aspect buckets: the few sizes that pictures are fitted to, and batches of pictures of the same
size.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import TrainerError

Bucket = tuple[int, int]
"""Width and height in pixels."""


TABLES = ("generated", "EveryDream2")

EVERYDREAM2: dict[int, str] = {
    256: "384x192 512x128",
    320: "384x256 448x192 576x128",
    384: "448x320 512x256 704x192",
    448: "512x384 640x320 768x256",
    512: "576x448 640x384 768x320 896x256 1024x256",
    576: "640x512 704x448 832x384 960x320 1152x256",
    640: "704x576 768x512 832x448 896x448 1024x384 1152x320 1280x320",
    704: "768x640 832x576 960x512 1088x448 1152x384 1280x384 1280x320",
    768: "832x704 896x640 960x576 1024x576 1152x512 1280x448 1408x384 1472x320",
    832: "896x768 960x704 1024x640 1152x576 1216x512 1344x512 1536x448 1600x384",
    896: "1024x768 1088x704 1216x640 1344x576 1536x512 1792x448",
    960: "1088x832 1152x768 1280x704 1408x640 1680x576 1792x512 2048x448",
    1024: "1152x896 1216x832 1344x768 1472x704 1600x640 1792x576 2048x512",
    1088: "1152x1024 1216x896 1408x832 1536x768 1664x704 1792x640 2048x576 2304x512",
    1152: "1280x1024 1344x960 1472x896 1536x832 1728x768 1856x704 2048x640 2304x576",
    1280: "1408x1152 1600x1024 1792x896 1920x832 2112x768 2304x704 2560x640",
    1408: "1536x1280 1664x1152 1920x1024 2048x960 2368x832 2560x768 2816x704",
    1536: "1728x1344 1792x1280 2048x1152 2304x1024 2432x960 2624x896 2816x832 3072x768",
}
"""The landscape sizes of EveryDream2's data/aspects.py (commit 5098db8); it also has them upright,
and the square.

Three slips of that file are not followed: 576x640 at 320, 1408x1344 at 1280 and 704x3072 at 1408
should be the upright 128x576, 1152x1408 and 704x2816. It also has the sizes for 1408, but does not
offer them.
"""


def make_buckets(
    resolution: int, step: int, max_aspect: float = 4.0, table: str = "generated"
) -> tuple[Bucket, ...]:
    """The sizes of a resolution, upright and landscape: EveryDream2's, or generated.

    Generated: for every width that is a multiple of `step`, the tallest size within the area
    resolution x resolution, with aspect ratios from 1:max_aspect to max_aspect:1. EveryDream2's
    table is that of the resolution rounded down to a multiple of 64, whatever step and max_aspect
    are. Raises TrainerError when it has none.
    """
    if table == "EveryDream2":
        return _everydream2(resolution)
    area = resolution * resolution
    sizes = set()
    for width in range(step, int(resolution * math.sqrt(max_aspect)) + 1, step):
        height = area // width // step * step
        if height and max(width / height, height / width) <= max_aspect:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def _everydream2(resolution: int) -> tuple[Bucket, ...]:
    square = resolution // 64 * 64
    if square not in EVERYDREAM2:
        raise TrainerError(
            f"EveryDream2 has no buckets for {resolution}, only for "
            f"{', '.join(map(str, EVERYDREAM2))}. Choose one of these, or generated buckets."
        )
    sizes = {(square, square)}
    for size in EVERYDREAM2[square].split():
        width, height = map(int, size.split("x"))
        sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def choose_bucket(
    width: int, height: int, buckets: tuple[Bucket, ...], table: str = "generated"
) -> Bucket:
    """The bucket with the nearest aspect ratio; of equal ones the largest.

    Distance is the difference of the ratios' logarithms, which treats upright and landscape
    pictures alike. With EveryDream2's table it is the difference of width / height, as there.
    """
    if table == "EveryDream2":
        return min(
            buckets,
            key=lambda size: (
                round(abs(size[0] / size[1] - width / height), 9),
                -size[0] * size[1],
            ),
        )
    ratio = math.log(width / height)
    return min(
        buckets,
        key=lambda size: (round(abs(math.log(size[0] / size[1]) - ratio), 9), -size[0] * size[1]),
    )


@dataclass(frozen=True)
class BucketUse:
    """A bucket and its pictures: how many, how many are enlarged to fill it, and the mean share
    that is cropped away.
    """

    bucket: Bucket
    pairs: int
    upscaled: int
    cropped: float


def bucket_use(
    sizes: Iterable[Bucket], buckets: tuple[Bucket, ...], table: str = "generated"
) -> list[BucketUse]:
    """How pictures of these sizes are spread over the buckets, the fullest bucket first. Empty ones
    are left out.
    """
    found: dict[Bucket, list[tuple[bool, float]]] = {}
    chosen: dict[Bucket, Bucket] = {}
    for size in sizes:
        if size not in chosen:
            chosen[size] = choose_bucket(*size, buckets, table)
        bucket = chosen[size]
        scale = max(bucket[0] / size[0], bucket[1] / size[1])
        shown = bucket[0] * bucket[1] / (size[0] * size[1] * scale * scale)
        found.setdefault(bucket, []).append((scale > 1, 1 - shown))
    uses = [
        BucketUse(
            bucket,
            len(values),
            sum(upscaled for upscaled, _ in values),
            sum(cropped for _, cropped in values) / len(values),
        )
        for bucket, values in found.items()
    ]
    return sorted(uses, key=lambda use: (-use.pairs, use.bucket))


class Showing(NamedTuple):
    """One time that an epoch shows a pair; `copy` counts from 0 when it shows the pair several
    times.
    """

    pair: str
    copy: int

    @property
    def key(self) -> str:
        """What random draws depend on; for the first showing it is the pair's id."""
        return f"{self.pair}#{self.copy}" if self.copy else self.pair


def batches(
    buckets: Mapping[str, Bucket],
    batch_size: int,
    seed: int,
    epoch: int,
    weights: Mapping[str, float] | None = None,
) -> list[list[Showing]]:
    """What an epoch shows, in batches of one bucket each.

    Every pair comes as often as its weight says, once without a weight; a fraction is a chance,
    drawn for every epoch. The order depends only on (seed, epoch, id). The last batch of a bucket
    may be smaller.
    """
    showings = [
        Showing(pair_id, copy)
        for pair_id in buckets
        for copy in range(_times((weights or {}).get(pair_id, 1.0), seed, epoch, pair_id))
    ]
    by_bucket: dict[Bucket, list[Showing]] = {}
    for showing in sorted(showings, key=lambda showing: _draw(seed, epoch, showing.key)):
        by_bucket.setdefault(buckets[showing.pair], []).append(showing)
    plan = [
        found[start : start + batch_size]
        for found in by_bucket.values()
        for start in range(0, len(found), batch_size)
    ]
    return sorted(plan, key=lambda batch: _draw(seed, epoch, "batch", batch[0].key))


def steps_of_epoch(
    buckets: Mapping[str, Bucket],
    batch_size: int,
    seed: int,
    epoch: int,
    weights: Mapping[str, float],
    accumulate: int,
) -> int:
    """The number of optimizer steps of `accumulate` batches in an epoch, without planning it."""
    counts: Counter[Bucket] = Counter()
    for pair_id, bucket in buckets.items():
        counts[bucket] += _times(weights.get(pair_id, 1.0), seed, epoch, pair_id)
    planned = sum(math.ceil(count / batch_size) for count in counts.values())
    return math.ceil(planned / accumulate)


def shows_anything(weights: Mapping[str, float], seed: int, epochs: int) -> bool:
    """Whether any of so many epochs shows any pair of these weights."""
    return any(
        _times(weight, seed, epoch, pair_id)
        for epoch in range(epochs)
        for pair_id, weight in weights.items()
    )


def no_steps(weights: Collection[float], epochs: int) -> str:
    """What is wrong with a run that has no step, and what to do."""
    return (
        f"The run would have no step: an epoch shows a pair as often as its weight says (multiply, "
        f"repeats), and the {len(weights)} pairs to train on have {sum(weights):g} altogether, "
        f"which came to nothing in each of its {epochs} epochs. Raise the weights, or add pairs."
    )


def _times(weight: float, seed: int, epoch: int, pair_id: str) -> int:
    """How often an epoch shows a pair of that weight."""
    whole = math.floor(weight)
    if weight == whole:
        return whole
    drawn = int.from_bytes(_draw(seed, epoch, "times", pair_id)[:8], "big") / 2**64
    return whole + (drawn < weight - whole)


def _draw(*key: object) -> bytes:
    """A random number for a key, always the same one."""
    return hashlib.sha256("/".join(map(str, key)).encode("utf-8")).digest()
