"""The tickets of a queue: one small file for each place in it, in the queue's own folder. Those of
jobs carry a mark of this installation (marks.py); others start nothing.

They are kept until the work has ended, in the order of their numbers. Whoever changes them holds
the queue's lock meanwhile.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import marks
from ..errors import TrainerError
from ..files import write_json
from .job import NAME, read_json
from .lock import Lock

LOCK_WAIT_S = 60.0
DIGITS = 8
_MARK = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Ticket:
    """A place in the queue. Without a kind it is a lease: the process that waits does the work."""

    number: int
    kind: str
    name: str
    device: str
    arguments: tuple[str, ...] = ()
    granted: bool = False


@dataclass(frozen=True)
class Tickets:
    """The tickets in a folder. Several processes may use it at the same time."""

    folder: Path

    def __iter__(self) -> Iterator[Ticket]:
        """All in their order. What is not a ticket is passed over: it holds up nothing."""
        for file in self._files():
            with contextlib.suppress(TrainerError):
                yield _read(file)

    def of(self, kind: str, name: str) -> Ticket | None:
        """The ticket of a job, if it has one."""
        return next((one for one in self if (one.kind, one.name) == (kind, name)), None)

    def of_another(self, kind: str, name: str) -> Ticket | None:
        """The ticket of a job with the mark of another installation, or what looks like one: it
        starts nothing here.
        """
        for file in self._files():
            with contextlib.suppress(TrainerError):
                ticket, mark = _read_any(file)
                if (ticket.kind, ticket.name) == (kind, name) and _MARK.fullmatch(str(mark)):
                    return ticket
        return None

    def forget(self, kind: str, name: str) -> None:
        """Remove the tickets of a job that nobody is to start any more, whoever has made them."""
        for find in (self.of, self.of_another):
            if (ticket := find(kind, name)) is not None:
                self.remove(ticket)

    def next_number(self) -> int:
        """A number after those of all files, whether or not they can be read. One with so many
        digits that no ticket of ours has them does not count: the next may be no name of a file.
        """
        stems = {file.stem for file in self._files()}
        numbers = [int(stem) for stem in stems if stem.isdecimal() and len(stem) <= DIGITS]
        number = max(numbers, default=0) + 1
        while f"{number:0{DIGITS}d}" in stems:
            number += 1
        return number

    def write(self, ticket: Ticket) -> None:
        write_json(self.file(ticket), {**asdict(ticket), "mark": marks.mark(*_words(ticket))})

    def remove(self, ticket: Ticket) -> None:
        self.file(ticket).unlink(missing_ok=True)
        self.lock_file(ticket).unlink(missing_ok=True)

    def file(self, ticket: Ticket) -> Path:
        return self.folder / f"{ticket.number:0{DIGITS}d}.json"

    def lock_file(self, ticket: Ticket) -> Path:
        """Held by the process that waits for a lease, or has it."""
        return self.folder / f"{ticket.number:0{DIGITS}d}.lock"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
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


def _read(file: Path) -> Ticket:
    """Raises TrainerError for what is not a ticket, or that of a job that was not made here."""
    ticket, mark = _read_any(file)
    if ticket.kind and not marks.is_marked(mark, *_words(ticket)):
        raise TrainerError(f"{file} was not made by this installation.")
    return ticket


def _read_any(file: Path) -> tuple[Ticket, object]:
    """A ticket, whoever has made it, and its mark. Raises TrainerError for what is none."""
    value = read_json(file)
    texts = [value.get(name) for name in ("kind", "name", "device")]
    arguments, granted = value.get("arguments"), value.get("granted", False)
    sound = (
        all(isinstance(text, str) for text in texts)
        and isinstance(arguments, list)
        and all(isinstance(argument, str) for argument in arguments)
        and isinstance(granted, bool)
        and f"{value.get('number')!r:0>{DIGITS}}" == file.stem
        and NAME.fullmatch(value["name"])
    )
    if not sound:
        raise TrainerError(f"{file} is not a ticket.")
    ticket = Ticket(
        value["number"],
        value["kind"],
        value["name"],
        value["device"],
        tuple(value["arguments"]),
        granted,
    )
    return ticket, value.get("mark")


def _words(ticket: Ticket) -> tuple[str, ...]:
    return (
        "ticket",
        str(ticket.number),
        ticket.kind,
        ticket.name,
        ticket.device,
        *ticket.arguments,
    )
