"""Deleted runs, kept in a bin beside the runs' folder until they are restored or it is emptied.

A deleted run is a folder NAME.TIME in the bin, which holds what the run's folder held, a note of
its title (deleted.json) and, if they were deleted too, its checkpoints in `.checkpoints`. What is
to become of checkpoints stands in the bin's own receipt of the deletion (.NAME.TIME.receipt): a
folder without one that this installation has marked was not deleted here, and moves no checkpoints
whatever it says.

The run itself moves by one rename, before its checkpoints do, and comes back after them: a run that
is listed never lacks checkpoints that are on the way. A kill between two steps leaves a move that
the next call completes. Where the bin is on another disk than the run, a copy that was compared
gets the name that the rename would have given, and the original goes; a kill between the two leaves
both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import marks
from .errors import TrainerError
from .files import sha256_file, sync_folder, write_json
from .jobs.job import NAME, Refused, read_json
from .jobs.lock import Lock
from .litter import final_name
from .notes import title_of

KEY = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63})\.(?P<time>\d{1,15})")
NOTE = "deleted.json"
RECEIPT = re.compile(rf"\.({KEY.pattern})\.receipt")
CHECKPOINTS = ".checkpoints"
MOVED = re.compile(rf"\.{NAME.pattern}(\.\d{{1,15}})?\.(part|gone)")
PART, GONE = "part", "gone"
"""Endings of a copy that is not whole yet, and of what is about to be deleted."""
LOCK_WAIT_S = 10.0


@dataclass(frozen=True)
class Deleted:
    """A deleted run: `time` in seconds since 1970, `checkpoints` how many files are with it, and
    `pending` whether more of them may be on the way.
    """

    folder: Path
    name: str
    title: str
    time: int
    pending: bool
    checkpoints: int

    @property
    def key(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Bin:
    """The bin in a folder. `checkpoints` is where the checkpoints of all runs are, each run's in a
    folder of its name.
    """

    folder: Path
    runs: Path
    checkpoints: Path

    def delete(self, name: str, with_checkpoints: bool) -> Deleted:
        """Move a run into the bin. Who calls sees to it that nothing works on it.

        Raises TrainerError when it is not there or cannot be moved whole.
        """
        run = self.runs / name
        if not NAME.fullmatch(name) or not run.is_dir():
            raise TrainerError(f"There is no run named {name}.")
        self.folder.mkdir(parents=True, exist_ok=True)
        moment = int(time.time())
        while (self.folder / f"{name}.{moment}").exists():
            moment += 1
        key = self.folder / f"{name}.{moment}"
        receipt = {"checkpoints": with_checkpoints, "moved": not with_checkpoints}
        write_json(run / NOTE, {"format": 1, "time": moment, "title": title_of(run)})
        try:
            self._write_receipt(key, receipt)
            _move_run(run, key)
        except TrainerError:
            self._forget(run, key)
            raise
        except OSError as error:
            self._forget(run, key)
            raise TrainerError(
                f"The run {name} cannot be moved to the bin ({error.strerror}). Close what has "
                "files of it open, and try again."
            ) from error
        sync_folder(self.folder)
        return self._read(key)

    def complete(self, deleted: Deleted) -> None:
        """Move the checkpoints of a deleted run to where they belong, if they are not all there
        yet. Raises OSError, and TrainerError when a copy is not what it was made of.

        Once they are, what comes to lie in their former place belongs to somebody else.
        """
        if not deleted.pending:
            return
        if not (self.runs / deleted.name).exists():
            _move(self.checkpoints / deleted.name, deleted.folder / CHECKPOINTS)
        self._note(deleted.folder, moved=True)

    def restore(self, name: str, key: str) -> None:
        """Bring a deleted run back. Raises Refused when its place, or that of one of its
        checkpoints, is taken: nothing is overwritten; and when it has checkpoints without having
        been deleted here.
        """
        deleted = self.find(name, key)
        target, checkpoints = self.runs / name, self.checkpoints / name
        if target.exists():
            raise Refused(
                f"There is a run named {name} again. Delete it first, then restore this one."
            )
        inside = deleted.folder / CHECKPOINTS
        if inside.is_dir():
            if not self._noted(deleted.folder) and any(inside.iterdir()):
                raise Refused(
                    f"There is no receipt that {key} was deleted here: it comes from elsewhere, or "
                    "an early version of Cocktail deleted it. Its checkpoints are not put among "
                    f"yours. If you trust them, move all files in {inside} to {checkpoints} "
                    "yourself, then restore the run again."
                )
            for file in inside.iterdir():
                there = checkpoints / file.name
                if there.is_symlink() or (there.exists() and not _same(file, there)):
                    why = "is a link" if there.is_symlink() else "differs"
                    raise Refused(
                        f"{there.name} is among the checkpoints of {name} already and {why}. "
                        "Move it away, then restore the run: nothing is overwritten."
                    )
            # A kill from here on leaves a deletion that `complete` finishes, or a restored run.
            self._note(deleted.folder, moved=False)
            _move(inside, checkpoints)
        self.runs.mkdir(parents=True, exist_ok=True)
        try:
            _move_run(deleted.folder, target)
        except OSError as error:
            raise Refused(
                f"The run {name} cannot be moved back to {target} ({error.strerror})."
            ) from error
        sync_folder(self.runs)
        with contextlib.suppress(OSError):
            self._forget(target, deleted.folder)

    def tidy(self) -> None:
        """Remove what a kill has left of moves: copies that are not whole, and originals whose copy
        is. Remove the notes and receipts of deletions that were ended before the run was moved or
        were taken back, and those of runs that are gone for good. For who has the bin `alone`.
        """
        with contextlib.suppress(OSError):
            for left in self.folder.iterdir():
                found = RECEIPT.fullmatch(left.name)
                if found and not (self.folder / found[1]).exists():
                    left.unlink()
        for folder in (self.runs, self.folder):
            for left in folder.glob(".*"):
                if self._was_moved(left) and _is_folder(left):
                    shutil.rmtree(left, ignore_errors=True)
        for run in self.runs.glob("[!.]*"):
            with contextlib.suppress(OSError):
                if _is_folder(run):
                    (run / NOTE).unlink(missing_ok=True)

    def _was_moved(self, left: Path) -> bool:
        """Whether a name is one that a move gives: beside the runs, a run that is being made at
        this moment has one that is like it.
        """
        being_made = left.parent != self.folder and final_name(left.name) is not None
        return bool(MOVED.fullmatch(left.name)) and not being_made

    def find(self, name: str, key: str) -> Deleted:
        """A deleted run by its name and key. Raises TrainerError when it is not in the bin."""
        parts = KEY.fullmatch(key)
        folder = self.folder / key
        if not parts or parts["name"] != name or not _is_folder(folder):
            raise TrainerError(f"There is no deleted run {key[:100]!r} of the name {name}.")
        return self._read(folder)

    def deleted(self) -> list[Deleted]:
        """What is in the bin, the newest first."""
        try:
            folders = [path for path in self.folder.iterdir() if KEY.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        found = [self._read(path) for path in folders if _is_folder(path)]
        return sorted(found, key=lambda one: (-one.time, one.key))

    @contextlib.contextmanager
    def alone(self, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        """Keep others from changing the bin meanwhile. Raises Refused when somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.folder / ".lock")
        if not lock.take(wait_s):
            raise Refused("Another run is being deleted or restored just now. Try again.")
        try:
            yield
        finally:
            lock.let_go()

    def _read(self, folder: Path) -> Deleted:
        """A folder of the bin; what its note does not say is told by the folder."""
        parts = KEY.fullmatch(folder.name)
        assert parts
        receipt = self._noted(folder)
        inside = folder / CHECKPOINTS
        files = list(inside.glob("*.safetensors")) if inside.is_dir() else []
        title = _json(folder / NOTE).get("title")
        return Deleted(
            folder,
            parts["name"],
            title if isinstance(title, str) and title else parts["name"],
            int(parts["time"]),
            receipt.get("checkpoints") is True and receipt.get("moved") is not True,
            len(files),
        )

    def _receipt(self, folder: Path) -> Path:
        return self.folder / f".{folder.name}.receipt"

    def _noted(self, folder: Path) -> dict[str, Any]:
        """What the bin's receipt says of a deleted run; nothing where there is none of ours."""
        found = _json(self._receipt(folder))
        return found if marks.is_marked(found.get("mark"), "receipt", folder.name) else {}

    def _write_receipt(self, folder: Path, receipt: dict[str, Any]) -> None:
        mark = marks.mark("receipt", folder.name)
        write_json(self._receipt(folder), {**receipt, "mark": mark})

    def _note(self, folder: Path, moved: bool) -> None:
        """Note whether the checkpoints of a deleted run have been moved, all of them."""
        self._write_receipt(folder, self._noted(folder) | {"moved": moved})

    def _forget(self, run: Path, folder: Path) -> None:
        """Remove the note and the receipt of a deletion that was not made or was taken back."""
        (run / NOTE).unlink(missing_ok=True)
        self._receipt(folder).unlink(missing_ok=True)


