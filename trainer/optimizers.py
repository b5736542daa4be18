"""The optimizer of a run: one AdamW with a group of parameters for each trained part."""

from __future__ import annotations

from typing import Any

from .config import RunSettings


def make_optimizer(parts: dict[str, Any], settings: RunSettings) -> Any:
    """AdamW (Loshchilov & Hutter 2019) with betas 0.9 and 0.999; `parts` are trained modules by name."""
    import torch

    rates = {
        "unet": settings.learning_rate,
        "text_encoder": settings.text_encoder_learning_rate,
    }
    groups = [
        {"params": list(module.parameters()), "lr": rates[name], "name": name}
        for name, module in parts.items()
    ]
    return torch.optim.AdamW(
        groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay
    )
