"""A process that is killed at any write, rename, removal or sync of a save leaves the earlier or
the later version whole, and nothing after the next start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLED = Path(__file__).with_name("killed.py")
SAVES = (
    "run state,new run,checkpoint,resume point",
    "manifest,merge,merge without links,hashes,journal,cell,votes,grid plan,notes,queue,bin,fork",
    "export,card",
)
LEAST = 2
"""So often every save is ended at least, while it is written and renamed."""


@pytest.mark.more_with_all("at every change of the disk instead of every second one")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is ended by a fork of itself")
@pytest.mark.parametrize("saves", SAVES)
def test_a_save_that_is_killed_anywhere_leaves_one_version_and_no_litter(saves, tmp_path):
    step = "1" if os.environ.get("COCKTAIL_ALL") else "2"
    done = subprocess.run(
        [sys.executable, str(KILLED), saves, str(tmp_path), step], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kills = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert list(kills) == saves.split(",")
    assert all(int(count) >= LEAST for count in kills.values()), kills
