"""The HTTP routes of grids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..host import http, names
from ..host.origin import Guarded
from . import view_routes, vote_routes
from .engine.cell import files
from .engine.errors import GridError
from .engine.feed import feeds
from .engine.store import export
from .engine.store.since import states_since
from .engine.store.store import Store, list_grids
from .engine.summary import read_plan, summary
from .engine.view import exports
from .engine.vote.ballot import Answered

REFUSALS: http.Refusals = {
    feeds.Taken: 409,
    Answered: 409,
    exports.Busy: 409,
    GridError: 400,
    **http.REFUSALS,
}


def add(table: Guarded) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    for path, read in {
        "/cocktail/grids": _grids,
        "/cocktail/grids/{name}": _grid,
        "/cocktail/grids/{name}/cells/{key}": _cell,
        "/cocktail/grids/{name}/states": _states,
        "/cocktail/grids/{name}/feed": _feed_status,
    }.items():
        table.get(path)(http.reads(read, REFUSALS))
    feed = http.changes(_feed, REFUSALS, '{"plan": a plan}')
    table.post("/cocktail/grids")(feed)
    plan = http.changes(_plan, REFUSALS, "a plan, a JSON object,")
    table.post("/cocktail/grids/plan")(plan)
    for action in ("pause", "resume", "cancel", "retry"):
        path = f"/cocktail/grids/{{name}}/{action}"
        table.post(path)(http.changes(_control(action), REFUSALS))
    vote_routes.add(table, _open, REFUSALS)
    view_routes.add(table, _open, REFUSALS)


def _grids(request: web.Request) -> dict[str, Any]:
    """All grids: name and how many cells there are, finished and failed."""
    return {"grids": list_grids(names.cocktail_dir("grids"))}


def _grid(request: web.Request) -> dict[str, Any]:
    """A grid as it is now: axes, and every cell with its labels, state and file."""
    return export.manifest(_open(request))


def _cell(request: web.Request) -> dict[str, Any]:
    """One cell: its settings, and the API prompt and the workflow that make it."""
    key = request.match_info["key"]
    found = export.settings_of(_open(request), key)
    if found is None:
        raise GridError(f"The grid {request.match_info['name']} has no cell {key}.")
    return {"key": key, "settings": found.to_json(), **found.graphs("ComfyUI")}


def _plan(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """What a plan as JSON makes, without rendering anything: counts, costs and notes, and its
    cells if the body has "cells": true.
    """
    grid = read_plan(body.get("plan", body), files.quiet_sha256)
    cells = {"plan": grid.to_json()} if body.get("cells") else {}
    return {**summary(grid), **cells}


def _feed(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Begin to feed a grid to the queue: {"plan"}, optionally with "servers", "in_flight" and
    "save_as".
    """
    if not isinstance(body.get("plan"), dict):
        raise web.HTTPBadRequest(text='Send {"plan": a plan} as application/json.')
    if unknown := set(body) - {"plan", "servers", "in_flight", "save_as"}:
        raise web.HTTPBadRequest(
            text=f"A grid cannot be fed with these options: {', '.join(sorted(unknown))}."
        )
    grid = read_plan(body["plan"], files.quiet_sha256)
    found = summary(grid)
    options = {name: body[name] for name in body if name != "plan"}
    return {**feeds.start(grid, **options), "notes": found["notes"], "text": found["text"]}


def _feed_status(request: web.Request) -> dict[str, Any]:
    """How the feeding of a grid is going: state, counts, cells in flight, problems of servers."""
    name = names.check_name(request.match_info["name"], "grid")
    found = feeds.status(name)
    if found is None:
        raise GridError(f"The grid {name} has not been fed.")
    return found


def _control(action: str) -> Callable[[web.Request, dict[str, Any]], Any]:
    def control(request: web.Request, body: dict[str, Any]) -> Any:
        return feeds.control(names.check_name(request.match_info["name"], "grid"), action)

    return control


def _states(request: web.Request) -> dict[str, Any]:
    """The mini-map of a grid: how many values each axis has, and a letter for every cell ("f", "x"
    failed, "." missing). With `after`, the "mark" of the last answer or nothing: only what is new.
    """
    store = _open(request)
    if "after" in request.query:
        return states_since(store, request.query["after"])
    return export.states(store)


def _open(request: web.Request) -> Store:
    name = names.check_name(request.match_info["name"], "grid")
    store = Store(names.cocktail_dir("grids", name))
    if not (store.folder / "plan.json").is_file():
        raise GridError(f"There is no grid named {name}.")
    return store
