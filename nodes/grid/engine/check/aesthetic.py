"""How much people liked pictures, as a small head over the embeddings of a CLIP model guesses.

The heads are those of LAION's aesthetic predictors: linear layers, one after the other and with
nothing between them, over embeddings of length 1, and a mark from about 1 to 10. Theirs are for
CLIP ViT-L/14. https://github.com/christophschuhmann/improved-aesthetic-predictor
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GridError
from .weights import read_weights

if TYPE_CHECKING:
    from torch import Tensor

LAYER = re.compile(r"(?:(?:.*[.])?(\d+)[.])?(weight|bias)")
"""`weight`, or `layers.4.weight`."""
WIDEST_GAP = 2
"""Between the numbers of two layers: a dropout, which does nothing here, has one. With an
activation and a dropout there would be 3.
"""
WANTED = "an aesthetic head, such as LAION's sac+logos+ava1-l14-linearMSE.pth"


def marks(head: Path, embeddings: Mapping[str, Tensor]) -> dict[str, float]:
    """The mark of every picture by its key; each is given with its embedding of length 1. Raises
    GridError if the file holds no head, or one for embeddings of another CLIP model.
    """
    import torch

    layers = read_head(head)
    keys = list(embeddings)
    with torch.inference_mode():
        values = torch.stack([embeddings[key].cpu().float() for key in keys])
        if layers[0][0].shape[1] != values.shape[1]:
            raise GridError(
                f"{head.name} takes embeddings of {layers[0][0].shape[1]} numbers, and those of "
                f"the CLIP model have {values.shape[1]}. Choose the CLIP model that the head was "
                "made for as clip_model: of LAION's it is ViT-L/14."
            )
        for weight, bias in layers:
            values = torch.nn.functional.linear(values, weight, bias)
    return dict(zip(keys, values[:, 0].tolist(), strict=True))


def read_head(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight [out, in] and bias [out] of each layer of a head. Raises GridError if the file holds
    anything else.
    """
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in read_weights(path).items():
        known = LAYER.fullmatch(name)
        if known is None:
            raise _no_head(path, f"it has a tensor {name[:100]!r}")
        parts.setdefault(int(known[1] or 0), {})[known[2]] = tensor.float()
    numbers = sorted(parts)
    if any(after - before > WIDEST_GAP for before, after in itertools.pairwise(numbers)):
        raise _no_head(path, "something that it does not describe is between its layers")
    layers, wide = [], None
    for number in numbers:
        weight, bias = parts[number].get("weight"), parts[number].get("bias")
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise _no_head(path, f"layer {number} has no weight and bias that fit")
        if wide is not None and weight.shape[1] != wide:
            raise _no_head(path, f"layer {number} does not fit the one before it")
        layers.append((weight, bias))
        wide = weight.shape[0]
    if wide != 1:
        raise _no_head(path, f"it ends in {wide} numbers, not in one mark")
    return layers


def _no_head(path: Path, why: str) -> GridError:
    return GridError(f"{path.name} is not {WANTED}: {why}.")
