"""The numerics class of a cell: what besides its settings and files can move the last bits of a
picture.
"""

from __future__ import annotations

import sys
from typing import Any

from ...trainer.files import canonical_json, sha256_text


def class_id(described: dict[str, Any]) -> str:
    """The short name of a numerics class."""
    return sha256_text(canonical_json(described))[:12]


def describe(model: Any, clip: Any, vae: Any) -> dict[str, Any]:
    """ComfyUI's and torch's versions, device, precisions, attention and the switches that alter
    results.

    `model`, `clip` and `vae` are what CheckpointLoaderSimple returns.
    """
    import comfy.cli_args
    import comfy.ldm.modules.attention
    import comfy.model_management
    import comfyui_version
    import torch

    memory = sys.modules.get("comfy.memory_management")
    args = comfy.cli_args.args
    device = comfy.model_management.get_torch_device()
    described = {
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
        "device": _device_name(device),
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        "model": _dtype(lambda: model.model.get_dtype()),
        "text encoder": _dtype(lambda: clip.cond_stage_model.dtypes),
        "vae": _dtype(lambda: vae.vae_dtype),
        "fast": sorted(str(flag) for flag in getattr(args, "fast", None) or ()),
        "deterministic": bool(getattr(args, "deterministic", False)),
        "dynamic vram": bool(getattr(memory, "aimdo_enabled", False)),
    }
    if device.type == "cpu":
        described["cpu"] = torch.backends.cpu.get_cpu_capability()
        described["threads"] = torch.get_num_threads()
    return described


def _device_name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def _dtype(read: Any) -> str:
    """A precision in words, or "" where this version of ComfyUI keeps it elsewhere."""
    try:
        found = read()
    except AttributeError:
        return ""
    found = found if isinstance(found, set | list | tuple) else [found]
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
