"""The HTTP routes of shared devices: who has which, and how a run is to share its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from ...trainer.jobs import process
from ...trainer.jobs.device import training_device
from ...trainer.jobs.job import Refused
from ...trainer.model.memory import estimate
from ...trainer.model.single_file import read_shapes
from ...trainer.runs import Run, list_runs
from ...trainer.settings.groups import SharingSettings
from ...trainer.sharing import SHARE, check_room, policy_of, set_policy
from .. import supervisor
from ..host import http, sharing
from ..host.names import BadName, cocktail_dir
from ..host.origin import Guarded
from .routes import open_run, summary


def add(table: Guarded) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/devices")(http.reads(_devices))
    table.post("/cocktail/runs/{name}/policy")(http.changes(_policy))


def _devices(request: web.Request) -> dict[str, Any]:
    """The devices with their memory in bytes, the runs that have each, and how those share it. The
    first of them stands beside the device too.
    """
    at_work: dict[str, list[dict[str, Any]]] = {}
    for run in list_runs(cocktail_dir("runs")):
        if isinstance(run, Run) and run.state().at_work:
            device = process.noted(run.folder).get("device") or ""
            at_work.setdefault(device, []).append({"run": run.name, **policy_of(run).to_json()})
    nobody = {"run": None, **dict.fromkeys(SharingSettings().to_json())}
    listed = []
    for device in sharing.devices():
        runs = at_work.get(device["name"], [])
        listed.append({**device, **(runs[0] if runs else nobody), "runs": runs})
    return {"devices": listed}


def _policy(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Change how a run shares its device: {"policy": "polite"}, with leave_gb or idle_s if they are
    to be others than now.
    """
    http.only(body, "policy", "leave_gb", "idle_s")
    run = open_run(request)
    state = supervisor.jobs().stands(supervisor.RUN, run)
    if state.status == "finished":
        raise Refused(f"{run.name} is finished: it uses no device.")
    wanted = SharingSettings.from_json({**policy_of(run).to_json(), **body})
    if wanted.policy == SHARE:
        _check_room(run, wanted, process.noted(run.folder).get("device") or training_device())
    set_policy(run, wanted)
    return summary(run)


def _check_room(run: Run, wanted: SharingSettings, device: str) -> None:
    """Raise Refused when a run does not fit beside what it is to leave. Without its base, which is
    needed to know, the run itself will find out when it starts.
    """
    totals = [one["total"] for one in sharing.devices() if one["name"] == device]
    try:
        shapes = read_shapes(Path(supervisor.places(run)["base"]))
    except BadName:
        return
    if totals:
        needed = estimate(shapes, run.settings)
        check_room(needed, shapes, run.settings, totals[0], wanted.leave_gb)
