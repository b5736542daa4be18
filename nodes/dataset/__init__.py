"""The nodes of the dataset stage, in the order in which a graph uses them."""

from __future__ import annotations

from comfy_api.latest import io

from . import caption, clean, images, look, pairs, saved, split, table

NODES: list[type[io.ComfyNode]] = [
    *table.NODES,
    *images.NODES,
    *pairs.NODES,
    *clean.NODES,
    *caption.NODES,
    *split.NODES,
    *look.NODES,
    *saved.NODES,
]
