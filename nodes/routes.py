"""The HTTP routes: how runs and grids stand, presets of block weights, and stopping a run. `GET`
only reads; changes are `POST` with a JSON body.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..trainer.errors import TrainerError
from ..trainer.jobs.job import UNREADABLE, Unreadable
from ..trainer.jobs.queue import Queue
from ..trainer.runs import Run, State, list_runs
from . import supervisor
from .grid import routes as grid_routes
from .host.names import BadName, check_name, checkpoint_dir, cocktail_dir
from .merge import routes as merge_routes


def add(table: web.RouteTableDef) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/runs")(_runs)
    table.get("/cocktail/runs/{name}")(_run)
    table.get("/cocktail/runs/{name}/metrics")(_metrics)
    table.post("/cocktail/runs/{name}/stop")(_stop)
    grid_routes.add(table)
    merge_routes.add(table)


async def _runs(request: web.Request) -> web.Response:
    """All runs with their states, by name."""

    def read() -> dict[str, Any]:
        queue = supervisor.jobs()
        return {"runs": [_summary(run, queue) for run in list_runs(cocktail_dir("runs"))]}

    return await _answer(read)


async def _run(request: web.Request) -> web.Response:
    """One run: state, settings and saved checkpoints."""

    def read() -> dict[str, Any]:
        try:
            run = _open(request)
        except TrainerError as error:
            folder = cocktail_dir("runs") / request.match_info["name"]
            unreadable = Unreadable(folder, State(UNREADABLE, str(error)))
            return {**_summary(unreadable), "settings": {}, "checkpoints": []}
        saved = [
            {
                "file": checkpoint.file.name,
                "epoch": checkpoint.epoch,
                "step": checkpoint.step,
                "validation_loss": checkpoint.validation_loss,
                "best": checkpoint.best,
            }
            for checkpoint in run.checkpoints()
        ]
        return {**_summary(run), "settings": run.settings.to_json(), "checkpoints": saved}

    return await _answer(read)


async def _metrics(request: web.Request) -> web.Response:
    """Lines of a run's metrics from byte `after` on, and the byte to ask from next time."""

    def read() -> dict[str, Any]:
        after = request.query.get("after", "0")
        if not after.isdecimal() or len(after) > 18:
            raise web.HTTPBadRequest(
                text="after must be a number of bytes: 0, or `next` of the last answer."
            )
        read = _open(request).metrics_from(int(after))
        return {"lines": read.lines, "next": read.next}

    return await _answer(read)


async def _stop(request: web.Request) -> web.Response:
    """Ask a run to stop after the step it is in; a queued one leaves the queue."""
    try:
        body = await request.json() if request.content_type == "application/json" else None
    except (ValueError, LookupError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return _error(400, "Send a JSON object, {} will do, as application/json.")

    def stop() -> dict[str, Any]:
        run = _open(request)
        supervisor.jobs().stop(supervisor.RUN, run)
        return _summary(run)

    return await _answer(stop)


def _open(request: web.Request) -> Run:
    name = check_name(request.match_info["name"], "run")
    folder = cocktail_dir("runs") / name
    if not (folder / "run.json").exists():
        raise web.HTTPNotFound(text=f"There is no run named {name}.")
    run = Run.open(folder)
    return run.at({"checkpoints": str(checkpoint_dir() / run.name)})


def _summary(run: Run | Unreadable, queue: Queue | None = None) -> dict[str, Any]:
    state = (queue or supervisor.jobs()).stands(supervisor.RUN, run)
    return {"name": run.name, "id": run.id, **dataclasses.asdict(state)}


async def _answer(read: Callable[[], dict[str, Any]]) -> web.Response:
    """The JSON that `read` returns, computed outside the event loop; what it refuses becomes
    {"error": ...}.
    """
    try:
        return web.json_response(await asyncio.to_thread(read))
    except web.HTTPException as error:
        return _error(error.status, error.text or error.reason)
    except (BadName, TrainerError) as error:
        return _error(400, str(error))
    except OSError as error:
        return _error(500, str(error))


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
