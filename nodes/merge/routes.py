"""The HTTP route of block weights, for the bars on Block Weights."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ...merge.blocks import BASE, LAYOUTS
from ...merge.presets import curves
from ..host import http
from ..host.origin import Guarded
from .presets import own_presets, preset_problems


def add(table: Guarded) -> None:
    """Add the route to ComfyUI's table, which also serves it under /api."""
    table.get("/cocktail/block_presets")(http.reads(_block_presets))


def _block_presets(request: web.Request) -> dict[str, Any]:
    """The blocks of each layout, the numbers of every preset, and any problem with the file of your
    own presets.
    """
    own, problem = own_presets(), "\n".join(preset_problems())
    layouts = {layout: [BASE, *blocks] for layout, blocks in LAYOUTS.items()}
    return {"layouts": layouts, "presets": curves(own), "problem": problem}
