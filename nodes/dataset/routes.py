"""The HTTP routes of captionings."""

from __future__ import annotations

import dataclasses
from typing import Any

from aiohttp import web

from ...trainer.data.caption.job import CaptionJob
from ...trainer.jobs.job import Unreadable, list_jobs
from .. import supervisor
from ..host import http
from ..host.names import check_name, cocktail_dir
from ..host.origin import Guarded


def add(table: Guarded) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/captions")(http.reads(_captions))
    table.post("/cocktail/captions/{name}/stop")(http.changes(_stop))


def _captions(request: web.Request) -> dict[str, Any]:
    """All captionings with their states, by name."""
    found = list_jobs(cocktail_dir("captions"), "job.json", CaptionJob.open)
    return {"captions": [_summary(job) for job in found]}


def _stop(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Ask a captioning to stop after the picture it is at; a queued one leaves the queue."""
    name = check_name(request.match_info["name"], "captioning")
    folder = cocktail_dir("captions") / name
    if not (folder / "job.json").exists():
        raise web.HTTPNotFound(text=f"There is no captioning named {name}.")
    job = CaptionJob.open(folder)
    supervisor.jobs().stop(supervisor.CAPTIONING, job)
    return _summary(job)


def _summary(job: CaptionJob | Unreadable) -> dict[str, Any]:
    state = supervisor.jobs().stands(supervisor.CAPTIONING, job)
    return {"name": job.name, **dataclasses.asdict(state), "advice": state.advice}
