"""The HTTP route of block weights, for the bars on Block Weights."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from ...merge.blocks import BASE, LAYOUTS
from ...merge.errors import MergeError
from ...merge.presets import curves
from .presets import own_presets


def add(table: web.RouteTableDef) -> None:
    """Add the route to ComfyUI's table, which also serves it under /api."""
    table.get("/cocktail/block_presets")(_block_presets)


async def _block_presets(request: web.Request) -> web.Response:
    """The blocks of each layout, the numbers of every preset, and any problem with the file of your
    own presets.
    """
    return web.json_response(await asyncio.to_thread(_presets))


def _presets() -> dict[str, Any]:
    try:
        own, problem = own_presets(), ""
    except MergeError as error:
        own, problem = {}, str(error)
    layouts = {layout: [BASE, *blocks] for layout, blocks in LAYOUTS.items()}
    return {"layouts": layouts, "presets": curves(own), "problem": problem}
