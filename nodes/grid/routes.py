"""The HTTP routes of grids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .. import names
from . import export, files
from .errors import GridError
from .plan_nodes import read_plan, summary
from .store import Store, list_grids
from .workflow import api_prompt, ui_workflow


def add(table: web.RouteTableDef) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/grids")(_grids)
    table.post("/cocktail/grids/plan")(_plan)
    table.get("/cocktail/grids/{name}")(_grid)
    table.get("/cocktail/grids/{name}/cells/{key}")(_cell)


async def _grids(request: web.Request) -> web.Response:
    """All grids: name and how many cells there are, finished and failed."""
    return web.json_response(
        {"grids": await asyncio.to_thread(list_grids, names.cocktail_dir("grids"))}
    )


async def _grid(request: web.Request) -> web.Response:
    """A grid as it stands: axes, and every cell with its labels, state and file."""
    return await _answer(lambda: export.manifest(_open(request)))


async def _cell(request: web.Request) -> web.Response:
    """One cell: its settings, and the API prompt and the workflow that make it."""

    def read() -> dict[str, Any]:
        key = request.match_info["key"]
        found = export.settings_of(_open(request), key)
        if found is None:
            raise GridError(f"The grid {request.match_info['name']} has no cell {key}.")
        return {
            "key": key,
            "settings": found.to_json(),
            "prompt": api_prompt(found),
            "workflow": ui_workflow(found),
        }

    return await _answer(read)


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

    return await _answer(read)


def _open(request: web.Request) -> Store:
    name = names.check_name(request.match_info["name"], "grid")
    store = Store(names.cocktail_dir("grids", name))
    if not (store.folder / "plan.json").is_file():
        raise GridError(f"There is no grid named {name}.")
    return store


async def _answer(read: Callable[[], dict[str, Any]]) -> web.Response:
    """The JSON that `read` returns, computed outside the event loop; what it refuses becomes {"error": ...}."""
    try:
        return web.json_response(await asyncio.to_thread(read))
    except (names.BadName, GridError) as error:
        return _error(str(error))


def _error(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
