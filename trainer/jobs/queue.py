"""Jobs wait their turn on disk: one at a time on each device, the one queued first goes next.

Every job in the queue has a ticket, a file in the queue's own folder. What has no ticket is never
started, whatever its state says: a folder may have come from anywhere. Tickets are kept until the
work has ended. Whether it has is told by the lock that its process holds, so that a device is free
again when that process dies, however it does.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import TrainerError
from ..files import write_json
from .job import (
    NAME,
    QUEUED,
    UNREADABLE,
    Job,
    Refused,
    Unreadable,
    check_links,
    list_jobs,
    read_json,
    same,
    start,
)
from .lock import Lock, is_held

EVERY = ""
"""The device of work that does not say which one it uses: as long as it lasts, nothing starts."""
LOCK_WAIT_S = 60.0
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


@dataclass(frozen=True)
class Ticket:
    """A place in the queue. Without a kind it is a lease: the process that waits does the work."""

    number: int
    kind: str
    name: str
    device: str
    arguments: tuple[str, ...] = ()
    granted: bool = False


class Queue:
    """The queue in a folder. Several processes may use it at the same time."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[Kind],
        ended: Callable[[str, str], None] = lambda kind, name: None,
    ) -> None:
        """`ended` is told the kind and name of each job whose work has ended, however it did: once,
        whoever of all that use the queue finds it.
        """
        self.folder, self.ended = folder, ended
        self.kinds = {kind.name: kind for kind in kinds}

    def put(self, kind: str, job: Job, device: str, arguments: Sequence[str] = ()) -> None:
        """Queue a job that is new, was stopped, interrupted or has failed; others are left as they
        are. One that waits already keeps its place.

        `arguments` follow the folder in its command. Raises Refused when its folder is gone, and
        TrainerError when it is unreadable or leads out of its folder.
        """
        with self._alone():
            if not job.folder.is_dir():
                raise Refused(f"{job.folder.name} is gone: it was deleted or moved meanwhile.")
            state = job.state()
            if state.status == UNREADABLE:
                raise TrainerError(state.message)
            check_links(job)
            old = self._ticket_of(kind, job.folder.name)
            if state.status == QUEUED and old is not None:
                self._write(replace(old, device=device, arguments=tuple(arguments)))
            elif state.status == QUEUED or state.can_go_on:
                if old is not None:
                    self._remove(old)
                number = self._next_number()
                self._write(Ticket(number, kind, job.folder.name, device, tuple(arguments)))
                (job.folder / "control.json").unlink(missing_ok=True)
                job.write_state(job.queued(state))

    def stop(self, kind: str, job: Job) -> None:
        """Stop a job: one that waits leaves the queue, one at work is asked to stop."""
        with self._alone():
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
        with self._alone():
            state = job.state()
            if state.status == QUEUED:
                message = "Paused while it waited for its turn. Resume it to queue it again."
                self._leave(kind, job, replace(state, status="paused", message=message))
            elif state.at_work:
                job.request("pause")

    def _leave(self, kind: str, job: Job, state: Any) -> None:
        """Take a job out of the queue. The ticket goes last: without it the state is one of a job
        that nobody has queued, with it that of work that has ended.
        """
        job.write_state(replace(state, at_rest=state.status == "paused"))
        if (ticket := self._ticket_of(kind, job.folder.name)) is not None:
            self._remove(ticket)

    def stands(self, kind: str, job: Any) -> Any:
        """The state of a job, where one that only claims to be queued is not."""
        state = job.state()
        if state.status == QUEUED and self._ticket_of(kind, job.folder.name) is None:
            message = (
                "Received: it was not queued on this ComfyUI. Resume it, or queue its graph, to "
                "start it."
            )
            latest = job.state()
            if same(latest, state):
                return replace(latest, status="stopped", message=message)
            return latest
        return state

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep everybody from queueing and starting anything for a short while."""
        with self._alone():
            yield

    @contextlib.contextmanager
    def alone(self, kind: str, job: Job | Unreadable) -> Iterator[None]:
        """Keep a job from being queued and started for a short while, so that its folder may be
        changed. Raises Refused when it is queued or a process is at work on it.
        """
        with self._alone():
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
        """Start what is next on every device that is free. To be called about once a second."""
        with self._alone():
            waiting, busy = self._survey()
            for ticket in waiting:
                if _in_use(ticket.device, busy) or not ticket.kind or self._start(ticket):
                    busy.add(ticket.device)

    def adopt_once(
        self,
        kind: str,
        device: Callable[[], str],
        arguments: Callable[[Any], Sequence[str] | None],
    ) -> None:
        """Take over what was queued before there were tickets; later calls do nothing.

        `arguments` returns those of a job that was queued by this installation, None for others.
        """
        done = self.folder / f"adopted-{kind}"
        if done.exists():
            return
        with self._alone():
            sort = self.kinds[kind]
            jobs = [job for job in list_jobs(sort.folder, sort.file, sort.open)]
            states = [(job.state(), job) for job in jobs]
            queued = [(state, job) for state, job in states if state.status == QUEUED]
            for _, job in sorted(queued, key=lambda found: getattr(found[0], "queued_at", 0.0)):
                words = arguments(job)
                if words is not None and self._ticket_of(kind, job.folder.name) is None:
                    name = job.folder.name
                    number = self._next_number()
                    self._write(Ticket(number, kind, name, device(), tuple(words)))
            done.touch()

    @contextlib.contextmanager
    def lease(self, device: str, name: str, wait: Callable[[], None]) -> Iterator[None]:
        """Have a device to oneself, in turns with the jobs.

        `wait` is called again and again until it is free: it sleeps, and raises to give up.
        """
        with self._alone():
            ticket = Ticket(self._next_number(), "", name, device)
            lock = Lock(self._file(ticket, ".lock"))
            if not lock.take():
                raise TrainerError(f"{lock.path} is in use by another process. Try again.")
            try:
                self._write(ticket)
            except BaseException:
                lock.let_go()
                self._remove(ticket)
                raise
        try:
            while not self._granted(ticket):
                wait()
            yield
        finally:
            try:
                with self._alone():
                    lock.let_go()
                    self._remove(ticket)
            finally:
                lock.let_go()

    def _granted(self, ticket: Ticket) -> bool:
        """Take the device if it is this ticket's turn."""
        with self._alone():
            waiting, busy = self._survey()
            for other in waiting:
                if other.number == ticket.number:
                    break
                busy.add(other.device)
            if _in_use(ticket.device, busy):
                return False
            self._write(replace(ticket, granted=True))
            return True

    def _start(self, ticket: Ticket) -> bool:
        """Start a job; False when that is not possible, which its state says if it can."""
        kind = self.kinds[ticket.kind]
        try:
            job = kind.open(kind.folder / ticket.name)
            try:
                start(job, kind.command, ticket.arguments, wait_s=0.0)
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
        for ticket in self._tickets():
            known.add((ticket.kind, ticket.name))
            try:
                stands = self._of_job(ticket) if ticket.kind else self._of_lease(ticket)
                if stands == "ended":
                    self._remove(ticket)
                    if ticket.kind:
                        self.ended(ticket.kind, ticket.name)
            except TROUBLE as error:
                _complain(f"Cocktail cannot tell how {ticket.kind} {ticket.name} stands: {error}")
                continue
            if stands == "waits":
                waiting.append(ticket)
            elif stands == "works":
                busy.add(ticket.device)
        for kind in self.kinds.values() if waiting else ():
            for job in list_jobs(kind.folder, kind.file, Job):
                if (kind.name, job.folder.name) not in known and _is_alive(job):
                    busy.add(_noted_device(job.folder))
        return waiting, busy

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
        if not is_held(self._file(ticket, ".lock")):
            return "ended"
        return "works" if ticket.granted else "waits"

    def _tickets(self) -> list[Ticket]:
        """All tickets in their order. What is not a ticket is passed over: it holds up nothing."""
        found = []
        for file in self._files():
            with contextlib.suppress(TrainerError):
                found.append(_read_ticket(file))
        return found

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _ticket_of(self, kind: str, name: str) -> Ticket | None:
        found = [t for t in self._tickets() if (t.kind, t.name) == (kind, name)]
        return found[0] if found else None

    def _next_number(self) -> int:
        """A number after those of all files, whether or not they can be read."""
        numbers = [int(file.stem) for file in self._files() if file.stem.isdecimal()]
        return max(numbers, default=0) + 1

    def _write(self, ticket: Ticket) -> None:
        write_json(self._file(ticket), asdict(ticket))

    def _remove(self, ticket: Ticket) -> None:
        self._file(ticket).unlink(missing_ok=True)
        self._file(ticket, ".lock").unlink(missing_ok=True)

    def _file(self, ticket: Ticket, suffix: str = ".json") -> Path:
        return self.folder / f"{ticket.number:08d}{suffix}"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from changing the queue meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.folder / "queue.lock")
        if not lock.take(LOCK_WAIT_S):
            raise TrainerError(
                f"The queue of jobs in {self.folder} has been locked for {LOCK_WAIT_S:.0f} s by "
                "another ComfyUI. Check whether one is stuck."
            )
        try:
            yield
        finally:
            lock.let_go()


def _read_ticket(file: Path) -> Ticket:
    """Raises TrainerError for what is not a ticket."""
    value = read_json(file)
    texts = [value.get(name) for name in ("kind", "name", "device")]
    arguments, granted = value.get("arguments"), value.get("granted", False)
    sound = (
        all(isinstance(text, str) for text in texts)
        and isinstance(arguments, list)
        and all(isinstance(argument, str) for argument in arguments)
        and isinstance(granted, bool)
        and f"{value.get('number')!r:0>8}" == file.stem
        and NAME.fullmatch(value["name"])
    )
    if not sound:
        raise TrainerError(f"{file} is not a ticket.")
    return Ticket(
        value["number"],
        value["kind"],
        value["name"],
        value["device"],
        tuple(value["arguments"]),
        granted,
    )


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
    try:
        device = read_json(folder / "process.json").get("device", EVERY)
    except TrainerError:
        return EVERY
    return device if isinstance(device, str) else EVERY
