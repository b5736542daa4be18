"""Processes that end without a word at the n-th thing that they do to the disk.

Run by its path with a case and a folder it prints at how many places the case was ended. Each
attempt is a fork of a process that has imported everything, with a folder of its own.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import shutil
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KILLED = 9
EVENTS = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
"""What Python tells of before it happens; `open` is one more, fsync and writes are wrapped."""


@dataclass(frozen=True)
class Case:
    """A save: `prepare` makes the state before it, `save` is what is killed, `read` says what is
    there, `restart` is what the next start does. With `appends` a save that is done again adds.
    """

    prepare: Callable[[Path], None]
    save: Callable[[Path], None]
    read: Callable[[Path], Any]
    restart: Callable[[Path], None] = lambda folder: None
    appends: bool = False


class Killer:
    """Ends this process at the n-th change below a folder; half of a write gets through."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.left = str(folder), at

    def count(self, path: Any, half: Callable[[], object] = lambda: None) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            named = os.fsdecode(path)
            if not named.startswith(self.folder) or named.endswith(".lock"):
                return
        self.left -= 1
        if not self.left:
            half()
            os._exit(KILLED)

    def arm(self) -> None:
        def told(event: str, arguments: tuple[Any, ...]) -> None:
            if (
                event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            ) or event in EVENTS:
                self.count(arguments[0])

        sys.addaudithook(told)
        sync, truncate, opened = os.fsync, os.ftruncate, io.open

        def fsync(handle: int) -> None:
            self.count(None)
            sync(handle)

        def ftruncate(handle: int, size: int) -> None:
            self.count(None)
            truncate(handle, size)

        def open_file(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            made = opened(file, mode, *rest, **options)
            writes = any(letter in mode for letter in "wax+")
            return Written(made, self, file) if writes and not isinstance(file, int) else made

        os.fsync, os.ftruncate = fsync, ftruncate
        builtins.open = io.open = open_file
        with_safetensors(self)


class Written:
    """A file whose writes are counted."""

    def __init__(self, file: Any, killer: Killer, path: Any) -> None:
        self._file, self._killer, self._path = file, killer, path

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._killer.count(self._path, half)
        return self._file.write(data)

    def __enter__(self) -> Written:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def with_safetensors(killer: Killer) -> None:
    """safetensors writes without Python's knowledge."""
    import safetensors.torch

    save = safetensors.torch.save_file

    def save_file(tensors: Any, path: Any, *rest: Any, **options: Any) -> None:
        def half() -> None:
            save(tensors, path, *rest, **options)
            os.truncate(path, Path(path).stat().st_size // 2)

        killer.count(path)
        killer.count(path, half)
        save(tensors, path, *rest, **options)

    safetensors.torch.save_file = save_file


def end(case: Case, folder: Path, at: int) -> bool:
    """Save, and end at the n-th change; whether it came to that."""
    child = os.fork()
    if not child:
        status = 1
        try:
            Killer(folder, at).arm()
            case.save(folder)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), f"the save itself failed at {at}"
    return code == KILLED


def files_in(folder: Path) -> set[str]:
    """What is there, without locks, and with names of the bin whatever the time."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {re.sub(r"one\.\d{9,}", "one.time", name) for name in found if name[-5:] != ".lock"}


def later(folder: Path) -> None:
    """Let an hour pass."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - 4000,) * 2, follow_symlinks=False)


def attempt(case: Case, folder: Path, at: int, before: Any, after: Any, whole: set[str]) -> bool:
    """Kill at the n-th change and look at what is there; whether it came to that."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    case.prepare(folder)
    then = files_in(folder)
    if not end(case, folder, at):
        return False
    found = case.read(folder)
    assert found in (before, after), (at, found)
    later(folder)
    case.restart(folder)
    assert case.read(folder) == found, (at, "the next start changes it")
    litter = files_in(folder) - then - whole
    assert not litter, (at, litter)
    if found == before or not case.appends:
        case.save(folder)
    assert case.read(folder) == after, (at, case.read(folder))
    return True


def run(case: Case, folder: Path, step: int = 1) -> int:
    """Kill at every `step`-th change until the save completes; returns at how many."""
    folder.mkdir(parents=True)
    case.prepare(folder)
    before = case.read(folder)
    case.save(folder)
    after, whole = case.read(folder), files_in(folder)
    assert before != after
    at = kills = 0
    while attempt(case, folder, at := at + step, before, after, whole):
        kills += 1
    return kills


def import_pack() -> None:
    """The pack under the name that tests import it by."""
    sys.path.insert(0, str(ROOT))
    for name in ("cocktail", "cocktail.nodes"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package


def dataset(caption: str) -> Any:
    from cocktail.trainer.data.manifest import Dataset, Pair

    pairs = [
        Pair(s, f"{s}.png", "0" * 64, 64, 64, caption, split=s) for s in ("train", "validation")
    ]
    return Dataset("few", "somewhere", tuple(pairs))


def a_run(folder: Path) -> Any:
    import torch
    from safetensors.torch import save_file

    from cocktail.trainer.runs import Base, Paths, create_run
    from cocktail.trainer.settings.run_settings import RunSettings

    base = folder / "base.safetensors"
    save_file({"model.diffusion_model.a": torch.zeros(8)}, base)
    return create_run(
        folder / "runs",
        "one",
        Base(base.name, str(base), "0" * 64),
        dataset("a"),
        RunSettings(),
        Paths(str(folder / "saved"), "tokenizer", str(folder / "cache")),
    )


def opened(folder: Path) -> Any:
    from cocktail.trainer.runs import Run

    return Run.open(folder / "runs" / "one")


def swept(folder: Path) -> None:
    from cocktail.trainer.litter import sweep_below

    sweep_below(folder)


def contents(folder: Path) -> Any:
    """What is below it by name, unfinished folders left out."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if not name.startswith(".")}


def saves_of_training() -> dict[str, Case]:
    """What a run and its dataset write."""
    import torch
    from safetensors.torch import load_file

    from cocktail.trainer.checkpoints import save_checkpoint, sweep_checkpoints
    from cocktail.trainer.data.manifest import Dataset
    from cocktail.trainer.litter import sweep_own
    from cocktail.trainer.resume import Point, Position, drop_torn_points, load_point, write_point
    from cocktail.trainer.runs import list_runs

    def point(step: int) -> Point:
        weights = {"unet": {"w": torch.full((4,), float(step))}}
        return Point(Position(0, step, step), weights, {"values": {"step": step}})

    def write_points(folder: Path, *steps: int) -> None:
        for step in steps:
            write_point(folder / "resume", point(step))

    def newest_point(folder: Path) -> Any:
        found, _ = load_point(folder / "resume")
        assert found is not None and found.tensors["unet"]["w"][0] == found.position.step
        return found.position.step

    def saved_checkpoints(folder: Path) -> Any:
        return {
            file.name: sorted(load_file(file)) for file in folder.glob("saved/one/*.safetensors")
        }

    return {
        "run state": Case(
            lambda f: (a_run(f), None)[1],
            lambda f: opened(f).write_state(replace(opened(f).written(), step=7)),
            lambda f: opened(f).written().step,
            lambda f: sweep_own(f / "runs" / "one", lambda name: name == "state.json"),
        ),
        "new run": Case(
            lambda f: (f / "runs").mkdir(),
            lambda f: (a_run(f), None)[1],
            lambda f: [run.state().status for run in list_runs(f / "runs")],
            swept,
        ),
        "checkpoint": Case(
            lambda f: (a_run(f), None)[1],
            lambda f: (save_checkpoint(opened(f), {}, (), 1, 2), None)[1],
            saved_checkpoints,
            lambda f: sweep_checkpoints(opened(f)),
        ),
        "resume point": Case(
            lambda f: write_points(f, 1, 2),
            lambda f: write_points(f, 3),
            newest_point,
            lambda f: (drop_torn_points(f / "resume"), write_points(f, newest_point(f)))[1],
        ),
        "manifest": Case(
            lambda f: dataset("a").save(f / "manifest.parquet"),
            lambda f: dataset("b").save(f / "manifest.parquet"),
            lambda f: Dataset.load(f / "manifest.parquet").fingerprint,
            swept,
        ),
    }


def saves_around_runs() -> dict[str, Case]:
    """What is written of a run while it is not at work."""
    from pytest import MonkeyPatch

    from cocktail.merge import safetensors_file
    from cocktail.trainer import notes
    from cocktail.trainer.jobs.queue import Kind, Queue
    from cocktail.trainer.litter import sweep_below
    from cocktail.trainer.recycle_bin import Bin
    from cocktail.trainer.runs import Run, list_runs
    from tests.nodes.run_folders import make_run, pretend_comfyui, with_checkpoints

    def queue(folder: Path) -> Queue:
        return Queue(folder / ".queue", [Kind("run", folder / "runs", "run.json", "run", Run.open)])

    def is_queued(folder: Path) -> Any:
        run = opened(folder)
        return queue(folder).stands("run", run).status

    def the_bin(folder: Path) -> Bin:
        return Bin(folder / "bin", folder / "runs", folder / "saved")

    def with_saved(folder: Path) -> None:
        a_run(folder)
        (folder / "saved" / "one").mkdir(parents=True)
        for name in ("a", "b"):
            (folder / "saved" / "one" / f"{name}.safetensors").write_bytes(name.encode())

    def delete(folder: Path) -> None:
        for waiting in the_bin(folder).deleted():
            the_bin(folder).complete(waiting)
        if (folder / "runs" / "one").is_dir():
            the_bin(folder).complete(the_bin(folder).delete("one", with_checkpoints=True))

    def where_it_is(folder: Path) -> Any:
        listed = [run.name for run in list_runs(folder / "runs")]
        kept = sorted(p.read_bytes() for p in folder.rglob("*.safetensors") if p.stem in "ab")
        assert kept == [b"a", b"b"], "no checkpoint is lost"
        return listed, len(the_bin(folder).deleted())

    def start_again(folder: Path) -> None:
        sweep_below(folder)
        the_bin(folder).tidy()

    def forkable(folder: Path) -> None:
        pretend_comfyui(folder, MonkeyPatch())
        with_checkpoints(make_run(folder), 1)

    def the_first(folder: Path) -> Run:
        return Run.open(folder / "output" / "cocktail" / "runs" / "one")

    def fork(folder: Path) -> None:
        from cocktail.nodes import supervisor

        first = the_first(folder)
        supervisor.fork(first, "two", first.settings, start=False, epoch=1)

    def forks(folder: Path) -> Any:
        found = [run.name for run in list_runs(folder / "output" / "cocktail" / "runs")]
        pinned = notes.read_notes(the_first(folder).folder).pinned
        assert "two" not in found or pinned == (10,), "its base may be pruned"
        return found

    def remove_abandoned_below(folder: Path) -> None:
        safetensors_file.remove_abandoned(folder / "user" / "cocktail")

    return {
        "notes": Case(
            lambda f: notes.rename(f, "before"),
            lambda f: notes.rename(f, "after"),
            notes.title_of,
            swept,
        ),
        "queue": Case(
            lambda f: (a_run(f), None)[1],
            lambda f: queue(f).put("run", opened(f), "cpu"),
            is_queued,
            swept,
        ),
        "bin": Case(with_saved, delete, where_it_is, start_again),
        "fork": Case(forkable, fork, forks, lambda f: (swept(f), remove_abandoned_below(f))[0]),
    }


def saves_of_merging() -> dict[str, Case]:
    """What the merge engine and release cards write."""
    from cocktail.merge import safetensors_file
    from cocktail.merge.card.writing import write_card
    from cocktail.merge.hashing import file_sha256

    def merged(folder: Path) -> Any:
        path = folder / "out.safetensors"
        return (path.read_bytes() if path.exists() else None) or None

    def merge(folder: Path) -> None:
        if not (folder / "out.safetensors").exists():
            start, _ = safetensors_file.lay_out([("a", "F32", (64,))], {})
            new = safetensors_file.new_file(folder / "out.safetensors", len(start) + 256)
            with new as part, part.open("r+b") as file:
                file.write(start)
                for _ in range(4):
                    file.write(bytes(64))

    def merge_without_links(folder: Path) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError("this file system has no hard links")

        links, Path.hardlink_to = Path.hardlink_to, refuse
        try:
            merge(folder)
        finally:
            Path.hardlink_to = links

    def hashes(folder: Path) -> Any:
        file = folder / "hashes.json"
        return file.exists() and [one["sha256"] for one in json.loads(file.read_text()).values()]

    card = {"README.md": b"a card", "a.card.json": b"{}", "pictures/a.jpg": b"a picture"}

    return {
        "merge": Case(
            lambda f: None, merge, merged, lambda f: safetensors_file.remove_abandoned(f)
        ),
        "merge without links": Case(
            lambda f: None,
            merge_without_links,
            merged,
            lambda f: safetensors_file.remove_abandoned(f),
        ),
        "hashes": Case(
            lambda f: (f / "a.bin").write_bytes(b"a") and None,
            lambda f: (file_sha256(f / "a.bin", f / "hashes.json"), None)[1],
            hashes,
            lambda f: safetensors_file.remove_abandoned(f),
        ),
        "card": Case(
            lambda f: None,
            lambda f: (write_card(f / "cards" / "c", card), None)[1],
            lambda f: contents(f / "cards"),
            swept,
        ),
    }


def saves_of_grids() -> dict[str, Case]:
    """What grids, their votes and their exports write."""
    from cocktail.nodes.grid.engine.store.store import Store
    from cocktail.nodes.grid.engine.view.folder import export_folder
    from cocktail.nodes.grid.engine.vote.log import Vote, VoteLog
    from cocktail.trainer.jobs.lines import Lines
    from tests.grid.drawn import Drawn, draw_grid, drawn_plan

    cell = types.SimpleNamespace(
        key="a" * 64, settings=types.SimpleNamespace(to_json=lambda: {"seed": 1})
    )

    def plan(seed: int) -> Any:
        described = {
            "name": "g",
            "axes": [],
            "cells": [{"key": f"{seed:064x}", "position": [], "settings": {"seed": seed}}],
        }
        return types.SimpleNamespace(to_json=lambda: dict(described))

    def logged(folder: Path) -> Any:
        return {key: (folder / file).read_bytes() for key, file in Store(folder).files().items()}

    def vote(number: int) -> Vote:
        return Vote(f"{number:032x}", "me", ("a" * 64, "b" * 64), ("a" * 64,), False, 1.0)

    def grid(folder: Path) -> None:
        drawn = drawn_plan(checkpoints=2)
        Store(folder / "g").save_plan(drawn)
        draw_grid(drawn, folder / "g", Drawn())
        for path in folder.rglob("*.png"):
            os.utime(path, (1, 1))

    return {
        "journal": Case(
            lambda f: Lines(f / "metrics.jsonl").append({"step": 1}),
            lambda f: Lines(f / "metrics.jsonl").append({"step": 2}, sync=True),
            lambda f: [line["step"] for line in Lines(f / "metrics.jsonl").read().lines],
            appends=True,
        ),
        "cell": Case(
            lambda f: Store(f).folder.mkdir(exist_ok=True),
            lambda f: Store(f).save_cell(cell, b"picture", {"s": 1.0}),
            logged,
            lambda f: Store(f).sweep(),
        ),
        "votes": Case(
            lambda f: VoteLog(f).add(vote(1)),
            lambda f: VoteLog(f).add(vote(2)),
            lambda f: [one.id for one in VoteLog(f).read().standing],
            appends=True,
        ),
        "grid plan": Case(
            lambda f: Store(f).save_plan(plan(1)),
            lambda f: Store(f).save_plan(plan(2)),
            lambda f: Store(f).saved_plan().keys,
            lambda f: Store(f).sweep(),
        ),
        "export": Case(
            grid,
            lambda f: (export_folder(Store(f / "g"), f / "exports", f / "small"), None)[1],
            lambda f: contents(f / "exports"),
            swept,
            appends=True,
        ),
    }


def cases() -> dict[str, Case]:
    """All saves by name."""
    return saves_of_training() | saves_around_runs() | saves_of_merging() | saves_of_grids()


if __name__ == "__main__":
    import_pack()
    names, folder, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    found = cases()
    for name in found if names == "all" else names.split(","):
        print(name, run(found[name], folder / name.replace(" ", "-"), step), flush=True)
