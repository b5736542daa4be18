"""How attention is computed. It changes speed and memory, not results."""

from __future__ import annotations

import importlib.util
from typing import Any

from ..errors import TrainerError


def set_attention(unet: Any, kind: str) -> None:
    """Let the UNet compute attention by "sdpa" (PyTorch), "xformers" or "sliced".

    Raises TrainerError when xformers is missing or does not work on this machine.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    if kind == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise TrainerError(
                "Attention by xformers was asked for, but the package xformers is not installed. "
                "Install the one that fits your PyTorch, or choose sdpa, which is as fast."
            )
        try:
            unet.enable_xformers_memory_efficient_attention()
        except Exception as error:
            raise TrainerError(
                f"Attention by xformers does not work here: {error}. Choose sdpa, which is as fast."
            ) from error
    elif kind == "sliced":
        unet.set_attention_slice("auto")
    else:
        unet.set_attn_processor(AttnProcessor2_0())
