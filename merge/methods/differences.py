"""Differences that are changed before they are added."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TRAINING_GAIN = 1.8


def train_difference(a: Tensor, b: Tensor, c: Tensor, strength: float) -> Tensor:
    """a + 1.8 x strength x |b - a| / (|b - a| + |b - c|) x (b - c), by elements; a where both
    distances are 0.

    Source: supermerger's trainDifference.
    """
    difference = b - c
    from_a = (b - a).abs_()
    total = difference.abs().add_(from_a)
    scale = from_a.div_(total).nan_to_num_(nan=0.0)
    return difference.mul_(scale).mul_(TRAINING_GAIN * strength).add_(a)


def smooth_add(a: Tensor, b: Tensor, c: Tensor, strength: float) -> Tensor:
    """a + strength x G(M(b - c)): M the median of 3 and G a Gaussian of sigma 1, along every axis
    of the tensor.

    Both filters reflect the tensor at its ends. Source: supermerger's smoothAdd, which uses the
    same filters of SciPy.
    """
    import torch

    from ..errors import MergeError

    try:
        from scipy.ndimage import gaussian_filter, median_filter
    except ImportError:
        raise MergeError("Smooth add needs SciPy. Install it with: pip install scipy") from None
    smooth = gaussian_filter(median_filter((b - c).cpu().numpy(), size=3), sigma=1)
    return torch.from_numpy(smooth).to(a.device).mul_(strength).add_(a)
