"""Shares that follow how alike two tensors are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .pieces import ELEMENTS, pieces

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-8


def cosine_a(a: Tensor, b: Tensor, shift: float) -> Tensor:
    """k a + (1 - k) b with k = clip(s - shift, 0, 1), s the cosine of a and b along the first
    dimension, one for each column.

    Source: supermerger's cosineA in the form of sd-mecha's add_cosine_a, which needs no pass over
    all tensors first.
    """
    return _mixed(a, b, _cosine(*_sums(a, b)), shift)


def cosine_b(a: Tensor, b: Tensor, shift: float) -> Tensor:
    """As `cosine_a` with s the mean of the columns' cosine and that of the whole tensors.

    Source: supermerger's cosineB in the form of sd-mecha's add_cosine_b.
    """
    sums = _sums(a, b)
    similarity = (_cosine(*sums) + _cosine(*(columns.double().sum() for columns in sums))) / 2
    return _mixed(a, b, similarity.to(a.dtype), shift)


def _sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of a^2, b^2 and a b along the first dimension, for each column."""
    import torch

    first, second = torch.atleast_1d(a), torch.atleast_1d(b)
    totals = tuple(torch.zeros_like(first[0]) for _ in range(3))
    rows = max(ELEMENTS * len(first) // max(first.numel(), 1), 1)
    for piece in pieces(len(first), rows):
        x, y = first[piece], second[piece]
        for total, (left, right) in zip(totals, ((x, x), (y, y), (x, y)), strict=True):
            total.add_((left * right).sum(0))
    return totals[0], totals[1], totals[2]


def _cosine(of_a: Tensor, of_b: Tensor, product: Tensor) -> Tensor:
    return product / (of_a.sqrt() * of_b.sqrt()).clamp(min=SMALLEST)


def _mixed(a: Tensor, b: Tensor, similarity: Tensor, shift: float) -> Tensor:
    share_of_a = (similarity - shift).clamp_(0, 1)
    return (a - b).mul_(share_of_a).add_(b)
