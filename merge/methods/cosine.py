"""Shares that follow how alike two tensors are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-8


def cosine_a(a: Tensor, b: Tensor, shift: float) -> Tensor:
    """k a + (1 - k) b with k = clip(s - shift, 0, 1), s the cosine of a and b along the first dimension, one for each column.

    Source: supermerger's cosineA in the form of sd-mecha's add_cosine_a, which needs no pass over all tensors first.
    """
    return _mixed(a, b, _columns(a, b), shift)


def cosine_b(a: Tensor, b: Tensor, shift: float) -> Tensor:
    """As `cosine_a` with s the mean of the columns' cosine and that of the whole tensors.

    Source: supermerger's cosineB in the form of sd-mecha's add_cosine_b.
    """
    from .means import dot

    norms = max((dot(a, a) * dot(b, b)) ** 0.5, SMALLEST)
    return _mixed(a, b, (_columns(a, b) + dot(a, b) / norms) / 2, shift)


def _columns(a: Tensor, b: Tensor) -> Tensor:
    norms = (a * a).sum(0).sqrt_() * (b * b).sum(0).sqrt_()
    return (a * b).sum(0).div_(norms.clamp_(min=SMALLEST))


def _mixed(a: Tensor, b: Tensor, similarity: Tensor, shift: float) -> Tensor:
    share_of_a = (similarity - shift).clamp_(0, 1)
    return (a - b).mul_(share_of_a).add_(b)
