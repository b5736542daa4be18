"""Whatever is done to runs, in whatever order: never two processes on one run, never a false state,
and no checkpoint lost.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cocktail.trainer import files
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs import process
from cocktail.trainer.jobs.job import LOCK, QUEUED, RESUMABLE, UNREADABLE, Refused
from cocktail.trainer.jobs.lock import is_held
from cocktail.trainer.runs import Run, list_runs

from . import fake_trainer
from .run_folders import make_run, pretend_comfyui

STEPS = 20
EXAMPLES = 50 if os.environ.get("COCKTAIL_ALL") else 10
"""Histories of STEPS operations each."""
NAMES = ("one", "two", "three")
GARBAGE = ("", "{", "[]", '{"status": "dreaming"}', '{"status": 5}', "\x00" * 50)
ON_DISK = (
    "resume", "stop", "pause", "delete", "restore", "extend", "tick", "fork", "rename", "save_now",
    "restart",
)  # fmt: skip
"""Operations that are ended in their middle."""
WAIT_S = 120.0


class Killed(BaseException):
    """The server is no more."""


class Server:
    """Lets what the server writes fail: all of it after `writes` changes, as in a process that was
    killed there, or those of a full disk.
    """

    def __init__(self, patch: pytest.MonkeyPatch, error: BaseException, writes: int) -> None:
        self.error, self.left = error, writes
        for owner, name in [(files, "write_bytes"), (Path, "rename"), (Path, "unlink")]:
            patch.setattr(owner, name, self._failing(getattr(owner, name), name))

    def _failing(self, do, name: str):
        def change(*arguments, **options):
            if self.left <= 0 and not (name == "unlink" and isinstance(self.error, OSError)):
                raise self.error
            self.left -= 1
            return do(*arguments, **options)

        return change


class Life(RuleBasedStateMachine):
    """Runs of a ComfyUI whose trainings are real processes without a model."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.here = Path(tempfile.mkdtemp(prefix="life-"))
        self.saved: dict[str, str] = {}
        self.damaged: set[str] = set()
        self.damaged_in_bin: set[tuple[str, str]] = set()

    @initialize()
    def begin(self) -> None:
        pretend_comfyui(self.here, self.patch)
        from cocktail.nodes import supervisor

        self.server = supervisor
        self.patch.setattr(process, "MAIN", Path(fake_trainer.__file__))
        self.patch.setenv("COCKTAIL_TEST_ROOT", str(Path(__file__).parents[2]))
        self.runs = self.here / "output" / "cocktail" / "runs"
        (self.runs.parent / "working").mkdir(parents=True)
        make_run(self.here, "one", epochs=2)
        make_run(self.here, "two", epochs=1)

    def run_of(self, name: str) -> Run | None:
        try:
            return Run.open(self.runs / name).at(
                {"checkpoints": str(self.here / "models" / "checkpoints" / "cocktail" / name)}
            )
        except TrainerError:
            return None

    def do(self, name: str, operation) -> None:
        """Do something with a run that is there. It may be refused, in words, but not fail."""
        run = self.run_of(name)
        if run is not None:
            try:
                operation(run)
            except (TrainerError, ValueError) as refusal:
                assert type(refusal).__name__ in ("BadName", "Refused", "TrainerError"), refusal
                assert str(refusal).strip()

    @rule(name=st.sampled_from(NAMES))
    def resume(self, name: str) -> None:
        self.do(name, self.server.resume)

    @rule(name=st.sampled_from(NAMES))
    def stop(self, name: str) -> None:
        self.do(name, self.server.stop)

    @rule(name=st.sampled_from(NAMES))
    def pause(self, name: str) -> None:
        self.do(name, self.server.pause)

    @rule(name=st.sampled_from(NAMES))
    def save_now(self, name: str) -> None:
        self.do(name, lambda run: self.server.ask(run, "save"))

    @rule(name=st.sampled_from(NAMES), more=st.integers(1, 2), start=st.booleans())
    def extend(self, name: str, more: int, start: bool) -> None:
        self.do(
            name,
            lambda run: self.server.extend(run, min(5, run.settings.epochs + more), start),
        )

    @rule(name=st.sampled_from(NAMES), epoch=st.integers(1, 2))
    def fork(self, name: str, epoch: int) -> None:
        self.do(name, lambda run: self.fork_of(run, epoch))

    @rule(name=st.sampled_from(NAMES), title=st.sampled_from(("", "Another title")))
    def rename(self, name: str, title: str) -> None:
        self.do(name, lambda run: self.server.rename(run, title))

    def fork_of(self, run: Run, epoch: int) -> None:
        self.server.fork(run, "three", replace(run.settings, epochs=1), epoch=epoch)

    @rule(name=st.sampled_from(NAMES), checkpoints=st.booleans())
    def delete(self, name: str, checkpoints: bool) -> None:
        if (self.runs / name).exists():
            before = {(one.name, one.key) for one in self.server.deleted()}
            with contextlib.suppress(Refused):
                self.server.delete(name, checkpoints)
                if name in self.damaged:
                    self.damaged.remove(name)
                    after = {(one.name, one.key) for one in self.server.deleted()}
                    self.damaged_in_bin |= after - before

    @rule(number=st.integers(0, 3))
    def restore(self, number: int) -> None:
        deleted = self.server.deleted()
        if deleted:
            one = deleted[number % len(deleted)]
            with contextlib.suppress(Refused):
                self.restore_one(one)

    def restore_one(self, one: Any) -> None:
        self.server.restore(one.name, one.key)
        if (one.name, one.key) in self.damaged_in_bin:
            self.damaged.add(one.name)

    @rule()
    def tick(self) -> None:
        self.server.jobs().tick()

    @rule()
    def restart(self) -> None:
        """What a ComfyUI does when it starts; it remembers nothing."""
        self.server.sweep()
        for thread in threading.enumerate():
            if thread.name == "cocktail sweep":
                thread.join()
        self.tick()

    @rule(writes=st.sampled_from(("", "0", "2", "5", "12")))
    def fill_the_disk(self, writes: str) -> None:
        """Trainings that start from now on find it full after so many writes; "" makes room."""
        self.patch.setenv("COCKTAIL_TEST_DISK", writes)

    @rule(name=st.sampled_from(NAMES))
    def wait(self, name: str) -> None:
        """Let a training that is at work come to its end, or to that of its step."""
        metrics, deadline = self.runs / name / "metrics.jsonl", time.monotonic() + WAIT_S

        def steps() -> int:
            return metrics.read_bytes().count(b'"step"') if metrics.exists() else 0

        before = steps()
        while steps() == before and is_held(self.runs / name / LOCK):
            assert time.monotonic() < deadline, f"{name} takes no step"
            time.sleep(fake_trainer.STEP_S / 4)

    @rule(name=st.sampled_from(NAMES))
    def kill_the_trainer(self, name: str) -> None:
        process.kill(self.runs / name)

    @rule(
        name=st.sampled_from(NAMES),
        writes=st.integers(0, 6),
        what=st.sampled_from(ON_DISK),
        full=st.booleans(),
    )
    def fail_in_the_middle(self, name: str, writes: int, what: str, full: bool) -> None:
        """The server is killed between two steps of what it does, or its disk is full."""
        error = OSError(errno.ENOSPC, "No space left on device") if full else Killed()
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed, OSError):
            Server(patch, error, writes)
            if what == "delete":
                self.delete(name, True)
            elif what == "restore":
                self.restore(0)
            elif what == "extend":
                self.extend(name, 1, True)
            elif what in ("tick", "restart"):
                getattr(self, what)()
            elif what == "fork":
                self.fork(name, 1)
            elif what == "rename":
                self.rename(name, "Yet another")
            else:
                getattr(self, what)(name)

    @rule(name=st.sampled_from(NAMES), first=st.sampled_from(("resume", "stop", "pause")))
    def opposite_buttons(self, name: str, first: str) -> None:
        """Two browsers at once, and the queue of two ComfyUIs."""
        others = [
            threading.Thread(target=self.resume, args=(name,)),
            threading.Thread(target=getattr(self, first), args=(name,)),
            threading.Thread(target=self.tick),
            threading.Thread(target=self.tick),
        ]
        for other in others:
            other.start()
        for other in others:
            other.join()

    @rule(name=st.sampled_from(NAMES), text=st.sampled_from(GARBAGE))
    def damage(self, name: str, text: str) -> None:
        """The state of a run that nobody works on is no longer what was written."""
        run = self.run_of(name)
        if run is not None and not run.is_alive():
            (run.folder / "state.json").write_text(text)
            self.damaged.add(name)

    @precondition(lambda self: self.damaged)
    @rule()
    def mend(self) -> None:
        """As the message of an unreadable state says."""
        for name in list(self.damaged):
            (self.runs / name / "state.json").unlink(missing_ok=True)
        self.damaged.clear()

    @rule(seconds=st.sampled_from((0, 3600, 10**8)))
    def set_the_clock_back(self, seconds: int) -> None:
        self.patch.setenv("COCKTAIL_TEST_CLOCK", str(seconds))
        real = time.time_ns
        self.patch.setattr(time, "time", lambda: real() / 1e9 - seconds)

    @invariant()
    def every_state_is_true(self) -> None:
        if not hasattr(self, "runs"):
            return
        for run in list_runs(self.runs):
            before = self.working(run.name)
            assert len(before) <= 1, f"{run.name}: two processes"
            state = self.server.jobs().stands(self.server.RUN, run)
            if state.status == UNREADABLE:
                assert run.name in self.damaged, state.message
            elif state.status == QUEUED:
                assert self.has_a_ticket(run.name)
            elif state.at_work:
                assert run.is_alive() or not run.state().at_work
            elif run.name not in self.damaged:
                assert state.status in (*RESUMABLE, "finished") or state.rests
                assert not (before & self.working(run.name)) or run.state().at_work
            if state.status == "finished":
                steps = {line["step"] for line in run.metrics() if line["kind"] == "step"}
                there = run.settings.epochs * fake_trainer.STEPS_PER_EPOCH
                assert steps >= set(range(1, there + 1)), f"{run.name} is not finished"

    @invariant()
    def no_checkpoint_is_lost(self) -> None:
        if not hasattr(self, "runs"):
            return
        places = (self.here / "models" / "checkpoints" / "cocktail", self.runs.parent / ".bin")
        there = {
            path.name: path.read_text()
            for place in places
            for path in place.rglob("[!.]*.safetensors")
        }
        for name, content in self.saved.items():
            assert there.get(name) == content, f"{name} is lost"
        self.saved = there

    def working(self, name: str) -> set[int]:
        """The processes that have a run to themselves, as they themselves say."""
        found = set()
        for file in (self.runs.parent / "working").glob(f"{name}.*"):
            pid = int(file.name.rpartition(".")[2])
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.add(pid)
        return found

    def has_a_ticket(self, name: str) -> bool:
        tickets = self.server.jobs().folder.glob("[0-9]*.json")
        return any(json.loads(ticket.read_text())["name"] == name for ticket in tickets)

    def teardown(self) -> None:
        """All runs that are there can be brought to their end, none step left out."""
        try:
            if hasattr(self, "runs"):
                self.fill_the_disk("")
                self.mend()
                for one in self.server.deleted():
                    with contextlib.suppress(Refused):
                        self.restore_one(one)
                self.mend()
                for run in list_runs(self.runs):
                    self.finish(run.name)
        finally:
            for file in self.runs.glob("*/process.json") if hasattr(self, "runs") else ():
                process.kill(file.parent)
            self.patch.undo()
            shutil.rmtree(self.here, ignore_errors=True)

    def finish(self, name: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while (state := self.run_of(name).state()).status != "finished":
            assert time.monotonic() < deadline, f"{name} does not end: {state}"
            self.resume(name)
            self.tick()
            self.every_state_is_true()
            time.sleep(fake_trainer.STEP_S)
        self.no_checkpoint_is_lost()


@pytest.mark.more_with_all(f"{50 * STEPS} operations instead of {10 * STEPS}")
def test_a_run_is_what_it_says_whatever_is_done_to_it():
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=[Phase.generate, *([Phase.shrink] if os.environ.get("COCKTAIL_ALL") else [])],
            derandomize=not os.environ.get("COCKTAIL_ALL"),
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
