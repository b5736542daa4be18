"""What axes can choose from: the samplers, schedulers and files that ComfyUI has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..cell import files

Choices = Mapping[str, Sequence[str]]
"""What there is to choose from: "sampler", "scheduler", and files by kind."""


def choices() -> Choices:
    """What there is in this ComfyUI."""
    import comfy.samplers

    sampler = comfy.samplers.KSampler
    return {
        "sampler": list(sampler.SAMPLERS),
        "scheduler": list(sampler.SCHEDULERS),
        **{kind: files.listed(kind) for kind in ("checkpoint", "vae", "lora")},
    }
