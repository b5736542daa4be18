"""How fast the viewer of grids opens and scrolls, and what it costs the browser.

    python benchmarks/viewer.py                 # about eight minutes on two cores; needs Chromium
    python benchmarks/viewer.py --minutes 0.5   # memory is watched for a shorter time

Starts a ComfyUI with the pack in a temporary folder, with a grid of 2,184 cells of 512 x 512 pixels
and one of 20,000 small ones made by code. The last line is JSON:

    first_open_s, first_open_20k_s
                       from the address until the pictures that are seen at first are there, for the
                       first time after a start of the server: it makes the thumbnails meanwhile
    open_s             from the address until the pictures that are seen at first are there, 2,184
                       cells; thumbnails are there already
    open_20k_s         the same with 20,000 cells
    open_cpu_s, open_20k_cpu_s
                       the processor time of server and browser for that: what is left of the time
                       where nothing else runs
    worst_frame_ms     the longest time between two frames while the table of 2,184 is scrolled
                       down, up, to the right, to the left and across, 40 pixels a frame
    images_alive       the most <img> elements at any time of that, and with the smallest pictures
    memory_growth_mb   of the page's heap over the minutes, with scrolling all the time
    worst_task_cpu_ms  the most processor time that the page's main thread spends on one task of
                       that: on a busy machine frames come late for reasons that are not the page's
    export_s           until the grid of 2,184 is a folder
    sheet_row_s        until a sheet of 20,000 cells in one row is laid out, in as many parts as it
                       needs

`clicks_vs_rounds` and `coverage_95` need no browser: benchmarks/votes.py prints them. Exit status
1: a figure misses its target.
"""

from __future__ import annotations

# Puts the repository, not this folder, whose select.py would hide the standard library's, on the
# path.
import poll  # isort: skip

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(poll.__file__).resolve().parents[1]
for name in ("cocktail", "cocktail.nodes"):
    module = types.ModuleType(name)
    module.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = module

import numpy  # noqa: E402
import psutil  # noqa: E402

from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis  # noqa: E402
from cocktail.nodes.grid.engine.axes.typed import typed_axis  # noqa: E402
from cocktail.nodes.grid.engine.plan.of_settings import make_plan  # noqa: E402
from cocktail.nodes.grid.engine.sheet.layout import split  # noqa: E402
from cocktail.nodes.grid.engine.sheet.pages import make_pages  # noqa: E402
from cocktail.nodes.grid.engine.store import cell_file  # noqa: E402
from cocktail.nodes.grid.engine.store.pixels import hash_of  # noqa: E402
from cocktail.nodes.grid.engine.store.store import Store  # noqa: E402
from tests.comfy import Comfy  # noqa: E402

TARGETS = {
    "open_s": 1.5,
    "open_20k_s": 4.0,
    "worst_frame_ms": 50.0,
    "images_alive": 300,
    "memory_growth_mb": 5.0,
    "sheet_row_s": 5.0,
}
OPENINGS = 5
SHEET_PX = 8192
FIXED = {
    "checkpoint": "base.safetensors", "prompt": "", "negative_prompt": "", "seed": 1, "steps": 20,
    "cfg": 7.0, "sampler": "euler", "scheduler": "normal", "clip_skip": 1,
}  # fmt: skip
GRIDS = {"middle": (512, 13, 42, 4), "large": (64, 20, 250, 4)}
"""Side of a picture, models, prompts and seeds: 2,184 and 20,000 cells."""
OPENED = """() => {
    const seen = [...document.querySelectorAll(".tile.there img")];
    return seen.length > 0 && seen.every((image) => image.complete && image.naturalWidth > 0);
}"""
SCROLL = """async ([right, down, frames]) => {
    const table = document.querySelector(".table");
    const times = [];
    let most = 0;
    for (let frame = 0; frame < frames; frame++) {
        times.push(await new Promise(requestAnimationFrame));
        table.scrollBy(right, down);
        most = Math.max(most, document.images.length);
    }
    times.push(await new Promise(requestAnimationFrame));
    return [times.slice(1).map((time, at) => time - times[at]), most];
}"""
WAYS = ((0, 40), (40, 0), (0, -40), (-40, 0), (30, 30), (-30, -30))
FRAMES = 120


