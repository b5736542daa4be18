"""Names of the devices that jobs take turns on."""

from __future__ import annotations


def device_name(kind: str, index: int | None = None) -> str:
    """The name of a device of this machine, such as "cpu". A GPU is named by its own number, which
    is the same in every process, whichever GPUs that sees.
    """
    if kind != "cuda":
        return kind
    import torch

    properties = torch.cuda.get_device_properties(index or 0)
    return f"cuda:{getattr(properties, 'uuid', index or 0)}"


def training_device() -> str:
    """The device that accelerate takes for a run that is started from here."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device_name(found.type) if found is not None else "cpu"


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
