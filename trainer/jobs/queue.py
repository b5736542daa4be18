"""Runs wait their turn on disk: one trains at a time, the one queued first goes next."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from ..runs import ACTIVE, RESUMABLE, Run, list_runs
from .process import is_alive, start


def enqueue(run: Run) -> None:
    """Put a run that is new, was stopped, interrupted or failed into the queue; others are left as
    they are.

    Its former process may still be on its way out: `tick` waits for it.
    """
    with _alone(run.folder.parent):
        state = run.state()
        if state.status in RESUMABLE:
            (run.folder / "control.json").unlink(missing_ok=True)
            run.write_state(
                replace(
                    state,
                    status="queued",
                    message="Waits for its turn",
                    epochs=run.settings.epochs,
                    queued_at=time.time(),
                )
            )


def stop(run: Run) -> None:
    """Stop a run: one that waits leaves the queue, one at work is asked to stop after the step it
    is in.
    """
    with _alone(run.folder.parent):
        state = run.state()
        if state.status == "queued":
            run.write_state(
                replace(state, status="stopped", message="Stopped while it waited for its turn")
            )
        elif state.status in ACTIVE:
            run.request("stop")


def tick(runs_dir: Path) -> None:
    """Notice runs whose process is gone, and start the next one if none is at work.

    To be called about once a second; several ComfyUI processes on one folder may do so.
    """
    if not runs_dir.is_dir():
        return
    with _alone(runs_dir):
        queued, busy = [], False
        for run in list_runs(runs_dir):
            alive, state = is_alive(run), run.state()
            busy = busy or alive
            if state.status in ACTIVE and not alive:
                run.write_state(
                    replace(
                        state,
                        status="interrupted",
                        message="The training process is gone (killed, crashed or the machine went down). "
                        "Queue the graph again: it goes on from its last resume point.",
                    )
                )
            elif state.status == "queued" and not alive:
                queued.append((state.queued_at, run, state))
        if queued and not busy:
            _, run, state = min(queued, key=lambda entry: (entry[0], entry[1].name))
            run.write_state(replace(state, status="preparing", message="Starts"))
            start(run)


def _alone(runs_dir: Path):
    """A lock on the queue that the system lets go of when its holder dies."""
    from filelock import FileLock

    runs_dir.mkdir(parents=True, exist_ok=True)
    return FileLock(runs_dir / ".queue.lock")
