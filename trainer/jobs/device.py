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
