"""Holding pairs back for validation."""

from __future__ import annotations

import dataclasses
import math

from ..errors import TrainerError
from ..files import sha256_text
from .manifest import Dataset


def split(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The dataset with `share` of its pairs, rounded up, marked for validation; earlier marks do not count.

    Chosen by a hash of (seed, image): the pairs of one image stay together, and pairs that are added later leave
    most others where they are. Raises TrainerError when nothing would be left on one side.
    """
    wanted = math.ceil(round(share * len(dataset.pairs), 9))
    order = sorted(dataset.pairs, key=lambda pair: sha256_text(f"{seed}/{pair.image_hash}"))
    held_back = {pair.image_hash for pair in order[:wanted]}
    pairs = tuple(
        dataclasses.replace(pair, split="validation" if pair.image_hash in held_back else "train")
        for pair in dataset.pairs
    )
    result = dataclasses.replace(dataset, pairs=pairs)
    if not result.train or not result.validation:
        raise TrainerError(
            f"Of {len(dataset.pairs)} pairs, a share of {share} leaves {len(result.train)} to train on and "
            f"{len(result.validation)} for validation. Both need at least one: change the share or add pairs."
        )
    return result
