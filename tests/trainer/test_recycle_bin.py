"""Deleting runs into a bin and restoring them, killed between any two steps."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from cocktail.trainer import recycle_bin
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.job import Refused
from cocktail.trainer.litter import temporary
from cocktail.trainer.recycle_bin import Bin

SAVED = ("one-1.safetensors", "one-2.safetensors")


@pytest.fixture
def where(tmp_path) -> Bin:
    """A run `one` with two checkpoints."""
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "samples").mkdir()
    (folder / "samples" / "a.png").write_bytes(b"picture")
    checkpoints = tmp_path / "models" / "one"
    checkpoints.mkdir(parents=True)
    for name in SAVED:
        (checkpoints / name).write_bytes(name.encode())
    return Bin(tmp_path / ".bin", tmp_path / "runs", tmp_path / "models")


class Killed(BaseException):
    """The process is no more."""


class Kill:
    """Lets the n-th change of the file system, and all after it, fail as in a process that is gone;
    renames into another folder of checkpoints fail as between two disks, if there are two.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, two_disks: bool) -> None:
        self.left = at
        for owner, name in [
            (Path, "rename"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "rmdir"),
            (Path, "mkdir"),
            (recycle_bin, "write_json"),
            (recycle_bin, "_copy"),
        ]:
            monkeypatch.setattr(owner, name, self._killing(getattr(owner, name), name, two_disks))

    def _killing(self, do, name: str, two_disks: bool):
        def change(*arguments, **options):
            if self.left <= 0:
                raise Killed
            self.left -= 1
            if (
                two_disks
                and name == "rename"
                and "models"
                in (str(arguments[0].parent) + str(arguments[1].parent)).replace(
                    str(Path.cwd()), ""
                )
            ):
                raise OSError(errno.EXDEV, "another disk")
            return do(*arguments, **options)

        return change


def all_files(where: Bin) -> dict[str, bytes]:
    """Every file of the run and its checkpoints, wherever it is, by name."""
    found = {}
    for folder in (where.runs, where.checkpoints, where.folder):
        for path in folder.rglob("*") if folder.is_dir() else ():
            is_own = path.name in (".lock", "deleted.json") or path.name.endswith(".receipt")
            if path.is_file() and not is_own:
                found[path.name] = path.read_bytes()
    return found


@pytest.mark.parametrize("two_disks", [False, True])
def test_a_kill_between_any_two_steps_loses_nothing_and_the_next_call_completes(
    where, monkeypatch, two_disks
):
    before, steps = all_files(where), 0
    for at in range(1, 60):
        with pytest.MonkeyPatch.context() as patch:
            kill = Kill(patch, at, two_disks)
            try:
                where.complete(where.delete("one", with_checkpoints=True))
            except Killed:
                steps += 1
        kept = {name: data for name, data in all_files(where).items() if name in before}
        assert kept == before, f"lost at step {at}"
        if not (where.runs / "one").exists():
            (deleted,) = where.deleted()
            where.complete(deleted)
            assert not (where.checkpoints / "one").exists(), f"left behind at step {at}"
            (deleted,) = where.deleted()
            assert deleted.checkpoints == 2
            restored = restore_with_kills(where, deleted.key, two_disks)
            steps += restored
        assert (where.runs / "one" / "run.json").is_file()
        assert {path.name for path in (where.checkpoints / "one").iterdir()} == set(SAVED)
        assert where.deleted() == []
        if kill.left > 0:
            break
    assert steps > 10, "it was killed at many places"


def restore_with_kills(where: Bin, key: str, two_disks: bool) -> int:
    """Restore a run, killed after one step, then after two, and so on; returns how often."""
    for at in range(1, 60):
        with pytest.MonkeyPatch.context() as patch:
            Kill(patch, at, two_disks)
            try:
                where.restore("one", key)
                return at - 1
            except Killed:
                assert len([n for n in all_files(where) if n in SAVED]) == 2
                if not where.deleted():
                    return at  # it is back: only the note was left
    pytest.fail("it never came back")


