"""The background jobs of this ComfyUI: their queue, what a person asks of them, and the thread that
keeps them moving.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..merge.hashing import file_sha256
from ..merge.safetensors_file import remove_abandoned
from ..trainer import notes, runs
from ..trainer.data.caption.job import CaptionJob
from ..trainer.data.fetch.network import require_wandb
from ..trainer.errors import TrainerError
from ..trainer.jobs.device import environment_on, training_device
from ..trainer.jobs.job import QUEUED, UNREADABLE, Refused, Unreadable
from ..trainer.jobs.queue import Kind, Queue
from ..trainer.litter import sweep_below
from ..trainer.model.layout import check_sd15
from ..trainer.notices import INTERRUPTED, Notices
from ..trainer.recycle_bin import Bin, Deleted
from ..trainer.runs import Base, Paths, Run, SavedCheckpoint, State
from ..trainer.settings.run_settings import RunSettings
from .host import names

INTERVAL_S = 1.0
SPINS = "20000"
RUN, CAPTIONING = "run", "caption"
_lock = threading.Lock()
_thread: threading.Thread | None = None
_queued = threading.Event()
"""Wakes the thread, so that what was queued starts at once."""


def jobs() -> Queue:
    """The queue of this ComfyUI's output folder; other ComfyUIs may share it."""
    trainings = Kind(RUN, names.cocktail_dir("runs"), "run.json", "run", Run.open)
    captions = Kind(
        CAPTIONING, names.cocktail_dir("captions"), "job.json", "caption", CaptionJob.open
    )
    return Queue(names.cocktail_dir(".queue"), (trainings, captions), _ended, _reach)


def _reach(kind: str, device: str) -> dict[str, str] | None:
    """What the environment of a job's process must say so that it takes a device, None when it
    would take another, or none of this ComfyUI's. A training takes a GPU wherever there is one; a
    captioning computes on what it was told.
    """
    if kind == RUN and device == "cpu":
        return patient_threads(os.environ) if training_device() == device else None
    return environment_on(device)


def patient_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """The entry that lets the threads of a run on a CPU sleep sooner where they wait for each
    other, unless this server's environment says how they wait. With the default (300,000 looks in
    libgomp) they keep the cores from a prompt that computes at the same time: on two cores a polite
    run then took up to 6 s to its next step instead of 0.3 s. Alone, a run is about 8 % slower by
    it on the miniature.
    """
    told = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment.keys()
    return {} if told else {"GOMP_SPINCOUNT": SPINS}


def _ended(kind: str, name: str) -> None:
    """Tell of a run whose process was killed: it could not do so itself."""
    run = run_in(names.cocktail_dir("runs") / name) if kind == RUN else None
    if isinstance(run, Run) and (state := run.state()).status == INTERRUPTED:
        told = Notices(run, names.network_file())
        told.tell(INTERRUPTED, state)
        # In a thread, so that nobody waits for the queue while a notice is sent.
        threading.Thread(target=told.close, name="cocktail notices", daemon=True).start()


def queue_run(run: Run) -> None:
    """Put a run into the queue, to be trained with the paths it has here. Raises TrainerError when
    it would use the network and may not.
    """
    if run.settings.logging.wandb:
        require_wandb(names.network_file())
    arguments = [*run.arguments(), "--notices", str(names.network_file())]
    _put(RUN, run, training_device(), arguments)


def queue_captioning(job: CaptionJob) -> None:
    """Put a captioning into the queue of the device that its model is to work on."""
    _put(CAPTIONING, job, job.device(), job.arguments())


def with_own_checkpoints(run: Run) -> Run:
    """A run with the checkpoints that it has here, whatever its folder says."""
    return run.at({"checkpoints": str(names.checkpoint_dir() / run.name)})


def stop(run: Run) -> None:
    """Ask a run to save and to end; one that waits leaves the queue, no other is changed."""
    jobs().stop(RUN, run)


def pause(run: Run) -> None:
    """Ask a run to save and to end, until somebody resumes it; one that waits leaves the queue.
    Raises Refused when it is neither queued nor at work nor paused already.
    """
    state = jobs().stands(RUN, run)
    if not (state.status == QUEUED or state.at_work or state.rests):
        raise Refused(f"{run.name} is {state.status}: there is nothing to pause.")
    jobs().pause(RUN, run)


