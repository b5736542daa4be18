"""Decode, scale and crop pictures: what a run does before the VAE, beside a bare Pillow loop.

    python benchmarks/decode.py
    python benchmarks/decode.py --pictures 100 --side 768

Pictures are made in a temporary folder: detailed, 1024 x 1024, JPEG (quality 92) and PNG. The bare
loop opens a file, lets `draft` choose the size, and scales and crops in one Lanczos step; ours is
`open_rgb` and `fit`. Both take turns, and the order of the two changes every time. The last line is
JSON: `vs_bare_jpeg` and `vs_bare_png` are the medians of the rounds' quotients of processor time
(more than 1: ours is faster), `two_workers` how much more two threads of ours do than one by the
clock, for the slower of the two kinds.
"""

from __future__ import annotations

import sys

# Run by its path, this file's folder would put its select.py before the standard library's.
sys.path.insert(0, sys.path.pop(0).removesuffix("benchmarks"))

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import PIL.features
from PIL import Image, ImageFilter

from trainer.data.image import fit, open_rgb

SOURCE = 1024
QUALITY = 92


def draw(seed: int) -> Image.Image:
    """A picture with detail at all scales and colour: noise of several octaves and hard edges."""
    random = numpy.random.default_rng(seed)
    total = numpy.zeros((SOURCE, SOURCE, 3), numpy.float32)
    for octave in range(2, 10):
        cells = random.integers(0, 256, (2**octave, 2**octave, 3), dtype=numpy.uint8)
        layer = Image.fromarray(cells).resize((SOURCE, SOURCE), Image.Resampling.BICUBIC)
        total += numpy.asarray(layer, numpy.float32) * 0.62**octave
    total -= total.min()
    picture = Image.fromarray((total * (255 / total.max())).astype(numpy.uint8))
    edges = picture.filter(ImageFilter.FIND_EDGES).convert("L")
    picture.paste((20, 20, 30), mask=edges.point(lambda value: 255 * (value > 60)))
    return picture


def make(folder: Path, count: int) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {"jpeg": [], "png": []}
    for number in range(count):
        picture = draw(number)
        for kind, options in (("jpeg", {"quality": QUALITY}), ("png", {})):
            file = folder / f"{number:03d}.{kind}"
            picture.save(file, **options)
            files[kind].append(file)
    return files


def bare(file: Path, side: int) -> Image.Image:
    with Image.open(file) as image:
        image.draft("RGB", (side, side))
        if image.mode != "RGB":
            image = image.convert("RGB")
        edge = min(image.size)
        left, top = (image.width - edge) / 2, (image.height - edge) / 2
        box = (left, top, left + edge, top + edge)
        return image.resize((side, side), Image.Resampling.LANCZOS, box=box)


def ours(file: Path, side: int) -> Image.Image:
    return fit(open_rgb(file, (side, side)), side, side)


def seconds(way: Callable, files: Sequence[Path], side: int, workers: int) -> tuple[float, float]:
    """Wall and processor time for all files, with threads as a run uses them."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda file: None, files[:workers]))
        wall, core = time.perf_counter(), time.process_time()
        for _ in pool.map(lambda file: way(file, side).size, files):
            pass
        return time.perf_counter() - wall, time.process_time() - core


def measure(files: Sequence[Path], side: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds: pictures a second, and the quotients within each round."""
    ways = {"bare": bare, "ours": ours}
    walls: dict[str, list[float]] = {}
    cores: dict[str, list[float]] = {}
    for way in ways.values():
        seconds(way, files, side, 1)
    for number in range(rounds):
        for workers in (1, 2):
            for name in sorted(ways, reverse=number % 2 == 1):
                wall, core = seconds(ways[name], files, side, workers)
                walls.setdefault(f"{name}, {workers}", []).append(wall)
                cores.setdefault(f"{name}, {workers}", []).append(core)

    def quotient(above: list[float], below: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(above, below, strict=True))

    found = {
        f"{name} worker{'s' * (name[-1] == '2')}": len(files) / statistics.median(spent)
        for name, spent in walls.items()
    }
    found["vs bare, per core"] = quotient(cores["bare, 1"], cores["ours, 1"])
    found["vs bare, wall"] = quotient(walls["bare, 1"], walls["ours, 1"])
    found["two workers, ours"] = quotient(walls["ours, 1"], walls["ours, 2"])
    found["two workers, bare"] = quotient(walls["bare, 1"], walls["bare, 2"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=40, help="of each kind")
    parser.add_argument("--side", type=int, default=512, help="pixels of each side wanted")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder), options.pictures)
        sizes = {
            kind: sum(file.stat().st_size for file in found) / len(found) / 1000
            for kind, found in files.items()
        }
        figures = {
            kind: measure(found, options.side, options.rounds) for kind, found in files.items()
        }
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, "
        f"Pillow {PIL.__version__}, libjpeg-turbo {PIL.features.version('libjpeg_turbo')}"
    )
    print(
        f"{options.pictures} pictures, {SOURCE} x {SOURCE} to {options.side} x {options.side}, "
        f"median of {options.rounds} rounds; pictures a second"
    )
    print(f"{'':22}{'JPEG':>10}{'PNG':>10}")
    print(f"{'KB a picture':22}{sizes['jpeg']:10.0f}{sizes['png']:10.0f}")
    for row in figures["jpeg"]:
        digits = 1 if "worker" in row.split()[-1] else 3
        print(f"{row:22}{figures['jpeg'][row]:10.{digits}f}{figures['png'][row]:10.{digits}f}")
    result = {
        "vs_bare_jpeg": round(figures["jpeg"]["vs bare, per core"], 3),
        "vs_bare_png": round(figures["png"]["vs bare, per core"], 3),
        "two_workers": round(min(found["two workers, ours"] for found in figures.values()), 3),
    }
    print(json.dumps(result))
    return 0 if min(result["vs_bare_jpeg"], result["vs_bare_png"]) >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
