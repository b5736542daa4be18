"""LPIPS, how far apart two pictures look: differences between the features that a network for
pictures finds in them, weighed as people judged (Zhang et al. 2018, "The unreasonable effectiveness
of deep features as a perceptual metric", CVPR).

torchmetrics computes it and brings the weights of the judgement. Its public function downloads the
network's; its class takes those of a local file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import GridError
from ..store.picture import open_picture
from .weights import read_weights

Network = Literal["squeeze", "vgg", "alex"]
NETWORKS: dict[str, Network] = {
    "features.12.squeeze.weight": "squeeze",
    "features.28.weight": "vgg",
    "features.10.weight": "alex",
}
"""What torchmetrics calls the network whose last layer with weights this is, the first that fits
first.
"""
WANTED = (
    "torchvision's weights of AlexNet, VGG16 or SqueezeNet 1.1, such as alexnet-owt-7be5be79.pth"
)
SMALLEST = 64
"""Pixels of the shorter side: of less than half of that the networks leave nothing."""


def missing() -> str:
    """What to install before LPIPS can be computed, or ""."""
    from importlib.util import find_spec

    if find_spec("torchmetrics") and find_spec("torchvision"):
        return ""
    return (
        "LPIPS needs the package torchmetrics. Install it into ComfyUI's Python "
        "(`python -m pip install torchmetrics` leaves torch as it is), or choose none as lpips."
    )


def distances(
    weights: Path,
    pairs: Sequence[tuple[Path, Path]],
    device: Any,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """The LPIPS of each pair of pictures of one size: 0 for equal ones. Raises GridError if the
    file holds no network that LPIPS is defined for, or torchmetrics is missing.
    """
    import torch

    network = _network(weights).to(device)
    found = []
    with torch.inference_mode():
        for number, pair in enumerate(pairs):
            progress(number, len(pairs))
            one, other = (_picture(path).to(device) for path in pair)
            found.append(float(network(one, other, normalize=True)))
    return found


def _network(weights: Path) -> Any:
    if told := missing():
        raise GridError(told)
    try:
        from torchmetrics.functional.image.lpips import _LPIPS
    except ImportError as error:
        raise GridError(
            f"This torchmetrics cannot be used for LPIPS ({error}). Install version 1.9, or choose "
            "none as lpips."
        ) from error

    tensors = read_weights(weights)
    kind: Network | None = next((kind for name, kind in NETWORKS.items() if name in tensors), None)
    if kind is None:
        raise GridError(f"{weights.name} holds no network that LPIPS knows. It needs {WANTED}.")
    network = _LPIPS(net=kind, pnet_rand=True)
    # The library cuts the network into slices, such as slice1.0.weight or slices.0.0.weight.
    own = {name: re.sub(r"^slice(s\.)?\d+", "features", name) for name in network.net.state_dict()}
    try:
        network.net.load_state_dict({name: tensors[there] for name, there in own.items()})
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:300]
        raise GridError(f"{weights.name} does not hold {WANTED}: {reason}.") from error
    return network.float()


def _picture(path: Path) -> Any:
    """[1, 3, height, width] from 0 to 1."""
    import numpy
    import torch

    with open_picture(path) as file:
        pixels = numpy.asarray(file.convert("RGB"), dtype=numpy.float32) / 255
    if min(pixels.shape[:2]) < SMALLEST:
        raise GridError(
            f"LPIPS needs pictures of {SMALLEST} pixels or more, and {path.name} has "
            f"{pixels.shape[1]} x {pixels.shape[0]}. Choose none as lpips."
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]
