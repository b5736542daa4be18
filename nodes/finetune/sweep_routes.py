"""The HTTP routes of sweeps: which there are, and how their runs compare."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ...trainer.errors import TrainerError
from ...trainer.jobs.job import UNREADABLE
from ...trainer.runs import Run
from ...trainer.sweep.sweep import FILE, Sweep, Unreadable, list_sweeps
from ...trainer.sweep.table import compare, to_json
from .. import supervisor
from ..host import http
from ..host.names import check_name, cocktail_dir
from ..host.origin import Guarded


def add(table: Guarded) -> None:
    """Add the routes to ComfyUI's table, which also serves them under /api."""
    table.get("/cocktail/sweeps")(http.reads(_sweeps))
    table.get("/cocktail/sweeps/{name}")(http.reads(_sweep))


def _sweeps(request: web.Request) -> dict[str, Any]:
    """All sweeps by name, each with its runs and how they stand."""
    return {"sweeps": [_summary(sweep) for sweep in list_sweeps(cocktail_dir("sweeps"))]}


def _sweep(request: web.Request) -> dict[str, Any]:
    """One sweep: its runs, and the table of how they compare with the baseline so far."""
    name = check_name(request.match_info["name"], "sweep")
    folder = cocktail_dir("sweeps", name)
    if not (folder / FILE).exists():
        raise web.HTTPNotFound(text=f"There is no sweep named {name}.")
    sweep = Sweep.open(folder)
    runs = [_open(member.run) for member in sweep.members]
    return {
        **_summary(sweep),
        "settings": sweep.settings.to_json(),
        "table": to_json(sweep, compare(sweep, runs)),
    }


def _summary(sweep: Sweep | Unreadable) -> dict[str, Any]:
    if isinstance(sweep, Unreadable):
        return {"name": sweep.name, "status": UNREADABLE, "message": sweep.message, "runs": []}
    runs = [
        {"run": member.run, "label": member.label, **_stands(member.run)}
        for member in sweep.members
    ]
    done = all(run["status"] == "finished" for run in runs)
    return {
        "name": sweep.name,
        "status": "finished" if done else "unfinished",
        "message": "",
        "base": sweep.base,
        "dataset": sweep.dataset,
        "runs": runs,
    }


def _stands(name: str) -> dict[str, Any]:
    try:
        run = _open(name)
    except (OSError, TrainerError) as error:
        return {"status": UNREADABLE, "message": str(error)}
    state = supervisor.jobs().stands(supervisor.RUN, run)
    return {"status": state.status, "message": state.message}


def _open(name: str) -> Run:
    folder = cocktail_dir("runs", name)
    if not (folder / "run.json").exists():
        raise TrainerError(f"The run {name} is no longer there. Queue the sweep's graph again.")
    return Run.open(folder)
