"""The HTTP routes of grids."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from .. import names
from . import files
from .errors import GridError
from .plan_nodes import read_plan, summary
from .store import list_grids


def add(table: web.RouteTableDef) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/grids")(_grids)
    table.post("/cocktail/grids/plan")(_plan)


async def _grids(request: web.Request) -> web.Response:
    """All grids: name and how many cells there are, finished and failed."""
    return web.json_response(
        {"grids": await asyncio.to_thread(list_grids, names.cocktail_dir("grids"))}
    )


async def _plan(request: web.Request) -> web.Response:
    """What a plan as JSON comes to, without rendering anything: counts, costs, notes, and with "cells": true its cells."""
    try:
        body = await request.json() if request.content_type == "application/json" else None
    except json.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        return _error("Send a plan, a JSON object, as application/json.")

    def read() -> dict[str, Any]:
        grid = read_plan(body.get("plan", body), files.quiet_sha256)
        cells = {"plan": grid.to_json()} if body.get("cells") else {}
        return {**summary(grid), **cells}

    try:
        return web.json_response(await asyncio.to_thread(read))
    except GridError as error:
        return _error(str(error))


def _error(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
