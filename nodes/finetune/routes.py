"""The HTTP routes of runs: how they stand, and what a person asks of them."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from aiohttp import web

from ...trainer.curve import AXES, MOST_POINTS, curve
from ...trainer.errors import TrainerError
from ...trainer.jobs import process
from ...trainer.jobs.device import device_title
from ...trainer.jobs.job import UNREADABLE, Job, Unreadable, read_json
from ...trainer.jobs.queue import Queue
from ...trainer.notes import LONGEST_TITLE, read_notes, title_of
from ...trainer.recycle_bin import Deleted
from ...trainer.runs import Run, SavedCheckpoint, State, flat, list_runs
from ...trainer.settings.text import changed_to
from ...trainer.sharing import policy_of
from ...trainer.strip import strip_of
from ...trainer.sweep.sweep import Sweep, list_sweeps
from .. import supervisor
from ..grid.engine.vote import winners
from ..host import http
from ..host.names import BadName, check_name, checkpoint_name, cocktail_dir
from ..host.origin import Guarded

LOG_LINES = 20
"""Of the log of a run that has failed."""
MOST_PROMPTS, LONGEST_PROMPT = 16, 4000
MOST_EPOCHS = 10_000
MOST_STEPS = 10**9
MOST_LINES = 5000
FORK_NOTE = (
    "The new run begins with the weights of that checkpoint. Its optimizer starts anew: what the "
    "former one had gathered about its gradients is not taken along."
)


def add(table: Guarded) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/runs")(http.reads(_runs))
    table.get("/cocktail/runs/{name}")(http.reads(_run))
    table.get("/cocktail/runs/{name}/metrics")(http.reads(_metrics))
    table.get("/cocktail/runs/{name}/curve")(http.reads(_curve))
    table.get("/cocktail/runs/{name}/log")(http.reads(_log))
    table.get("/cocktail/runs/{name}/settings")(http.reads(_settings))
    table.get("/cocktail/runs/{name}/samples")(http.reads(_samples))
    table.get("/cocktail/runs/{name}/columns")(http.reads(_columns))
    for action, do in {
        "stop": _stop,
        "pause": _pause,
        "resume": _resume,
        "save": _save,
        "sample": _sample,
        "extend": _extend,
        "fork": _fork,
        "rename": _rename,
        "pin": _pin,
        "delete": _delete,
        "restore": _restore,
    }.items():
        table.post(f"/cocktail/runs/{{name}}/{action}")(http.changes(do))


def _runs(request: web.Request) -> dict[str, Any]:
    """All runs with their states, by name; with ?deleted=true those in the bin, newest first."""
    if request.query.get("deleted", "false") == "true":
        return {"runs": [_of_deleted(deleted) for deleted in supervisor.deleted()]}
    queue = supervisor.jobs()
    return {"runs": [summary(run, queue) for run in list_runs(cocktail_dir("runs"))]}


def _run(request: web.Request) -> dict[str, Any]:
    """One run: state, settings, saved checkpoints, how it shares its device, and its sweeps."""
    try:
        run = open_run(request)
    except TrainerError as error:
        folder = cocktail_dir("runs") / request.match_info["name"]
        unreadable = Unreadable(folder, State(UNREADABLE, str(error)))
        return {
            **summary(unreadable),
            "settings": {},
            "checkpoints": [],
            "sharing": None,
            "sweeps": [],
        }
    return {
        **summary(run),
        "settings": run.settings.to_json(),
        "checkpoints": _checkpoints(run),
        "sharing": policy_of(run).to_json(),
        "sweeps": _sweeps_of(run.name),
    }


def _sweeps_of(name: str) -> list[str]:
    """The sweeps that a run is part of."""
    return [
        sweep.name
        for sweep in list_sweeps(cocktail_dir("sweeps"))
        if isinstance(sweep, Sweep) and any(member.run == name for member in sweep.members)
    ]


def _checkpoints(run: Run) -> list[dict[str, Any]]:
    """The saved checkpoints of a run, with their names as CheckpointLoaderSimple takes them."""
    try:
        pinned = read_notes(run.folder).pinned
    except TrainerError:
        pinned = ()
    found = []
    for checkpoint in run.checkpoints():
        try:
            name, size = checkpoint_name(checkpoint.file), checkpoint.file.stat().st_size
        except (BadName, FileNotFoundError):
            continue
        found.append(
            {
                "file": checkpoint.file.name,
                "epoch": checkpoint.epoch,
                "step": checkpoint.step,
                "validation_loss": checkpoint.validation_loss,
                "best": checkpoint.best,
                "pinned": checkpoint.step in pinned,
                "name": name,
                "size": size,
            }
        )
    return found


def _metrics(request: web.Request) -> dict[str, Any]:
    """Lines of a run's metrics from byte `after` on, and the byte to ask from next time."""
    after = request.query.get("after", "0")
    if not (after.isascii() and after.isdecimal()) or len(after) > 18:
        raise web.HTTPBadRequest(
            text="after must be a number of bytes: 0, or `next` of the last answer."
        )
    read = open_run(request).metrics_from(int(after))
    return {"lines": read.lines, "next": read.next}