def _json(file: Path) -> dict[str, Any]:
    """What a file of ours says; nothing where it cannot be read."""
    try:
        return read_json(file)
    except TrainerError:
        return {}


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself: a link would lead to somebody else's."""
    return path.is_dir() and not path.is_symlink()


def _move_run(source: Path, target: Path) -> None:
    """Move the folder of a run by a rename, or between two disks by a copy that is compared. Raises
    OSError, and TrainerError when the copy is not what it was made of.
    """
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    part, gone = (f.with_name(f".{f.name}.{word}") for f, word in ((target, PART), (source, GONE)))
    for rest in (part, gone):
        shutil.rmtree(rest, ignore_errors=True)
    try:
        shutil.copytree(source, part, symlinks=True)
        _check_copy(source, part)
    except (shutil.Error, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise _in_one(error) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.rename(target)
    sync_folder(target.parent)
    source.rename(gone)
    if gone.is_symlink():
        gone.unlink()  # what it leads to is where its owner has put it
    shutil.rmtree(gone, ignore_errors=True)


def _check_copy(source: Path, copy: Path) -> None:
    """Bring the files of a copied folder onto the disk. Raises TrainerError when one differs."""
    for file in sorted(source.rglob("*")):
        there = copy / file.relative_to(source)
        if file.is_symlink() or not file.is_file():
            continue
        with there.open("rb+") as written:
            os.fsync(written.fileno())
        if not _same(file, there):
            raise TrainerError(f"{file} was not copied correctly. Check the disk and its cables.")


def _in_one(error: OSError) -> OSError:
    """An error of many files, as shutil gathers them, as that of the first."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        source, _, why = error.args[0][0]
        return OSError(errno.EIO, f"{source}: {why}")
    return error


def _move(source: Path, target: Path) -> None:
    """Move the files of a folder into another, by renaming where that is possible, else by a copy
    that is compared before the original goes. What is there already and equal is not moved again.
    """
    if not _is_folder(source):
        return
    if target.is_symlink():
        raise TrainerError(f"{target} is a link. Delete it: nothing is moved to where it leads.")
    if not target.exists():
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            sync_folder(target.parent)
            return
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        _move_file(file, target / file.name)
    sync_folder(target)
    with contextlib.suppress(OSError):
        source.rmdir()


def _move_file(file: Path, target: Path) -> None:
    if target.exists() or target.is_symlink():
        # A link may lead to this very file, which is the only one then.
        if target.is_symlink() or not _same(file, target):
            raise TrainerError(f"{target} is in the way of {file}: nothing is overwritten.")
        file.unlink()
        return
    try:
        file.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = target.with_name(f".{target.name}.part")
        _copy(file, part)
        part.replace(target)
        sync_folder(target.parent)
        file.unlink()


def _copy(file: Path, part: Path, copy: Callable[[Path, Path], object] = shutil.copy2) -> None:
    try:
        copy(file, part)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        if not _same(file, part):
            raise TrainerError(f"{file} was not copied correctly. Check the disk and its cables.")
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    if not (one.is_file() and other.is_file()) or one.stat().st_size != other.stat().st_size:
        return False
    return one.samefile(other) or sha256_file(one) == sha256_file(other)
