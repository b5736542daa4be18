"""The nodes of the dataset stage, in the order in which a graph uses them."""

from __future__ import annotations

from comfy_api.latest import io

from . import clean, look, pairs, saved, split

NODES: list[type[io.ComfyNode]] = [
    *pairs.NODES,
    *clean.NODES,
    *split.NODES,
    *look.NODES,
    *saved.NODES,
]
