"""A ComfyUI that is killed while it renders a grid, again and again.

COCKTAIL_KILLS says how often; every start takes several seconds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy
import pytest

from ..comfy import Comfy
from ..conftest import link_or_copy
from .grids import axis_node, cells, folder_of, grid_prompt, pixels

KILLS = int(os.environ.get("COCKTAIL_KILLS", "2"))
LONGEST_S = 6.0
"""How long after queueing it is killed at the latest: loading and all cells take about that."""

pytestmark = pytest.mark.more_with_all("50 kills instead of 2")


def finished(folder: Path) -> dict[str, int]:
    """When each cell's file was written, by key."""
    return {file.stem: file.stat().st_mtime_ns for file in folder.glob("cells/*/*.png")}


def test_killed_at_random_moments_cells_are_right_or_absent_and_none_is_made_twice(
    comfy: Comfy, comfyui: Path, lively: str, root: Path, tmp_path: Path
):
    def prompt(number: int):
        axes = [axis_node("seed", *range(8)), axis_node("prompt", "a circle", "a square")]
        return grid_prompt(f"killed-{number}", axes, checkpoint=lively, steps=4, cfg=3.0 + number)

    def right() -> dict[str, numpy.ndarray]:
        comfy.run(prompt(number))
        return {
            c["key"]: pixels(c["file"]) for c in cells(folder_of(comfy.base, f"killed-{number}"))
        }

    server = Comfy(comfyui, tmp_path / "base", root)
    checkpoints = Path("models", "checkpoints", lively)
    link_or_copy(comfy.base / checkpoints, server.base / checkpoints)
    chance, kills, number = random.Random(11), 0, 0
    undisturbed, before = right(), {}
    try:
        while True:
            folder = folder_of(server.base, f"killed-{number}")
            server.start()
            queued = server.queue(prompt(number))
            if kills < KILLS:
                deadline = time.monotonic() + chance.uniform(0, LONGEST_S)
                while time.monotonic() < deadline and server.history(queued) is None:
                    time.sleep(0.02)
                kills += server.history(queued) is None
                server.process.kill()
                server.process.wait()
            else:
                server.wait(queued)
            after = finished(folder)
            assert before.items() <= after.items(), "a cell that was there was made again"
            for key in after:
                file = folder / "cells" / key[:2] / f"{key}.png"
                assert numpy.array_equal(pixels(file), undisturbed[key]), key
            before = after
            if after.keys() == undisturbed.keys():
                log = (folder / "cells.jsonl").read_text().splitlines()
                made = Counter(json.loads(line)["key"] for line in log if line.endswith("}"))
                assert max(made.values()) == 1
                if kills >= KILLS:
                    break
                number += 1
                undisturbed, before = right(), {}
            if server.process.poll() is None:
                server.stop()
    finally:
        server.stop()
        shutil.rmtree(server.base / "models")
