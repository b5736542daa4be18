"""What a killed process has left of its temporary files, and a signal that comes before a run has
begun.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cocktail.merge.safetensors_file import temporary as temporary_merge
from cocktail.trainer.checkpoints import checkpoint_file
from cocktail.trainer.disk import check_disk
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import write_json, write_text
from cocktail.trainer.jobs.control import ending_early
from cocktail.trainer.jobs.job import exclusive
from cocktail.trainer.litter import ABANDONED_AFTER_S, final_name, sweep, sweep_below, temporary
from cocktail.trainer.loop import train
from cocktail.trainer.model.single_file import UNET
from cocktail.trainer.recycle_bin import GONE, PART
from cocktail.trainer.runs import Run

from .run_folders import made_pairs, made_run

MAIN = Path(__file__).parents[2] / "trainer" / "__main__.py"


def test_unfinished_files_are_named_as_security_md_says(root):
    said = (root / "SECURITY.md").read_text(encoding="utf-8")
    for name_of in (temporary, temporary_merge):
        name = name_of(Path("NAME")).name
        by_kind = name.replace(str(os.getpid()), "PROCESS", 1)
        by_kind = by_kind.replace(str(threading.get_ident()), "THREAD", 1)
        assert f"`{by_kind}`" in said
    for ending in (PART, GONE):
        assert f"`.NAME.{ending}`" in said
        assert final_name(f".NAME.{ending}") is None, "these are not removed after an hour"


def a_run(folder: Path) -> Run:
    """A run that cannot be trained, of a base with a single tensor."""
    made = made_run(folder, "left-over", made_pairs(["train", "validation"]), epochs=1)
    tensor = {UNET + "out.2.weight": torch.zeros(1000)}
    save_file(tensor, folder / "base.safetensors")
    return made.at({"cache": str(folder / "cache")})


def abandon(path: Path) -> Path:
    """A file, or a folder with one in it, that nobody has written to for long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"a part")
    for each in (*path.glob("*"), path):
        os.utime(each, (time.time() - ABANDONED_AFTER_S - 60,) * 2)
    return path


def test_only_what_has_been_abandoned_and_is_named_like_our_own_goes(tmp_path):
    outside = tmp_path.with_name(f"{tmp_path.name} outside")
    keep = abandon(outside / "a.txt")
    gone = [abandon(temporary(tmp_path / name)) for name in ("a.json", "a.b c", "ü", ".room")]
    gone += [abandon(tmp_path / name) for name in (".old.77.part", ".x.duckdb.1.2.part.wal")]
    folder = temporary(tmp_path / "run")
    folder.mkdir()
    (folder / "inside").write_bytes(b"")
    gone.append(abandon(folder))
    link = tmp_path / ".linked.1.2.part"
    link.symlink_to(outside)
    os.utime(link, (0, 0), follow_symlinks=False)
    gone.append(link)
    stays = [
        abandon(tmp_path / name)
        for name in (".part", "a.1.2.part", ".a.part", ".a.x.part", ".a.1.part~", "..1.part")
    ]
    fresh = temporary(tmp_path / "fresh")
    fresh.write_bytes(b"")
    busy = temporary(tmp_path / "busy")
    busy.mkdir()
    (busy / "inside").write_bytes(b"")
    os.utime(busy, (0, 0))
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {*stays, fresh, busy}
    assert not [path for path in gone if os.path.lexists(path)] and keep.exists()


def test_below_a_folder_links_are_not_followed(tmp_path):
    inside = abandon(temporary(tmp_path / "here" / "grids" / "a" / "cell.png"))
    outside = abandon(temporary(tmp_path / "there" / "cell.png"))
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    sweep_below(tmp_path / "here")
    assert not inside.exists() and outside.exists()


def test_a_run_removes_at_once_what_a_kill_has_left_of_its_checkpoints(tmp_path, alone):
    run = a_run(tmp_path)
    folder = Path(run.paths.checkpoints)
    folder.mkdir(parents=True)
    name = checkpoint_file(run, 1, 3)
    left = [folder / f".{name}.{rest}.part" for rest in ("12", "12.34")]
    left += [
        folder / f".{checkpoint_file(run, 1, 3, '-ema')}.1.2.part",
        run.folder / ".state.json.1.2.part",
    ]
    left.append(abandon(temporary(Path(run.paths.cache) / "latents-2" / "a" / "bc" / "x")))
    left.append(abandon(temporary(Path(run.paths.cache) / "room")))
    other = [abandon(temporary(Path(run.paths.cache) / "theirs"))]
    other += [abandon(temporary(Path(run.paths.cache) / "else" / "theirs"))]
    other += [folder / ".someone-else-e001-s000003.safetensors.1.2.part", folder / ".mine.part"]
    for path in (*left, *other):
        if not path.exists():
            path.write_bytes(b"")
    write_json(
        run.folder / "run.json", {**json.loads((run.folder / "run.json").read_text()), "id": "0"}
    )
    assert train(run.folder, {"cache": run.paths.cache}) == 1, "it is not the one it was made as"
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in other), "they may be another's"


def test_what_is_only_begun_is_no_room_that_is_saved_already(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    folder = Path(run.paths.checkpoints)
    folder.mkdir(parents=True)
    needed = []
    monkeypatch.setattr(
        "cocktail.trainer.disk.shutil.disk_usage",
        lambda path: type("Usage", (), {"free": 0}),
    )
    for begun in (False, True):
        if begun:
            temporary(folder / "x.safetensors").write_bytes(bytes(300_000_000))
        with pytest.raises(TrainerError) as refused:
            check_disk(run)
        needed.append(str(refused.value))
    assert needed[0] == needed[1]


def test_a_signal_before_a_run_has_begun_leaves_it_stopped(tmp_path):
    run = a_run(tmp_path)
    run.write_state(replace(run.written(), status="preparing", message="Starts"))
    before = signal.getsignal(signal.SIGTERM)
    with ending_early(lambda: run):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except Exception:
            pytest.fail("a library would take it for a fault")
    assert signal.getsignal(signal.SIGTERM) == before
    assert (run.written().status, run.state().can_go_on) == ("stopped", True)


def test_a_process_that_is_ended_while_it_prepares_does_not_stay_preparing(tmp_path):
    run = a_run(tmp_path)
    run.write_state(replace(run.written(), status="preparing", message="Starts"))
    process = subprocess.Popen(
        [
            sys.executable,
            "-X",
            "importtime",
            str(MAIN),
            "run",
            str(run.folder),
            "--cache",
            run.paths.cache,
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr and any("torch" in line for line in process.stderr), "it imports nothing"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert run.state().status in ("stopped", "interrupted") and not run.is_alive()
    with exclusive(run):
        write_text(run.folder / "free", "")
