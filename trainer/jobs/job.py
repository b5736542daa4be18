"""A job: background work that is described by a folder and done by a process.

run.json or job.json   what it is; written once
state.json      how it stands, replaced several times a second while its process works
control.json    what somebody asks of that process, until it has heard it
process.lock    held by that process for as long as it lives, which proves that it does
process.json    which process that is, for people and for `kill`; nothing depends on it
log.txt         what the process printed

What is in a folder is data, never an order: a job is started by this installation's queue (see
queue.py) or by a person, with the paths that they give.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Generic,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from .. import bounded_json
from ..errors import TrainerError
from ..files import (
    SpecialFile,
    canonical_json,
    finite,
    read_bytes,
    regular,
    remove,
    write_json,
)
from ..links import foreign_link
from . import process
from .lock import POLL_S, Lock, is_held

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")
QUEUED = "queued"
ACTIVE = ("preparing", "running", "paused", "stopping")
"""States in which a process is at work; without one the job has been interrupted."""
RESUMABLE = ("stopped", "interrupted", "failed")
UNREADABLE = "unreadable"
"""No state of its own: its files cannot be read, and its message says why."""
STATUSES = (QUEUED, *ACTIVE, *RESUMABLE, "finished")
LOCK = "process.lock"
WANDB = "wandb"
"""The folder of a run that the package wandb fills, also with links to its own cache."""
LAUNCH_LOCK = ".start.lock"
"""Held by who starts the process, until the process has its own lock."""
REQUESTS_LOCK = ".control.lock"
REQUESTS_WAIT_S = 10.0
HEAR_WAIT_S = 0.5
"""How long a process at work waits to hear what it is asked. If it cannot, it looks again later."""
MOST_REQUESTS = 32
"""So many may wait until a process hears them."""
LOG_TAIL_BYTES = 1 << 16
MOST_BYTES, MOST_MEMORY = 4 << 20, 16 << 20
"""A larger file, or one whose values take more memory, describes no job and no state."""
LOOKS = 100
"""How often a state that changes all the time is read before it counts as it is."""
PROBED_S = 2.0
"""A lock may look taken for a moment, because somebody has looked whether it is."""


class Stopped(Exception):
    """Somebody asked the job to stop; what it has done so far is in its folder."""


class Paused(Stopped):
    """Somebody asked the job to pause: its process ends until somebody resumes it."""


class Refused(TrainerError):
    """What was asked of a job is not possible in the state it is in, which the message names."""


class LockLost(Exception):
    """The job's folder was taken from this process: it must not write there any more."""


@dataclass(frozen=True)
class State:
    """How a job stands. `status` is one of STATUSES, or "unreadable"; `updated` is the heartbeat in
    seconds since 1970. With `at_rest` a paused job has no process: a person has paused it, and it
    goes on when somebody resumes it. Other pauses end by themselves, and their process lives.
    """

    status: str = "stopped"
    message: str = ""
    updated: float = 0.0
    at_rest: bool = False

    @property
    def rests(self) -> bool:
        """Whether it is paused without a process."""
        return self.at_rest and self.status == "paused"

    @property
    def at_work(self) -> bool:
        """Whether a process is at work on it."""
        return self.status in ACTIVE and not self.rests

    @property
    def can_go_on(self) -> bool:
        """Whether it may be queued to go on from where it stands."""
        return self.status in RESUMABLE or self.rests

    @property
    def advice(self) -> str:
        """What a person can do about it, "" when there is nothing to do."""
        if self.status == "failed":
            return (
                "Mend what the message says and resume it: it goes on from where it was saved "
                "last. If it fails again in the same way, its log.txt says more."
            )
        if self.status == "interrupted":
            return "Resume it: it goes on from where it was saved last."
        if self.status == "paused" and not self.rests:
            return "It goes on by itself, as its message says."
        return "Resume it to go on." if self.can_go_on else ""


S = TypeVar("S", bound=State)


def same(one: State, other: State) -> bool:
    """Whether two states say the same. NaN, as a loss may be, is equal to itself here."""
    return canonical_json(asdict(one)) == canonical_json(asdict(other))


