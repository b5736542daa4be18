"""The background jobs of this ComfyUI: their queue, and the thread that keeps it moving."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ..trainer.data.caption.job import CaptionJob
from ..trainer.jobs.device import training_device
from ..trainer.jobs.queue import Kind, Queue
from ..trainer.runs import Run
from .host import names

INTERVAL_S = 1.0
RUN, CAPTIONING = "run", "caption"
_lock = threading.Lock()
_thread: threading.Thread | None = None
_queued = threading.Event()
"""Wakes the thread, so that what was queued starts at once."""


def jobs() -> Queue:
    """The queue of this ComfyUI's output folder; other ComfyUIs may share it."""
    runs = Kind(RUN, names.cocktail_dir("runs"), "run.json", "run", Run.open)
    captions = Kind(
        CAPTIONING, names.cocktail_dir("captions"), "job.json", "caption", CaptionJob.open
    )
    return Queue(names.cocktail_dir(".queue"), (runs, captions))


def queue_run(run: Run) -> None:
    """Put a run into the queue, to be trained with the paths it has here."""
    _put(RUN, run, training_device(), run.arguments())


def queue_captioning(job: CaptionJob) -> None:
    """Put a captioning into the queue of the device that its model is to work on."""
    _put(CAPTIONING, job, job.device(), job.arguments())


def _put(kind: str, job: Run | CaptionJob, device: str, arguments: list[str]) -> None:
    jobs().put(kind, job, device, arguments)
    _queued.set()
    watch()


def places(run: Run) -> dict[str, str]:
    """The paths that a run of this name and base has here. Raises BadName without its base."""
    return {
        "base": str(names.checkpoint_path(run.base.name)),
        "checkpoints": str(names.checkpoint_dir() / run.name),
        "tokenizer": str(names.tokenizer_dir()),
        "cache": str(names.cocktail_dir("cache")),
    }


def watch() -> None:
    """Start the one thread that looks after the jobs, unless it is at work."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_watch, name="cocktail jobs", daemon=True)
            _thread.start()


def _watch() -> None:
    complaints: dict[Callable[[], None], str] = {}
    while True:
        for step in (_adopt, _tick):
            try:
                step()
                complaints.pop(step, None)
            except Exception as error:
                if str(error) != complaints.get(step):
                    complaints[step] = str(error)
                    logging.exception("Cocktail cannot process its job queue. It keeps trying")
        _queued.wait(INTERVAL_S)
        _queued.clear()


def _adopt() -> None:
    jobs().adopt_once(RUN, training_device, _queued_here)


def _tick() -> None:
    jobs().tick()


def _queued_here(run: Run) -> list[str] | None:
    """The arguments of a run that was queued before the queue had tickets, if its folder names the
    very paths that it has here; what names others came from elsewhere and is not started.
    """
    try:
        here = places(run)
    except names.BadName:
        return None
    noted = {"base": run.base.path, **vars(run.paths)}
    same = all(Path(noted[name]) == Path(path) for name, path in here.items())
    return run.at(here).arguments() if same else None
