"""Aspect buckets: the few sizes that pictures are fitted to, and batches of pictures of one size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

Bucket = tuple[int, int]
"""Width and height in pixels."""


def make_buckets(resolution: int, step: int, max_aspect: float = 4.0) -> tuple[Bucket, ...]:
    """For every width that is a multiple of `step`, the tallest size within the area resolution x resolution.

    Aspect ratios go from 1:max_aspect to max_aspect:1. Every size is there upright and lying.
    """
    area = resolution * resolution
    sizes = set()
    for width in range(step, int(resolution * math.sqrt(max_aspect)) + 1, step):
        height = area // width // step * step
        if height and max(width / height, height / width) <= max_aspect:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def choose_bucket(width: int, height: int, buckets: tuple[Bucket, ...]) -> Bucket:
    """The bucket whose aspect ratio is nearest, measured by its logarithm; of equals the largest."""
    ratio = math.log(width / height)
    return min(
        buckets,
        key=lambda size: (round(abs(math.log(size[0] / size[1]) - ratio), 9), -size[0] * size[1]),
    )


def batches(
    buckets: Mapping[str, Bucket], batch_size: int, seed: int, epoch: int
) -> list[list[str]]:
    """The pair ids of an epoch in batches of one bucket each; every pair comes exactly once.

    Order is a function of (seed, epoch, id) alone. The last batch of a bucket may be smaller.
    """
    by_bucket: dict[Bucket, list[str]] = {}
    for pair_id in sorted(buckets, key=lambda pair_id: _draw(seed, epoch, pair_id)):
        by_bucket.setdefault(buckets[pair_id], []).append(pair_id)
    plan = [
        ids[start : start + batch_size]
        for ids in by_bucket.values()
        for start in range(0, len(ids), batch_size)
    ]
    return sorted(plan, key=lambda batch: _draw(seed, epoch, "batch", batch[0]))


def _draw(*key: object) -> bytes:
    """A number drawn for a key, always the same one."""
    return hashlib.sha256("/".join(map(str, key)).encode("utf-8")).digest()