@dataclass(frozen=True)
class Job(Generic[S]):
    """An existing job folder."""

    folder: Path
    states: ClassVar[type[State]] = State
    noun: ClassVar[str] = "job"
    commands: ClassVar[tuple[str, ...]] = ("stop",)
    dead_when: ClassVar[tuple[str, ...]] = ACTIVE
    """In these states its process must be alive."""

    def state(self) -> S:
        """How it stands. One whose process is gone reads as interrupted, one whose state cannot be
        read as unreadable, with the reason as its message.
        """
        try:
            state = self.written()
            for _ in range(LOOKS):
                if state.status not in self.dead_when or state.rests or self.is_alive():
                    return state
                # A process writes its last state before it lets go of the lock: look once more.
                before, state = state, self.written()
                if same(state, before):
                    break
            return replace(state, status="interrupted", message=self._gone())
        except (TrainerError, OSError) as error:
            return cast(S, self.states(UNREADABLE, str(error)))

    def is_alive(self) -> bool:
        """Whether a process works on it or is being started. Raises OSError without rights."""
        # In this order: the second is held before the first is let go.
        return is_held(self.folder / LAUNCH_LOCK) or is_held(self.folder / LOCK)

    def written(self) -> S:
        """Its state.json as it is, whether or not its process is alive. Raises TrainerError."""
        return cast(S, read_state(self.folder / "state.json", self.states))

    def _gone(self) -> str:
        return (
            f"The process of the {self.noun} has died (killed, crashed or the machine was switched "
            "off). Queue the graph again: it goes on from there."
        )

    def write_state(self, state: State) -> None:
        """For the process that works on the job; for others only while there is none."""
        write_json(self.folder / "state.json", finite(asdict(replace(state, updated=time.time()))))

    def queued(self, state: Any) -> Any:
        """Its state while it waits for its turn."""
        return replace(state, status=QUEUED, message="Waits for its turn", at_rest=False)

    def request(self, command: str, **details: Any) -> None:
        """Ask the job's process for something, such as to stop. What others have asked that it has
        not heard yet stays. Raises Refused when that is too much.
        """
        if command not in self.commands:
            known = ", ".join(self.commands)
            raise TrainerError(f"Unknown command {command!r}; a {self.noun} understands: {known}.")
        lock = Lock(self.folder / REQUESTS_LOCK)
        if not lock.take(REQUESTS_WAIT_S):
            raise TrainerError(
                f"{lock.path} has been locked for {REQUESTS_WAIT_S:.0f} s. Try again."
            )
        try:
            wanted = {"command": command, **details}
            asked = [one for one in self._requests() if one != wanted]
            if details and len(asked) >= MOST_REQUESTS:
                raise Refused(
                    f"{self.folder.name} has not heard {len(asked)} requests yet. Wait for them."
                )
            asked.append(wanted)
            first = "stop" if any(one["command"] == "stop" for one in asked) else command
            # The first entry alone is what a process of an older version reads.
            value = {"command": first, "time": time.time(), "asked": asked}
            write_json(self.folder / "control.json", value)
        finally:
            lock.let_go()

    def take_requests(self) -> list[dict[str, Any]]:
        """What has been asked since the last look, once, each with its `command`. Nothing while
        somebody else holds control.json: the work goes on, and the next look finds it.
        """
        control = self.folder / "control.json"
        if not os.path.lexists(control):
            return []
        lock = Lock(self.folder / REQUESTS_LOCK)
        if not lock.take(HEAR_WAIT_S):
            return []
        try:
            asked = self._requests()
            remove(control)
        finally:
            lock.let_go()
        return asked

    def _requests(self) -> list[dict[str, Any]]:
        try:
            value = _value(self.folder / "control.json")[0]
        except (FileNotFoundError, ValueError, SpecialFile):
            return []
        asked = value.get("asked", [value]) if isinstance(value, dict) else []
        return [
            one
            for one in (asked if isinstance(asked, list) else [])
            if isinstance(one, dict)
            and isinstance(one.get("command"), str)
            and one["command"] in self.commands
        ]

    def stop(self) -> None:
        """Ask its process to stop; nothing happens when none is at work."""
        if self.state().at_work:
            self.request("stop")

    def log_tail(self, lines: int = 20) -> str:
        """The end of what its process printed, or in words why that cannot be read."""
        try:
            with open(self.folder / "log.txt", "rb", opener=regular) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"log.txt cannot be read ({error.strerror})."
        return "\n".join(text.splitlines()[-lines:])


@dataclass(frozen=True)
class Unreadable:
    """A job that cannot be opened: damaged, of a newer version, or without rights."""

    folder: Path
    stands: State
    id: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    def state(self) -> Any:
        return self.stands

    def is_alive(self) -> bool:
        return Job(self.folder).is_alive()


J = TypeVar("J", bound=Job)


