"""What a person notes on a run, in its notes.json: a title to show, and checkpoints to keep. It is
no part of what the run is: folder, identity and file names stay as they are.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .errors import TrainerError
from .files import write_json
from .jobs.job import read_json
from .jobs.lock import Lock

FILE = "notes.json"
LOCK = "notes.lock"
LOCK_WAIT_S = 10.0
LONGEST_TITLE = 200
REMEDY = "Delete that file; title and pinned checkpoints are then to be set again."


@dataclass(frozen=True)
class Notes:
    """`title` is "" where there is none; `pinned` are the steps of checkpoints that are never
    pruned.
    """

    title: str = ""
    pinned: tuple[int, ...] = ()


def read_notes(folder: Path) -> Notes:
    """The notes on the run in a folder. Raises TrainerError when they cannot be read."""
    try:
        value = read_json(folder / FILE)
    except TrainerError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return Notes()
        raise TrainerError(f"{error} {REMEDY}") from error
    title, pinned = value.get("title", ""), value.get("pinned", [])
    if not isinstance(title, str) or not (
        isinstance(pinned, list) and all(type(step) is int for step in pinned)
    ):
        raise TrainerError(f"{FILE} of {folder.name} is damaged. {REMEDY}")
    return Notes(title[:LONGEST_TITLE], tuple(pinned))


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Keep others from changing the notes on a run for a short while: what is pinned stays pinned,
    and what is not may be deleted. Raises TrainerError when somebody else has them for long, or
    when they cannot be locked.
    """
    lock = Lock(folder / LOCK)
    try:
        taken = lock.take(LOCK_WAIT_S)
    except OSError as error:
        raise TrainerError(
            f"{LOCK} of {folder.name} cannot be locked ({error.strerror}). Delete it, make room, "
            "or change its rights."
        ) from error
    if not taken:
        raise TrainerError(f"{FILE} of {folder.name} is in use by another process. Try again.")
    try:
        yield
    finally:
        lock.let_go()


def title_of(folder: Path) -> str:
    """The title to show of the run in a folder: its name where there is none."""
    try:
        return read_notes(folder).title or folder.name
    except TrainerError:
        return folder.name


def rename(folder: Path, title: str) -> None:
    """Give the run in a folder a title; without one its name is shown. Raises TrainerError for what
    cannot be shown in a line.
    """
    title = title.strip()
    if len(title) > LONGEST_TITLE:
        raise TrainerError(f"A title has at most {LONGEST_TITLE} characters, not {len(title)}.")
    if any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in title):
        raise TrainerError("A title is one line of text, without control characters.")
    with unchanged(folder):
        _write(folder, replace(read_notes(folder), title=title))


def pin(folder: Path, step: int, pinned: bool) -> None:
    """Keep the checkpoints of a step whatever the settings say, or no longer. Who calls has the
    notes `unchanged`.
    """
    notes = read_notes(folder)
    steps = {*notes.pinned, step} if pinned else {*notes.pinned} - {step}
    _write(folder, replace(notes, pinned=tuple(sorted(steps))))


def _write(folder: Path, notes: Notes) -> None:
    write_json(folder / FILE, asdict(notes))
