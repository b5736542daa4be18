"""All HTTP routes of the pack. `GET` only reads; changes are `POST` with a JSON body."""

from __future__ import annotations

from aiohttp import web

from . import graph_routes
from .dataset import routes as caption_routes
from .finetune import figure_routes, sharing_routes, sweep_routes
from .finetune import routes as run_routes
from .grid import routes as grid_routes
from .host.origin import Guarded
from .merge import routes as merge_routes


def add(table: web.RouteTableDef) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too. Pages of other sites are
    refused.
    """
    guarded = Guarded(table)
    for part in (
        run_routes,
        figure_routes,
        caption_routes,
        sharing_routes,
        sweep_routes,
        grid_routes,
        merge_routes,
        graph_routes,
    ):
        part.add(guarded)