def test_nothing_is_overwritten_by_a_restore(where):
    deleted = where.delete("one", with_checkpoints=True)
    where.complete(deleted)
    other = where.checkpoints / "one"
    other.mkdir()
    (other / SAVED[0]).write_bytes(b"of another run")
    with pytest.raises(Refused, match="differs"):
        where.restore("one", deleted.key)
    assert (other / SAVED[0]).read_bytes() == b"of another run"
    (other / SAVED[0]).unlink()
    (where.runs / "one").mkdir()
    with pytest.raises(Refused, match="a run named one again"):
        where.restore("one", deleted.key)
    (where.runs / "one").rmdir()
    where.restore("one", deleted.key)
    assert where.deleted() == [] and len(list(other.iterdir())) == 2


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("restored", [True, False])
def test_the_only_copy_of_a_checkpoint_is_not_lost_to_a_link_that_leads_to_it(where, restored):
    """Somebody who still uses a checkpoint has put a link to it in its place."""
    checkpoints = where.checkpoints / "one"
    if restored:
        deleted = where.delete("one", with_checkpoints=True)
        where.complete(deleted)
        real = deleted.folder / recycle_bin.CHECKPOINTS / SAVED[0]
        checkpoints.mkdir()
        (checkpoints / SAVED[0]).symlink_to(real)
        with pytest.raises(Refused, match=r"one-1\.safetensors .* is a link"):
            where.restore("one", deleted.key)
    else:
        real = checkpoints / SAVED[0]
        deleted = where.delete("one", with_checkpoints=True)
        inside = deleted.folder / recycle_bin.CHECKPOINTS
        inside.mkdir()
        (inside / SAVED[0]).symlink_to(real)
        with pytest.raises(TrainerError, match="nothing is overwritten"):
            where.complete(deleted)
    assert not real.is_symlink() and real.read_bytes() == SAVED[0].encode()


def test_checkpoints_of_a_new_run_of_that_name_are_left_alone(where):
    deleted = where.delete("one", with_checkpoints=True)
    (where.runs / "one").mkdir()
    where.complete(deleted)
    assert len(list((where.checkpoints / "one").iterdir())) == 2


def test_checkpoints_that_a_later_run_of_that_name_has_left_are_nobody_elses(where):
    first = where.delete("one", with_checkpoints=True)
    where.complete(first)
    (where.runs / "one").mkdir()
    left = where.checkpoints / "one"
    left.mkdir()
    (left / SAVED[0]).write_bytes(b"of the later run")
    (left / SAVED[1]).write_bytes(SAVED[1].encode())
    where.delete("one", with_checkpoints=False)
    for deleted in where.deleted():
        assert not deleted.pending
        where.complete(deleted)
    assert (left / SAVED[0]).read_bytes() == b"of the later run"
    assert (left / SAVED[1]).exists(), "one that equals a deleted one is not deleted with it"
    assert where.find("one", first.key).checkpoints == 2


def test_a_folder_that_was_put_into_the_bin_moves_no_checkpoints(where):
    received = where.folder / "one.7"
    received.mkdir(parents=True)
    shutil.copy(where.runs / "one" / "run.json", received)
    says = {"format": 1, "time": 7, "title": "x", "checkpoints": True, "moved": False}
    (received / "deleted.json").write_text(json.dumps(says))
    shutil.rmtree(where.runs / "one")
    (deleted,) = where.deleted()
    where.complete(deleted)
    assert not deleted.pending and len(list((where.checkpoints / "one").iterdir())) == 2
    (received / ".checkpoints").mkdir()
    (received / ".checkpoints" / "other.safetensors").write_bytes(b"of a stranger")
    with pytest.raises(Refused, match="no receipt that one.7 was deleted here"):
        where.restore("one", "one.7")
    assert {path.name for path in (where.checkpoints / "one").iterdir()} == set(SAVED)
    shutil.rmtree(received / ".checkpoints")
    where.restore("one", "one.7")
    assert (where.runs / "one" / "run.json").is_file() and where.deleted() == []


@pytest.mark.parametrize("mark", ["", "0" * 64, None])
def test_a_receipt_that_was_not_made_here_moves_no_checkpoints(where, mark):
    received = where.folder / "one.7"
    (received / ".checkpoints").mkdir(parents=True)
    (received / ".checkpoints" / "other.safetensors").write_bytes(b"of a stranger")
    says = {"checkpoints": True, "moved": False, "mark": mark}
    (where.folder / ".one.7.receipt").write_text(json.dumps(says))
    shutil.rmtree(where.runs / "one")
    (deleted,) = where.deleted()
    where.complete(deleted)
    assert {path.name for path in (where.checkpoints / "one").iterdir()} == set(SAVED)
    with pytest.raises(Refused, match="no receipt that one.7 was deleted here"):
        where.restore("one", "one.7")
    assert {path.name for path in (where.checkpoints / "one").iterdir()} == set(SAVED)