def make(folder: Path, side: int, models: int, prompts: int, seeds: int) -> None:
    """A finished grid of so many cells. Its pictures are noise over gradients, a few dozen in all:
    drawing 2,184 of them would take minutes, and nothing here depends on it.
    """
    words = "\n".join(f"prompt {number}, " + "a fox in the snow " * 3 for number in range(prompts))
    axes = [
        checkpoint_axis([(f"model {number}", "") for number in range(models)]),
        typed_axis("prompt", words, {}),
        typed_axis("seed", "\n".join(map(str, range(seeds))), {}),
    ]
    fixed = {**FIXED, "width": side, "height": side}
    plan = make_plan(folder.name, fixed, axes, lambda kind, name: f"content of {name}")
    store = Store(folder)
    store.save_plan(plan)
    random = numpy.random.default_rng(0)
    drawn = []
    for _ in range(24):
        small = random.integers(0, 256, (8, 8, 3)).repeat(side // 8, 0).repeat(side // 8, 1)
        pixels = (small * 0.8 + random.integers(0, 40, (side, side, 3))).astype(numpy.uint8)
        data = cell_file.encode(pixels, cell_file.PNG, None, "")
        drawn.append((data, hash_of(pixels)))
    lines = []
    for number, cell in enumerate(plan.cells):
        data, hash = drawn[number % len(drawn)]
        path = store.cell_path(cell.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        noted = {"key": cell.key, "time": 0.0, "status": "finished", "bytes": len(data)}
        lines.append(json.dumps({**noted, "pixels": hash, "settings": cell.settings.to_json()}))
    (folder / "cells.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def address(server: Comfy, grid: str) -> str:
    return f"{server.url}/cocktail/view#{quote(json.dumps({'grid': grid}))}"


def opening_s(browser: Any, server: Comfy, grid: str) -> tuple[float, float, float]:
    """Of a browser that has not seen the page before: the time of the first opening, for which the
    server makes the thumbnails; then, as medians of some, the time of a later one and the processor
    time of server and browser together.
    """
    taken = []
    for _ in range(OPENINGS + 1):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        before, began = cpu_s(), time.perf_counter()
        page.goto(address(server, grid))
        page.wait_for_function(OPENED)
        taken.append((time.perf_counter() - began, cpu_s() - before))
        page.close()
    (first, _), *later = taken
    seconds, spent = zip(*later, strict=True)
    return first, statistics.median(seconds), statistics.median(spent)


def cpu_s() -> float:
    """The processor time that all processes which this one has started have used."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def scroll(page: Any, frames: int) -> tuple[list[float], int]:
    """Milliseconds between frames while the table is scrolled in every direction, and the most
    images.
    """
    times: list[float] = []
    most = 0
    for right, down in WAYS:
        found, images = page.evaluate(SCROLL, [right, down, frames])
        times += found
        most = max(most, images)
    return times, most


def task_cpu_ms(browser: Any, page: Any) -> float:
    """The processor time of the longest task of the page's main thread while it is scrolled."""
    browser.start_tracing(page=page, categories=["toplevel", "__metadata"])
    scroll(page, FRAMES)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return max(e["tdur"] / 1000 for e in events if "tdur" in e and (e["pid"], e["tid"]) in mains)


def page_figures(browser: Any, server: Comfy, minutes: float) -> dict[str, float]:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(address(server, "middle"))
    page.wait_for_function(OPENED)
    session = page.context.new_cdp_session(page)

    def heap_mb() -> float:
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"] / 1e6

    times, images = scroll(page, FRAMES)
    longest = task_cpu_ms(browser, page)
    slider = page.get_by_label("size of the pictures")
    slider.fill("48")
    images = max(images, scroll(page, FRAMES)[1])
    slider.fill("160")
    scroll(page, FRAMES)
    before, until = heap_mb(), time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        images = max(images, scroll(page, FRAMES)[1])
    after = heap_mb()
    page.close()
    late = sum(each > 50 for each in times)
    print(f"frames: {len(times)}, median {statistics.median(times):.1f} ms, {late} over 50 ms")
    return {
        "worst_frame_ms": max(times),
        "worst_task_cpu_ms": longest,
        "images_alive": images,
        "memory_growth_mb": after - before,
    }


def export_s(server: Comfy) -> float:
    began = time.perf_counter()
    server.post("/cocktail/grids/middle/export", {})
    while (found := server.get("/cocktail/grids/middle/export"))["state"] == "running":
        time.sleep(0.1)
    if found["state"] != "finished":
        raise SystemExit(f"The export {found['state']}: {found['message']}")
    return time.perf_counter() - began


def sheet_row_s() -> float:
    """All parts of a page are laid out when it is split."""
    words = "\n".join(f"prompt {number}, a fox in the snow" for number in range(20_000))
    axes = [typed_axis("prompt", words, {})]
    plan = make_plan("row", {**FIXED, "width": 512, "height": 512}, axes, lambda kind, name: name)
    began = time.perf_counter()
    for page in make_pages(plan):
        split(page, SHEET_PX)
    return time.perf_counter() - began


def timed(text: str, work: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = work()
    print(f"{text}: {time.perf_counter() - began:.1f} s", flush=True)
    return result


def main() -> int:
    from tests.pages import launched

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".comfy" / "comfyui")
    parser.add_argument("--base", type=Path, help="where ComfyUI's folders and the grids stay")
    parser.add_argument("--minutes", type=float, default=5.0, help="for which memory is watched")
    options = parser.parse_args()
    kinds = types.SimpleNamespace(CHROMIUM=("chromium", "chromium-browser", "google-chrome"))
    found = {"sheet_row_s": sheet_row_s()}
    with tempfile.TemporaryDirectory() as temporary:
        base = options.base or Path(temporary)
        grids = base / "output" / "cocktail" / "grids"
        for name, kind in GRIDS.items():
            if not (grids / name / "cells.jsonl").is_file():
                timed(f"the grid {name} made", lambda n=name, k=kind: make(grids / n, *k))
        server = Comfy(options.comfyui.resolve(), base, ROOT)
        server.start()
        try:
            with launched(kinds, gpu=True) as browser:
                for grid, name in (("middle", "open"), ("large", "open_20k")):
                    seconds = opening_s(browser, server, grid)
                    names = (f"first_{name}_s", f"{name}_s", f"{name}_cpu_s")
                    found |= dict(zip(names, seconds, strict=True))
                found |= page_figures(browser, server, options.minutes)
            found["export_s"] = export_s(server)
        finally:
            server.stop()
    missed = [name for name, most in TARGETS.items() if found[name] >= most]
    for name, value in found.items():
        print(f"{name:24}{value:12.4g}{'   NOT MET' if name in missed else ''}")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}{load}")
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