def list_jobs(folder: Path, file: str, open_job: Callable[[Path], J]) -> list[J | Unreadable]:
    """All jobs below a folder, by name; `file` is what makes a folder a job's."""
    try:
        below = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for path in below:
        try:
            (path / file).stat()
            found.append(open_job(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, TrainerError) as error:
            found.append(Unreadable(path, State(UNREADABLE, str(error))))
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file. Raises TrainerError, which names the file and its folder."""
    try:
        value, data = _value(file)
        if b"\\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except OSError as error:
        raise TrainerError(
            f"{file.name} of {file.parent.name} cannot be read ({error.strerror})."
        ) from error
    except ValueError as error:
        raise TrainerError(
            f"{file.name} of {file.parent.name} is damaged ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(value, dict):
        raise TrainerError(f"{file.name} of {file.parent.name} is damaged: not a JSON object.")
    return value


def described(folder: Path, file: str, what: str, format: int, remedy: str) -> dict[str, Any]:
    """What run.json or job.json says of a job's folder. Raises TrainerError when it is missing,
    damaged, for which there is a `remedy`, or of a newer version.
    """
    if not (folder / file).exists():
        raise TrainerError(f"There is no {what} in {folder}: {file} is missing.")
    try:
        value = read_json(folder / file)
    except TrainerError as error:
        raise TrainerError(f"{error} {remedy}") from error
    found = value.get("format")
    if found == format:
        return value
    if isinstance(found, int) and found > format:
        raise TrainerError(
            f"The {what} {folder.name} was made by a newer Cocktail (format {found}; this one "
            f"reads {format}). Update Cocktail."
        )
    raise TrainerError(
        f"{file} of {folder.name} is damaged: its format is {str(found)[:60]}, not {format}. "
        f"{remedy}"
    )


def _value(file: Path) -> tuple[Any, bytes]:
    """The JSON value in a file, and its bytes. Raises OSError and ValueError."""
    data = read_bytes(file, MOST_BYTES)
    return bounded_json.parse(data, MOST_BYTES, MOST_MEMORY), data


def read_state(file: Path, kind: type[S]) -> S:
    """The state in a file; when there is no file, that of a job nobody works on. Raises
    TrainerError.
    """
    try:
        value = read_json(file)
    except TrainerError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return kind("stopped", "Its state.json is missing. Queue it again to go on.")
        raise TrainerError(f"{error} {_REMEDY}") from error
    hints = _hints(kind)
    where = f"{file.name} of {file.parent.name}"
    for name, entry in value.items():
        if name not in hints:
            raise TrainerError(f"{where} {_NEWER} {name!r}.")
        if not _fits(entry, hints[name]):
            raise TrainerError(f"{where} is damaged: {name} is {str(entry)[:60]!r}. {_REMEDY}")
    state = kind(**value)
    if state.status not in STATUSES:
        raise TrainerError(f"{where} {_NEWER} the status {state.status!r}.")
    return state


_hints = functools.cache(get_type_hints)
_NEWER = "was written by a newer Cocktail: this version does not know"
_REMEDY = "Delete that file and queue again: the work goes on from what else is in the folder."


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value can be what a field is declared as."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if hint is Any:
        return True
    kind = get_origin(hint) or hint
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def check_links(job: Job) -> None:
    """Raise TrainerError if something in a job's folder is a link to somewhere else: work on it
    would write and delete there. Only wandb itself writes in its folder, and links that were made
    after the job was first queued or started are its owner's.
    """
    if link := foreign_link(job.folder, unseen=WANDB):
        raise TrainerError(
            f"{link.relative_to(job.folder)} of the {job.noun} {job.folder.name} is a link that "
            "leads out of its folder, or no file. Put what it leads to in its place, or delete it. "
            f"Links that you make once the {job.noun} has been queued or started here are followed."
        )


@contextlib.contextmanager
def exclusive(job: Job, device: str = "") -> Iterator[Lock]:
    """Work on a job alone, for as long as this process lives or until the end of the block. The
    device is what others find in use meanwhile. Raises TrainerError when that is not possible.
    """
    check_links(job)
    lock = Lock(job.folder / LOCK)
    if not lock.take(wait_s=PROBED_S):
        raise TrainerError(f"Another process works on the {job.noun} {job.folder.name} already.")
    try:
        process.let_go_of_inherited(job.folder / LAUNCH_LOCK)
        process.record(job.folder, os.getpid(), device)
        yield lock
    finally:
        lock.let_go()


def start(
    job: Job,
    command: str,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    wait_s: float = 30.0,
) -> bool:
    """Start a job's process, which outlives this one; False when somebody else works on it.
    `environment` is what it finds there beside what this process has.

    A former process that has written its last state and is on its way out is waited for.
    """
    before = job.written()
    lock = Lock(job.folder / LAUNCH_LOCK)
    deadline = time.monotonic() + wait_s
    if not lock.take(wait_s):
        return False
    try:
        while is_held(job.folder / LOCK):
            if time.monotonic() >= deadline:
                lock.let_go()
                return False
            time.sleep(POLL_S)
        if not same(job.written(), before):
            lock.let_go()
            return False
        (job.folder / "control.json").unlink(missing_ok=True)
        job.write_state(replace(before, status="preparing", message="Starts", at_rest=False))
        process.launch(job.folder, lock, job.folder / LOCK, command, arguments, environment)
        return True
    except BaseException:
        lock.let_go()
        raise
