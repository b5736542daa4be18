"""The nodes of the stage that mixes checkpoints."""

from __future__ import annotations

from comfy_api.latest import io

from . import checkpoints, models, recipes, sums

NODES: list[type[io.ComfyNode]] = [
    *sums.NODES,
    *models.NODES,
    *recipes.NODES,
    *checkpoints.NODES,
]