def _stop(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Ask a run to stop after the step it is in; a queued one leaves the queue."""
    run = open_run(request)
    supervisor.stop(run)
    return summary(run)


def _pause(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Ask a run to save and to free its device until it is resumed."""
    http.only(body)
    run = open_run(request)
    supervisor.pause(run)
    return summary(run)


def _resume(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Queue a run again; it goes on from where it stands."""
    http.only(body)
    run = open_run(request)
    supervisor.resume(run)
    return summary(run)


def _save(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Ask a run at work for a checkpoint after the step it is in."""
    http.only(body)
    run = open_run(request)
    supervisor.ask(run, "save")
    return summary(run)


def _sample(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Ask a run at work for pictures of its sample prompts, or of {"prompts": [text]}."""
    http.only(body, "prompts")
    prompts = http.texts(body, "prompts", MOST_PROMPTS, LONGEST_PROMPT)
    run = open_run(request)
    supervisor.sample(run, prompts)
    return summary(run)


def _extend(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Give a run more epochs, {"epochs": 40}, and queue it unless {"start": false}."""
    http.only(body, "epochs", "start")
    epochs = http.whole_number(body, "epochs", 1, MOST_EPOCHS)
    start = http.truth(body, "start", True)
    return summary(supervisor.extend(open_run(request), epochs, start))


def _fork(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Make a new run, {"name", "epoch"}, that begins with the checkpoint of an epoch (or of a
    "step"; given both, of both), with other "settings" by their full names if there are some, and
    queue it unless {"start": false}.
    """
    http.only(body, "name", "epoch", "step", "settings", "start")
    name = http.text(body, "name", 64)
    start = http.truth(body, "start", True)
    settings = body.get("settings", {})
    if not isinstance(settings, dict):
        raise web.HTTPBadRequest(text="settings must be an object of values by setting.")
    named = [which for which in ("epoch", "step") if which in body] or ["epoch"]
    wanted = {which: http.whole_number(body, which, 0, MOST_STEPS) for which in named}
    run = open_run(request)
    changed = changed_to(run.settings, settings)
    forked = supervisor.fork(run, name, changed, start, **wanted)
    return {**summary(forked), "note": FORK_NOTE}


def _rename(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Give a run another title, {"title"}; its folder and its files keep their names."""
    http.only(body, "title")
    title = http.text(body, "title", LONGEST_TITLE)
    run = open_run(request)
    supervisor.rename(run, title)
    return summary(run)


def _pin(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Keep the checkpoint of a step whatever the settings say, {"step", "pinned": true}, or no
    longer.
    """
    http.only(body, "step", "pinned")
    step = http.whole_number(body, "step", 0, MOST_STEPS)
    pinned = http.truth(body, "pinned", True)
    run = open_run(request)
    supervisor.pin(run, step, pinned)
    return summary(run)


def _delete(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Move a run to the bin, with its checkpoints if {"checkpoints": true}."""
    http.only(body, "checkpoints")
    with_checkpoints = http.truth(body, "checkpoints", False)
    name = check_name(request.match_info["name"], "run")
    if not (cocktail_dir("runs") / name / "run.json").exists():
        raise web.HTTPNotFound(text=f"There is no run named {name}.")
    return _of_deleted(supervisor.delete(name, with_checkpoints))


def _restore(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    """Bring a run back from the bin, {"key"}; nothing is overwritten."""
    http.only(body, "key")
    key = http.text(body, "key", 100)
    name = check_name(request.match_info["name"], "run")
    supervisor.restore(name, key)
    return summary(run_named(name))


def _of_deleted(deleted: Deleted) -> dict[str, Any]:
    return {
        "key": deleted.key,
        "name": deleted.name,
        "title": deleted.title,
        "deleted": deleted.time,
        "checkpoints": deleted.checkpoints,
    }


def _curve(request: web.Request) -> dict[str, Any]:
    """Loss and learning rates of a run, reduced to ?points= along ?x=step, epoch or time, of all or
    of the part ?from= to ?to=.
    """
    x = request.query.get("x", "step")
    if x not in AXES:
        raise web.HTTPBadRequest(text=f"x must be one of {', '.join(AXES)}.")
    points = http.number_asked(request, "points", 1000, 1, MOST_POINTS)
    first, last = _bound(request, "from"), _bound(request, "to")
    run = open_run(request)
    saved = {checkpoint.file.name: _checkpoint_name(checkpoint) for checkpoint in run.checkpoints()}
    found = curve(run, saved, points, x, first, last)
    return {**found, "voted": _voted(found["checkpoints"])}


def _voted(checkpoints: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Which of these checkpoints people prefer, by the votes on a grid."""
    at = {one["name"]: one for one in checkpoints}
    winner = winners.winner_among(cocktail_dir("grids"), at.keys())
    if winner is None:
        return None
    return {
        **winner.to_json(),
        **{key: at[winner.checkpoint][key] for key in ("x", "step", "epoch")},
    }


def _columns(request: web.Request) -> dict[str, Any]:
    """The grids that show checkpoints of a run: name, number of the axis, and the number of each
    checkpoint's value on it.
    """
    saved = [_checkpoint_name(checkpoint) for checkpoint in open_run(request).checkpoints()]
    return {"grids": winners.columns_of(cocktail_dir("grids"), saved)}


def _checkpoint_name(checkpoint: SavedCheckpoint) -> str:
    try:
        return checkpoint_name(checkpoint.file)
    except BadName:
        return checkpoint.file.name


def _bound(request: web.Request, name: str) -> float | None:
    text = request.query.get(name, "")
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise web.HTTPBadRequest(text=f"{name} must be a number.")
    return value


def _log(request: web.Request) -> dict[str, Any]:
    """The end of what a run's process has printed."""
    lines = http.number_asked(request, "lines", 200, 1, MOST_LINES)
    name = check_name(request.match_info["name"], "run")
    folder = cocktail_dir("runs") / name
    if not (folder / "run.json").exists():
        raise web.HTTPNotFound(text=f"There is no run named {name}.")
    return {"text": Job(folder).log_tail(lines)}


def _settings(request: web.Request) -> dict[str, Any]:
    """The settings of a run by their full names, and with ?compare=OTHER what differs there: base,
    dataset and settings.
    """
    run = open_run(request)
    own = flat(run.settings.to_json())
    differences: list[dict[str, Any]] = []
    if other_name := request.query.get("compare", ""):
        other = run_named(other_name)
        here, there = _compared(run), _compared(other)
        differences = [
            {"name": name, "here": here[name], "there": there[name]}
            for name in here
            if here[name] != there[name]
        ]
    return {"settings": own, "differences": differences}


def _compared(run: Run) -> dict[str, Any]:
    dataset = read_json(run.folder / "run.json").get("dataset")
    dataset = dataset if isinstance(dataset, dict) else {}
    return {
        "base": run.base.name,
        "dataset": f"{dataset.get('name')} ({str(dataset.get('fingerprint'))[:12]})",
        **flat(run.settings.to_json()),
    }


def _samples(request: web.Request) -> dict[str, Any]:
    """The pictures that a run has drawn, to be shown by ComfyUI's own /view."""
    run = open_run(request)
    strip = strip_of(run.folder / "samples")
    return {
        "prompts": list(strip.prompts),
        "columns": [{"epoch": epoch, "step": step} for epoch, step in strip.columns],
        "pictures": [
            {
                "prompt": picture.prompt,
                "column": picture.column,
                "file": picture.file,
                "subfolder": f"cocktail/runs/{run.name}/samples",
                "type": "output",
            }
            for picture in strip.pictures
        ],
    }


def open_run(request: web.Request) -> Run:
    """The run that a request names, with the checkpoints it has here. Raises HTTPNotFound, and
    TrainerError when it cannot be read.
    """
    return run_named(request.match_info["name"])


def run_named(name: str) -> Run:
    """The run of a name, with the checkpoints it has here. Raises BadName, HTTPNotFound, and
    TrainerError when it cannot be read.
    """
    check_name(name, "run")
    folder = cocktail_dir("runs") / name
    if not (folder / "run.json").exists():
        raise web.HTTPNotFound(text=f"There is no run named {name}.")
    return supervisor.with_own_checkpoints(Run.open(folder))


def summary(run: Run | Unreadable, queue: Queue | None = None) -> dict[str, Any]:
    """How a run stands, as routes and events tell it. `memory` are bytes of its process on its
    device, and like `device`, `started` and `heartbeat_age_s` null while there is none.
    """
    state = (queue or supervisor.jobs()).stands(supervisor.RUN, run)
    at_work = state.at_work
    noted = process.noted(run.folder) if at_work else {}
    device = noted.get("device") or None
    failed = state.status == "failed" and isinstance(run, Run)
    return {
        "name": run.name,
        "id": run.id,
        **dataclasses.asdict(state),
        "title": title_of(run.folder),
        "device": device,
        "device_title": device_title(device) if device else None,
        "memory": state.memory if at_work else None,
        "started": noted.get("started"),
        "heartbeat_age_s": max(0.0, time.time() - state.updated) if at_work else None,
        "advice": state.advice,
        "log": run.log_tail(LOG_LINES) if failed else "",
    }
