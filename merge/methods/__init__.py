"""The merge methods other than weighted sums: one table, one pure function for each.

A function takes the operands as floating point tensors of the same shape, in the order of the
table, and the settings by name; it returns a new tensor and leaves its operands alone. It computes
in the type it is given (the engine gives float32), and sums over a tensor in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .cosine import cosine_a, cosine_b
from .differences import smooth_add, train_difference
from .means import geometric, geometric_median, karcher, model_stock, slerp
from .task_vectors import dare, della, ties


@dataclass(frozen=True)
class Setting:
    """A number that a method takes, from `low` to `high`; if it is `by_block` it may also be block
    weights.
    """

    name: str
    default: Fraction
    low: Fraction
    high: Fraction
    about: str
    by_block: bool = True
    is_whole: bool = False


@dataclass(frozen=True)
class MergeMethod:
    """A method: `operands` names the recipes it takes; with `more` the last can be repeated.

    `by_element` says that an element of the result depends only on the same elements of the
    operands (and on its place in the tensor, for random draws), so that the engine can process a
    tensor in pieces.
    """

    title: str
    function: Callable[..., Any]
    operands: tuple[str, ...]
    settings: tuple[Setting, ...]
    about: str
    more: bool = False
    by_element: bool = False


def _setting(name: str, default: str, low: int, high: int, about: str) -> Setting:
    return Setting(name, Fraction(default), Fraction(low), Fraction(high), about)


SHARE_OF_B = _setting("share_of_b", "1/2", 0, 1, "0 is a, 1 is b")
STRENGTH = _setting(
    "strength",
    "1",
    -10,
    10,
    "factor of the merged difference when it is added to the base",
)
DROP = Setting(
    "drop",
    Fraction(1, 2),
    Fraction(0),
    Fraction(99, 100),
    "the share of the differences that is dropped",
    by_block=False,
)
SEED = Setting(
    "seed",
    Fraction(0),
    Fraction(0),
    Fraction(1_000_000),
    "a different number drops different differences",
    by_block=False,
    is_whole=True,
)

METHODS: dict[str, MergeMethod] = {
    "train_difference": MergeMethod(
        "Train difference", train_difference, ("a", "b", "c"),
        (_setting("strength", "1", -10, 10, "factor of the difference b - c"),),
        "Like add difference, but a weight gets more of b - c the more a already differs from b. "
        "The result is close to training a on b's pictures.",
        by_element=True,
    ),
    "smooth_add": MergeMethod(
        "Smooth add", smooth_add, ("a", "b", "c"),
        (_setting("strength", "1", -10, 10, "factor of the smoothed difference"),),
        "Add difference with b - c smoothed by a median and a Gaussian filter, against burnt "
        "results. "
        "Takes minutes.",
    ),
    "cosine_a": MergeMethod(
        "Cosine adaptive A", cosine_a, ("a", "b"),
        (_setting("shift", "0", -1, 1, "above 0: more of b; below 0: more of a"),),
        "Keeps a where a and b point the same way, and takes b elsewhere: b's style on a's "
        "structure. Compares columns.",
    ),
    "cosine_b": MergeMethod(
        "Cosine adaptive B", cosine_b, ("a", "b"),
        (_setting("shift", "0", -1, 1, "above 0: more of b; below 0: more of a"),),
        "Like cosine adaptive A, but compares both the columns and the whole tensor and takes the "
        "mean.",
    ),
    "slerp": MergeMethod(
        "SLERP", slerp, ("a", "b"), (SHARE_OF_B,),
        "Goes from a to b along the arc between their directions, which keeps the weights' size.",
    ),
    "geometric": MergeMethod(
        "Geometric mean", geometric, ("a", "b"), (SHARE_OF_B,),
        "The weighted geometric mean of every pair of weights: small weights count for more than "
        "large ones.",
        by_element=True,
    ),
    "ties": MergeMethod(
        "TIES", ties, ("base", "model"),
        (
            _setting("keep", "1/5", 0, 1, "the share of each model's largest differences to keep"),
            STRENGTH,
        ),
        "Adds what several fine-tunes of a base have learned: their largest differences, where "
        "they "
        "agree on the sign.",
        more=True,
    ),
    "dare": MergeMethod(
        "DARE", dare, ("base", "model"), (DROP, STRENGTH, SEED),
        "Drops differences from the base at random, scales up the remaining ones, and adds their "
        "mean to the base.",
        more=True, by_element=True,
    ),
    "della": MergeMethod(
        "DELLA", della, ("base", "model"),
        (
            DROP,
            Setting(
                "spread", Fraction(15, 100), Fraction(0), Fraction(1),
                "how much less often large differences are dropped than small ones", by_block=False,
            ),
            STRENGTH, SEED,
        ),
        "Like DARE, but large differences are dropped less often, and only those that agree on the "
        "sign are added, as in TIES.",
        more=True,
    ),
    "model_stock": MergeMethod(
        "Model stock", model_stock, ("base", "model", "model"), (),
        "Goes from the base to the mean of its fine-tunes, as far as the angle between them says.",
        more=True,
    ),
    "karcher": MergeMethod(
        "Karcher mean", karcher, ("model", "model"), (),
        "The mean direction on the sphere of any number of models: SLERP with equal shares for "
        "more "
        "than two.",
        more=True,
    ),
    "geometric_median": MergeMethod(
        "Geometric median", geometric_median, ("model", "model", "model"), (),
        "The point with the smallest total distance to all models: a model that is very different "
        "counts for little.",
        more=True,
    ),
}  # fmt: skip
"""The methods by their names in recipes."""
