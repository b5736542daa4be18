"""The nodes that mix checkpoints."""

from __future__ import annotations

from comfy_api.latest import io

from . import block_groups, checkpoints, lora, methods, models, presets, recipes, search, sums

NODES: list[type[io.ComfyNode]] = [
    *sums.NODES,
    *methods.NODES,
    *models.NODES,
    *search.NODES,
    *presets.NODES,
    *block_groups.NODES,
    *recipes.NODES,
    *checkpoints.NODES,
    *lora.NODES,
]
