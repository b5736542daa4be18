"""Methods on task vectors: the differences of fine-tuned models from their common base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor

    from .draws import Draws


def ties(base: Tensor, *models: Tensor, keep: float, strength: float) -> Tensor:
    """base + strength x the mean of the kept differences that agree in sign with the sum of all
    kept ones, by elements.

    Of each model's differences the share `keep` with the largest sizes is kept in every tensor, and
    all that are as large as the smallest of them. Source: Yadav et al., "TIES-merging: resolving
    interference when merging models", 2023.
    """
    import torch

    smallest = [_smallest_kept(base, model, keep) for model in models]
    flat = [tensor.reshape(-1) for tensor in (base, *models)]
    result = torch.empty_like(flat[0])
    for piece in pieces(len(result)):
        start, *others = (tensor[piece] for tensor in flat)
        kept = []
        for other, least in zip(others, smallest, strict=True):
            difference = other - start
            kept.append(difference.mul_(difference.abs().ge_(least)))
        result[piece] = _agreeing(kept).mul_(strength).add_(start)
    return result.view_as(base)


def dare(base: Tensor, *models: Tensor, drop: float, strength: float, draws: Draws) -> Tensor:
    """base + strength x the mean of the differences, of which each element is dropped with
    probability `drop` and else divided by 1 - drop.

    Source: Yu et al., "Language models are super Mario: absorbing abilities from homologous models
    as a free lunch", 2023.
    """
    total = None
    for number, model in enumerate(models):
        kept = draws.uniform(number, base.numel(), base.device).ge_(drop).view_as(base)
        kept = (model - base).mul_(kept)
        total = kept if total is None else total.add_(kept)
    if total is None:
        return base.clone()
    return total.mul_(strength / ((1 - drop) * len(models))).add_(base)


def della(
    base: Tensor, *models: Tensor, drop: float, spread: float, strength: float, draws: Draws
) -> Tensor:
    """As `ties` with, in place of the largest differences, those that are drawn: large ones with a
    higher probability.

    Among the n differences of a row (all of them for a vector), the one of rank r by size, 1 the
    smallest, is kept with probability p = 1 - drop + spread x (r - (n + 1) / 2) / n, limited to 0
    ... 1, and then divided by p. Source: Deep et al., "DELLA-merging: reducing interference in
    model merging through magnitude-based sampling", 2024.
    """
    import torch

    kept = []
    for number, model in enumerate(models):
        difference = (model - base).reshape(base.shape[0] if base.dim() > 1 else 1, -1)
        n = difference.shape[1]
        order = difference.abs().argsort(dim=1, stable=True)
        ranked = torch.arange(1, n + 1, device=base.device, dtype=base.dtype)
        by_rank = ranked.sub_((n + 1) / 2).mul_(spread / n).add_(1 - drop).clamp_(0, 1)
        chance = torch.empty_like(difference).scatter_(1, order, by_rank.expand_as(order))
        drawn = draws.uniform(number, base.numel(), base.device).view_as(difference) < chance
        difference.div_(chance.clamp_(min=2.0**-16)).mul_(drawn)
        kept.append(difference.view_as(base))
    return _agreeing(kept).mul_(strength).add_(base)


def _smallest_kept(base: Tensor, model: Tensor, keep: float) -> float:
    """The size of the smallest difference among the share `keep` with the largest sizes; infinity
    where that is none of them.

    Sizes are counted by the upper half of their float32 bits, which sort as the numbers do, and
    only those that share it with the one that is looked for are sorted.
    """
    import numpy as np
    import torch

    count = round(keep * base.numel())
    if count == 0:
        return float("inf")
    start, other = base.reshape(-1), model.reshape(-1)

    def sizes() -> Iterator[Any]:
        for piece in pieces(len(start)):
            yield (other[piece] - start[piece]).abs_().cpu().numpy()

    if base.dtype != torch.float32:
        return float(np.partition(np.concatenate(list(sizes())), -count)[-count])
    counts = np.zeros(1 << 16, np.int64)
    for piece in sizes():
        counts += np.bincount(piece.view(np.uint32) >> 16, minlength=1 << 16)
    from_top = np.cumsum(counts[::-1])
    step = int(np.searchsorted(from_top, count))
    upper = len(counts) - 1 - step
    rank = count - int(from_top[step] - counts[upper])
    alike = np.concatenate([piece[piece.view(np.uint32) >> 16 == upper] for piece in sizes()])
    return float(np.partition(alike, -rank)[-rank])


def _agreeing(differences: Sequence[Tensor]) -> Tensor:
    """The mean of those that are not 0 and have the sign of the sum, by elements; 0 where there are
    none. `differences` are used up.
    """
    import torch

    sign = differences[0].clone()
    for difference in differences[1:]:
        sign.add_(difference)
    sign.sign_()
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for difference in differences:
        agrees = (difference * sign).gt_(0)
        total.add_(difference.mul_(agrees))
        count.add_(agrees)
    return total.div_(count.clamp_(min=1))