def test_what_a_kill_has_left_of_moves_is_swept_and_nothing_behind_links(where, tmp_path):
    where.folder.mkdir()
    moved = {where.runs: {".one.gone", ".one.part"}, where.folder: {".one.7.gone", ".one.7.part"}}
    for folder in moved:
        for name in (*moved[folder], ".config", "one.part"):
            (folder / name).mkdir()
            (folder / name / "run.json").write_text("{}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "deleted.json").write_text("of somebody")
    for name in ("linked", ".two.gone", ".hidden"):
        (where.runs / name).symlink_to(outside, target_is_directory=True)
    where.tidy()
    for folder, names in moved.items():
        left = {path.name for path in folder.iterdir()}
        assert {".config", "one.part"} <= left and not left & names
    assert (outside / "deleted.json").read_text() == "of somebody"


@pytest.mark.parametrize("name", ["one", "one.of.two", "v1.2"])
def test_a_run_that_is_just_being_made_is_not_swept(where, name):
    part = temporary(where.runs / name)
    part.mkdir()
    where.tidy()
    assert part.is_dir()


def test_a_run_without_a_receipt_comes_back_once_its_checkpoints_are_moved_as_it_is_said(where):
    deleted = where.delete("one", with_checkpoints=True)
    where.complete(deleted)
    (where.folder / f".{deleted.key}.receipt").unlink()
    with pytest.raises(Refused) as refused:
        where.restore("one", deleted.key)
    said = re.search("move all files in (.+) to (.+) yourself, then restore", str(refused.value))
    source, target = map(Path, said.groups())
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        file.rename(target / file.name)
    where.restore("one", deleted.key)
    assert {path.name for path in (where.checkpoints / "one").iterdir()} == set(SAVED)
    assert {path.name for path in (where.runs / "one").iterdir()} == {"run.json", "samples"}
    assert list(where.folder.iterdir()) == []


def test_receipts_go_with_what_they_are_for(where):
    deleted = where.delete("one", with_checkpoints=True)
    where.complete(deleted)
    where.tidy()
    assert (where.folder / f".{deleted.key}.receipt").is_file()
    where.restore("one", deleted.key)
    assert list(where.folder.iterdir()) == []
    deleted = where.delete("one", with_checkpoints=False)
    shutil.rmtree(deleted.folder)
    where.tidy()
    assert list(where.folder.iterdir()) == []


def test_a_copy_that_is_not_equal_does_not_replace_the_original(where, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "x")))
    source, target = where.checkpoints / "one", where.folder / "away"

    def torn(file: Path, part: Path) -> None:
        part.write_bytes(file.read_bytes()[:-1])

    monkeypatch.setattr(recycle_bin._copy, "__defaults__", (torn,))
    with pytest.raises(TrainerError, match="not copied correctly"):
        recycle_bin._move(source, target)
    assert len(list(source.iterdir())) == 2 and list(target.iterdir()) == []


def test_two_deletions_in_one_second_have_keys_of_their_own(where, monkeypatch):
    monkeypatch.setattr(recycle_bin.time, "time", lambda: 5.0)
    first = where.delete("one", with_checkpoints=False)
    (where.runs / "one").mkdir()
    (where.runs / "one" / "run.json").write_text("{}")
    second = where.delete("one", with_checkpoints=False)
    assert (first.key, second.key) == ("one.5", "one.6")
    assert [one.key for one in where.deleted()] == ["one.6", "one.5"]


@pytest.fixture
def bin_on_another_disk(where, monkeypatch):
    """Renames between the runs and the bin fail as between two disks."""
    rename = Path.rename

    def change(self, target):
        if (where.folder in self.parents) != (where.folder in Path(target).parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", change)
    return where


def test_a_run_on_another_disk_than_the_bin_is_deleted_and_restored(bin_on_another_disk):
    where, before = bin_on_another_disk, all_files(bin_on_another_disk)
    (where.runs / "one" / "latest").symlink_to("samples")
    deleted = where.delete("one", with_checkpoints=False)
    assert not (where.runs / "one").exists() and all_files(where) == before
    where.restore("one", deleted.key)
    assert all_files(where) == before and where.deleted() == []
    assert (where.runs / "one" / "latest").readlink() == Path("samples")
    assert [path.name for path in where.runs.iterdir()] == ["one"]


def test_a_copy_to_the_bin_that_fails_leaves_the_run_where_it_is(bin_on_another_disk, monkeypatch):
    where, before = bin_on_another_disk, all_files(bin_on_another_disk)

    def full(source, target, **_):
        target.mkdir()
        raise shutil.Error([(str(source / "run.json"), str(target), "No space left on device")])

    with monkeypatch.context() as patch:
        patch.setattr(recycle_bin.shutil, "copytree", full)
        with pytest.raises(TrainerError, match="cannot be moved to the bin.*No space left"):
            where.delete("one", with_checkpoints=False)
    assert all_files(where) == before and where.deleted() == []
    assert [path.name for path in where.runs.iterdir()] == ["one"]
    with monkeypatch.context() as patch:
        patch.setattr(recycle_bin, "_same", lambda one, other: False)
        with pytest.raises(TrainerError, match="not copied correctly"):
            where.delete("one", with_checkpoints=False)
    assert all_files(where) == before and where.deleted() == []
    assert not (where.runs / "one" / "deleted.json").exists()
