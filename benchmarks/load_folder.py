"""Loading a folder of pairs: for the first time, when every picture is decoded, and again, when
only one caption has changed; and checking that all pictures are still there.

    python benchmarks/load_folder.py
    python benchmarks/load_folder.py --pairs 100000

Prints the seconds by the clock and of the processor, the most memory, and the figures as JSON.
"""

from __future__ import annotations

import sys

# Run by its path, this file's folder would put its select.py before the standard library's.
sys.path.insert(0, sys.path.pop(0).removesuffix("benchmarks"))

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import PIL
from PIL import Image

from trainer.data.folder.folder import load_folder
from trainer.data.folder.picture_check import check_pictures
from trainer.data.manifest import Dataset


def make_folder(folder: Path, pairs: int) -> None:
    """Pairs in fifty folders, each picture with a few bytes of its own behind its end."""
    Image.effect_noise((64, 48), 60).convert("RGB").save(folder / "first.png")
    first = (folder / "first.png").read_bytes()
    (folder / "first.png").unlink()
    for number in range(pairs):
        place = folder / f"user{number % 50}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.png").write_bytes(first + b"%d" % number)
        caption = f"a picture of the number {number}, in words of a usual length"
        (place / f"{number}.txt").write_text(caption, encoding="utf-8")


def load(folder: Path) -> Dataset:
    return load_folder(folder / "pairs", "pairs", cache=folder / "cache.json")[0]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=11_475)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pairs").mkdir()
        make_folder(folder / "pairs", options.pairs)
        first = timed(lambda: load(folder))
        again = []
        for number in range(3):
            changed = folder / "pairs" / "user0" / "0.txt"
            changed.write_text(f"changed {number}", encoding="utf-8")
            again.append(timed(lambda: load(folder)))
        dataset = load(folder)
        assert len(dataset.pairs) == options.pairs
        checked = timed(lambda: check_pictures(dataset, [folder / "cache.json"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "pairs": options.pairs,
        "first_s": round(first[0], 2),
        "first_processor_s": round(first[1], 2),
        "again_s": round(min(clock for clock, _ in again), 2),
        "again_processor_s": round(min(processor for _, processor in again), 2),
        "check_s": round(checked[0], 2),
        "check_processor_s": round(checked[1], 2),
        "peak_mb": round(peak / (1024 if sys.platform == "linux" else 1 << 20)),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, Pillow {PIL.__version__}",
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):20} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
