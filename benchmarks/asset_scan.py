"""What the asset scan of a newer ComfyUI costs with the cells of a large grid in its output folder.

    .venv/bin/python benchmarks/asset_scan.py --comfyui PATH      # a ComfyUI with --enable-assets

ComfyUI scans only if it is started with --enable-assets. It is started twice over a fresh base with
2,184 pictures of 256 px that carry a prompt and a workflow as cells do; prints the processor time
of the first scan and of the second one, which finds nothing new.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand in a folder where `select` is a benchmark.
sys.path.pop(0)

import argparse
import io
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy
import psutil
from PIL import Image
from PIL.PngImagePlugin import PngInfo

CELLS, SIDE = 2184, 256
BEGINS, ENDS = "asset scan initiated", "full) done"
"""What ComfyUI's log says."""
PATIENCE_S = 1800


def make_cells(folder: Path) -> None:
    """Noise with texts as long as those of a cell; no two files are the same."""
    folder.mkdir(parents=True)
    pixels = numpy.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=numpy.uint8)
    words, written = PngInfo(), io.BytesIO()
    words.add_text("prompt", "{" + "x" * 5_000 + "}")
    words.add_text("workflow", "{" + "y" * 20_000 + "}")
    Image.fromarray(pixels).save(written, "PNG", pnginfo=words)
    for number in range(CELLS):
        (folder / f"{number:05}.png").write_bytes(written.getvalue() + number.to_bytes(4, "big"))


def scan(comfyui: Path, base: Path) -> tuple[float, float]:
    """Start ComfyUI, wait for the end of its scan; seconds and processor seconds of the scan."""
    log = base / "server.log"
    command = [
        sys.executable, comfyui / "main.py", "--cpu", "--base-directory", base, "--port", "18477",
        "--database-url", f"sqlite:///{base}/user/assets.db", "--disable-auto-launch",
        "--disable-api-nodes", "--disable-all-custom-nodes", "--enable-assets",
    ]  # fmt: skip
    with log.open("wb") as out:
        server = subprocess.Popen([str(one) for one in command], stdout=out, stderr=out)
    try:
        began = reached(server, log, BEGINS)
        ended = reached(server, log, ENDS)
    finally:
        server.terminate()
        server.wait()
    return ended[0] - began[0], ended[1] - began[1]


def reached(server: subprocess.Popen, log: Path, words: str) -> tuple[float, float]:
    """The time, and the processor time of the server, when its log says so."""
    deadline = time.monotonic() + PATIENCE_S
    while words not in (told := log.read_text(encoding="utf-8", errors="replace")):
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"ComfyUI did not say {words!r}:\n{told[-2000:]}")
        time.sleep(0.05)
    return time.monotonic(), sum(psutil.Process(server.pid).cpu_times()[:2])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    options = parser.parse_args(arguments)
    if not options.comfyui:
        parser.error("name ComfyUI's folder with --comfyui")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("custom_nodes", "models", "input", "temp", "user"):
            (base / name).mkdir()
        make_cells(base / "output" / "cocktail" / "grids" / "scanned" / "cells")
        for which in ("first", "second"):
            seconds, processor = scan(Path(options.comfyui).resolve(), base)
            print(f"{which} scan of {CELLS} cells: {seconds:.1f} s, {processor:.1f} s of processor")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
