"""The HTTP routes of grids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..host import names
from .engine.cell import files
from .engine.errors import GridError
from .engine.feed import feeds
from .engine.store import export
from .engine.store.store import Store, list_grids
from .engine.summary import read_plan, summary


def add(table: web.RouteTableDef) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/grids")(_grids)
    table.post("/cocktail/grids")(_feed)
    table.post("/cocktail/grids/plan")(_plan)
    table.get("/cocktail/grids/{name}")(_grid)
    table.get("/cocktail/grids/{name}/cells/{key}")(_cell)
    table.get("/cocktail/grids/{name}/states")(_states)
    table.get("/cocktail/grids/{name}/feed")(_feed_status)
    for action in ("pause", "resume", "cancel", "retry"):
        table.post(f"/cocktail/grids/{{name}}/{action}")(_control(action))


async def _grids(request: web.Request) -> web.Response:
    """All grids: name and how many cells there are, finished and failed."""
    return web.json_response(
        {"grids": await asyncio.to_thread(list_grids, names.cocktail_dir("grids"))}
    )


async def _grid(request: web.Request) -> web.Response:
    """A grid as it is now: axes, and every cell with its labels, state and file."""
    return await _answer(lambda: export.manifest(_open(request)))


async def _cell(request: web.Request) -> web.Response:
    """One cell: its settings, and the API prompt and the workflow that make it."""

    def read() -> dict[str, Any]:
        key = request.match_info["key"]
        found = export.settings_of(_open(request), key)
        if found is None:
            raise GridError(f"The grid {request.match_info['name']} has no cell {key}.")
        return {"key": key, "settings": found.to_json(), **found.graphs("ComfyUI")}

    return await _answer(read)


async def _plan(request: web.Request) -> web.Response:
    """What a plan as JSON makes, without rendering anything: counts, costs and notes, and its
    cells if the body has "cells": true.
    """
    body = await _body(request)
    if body is None:
        return _error("Send a plan, a JSON object, as application/json.")

    def read() -> dict[str, Any]:
        grid = read_plan(body.get("plan", body), files.quiet_sha256)
        cells = {"plan": grid.to_json()} if body.get("cells") else {}
        return {**summary(grid), **cells}

    return await _answer(read)


async def _feed(request: web.Request) -> web.Response:
    """Begin to feed a grid to the queue: {"plan"}, optionally with "servers", "in_flight" and
    "save_as".
    """
    body = await _body(request)
    if body is None or not isinstance(body.get("plan"), dict):
        return _error('Send {"plan": a plan} as application/json.')
    if unknown := set(body) - {"plan", "servers", "in_flight", "save_as"}:
        return _error(f"A grid cannot be fed with these options: {', '.join(sorted(unknown))}.")

    def begin() -> dict[str, Any]:
        grid = read_plan(body["plan"], files.quiet_sha256)
        found = summary(grid)
        options = {name: body[name] for name in body if name != "plan"}
        return {**feeds.start(grid, **options), "notes": found["notes"], "text": found["text"]}

    return await _answer(begin)


async def _feed_status(request: web.Request) -> web.Response:
    """How the feeding of a grid is going: state, counts, cells in flight, problems of servers."""

    def read() -> dict[str, Any]:
        name = names.check_name(request.match_info["name"], "grid")
        found = feeds.status(name)
        if found is None:
            raise GridError(f"The grid {name} has not been fed.")
        return found

    return await _answer(read)


def _control(action: str) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        if await _body(request) is None:
            return _error("Send a JSON object as application/json; {} is enough.")
        name = request.match_info["name"]
        return await _answer(lambda: feeds.control(names.check_name(name, "grid"), action))

    return handle


async def _states(request: web.Request) -> web.Response:
    """The mini-map of a grid: how many values each axis has, and a letter for every cell ("f", "x"
    failed, "." missing).
    """
    return await _answer(lambda: export.states(_open(request)))


async def _body(request: web.Request) -> dict[str, Any] | None:
    try:
        body = await request.json() if request.content_type == "application/json" else None
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _open(request: web.Request) -> Store:
    name = names.check_name(request.match_info["name"], "grid")
    store = Store(names.cocktail_dir("grids", name))
    if not (store.folder / "plan.json").is_file():
        raise GridError(f"There is no grid named {name}.")
    return store


async def _answer(read: Callable[[], dict[str, Any]]) -> web.Response:
    """The JSON that `read` returns, computed outside the event loop. Its errors become
    {"error": ...}.
    """
    try:
        return web.json_response(await asyncio.to_thread(read))
    except feeds.Taken as error:
        return _error(str(error), 409)
    except (names.BadName, GridError) as error:
        return _error(str(error))


def _error(message: str, status: int = 400) -> web.Response:
    return web.json_response({"error": message}, status=status)
