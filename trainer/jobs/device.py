"""Names of the devices that jobs take turns on."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import TrainerError

if TYPE_CHECKING:
    import torch

LIMITS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""What says which GPUs a process sees, in which order."""


def device_name(kind: str, index: int | None = None) -> str:
    """The name of a device of this machine, such as "cpu". A GPU is named by its own number, which
    is the same in every process, whichever GPUs that sees.
    """
    if kind != "cuda":
        return kind
    import torch

    properties = torch.cuda.get_device_properties(index or 0)
    return f"cuda:{getattr(properties, 'uuid', index or 0)}"


@functools.lru_cache(64)
def device_title(name: str) -> str:
    """A device of this machine in words: the name of its card, for one that this process sees."""
    if name == "cpu":
        return "CPU"
    import torch

    for index in range(torch.cuda.device_count()):
        if device_name("cuda", index) == name:
            return torch.cuda.get_device_properties(index).name
    return name


def accelerator() -> torch.device | None:
    """The accelerator that trainings use here, None without one. Raises TrainerError when this
    PyTorch cannot tell.
    """
    import torch

    if not hasattr(torch, "accelerator"):
        raise TrainerError(
            f"Training needs PyTorch 2.6 or newer; this is {torch.__version__}. Update PyTorch."
        )
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def training_device() -> str:
    """The device that accelerate takes for a run that is started from here. Raises TrainerError."""
    found = accelerator()
    return device_name(found.type) if found is not None else "cpu"


def environment_on(device: str) -> dict[str, str] | None:
    """What the environment of a process must say so that it takes a device, None when this process
    does not see that one. A process takes the first GPU that it sees.
    """
    import torch

    kind = device.partition(":")[0]
    if kind != "cuda":
        return {} if kind in ("", "cpu") or training_device() == device else None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen = [device_name("cuda", index) for index in range(count)]
    if device not in seen:
        return None
    return _first_gpu(seen.index(device), os.environ)


def _first_gpu(index: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The entry of the variables that limit the GPUs of this process which leaves one with the GPU
    of this index alone; nothing for the one that it takes anyway.
    """
    if index == 0:
        return {}
    limits = {name: environment[name] for name in LIMITS if environment.get(name)}
    if not limits:
        return {LIMITS[0]: str(index)}
    return {name: limit.split(",")[index].strip() for name, limit in limits.items()}


def slow_precision(precision: str, device: str) -> str:
    """Why a precision makes a run slow on a device, "" when it does not: a processor without
    instructions for bf16 took 30 to 40 times as long for a convolution as in fp32.
    """
    import torch

    if precision != "bf16" or not device.startswith("cpu"):
        return ""
    try:
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return ""
    except (AttributeError, RuntimeError):
        return ""
    return (
        "Precision bf16 is very slow on this processor, which has no instructions for it. Set "
        "precision to fp32."
    )
