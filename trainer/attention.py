"""How attention is computed: a matter of speed and memory, not of results."""

from __future__ import annotations

import importlib.util
from typing import Any

from .errors import TrainerError


def set_attention(unet: Any, kind: str) -> None:
    """Let the UNet attend by "sdpa" (PyTorch), "xformers" or "sliced". Raises TrainerError when xformers is missing."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    if kind == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise TrainerError(
                "Attention by xformers was asked for, but the package xformers is not installed. "
                "Install the one that fits your PyTorch, or choose sdpa, which is as fast."
            )
        unet.enable_xformers_memory_efficient_attention()
    elif kind == "sliced":
        unet.set_attention_slice("auto")
    else:
        unet.set_attn_processor(AttnProcessor2_0())