def resume(run: Run) -> None:
    """Queue a run again. Raises Refused when it cannot go on, and BadName or TrainerError when its
    base is not here.
    """
    state = jobs().stands(RUN, run)
    if not state.can_go_on:
        raise Refused(_at_present(run, state))
    queue_run(at_home(run))


def ask(run: Run, command: str, **details: Any) -> None:
    """Ask a run at work for something after the step it is in. Raises Refused when no process is
    there that would do it.
    """
    state = jobs().stands(RUN, run)
    if not state.at_work or state.status == "stopping":
        raise Refused(f"{run.name} is {state.status}: only a run at work can do that. Resume it.")
    run.request(command, **details)


def sample(run: Run, prompts: Sequence[str] = ()) -> None:
    """Ask a run at work for pictures of these prompts, or of its own. Raises Refused."""
    if not prompts and not run.settings.samples.prompts:
        raise Refused(f"{run.name} has no sample prompts of its own: give some.")
    ask(run, "sample", prompts=list(prompts))


def extend(run: Run, epochs: int, start: bool = True) -> Run:
    """Give a run that is not at work more epochs, and queue it. Raises Refused and TrainerError."""
    home = at_home(run) if start else run
    with jobs().alone(RUN, run):
        # With the settings that it has now: somebody else may have extended it meanwhile.
        now = Run.open(run.folder)
        extended = runs.extend(replace(home, id=now.id, settings=now.settings), epochs)
    if start:
        queue_run(extended)
    return extended


def fork(
    run: Run,
    name: str,
    settings: RunSettings,
    start: bool = True,
    *,
    epoch: int | None = None,
    step: int | None = None,
) -> Run:
    """A new run whose base is a run's checkpoint of an epoch, or of a step, with the same dataset
    and these settings; queued if it is to start.

    The checkpoint is pinned: the new run needs it. The optimizer starts anew. Raises BadName and
    TrainerError.
    """
    if name:
        names.check_name(name, "run")
    saved = checkpoint_of(run, epoch, step)
    base = names.checkpoint_name(saved.file)
    check_sd15(saved.file)
    pinned = saved.step in notes.read_notes(run.folder).pinned
    pin(run, saved.step, True)
    try:
        forked = runs.create_run(
            names.cocktail_dir("runs"),
            name,
            Base(base, str(saved.file), file_sha256(saved.file, names.hashes_file())),
            run.dataset(),
            settings,
            Paths(
                checkpoints=str(names.checkpoint_dir()),
                tokenizer=str(names.tokenizer_dir()),
                cache=str(names.cocktail_dir("cache")),
            ),
        )
    except BaseException:
        pin(run, saved.step, pinned)
        raise
    if start:
        queue_run(forked)
    return forked


def checkpoint_of(run: Run, epoch: int | None, step: int | None) -> SavedCheckpoint:
    """The last checkpoint of an epoch, or that of a step; given both, that of both. Raises
    TrainerError, which names those there are.
    """
    saved = run.checkpoints()
    asked = {name: n for name, n in (("epoch", epoch), ("step", step)) if n is not None}
    found = [c for c in saved if all(getattr(c, name) == n for name, n in asked.items())]
    if found and asked:
        return found[-1]
    wanted = ", ".join(f"{name} {n}" for name, n in asked.items()) or "no epoch and no step"
    known = ", ".join(f"{c.epoch} (step {c.step})" for c in saved) or "none"
    raise TrainerError(
        f"The run {run.name} has no checkpoint of {wanted}. It has these epochs: {known}."
    )


def rename(run: Run, title: str) -> None:
    """Give a run another title to show. Raises TrainerError."""
    with jobs().still():
        notes.rename(run.folder, title)


def pin(run: Run, step: int, pinned: bool) -> None:
    """Keep a run's checkpoint of a step for good, or no longer. Raises TrainerError."""
    with jobs().still(), notes.unchanged(run.folder):
        if pinned:
            checkpoint_of(run, None, step)
        notes.pin(run.folder, step, pinned)


def recycle_bin() -> Bin:
    """The bin of deleted runs, in the output folder."""
    return Bin(
        names.cocktail_dir(".bin", "runs"), names.cocktail_dir("runs"), names.checkpoint_dir()
    )


