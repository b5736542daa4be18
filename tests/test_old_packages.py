"""The tests of what comes from the network and of pictures, with the oldest and the newest aiohttp
and Pillow that ComfyUI allows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PILLOW = "11.0.0" if sys.version_info >= (3, 13) else "10.1.0"
PICTURES = ("test_image.py", "test_picture_check.py")
ALL = (*PICTURES, "test_network.py", "test_download.py")
SETS = {
    "oldest": (("aiohttp==3.11.8", f"pillow=={OLDEST_PILLOW}"), (*PICTURES, "test_network.py")),
    "oldest that may download": (("aiohttp==3.12.0", f"pillow=={OLDEST_PILLOW}"), ALL),
    "newest": (("aiohttp", "pillow"), ALL),
}
"""Packages, and the files of tests that run with them: aiohttp before 3.12 cannot check the socket,
and so fetches nothing.
"""
NO_AVIF = "this Pillow has no AVIF"
"""Why tests are left out with an old Pillow: 11.3 is the first that reads AVIF."""
FETCH = (
    "leads_to_this_machine",
    "one_private_address",
    "becomes_private",
    "socket_is_checked_too",
)
"""Tests of the network that fetch something where they may."""


@pytest.mark.only_all
@pytest.mark.parametrize("which", list(SETS))
def test_network_and_pictures_with_other_packages(which, tmp_path):
    wanted, tests = SETS[which]
    packages = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", packages]
    subprocess.run([*install, *wanted], check=True)
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    asks = "import aiohttp, PIL; print(aiohttp.__version__, PIL.__version__, aiohttp.__file__)"
    told = subprocess.run(
        [sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert str(packages) in told
    assert all(name.partition("==")[2] in told for name in wanted), told
    chosen = ["-k", " and ".join(f"not {name}" for name in FETCH)] if which == "oldest" else []
    files = [ROOT / "tests" / "trainer" / name for name in tests]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *chosen, *files],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    print(told, done.stdout[-1000:])
    skipped = re.findall(r"^SKIPPED .*$", done.stdout, re.MULTILINE)
    known = [line for line in skipped if which != "newest" and NO_AVIF in line]
    assert skipped == known, skipped
    gate = "from trainer.data.fetch.network import has_socket_gate; print(has_socket_gate())"
    told = subprocess.run(
        [sys.executable, "-c", gate], cwd=ROOT, env=environment, capture_output=True, text=True
    ).stdout
    assert told.strip() == str(which != "oldest"), "without the gate nothing is fetched"
