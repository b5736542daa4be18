"""Holding pairs back for validation."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

from ..errors import TrainerError
from ..files import sha256_text
from .manifest import TRAIN, VALIDATION, Dataset, Pair

METHODS = ("exact share", "by hash")
TOGETHER = ("same image", "same group", "same caption")
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def split(
    dataset: Dataset,
    share: float,
    seed: int,
    method: str = "exact share",
    together: str = "same image",
) -> Dataset:
    """The dataset with `share` of its pairs marked for validation; earlier marks are dropped.

    Pairs that belong together (one image, one group, one caption) stay on one side. The side
    depends on a hash of (seed, what they have in common). "exact share" takes pairs in the order of
    their hashes until the share is reached, rounded up as in EveryDream2; a pair that is added
    later can move a few others to the other side. "by hash" takes those whose hash is below the
    share: the result is only about the share, but a pair that is added moves no other. Raises
    TrainerError when nothing would be left on one side.
    """
    common = _common(together)
    if method == "by hash":
        held_back = {
            key
            for key in map(common, dataset.pairs)
            if int(sha256_text(f"{seed}/{key}")[:16], 16) < share * 2**64
        }
    else:
        wanted = math.ceil(round(share * len(dataset.pairs), 9))
        order = sorted(dataset.pairs, key=lambda pair: sha256_text(f"{seed}/{common(pair)}"))
        held_back = {common(pair) for pair in order[:wanted]}
    pairs = tuple(
        dataclasses.replace(pair, split=VALIDATION if common(pair) in held_back else TRAIN)
        for pair in dataset.pairs
    )
    result = dataclasses.replace(dataset, pairs=pairs)
    if len(dataset.pairs) > 1 and len({common(pair) for pair in dataset.pairs}) == 1:
        raise TrainerError(
            f"All {len(dataset.pairs)} pairs have the {together}, and such pairs stay on one side: "
            "none can be held back for validation. Add pairs that differ"
            + ("." if together == "same image" else ", or keep other pairs together.")
        )
    if not result.train or not result.validation:
        raise TrainerError(
            f"Of {len(dataset.pairs)} pairs, a share of {share} leaves {len(result.train)} to "
            f"train on and {len(result.validation)} for validation. Both need at least one: "
            "change the share or add pairs."
        )
    return result.noted(
        f"{len(result.train)} pairs to train on, {len(result.validation)} held back: {share:g}, "
        f"{method}, {together}, seed {seed}"
    )


def _common(together: str) -> Callable[[Pair], str]:
    """What pairs that stay on one side have in common."""
    if together == "same group":
        return lambda pair: f"group/{pair.group}" if pair.group else pair.image_hash
    if together == "same caption":
        return lambda pair: "caption/" + " ".join(pair.caption.lower().split())
    return lambda pair: pair.image_hash


def check_set_name(name: str) -> None:
    """Raise TrainerError when a validation set cannot have this name; "" is the unnamed set."""
    if name and not SET_NAME.fullmatch(name):
        raise TrainerError(
            f"{name!r} cannot name a validation set: use up to 32 letters, digits, '-', '_' and "
            "'.', beginning with a letter or digit."
        )


def add_validation_set(dataset: Dataset, held_back: Dataset, name: str = "") -> Dataset:
    """The dataset with all pairs of another one as a validation set; "" is the unnamed set.

    A picture that is in both is left out of training. Raises TrainerError when the name is taken
    or not allowed, or when nothing is left to train on.
    """
    check_set_name(name)
    mark = f"{VALIDATION}/{name}" if name else VALIDATION
    if any(pair.split == mark for pair in dataset.pairs):
        raise TrainerError(
            f"The dataset already has a validation set {name or 'without a name'}. "
            "Give this one another name."
        )
    if held_back.background != dataset.background:
        raise TrainerError(
            f"Transparency becomes {dataset.background} in one dataset and {held_back.background} "
            "in the other. Load both with the same background."
        )
    there = {pair.id for pair in dataset.validation}
    added = tuple(
        dataclasses.replace(
            pair,
            split=mark,
            image=str(held_back.path(pair)),
            mask=str(held_back.mask_path(pair)) if pair.mask else "",
        )
        for pair in held_back.pairs
        if pair.id not in there
    )
    images = {pair.image_hash for pair in added}
    kept = tuple(
        pair for pair in dataset.pairs if pair.split != TRAIN or pair.image_hash not in images
    )
    left_out = len(dataset.pairs) - len(kept)
    result = dataclasses.replace(dataset, pairs=kept + added)
    if not result.train:
        raise TrainerError(
            f"All pictures to train on are also in {held_back.name}. "
            "Choose another folder for validation."
        )
    if not added:
        raise TrainerError(f"All pairs of {held_back.name} are already held back.")
    also = f"; {left_out} left out of training, because their pictures are in it"
    also = also if left_out else ""
    return result.noted(
        f"{len(added)} pairs of {held_back.name} as validation set {name or VALIDATION}{also}"
    )
