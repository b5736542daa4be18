"""Jobs wait their turn on disk: one at a time on each device, the one queued first goes next.

Every job in the queue has a ticket (tickets.py). What has no ticket is never started, whatever its
state says: a folder may have come from anywhere. A job has ended when its process no longer holds
its lock, so that a device is free again when that process dies, however it does. Of several
ComfyUIs that share a queue, each starts only the jobs whose device it sees.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import TrainerError
from .job import (
    QUEUED,
    UNREADABLE,
    Job,
    Refused,
    Unreadable,
    check_links,
    list_jobs,
    same,
    start,
)
from .lock import Lock, is_held
from .process import noted
from .tickets import Ticket, Tickets

EVERY = ""
"""The device of work that does not say which one it uses: as long as it lasts, nothing starts."""
RECEIVED = (
    "Received: it was not queued on this ComfyUI. Resume it, or queue its graph, to start it."
)
ELSEWHERE = (
    "Waits for a device that this ComfyUI does not see, or does not train on. Another one on this "
    "output folder that does starts this job. To have it on a device of this one, stop it and "
    "resume it here."
)
OF_ANOTHER = (
    "Another ComfyUI on this output folder, with a user folder of its own, has queued this job and "
    "starts it. To have it here, or if there is no other, stop it and resume it here."
)
TROUBLE = (TrainerError, OSError, TypeError, ValueError)
"""What a damaged folder or a full disk may raise: it must not keep other jobs waiting."""


@dataclass(frozen=True)
class Kind:
    """Jobs of one kind: where their folders are, the file that makes a folder theirs, and the
    command of `python -m trainer` that works on one.
    """

    name: str
    folder: Path
    file: str
    command: str
    open: Callable[[Path], Job]


class Queue:
    """The queue in a folder. Several processes may use it at the same time."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[Kind],
        ended: Callable[[str, str], None] = lambda kind, name: None,
        reach: Callable[[str, str], Mapping[str, str] | None] = lambda kind, device: {},
    ) -> None:
        """`ended` is called with the kind and name of each job whose work has ended in any way:
        once, by the first of all that use the queue to find out. `reach` returns what the
        environment of a process must say so that a job of a kind takes a device, None for a device
        that it does not get from here. What it raises counts as that too.
        """
        self.folder, self.ended, self.reach = folder, ended, reach
        self.tickets = Tickets(folder)
        self.kinds = {kind.name: kind for kind in kinds}

    def put(self, kind: str, job: Job, device: str, arguments: Sequence[str] = ()) -> None:
        """Queue a job that is new, was stopped, interrupted or has failed; others are left as they
        are. One that waits already keeps its place.

        `arguments` follow the folder in its command. Raises Refused when its folder is gone, and
        TrainerError when it is unreadable or leads out of its folder.
        """
        with self.tickets.alone():
            if not job.folder.is_dir():
                raise Refused(f"{job.folder.name} is gone: it was deleted or moved meanwhile.")
            state = job.state()
            if state.status == UNREADABLE:
                raise TrainerError(state.message)
            check_links(job)
            old = self.tickets.of(kind, job.folder.name)
            if state.status == QUEUED and old is not None:
                self.tickets.write(replace(old, device=device, arguments=tuple(arguments)))
            elif state.status == QUEUED or state.can_go_on:
                if state.can_go_on:
                    self.tickets.forget(kind, job.folder.name)
                number = self.tickets.next_number()
                self.tickets.write(Ticket(number, kind, job.folder.name, device, tuple(arguments)))
                (job.folder / "control.json").unlink(missing_ok=True)
                job.write_state(job.queued(state))

    def stop(self, kind: str, job: Job) -> None:
        """Stop a job: one that waits leaves the queue, one at work is asked to stop."""
        with self.tickets.alone():
            state = job.state()
            if state.status == QUEUED or state.rests:
                where = "while it waited for its turn" if state.status == QUEUED else "on request"
                message = f"Stopped {where}. Queue it again to go on."
                self._leave(kind, job, replace(state, status="stopped", message=message))
            else:
                job.stop()

    def pause(self, kind: str, job: Job) -> None:
        """Pause a job until it is put again: one that waits leaves the queue, one at work is asked
        to save and to end; nothing happens when it is neither.
        """
        with self.tickets.alone():
            state = job.state()
            if state.status == QUEUED:
                message = "Paused while it waited for its turn. Resume it to queue it again."
                self._leave(kind, job, replace(state, status="paused", message=message))
            elif state.at_work:
                job.request("pause")

    def _leave(self, kind: str, job: Job, state: Any) -> None:
        """Take a job out of the queue, whoever has put it there. The ticket goes last: without it
        the state is one of a job that nobody has queued, with it that of work that has ended.
        """
        job.write_state(replace(state, at_rest=state.status == "paused"))
        self.tickets.forget(kind, job.folder.name)

    def stands(self, kind: str, job: Any) -> Any:
        """The state of a job, where one that only claims to be queued is not, and one that another
        ComfyUI is to start says so.
        """
        state = job.state()
        if state.status != QUEUED:
            return state
        ticket = self.tickets.of(kind, job.folder.name)
        if ticket is not None:
            seen = self._environment(ticket) is not None
            return state if seen else replace(state, message=ELSEWHERE)
        if self.tickets.of_another(kind, job.folder.name) is not None:
            return replace(state, message=OF_ANOTHER)
        latest = job.state()
        return (
            replace(latest, status="stopped", message=RECEIVED) if same(latest, state) else latest
        )

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep everybody from queueing and starting anything for a short while."""
        with self.tickets.alone():
            yield

    @contextlib.contextmanager
    def alone(self, kind: str, job: Job | Unreadable) -> Iterator[None]:
        """Keep a job from being queued and started for a short while, so that its folder may be
        changed. Raises Refused when it is queued or a process is at work on it.
        """
        with self.tickets.alone():
            status = self.stands(kind, job).status
            if status == QUEUED:
                raise Refused(f"{job.folder.name} is queued. Stop it first.")
            if _is_alive(job):
                raise Refused(
                    f"A process is at work on {job.folder.name} ({status}). Stop it and wait "
                    "until it has ended."
                )
            yield

    def tick(self) -> None:
        """Start what is next on every device that is free and seen from here. To be called about
        once a second.
        """
        with self.tickets.alone():
            waiting, busy = self._survey()
            for ticket in waiting:
                waits = _in_use(ticket.device, busy) or not ticket.kind
                if waits or self._start(ticket):
                    busy.add(ticket.device)

    @contextlib.contextmanager
    def lease(self, device: str, name: str, wait: Callable[[], None]) -> Iterator[None]:
        """Have a device to oneself, in turns with the jobs.

        `wait` is called again and again until it is free: it sleeps, and raises to give up.
        """
        with self.tickets.alone():
            ticket = Ticket(self.tickets.next_number(), "", name, device)
            lock = Lock(self.tickets.lock_file(ticket))
            if not lock.take():
                raise TrainerError(f"{lock.path} is in use by another process. Try again.")
            try:
                self.tickets.write(ticket)
            except BaseException:
                lock.let_go()
                self.tickets.remove(ticket)
                raise
        try:
            while not self._granted(ticket):
                wait()
            yield
        finally:
            try:
                with self.tickets.alone():
                    lock.let_go()
                    self.tickets.remove(ticket)
            finally:
                lock.let_go()

    def _granted(self, ticket: Ticket) -> bool:
        """Take the device if it is this ticket's turn."""
        with self.tickets.alone():
            waiting, busy = self._survey()
            for other in waiting:
                if other.number == ticket.number:
                    break
                busy.add(other.device)
            if _in_use(ticket.device, busy):
                return False
            self.tickets.write(replace(ticket, granted=True))
            return True

    def _environment(self, ticket: Ticket) -> Mapping[str, str] | None:
        """What `reach` says; None as well when a driver or a variable keeps that from being told:
        jobs for other devices go on.
        """
        try:
            return self.reach(ticket.kind, ticket.device)
        except Exception as error:
            _complain(f"Cocktail cannot tell whether {ticket.device} is seen from here: {error}")
            return None

    def _start(self, ticket: Ticket) -> bool:
        """Start a job, or leave it to who sees its device; False when it cannot be started, which
        its state says if it can.
        """
        environment = self._environment(ticket)
        if environment is None:
            return True
        kind = self.kinds[ticket.kind]
        try:
            job = kind.open(kind.folder / ticket.name)
            try:
                start(job, kind.command, ticket.arguments, environment, wait_s=0.0)
            except (OSError, TypeError, ValueError) as error:
                message = f"It could not be started: {error}. Queue it again once that is fixed."
                job.write_state(replace(job.written(), status="failed", message=message))
                return False
        except TROUBLE as error:
            _complain(f"Cocktail cannot start {ticket.kind} {ticket.name}: {error}")
            return False
        return True

    def _survey(self) -> tuple[list[Ticket], set[str]]:
        """The tickets that wait, in their order, and the devices in use. Tickets of work that has
        ended are removed.
        """
        waiting, busy, known = [], set(), set()
        for ticket in self.tickets:
            known.add((ticket.kind, ticket.name))
            try:
                stands = self._of_job(ticket) if ticket.kind else self._of_lease(ticket)
                if stands == "ended":
                    self.tickets.remove(ticket)
                    if ticket.kind:
                        self.ended(ticket.kind, ticket.name)
            except TROUBLE as error:
                _complain(f"Cocktail cannot tell how {ticket.kind} {ticket.name} stands: {error}")
                continue
            if stands == "waits":
                waiting.append(ticket)
            elif stands == "works":
                busy.add(self._device_of(ticket))
        for kind in self.kinds.values() if waiting else ():
            for job in list_jobs(kind.folder, kind.file, Job):
                if (kind.name, job.folder.name) not in known and _is_alive(job):
                    busy.add(_noted_device(job.folder))
        return waiting, busy

    def _device_of(self, ticket: Ticket) -> str:
        """The device that work is on: what its process has noted, until then its ticket's."""
        if not ticket.kind:
            return ticket.device
        return noted(self.kinds[ticket.kind].folder / ticket.name)["device"] or ticket.device

    def _of_job(self, ticket: Ticket) -> str:
        """waits, works, ended, or "" for what cannot be told now."""
        kind = self.kinds.get(ticket.kind)
        if kind is None:
            return ""
        if not (kind.folder / ticket.name).is_dir():
            return "ended"
        if _is_alive(Job(kind.folder / ticket.name)):
            return "works"
        status = kind.open(kind.folder / ticket.name).state().status
        return {QUEUED: "waits", UNREADABLE: ""}.get(status, "ended")

    def _of_lease(self, ticket: Ticket) -> str:
        if not is_held(self.tickets.lock_file(ticket)):
            return "ended"
        return "works" if ticket.granted else "waits"


def _in_use(device: str, busy: set[str]) -> bool:
    return device in busy or EVERY in busy or (device == EVERY and bool(busy))


def _is_alive(job: Any) -> bool:
    """Whether a process works on a job; also when that cannot be told."""
    try:
        return job.is_alive()
    except (OSError, TrainerError) as error:
        _complain(f"Cocktail cannot tell whether {job.folder} is in use and waits for it: {error}")
        return True


@functools.lru_cache(maxsize=256)
def _complain(message: str) -> None:
    """Log something once, however often it happens."""
    logging.getLogger(__name__).warning(message)


def _noted_device(folder: Path) -> str:
    return noted(folder)["device"] or EVERY