def deleted() -> list[Deleted]:
    """The deleted runs, the newest first; what a kill has left half moved is moved first."""
    found = recycle_bin().deleted()
    if any(one.pending for one in found):
        with contextlib.suppress(Refused), recycle_bin().alone(wait_s=0):
            _complete_all()
        found = recycle_bin().deleted()
    return found


def _complete_all() -> None:
    recycle_bin().tidy()
    for one in recycle_bin().deleted():
        try:
            recycle_bin().complete(one)
        except (OSError, TrainerError) as error:
            logging.getLogger(__name__).warning("Cocktail's bin: %s: %s", one.key, error)


def delete(name: str, with_checkpoints: bool) -> Deleted:
    """Move a run to the bin. Raises Refused while it is queued or at work, and when another run is
    made from one of the checkpoints that are to go; TrainerError and OSError.
    """
    where = recycle_bin()
    with where.alone():
        _complete_all()
        with jobs().alone(RUN, run_in(where.runs / name)):
            if with_checkpoints:
                _check_that_nobody_needs_checkpoints_of(name)
            found = where.delete(name, with_checkpoints)
        where.complete(found)
        return where.find(name, found.key)


def run_in(folder: Path) -> Run | Unreadable:
    """The run in a folder, whatever state its files are in."""
    try:
        return Run.open(folder)
    except (OSError, TrainerError) as error:
        return Unreadable(folder, State(UNREADABLE, str(error)))


def _check_that_nobody_needs_checkpoints_of(name: str) -> None:
    folder = names.checkpoint_dir() / name
    for run in runs.list_runs(names.cocktail_dir("runs")):
        if isinstance(run, Run) and run.name != name:
            with contextlib.suppress(names.BadName):
                if names.checkpoint_path(run.base.name).is_relative_to(folder):
                    raise Refused(
                        f"The run {run.name} is made from a checkpoint of {name}. Delete that run "
                        f"first, or delete {name} without its checkpoints."
                    )


def restore(name: str, key: str) -> None:
    """Bring a deleted run back. Raises Refused when something is in its place, TrainerError."""
    where = recycle_bin()
    with where.alone():
        where.restore(name, key)


def at_home(run: Run) -> Run:
    """A run with the paths it has here. Raises BadName when there is no checkpoint of its base's
    name, and TrainerError when it is another than the one it was made from.
    """
    here = places(run)
    if file_sha256(Path(here["base"]), names.hashes_file()) != run.base.sha256:
        raise TrainerError(
            f"The checkpoint {run.base.name} is not the one that {run.name} was made from: its "
            "content differs. Put that one back under this name."
        )
    return run.at(here)


def _at_present(run: Run, state: State) -> str:
    """Why a run cannot be resumed now."""
    if state.status == "finished":
        return f"{run.name} is finished. Extend it to more epochs, or fork it."
    if state.status == UNREADABLE:
        return state.message
    if state.status == "stopping":
        return f"{run.name} is on its way out. Resume it once it has ended."
    return f"{run.name} is {state.status} already. {state.advice}".strip()


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


def sweep() -> None:
    """Remove, beside everything else, what killed processes have left in the pack's folders."""

    def remove() -> None:
        own = names.hashes_file().parent
        for folder in (names.cocktail_dir(), names.checkpoint_dir(), own):
            sweep_below(folder)
        with contextlib.suppress(Refused, TrainerError, OSError), recycle_bin().alone():
            _complete_all()
        for folder in (names.checkpoint_dir(), own):
            remove_abandoned(folder)

    threading.Thread(target=remove, name="cocktail sweep", daemon=True).start()


def watch() -> None:
    """Start the one thread that looks after the jobs, unless it is at work."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_watch, name="cocktail jobs", daemon=True)
            _thread.start()


def _watch(ended: Callable[[], bool] = lambda: False) -> None:
    complaint = ""
    while not ended():
        try:
            _tick()
            complaint = ""
        except Exception as error:
            if str(error) != complaint:
                complaint = str(error)
                logging.exception("Cocktail cannot process its job queue. It keeps trying")
        _queued.wait(INTERVAL_S)
        _queued.clear()


def _tick() -> None:
    jobs().tick()
