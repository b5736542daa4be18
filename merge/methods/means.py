"""Means other than the weighted sum. Those of directions and distances follow from the tensors' dot
products alone: they are weighted sums whose weights depend on the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor

MOST_STEPS = 100
CLOSE = 1e-10
SMALLEST_ANGLE = 1e-6


def dot(a: Tensor, b: Tensor) -> float:
    """The sum of the products, in float64, the same wherever the tensors lie in memory."""
    import torch

    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    return sum(
        float((flat_a[piece] * flat_b[piece]).sum(dtype=torch.float64))
        for piece in pieces(flat_a.numel())
    )


def geometric(a: Tensor, b: Tensor, share_of_b: float) -> Tensor:
    """The real part of a^(1 - share) x b^share in complex numbers, by elements.

    For two numbers of one sign that is their geometric mean with that sign. Source: sd-mecha's
    geometric_sum.
    """
    size = a.abs().pow_(1 - share_of_b).mul_(b.abs().pow_(share_of_b))
    angle = a.signbit().to(a.dtype).mul_(1 - share_of_b).add_(b.signbit(), alpha=share_of_b)
    return angle.mul_(math.pi).cos_().mul_(size)


def slerp(a: Tensor, b: Tensor, share_of_b: float) -> Tensor:
    """(sin((1 - t) w) a/|a| + sin(t w) b/|b|) / sin w x ((1 - t) |a| + t |b|), t the share of b and
    w the angle of a and b.

    A weighted sum where w is 0 or a half turn, or a tensor is 0. Sources: Shoemake, "Animating
    rotation with quaternion curves", 1985; the length as in sd-mecha.
    """
    length_a, length_b = math.sqrt(dot(a, a)), math.sqrt(dot(b, b))
    rest = 1 - share_of_b
    angle = 0.0
    if length_a and length_b:
        # From the distance of the directions: their cosine alone says too little about small
        # angles.
        half = math.sqrt(dot_of_difference(a, b, 1 / length_a, 1 / length_b)) / 2
        angle = 2 * math.asin(min(half, 1.0))
    if angle < SMALLEST_ANGLE or angle > math.pi - SMALLEST_ANGLE:
        return (a * rest).add_(b, alpha=share_of_b)
    length = rest * length_a + share_of_b * length_b
    of_a = math.sin(rest * angle) / math.sin(angle) * length / length_a
    of_b = math.sin(share_of_b * angle) / math.sin(angle) * length / length_b
    return (a * of_a).add_(b, alpha=of_b)


def dot_of_difference(a: Tensor, b: Tensor, of_a: float, of_b: float) -> float:
    """|of_a x a - of_b x b|^2."""
    difference = (a * of_a).sub_(b, alpha=of_b)
    return dot(difference, difference)


def karcher(*models: Tensor) -> Tensor:
    """The Karcher mean of the models' directions, which has the smallest sum of squared angles to
    them, as long as their mean length.

    Fixed point u <- exp_u(mean of log_u(u_i)), computed on the weights of u in the directions u_i.
    Sources: Karcher, "Riemannian center of mass and mollifier smoothing", 1977; mergekit.
    """
    import numpy as np

    products = _products(models)
    lengths = np.sqrt(np.diag(products))
    used = np.flatnonzero(lengths)
    if not len(used):
        return models[0].clone()
    cosines = products[np.ix_(used, used)] / np.outer(lengths[used], lengths[used])
    weights = np.full(len(used), 1 / len(used))
    weights /= math.sqrt(max(weights @ cosines @ weights, CLOSE))
    for _ in range(MOST_STEPS):
        along = np.clip(cosines @ weights, -1, 1)
        factors = 1 / np.sinc(np.arccos(along) / np.pi).clip(min=CLOSE) / len(used)
        step = factors - (factors @ along) * weights
        length = math.sqrt(max(step @ cosines @ step, 0))
        if length < CLOSE:
            break
        weights = math.cos(length) * weights + math.sin(length) / length * step
    scale = np.zeros(len(models))
    scale[used] = weights / lengths[used] * lengths.mean()
    return combined(models, scale.tolist())


def geometric_median(*models: Tensor) -> Tensor:
    """The point with the smallest sum of distances to the models.

    Weiszfeld's iteration from the mean, computed on the weights of the models; a model that is the
    median itself, where the iteration would hardly move, is found first. Sources: Weiszfeld, "Sur
    le point pour lequel la somme des distances de n points donnes est minimum", 1937; Vardi &
    Zhang, "The multivariate L1-median and associated data depth", 2000.
    """
    import numpy as np

    products = _products([model - models[0] for model in models])
    for number, model in enumerate(models):
        if _is_median(products, number):
            return model.clone()
    weights = np.full(len(models), 1 / len(models))
    smallest = 1e-9 * math.sqrt(products.max()) or 1.0
    for _ in range(10 * MOST_STEPS):
        squares = np.diag(products) - 2 * products @ weights + weights @ products @ weights
        closeness = 1 / np.sqrt(squares.clip(min=smallest**2))
        before, weights = weights, closeness / closeness.sum()
        if np.abs(weights - before).max() < CLOSE:
            break
    return combined(models, weights.tolist())


def _is_median(products: Any, number: int) -> bool:
    """Whether that model is the geometric median: the directions to the others pull less than the
    models that are equal to it hold.
    """
    import numpy as np

    to_others = np.eye(len(products)) - np.eye(len(products))[number]
    among = to_others @ products @ to_others.T
    distances = np.sqrt(np.diag(among).clip(min=0))
    apart = distances > 0
    if not apart.any():
        return True
    pull = np.divide(apart, distances, out=np.zeros(len(products)), where=apart)
    return bool(math.sqrt(max(pull @ among @ pull, 0)) <= (~apart).sum())


def model_stock(base: Tensor, *models: Tensor) -> Tensor:
    """base + t x (mean of the models - base), t = N c / (1 + (N - 1) c), c the mean cosine of the N
    models' differences from the base.

    c below 0 counts as 0. Source: Jang et al., "Model stock: all we need is just a few fine-tuned
    models", 2024, for each tensor.
    """
    import numpy as np

    products = _products([model - base for model in models])
    lengths = np.sqrt(np.diag(products))
    norms = np.outer(lengths, lengths)
    cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    count = len(models)
    cosine = max((cosines.sum() - np.trace(cosines)) / (count * (count - 1)), 0.0)
    ratio = count * cosine / (1 + (count - 1) * cosine)
    return combined((base, *models), [1 - ratio, *[ratio / count] * count])


def _products(models: Sequence[Tensor]) -> Any:
    """The dot products of all pairs, a float64 matrix."""
    import numpy as np

    found = np.empty((len(models), len(models)))
    for i, first in enumerate(models):
        for j, second in enumerate(models[i:], i):
            found[i, j] = found[j, i] = dot(first, second)
    return found


def combined(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of weight x tensor."""
    total = tensors[0] * float(weights[0])
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=float(weight))
    return total
