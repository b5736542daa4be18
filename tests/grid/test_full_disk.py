"""A disk that runs full while a real ComfyUI renders a grid: what is finished stays, and queueing
again goes on.

The grid's folder is a small file system of its own, which only the superuser of Linux can mount.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cocktail.nodes.grid.engine.store.cell_file import fault

from ..comfy import Comfy, ComfyError
from .grids import axis_node, cells, folder_of, grid_prompt

NAME = "full-disk"
DISK_BYTES, ROOM_BYTES = 2_000_000, 120_000
"""The size of the file system, and how much of it is free when the grid begins: a few of its cells.
"""


@pytest.fixture
def small_disk(comfy: Comfy) -> Iterator[Path]:
    folder = folder_of(comfy.base, NAME)
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_runs_full_loses_nothing_and_the_grid_goes_on_when_there_is_room(
    comfy: Comfy, lively: str, small_disk: Path
):
    prompt = grid_prompt(NAME, [axis_node("seed", "1-16")], checkpoint=lively)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(DISK_BYTES - ROOM_BYTES))
    with pytest.raises(ComfyError) as full:
        comfy.run(prompt)
    assert "No space left on device. Free space" in full.value.nodes["render"]
    finished = {file: file.stat().st_mtime_ns for file in small_disk.glob("cells/*/*.png")}
    assert 1 <= len(finished) < 16
    assert all(fault(file, file.stem) is None for file in finished)
    assert not [*small_disk.rglob("*.part")]

    with pytest.raises(ComfyError) as still_full:
        comfy.run(prompt)
    assert "No space left on device. Free space" in still_full.value.nodes["render"]

    filler.unlink()
    (result,) = comfy.run(prompt)["render"]["cocktail"]
    there = {cell["file"]: cell["file"].stat().st_mtime_ns for cell in cells(small_disk)}
    assert len(there) == result["rendered"] + result["reused"] == 16
    assert result["reused"] >= len(finished) and finished.items() <= there.items()
    log = (small_disk / "cells.jsonl").read_text(encoding="utf-8").splitlines()
    made = Counter(json.loads(line)["key"] for line in log if line.endswith("}"))
    assert max(made.values()) == 1
