"""Takes pictures of the viewer and the vote on a desktop and on a phone, and of the panel of runs
from narrow to wide, light and dark, for somebody who looks at them.

    COMFYUI_PATH=.comfy/comfyui .venv/bin/python -m tests.screenshots FOLDER [WHAT ...]

Writes FOLDER/WHAT-WIDTH-SCHEME.png. ComfyUI's own folders are temporary.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy
from playwright.sync_api import Browser, Page

from .comfy import Comfy
from .conftest import ROOT
from .grid.drawn import Drawn, draw_grid, drawn_plan
from .judge import decide
from .made_runs import make_run
from .pages import launched
from .panel import PALETTE, item, open_panel, part, ready, show, widen

SIZES = {1200: 800, 390: 780}
SCHEMES = ("light", "dark")
PANELS = (320, 480, 900)
SETTLE_MS = 300
"""For pictures and colours to come: those out of sight are not loaded."""
PARTS = {
    "Samples": ".picture", "Noise levels": "canvas", "Checkpoints": "li", "Settings": "tbody tr",
    "Pairs": "li", "Device": "div", "Log": "pre",
}  # fmt: skip
"""The parts of a run in the panel, and what there is in each once it has been read."""


class Painted(Drawn):
    """Two colours that flow into each other, and a circle, by the cell's settings."""

    def pictures(self, cells: Sequence[Any], done: int, total: int) -> list[numpy.ndarray]:
        return [self.picture(cell) for cell in cells]

    def picture(self, cell: Any) -> numpy.ndarray:
        random = numpy.random.default_rng(cell.settings.seed + 10 * len(cell.settings.prompt))
        model = int(cell.settings.checkpoint.split()[-1])
        down, right = numpy.mgrid[0:256, 0:256] / 255
        one, other = random.integers(0, 256, (2, 3))
        pixels = one * down[..., None] + other * (1 - down[..., None])
        place = random.uniform(0.3, 0.7, 2)
        inside = (right - place[0]) ** 2 + (down - place[1]) ** 2 < (0.1 + 0.04 * model) ** 2
        pixels[inside] = 255 - pixels[inside]
        return pixels.astype(numpy.uint8)


def open_lens(page: Page) -> None:
    page.locator(".tile.there").first.focus()
    page.keyboard.press("Enter")
    page.locator(".lens .pane img").first.wait_for()


def open_facts(page: Page) -> None:
    open_lens(page)
    page.keyboard.press("m")
    page.locator(".facts dl").wait_for()


def compare(mode: str, cells: int = 2) -> Callable[[Page], None]:
    def shown(page: Page) -> None:
        page.locator(".tile.there").first.focus()
        for _ in range(cells):
            page.keyboard.press("c")
            page.keyboard.press("ArrowRight")
        page.keyboard.press("v")
        page.keyboard.press(mode)

    return shown


def open_menu(page: Page) -> None:
    page.locator("details.chip summary").nth(1).click()


def open_keys(page: Page) -> None:
    page.locator("summary", has_text="Keys").click()


def ask(page: Page) -> None:
    page.locator(".choice img").first.wait_for()


GRID = {"grid": "pictures"}
MODELS = {**GRID, "columns": [2], "rows": [1, 0]}
SEEN = "[...document.images].every((one) => !one.hasAttribute('src') || one.complete)"
SHOTS: dict[str, tuple[dict[str, Any], Callable[[Page], Any]]] = {
    "table": (GRID, lambda page: page.locator(".tile.there img").first.wait_for()),
    "nested": ({**GRID, "columns": [2, 0], "rows": [1], "tile": 96}, open_menu),
    "keys": (GRID, open_keys),
    "tabs": ({**GRID, "columns": [2], "rows": [0], "base": [[2, 1]]}, lambda page: None),
    "lens": (GRID, open_lens),
    "facts": (GRID, open_facts),
    "compare": (MODELS, compare("g")),
    "compare-4": (MODELS, compare("g", 4)),
    "slider": (MODELS, compare("s")),
    "difference": (MODELS, compare("d")),
    "vote-2": ({**GRID, "vote": True}, ask),
    "vote-4": ({**GRID, "vote": True, "count": 4}, ask),
    "vote-over": (
        {"grid": "voted", "vote": True},
        lambda page: page.locator(".vote .status", has_text="best").wait_for(),
    ),
    "grids": ({}, lambda page: page.get_by_role("link", name="voted").wait_for()),
    "error": ({"grid": "gone"}, lambda page: page.get_by_role("alert").wait_for()),
}


def main(folder: Path, wanted: Collection[str]) -> None:
    """All pictures, or those that are wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        server = Comfy(Path(os.environ["COMFYUI_PATH"]).resolve(), Path(base), ROOT)
        for name in ("pictures", "voted"):
            plan = drawn_plan(checkpoints=5, prompts=4, seeds=3)
            draw_grid(plan, saved(server, name, plan), Painted())
        make_run(server.base, "first")
        make_run(server.base, "second", lowest=4, restarted=3, status="stopped", done=8)
        make_run(server.base, "third", done=2, status="failed", message="Out of memory")
        server.start()
        try:
            decide(server, "voted", "model 3")
            with launched(importlib.import_module("dev")) as browser:
                take(server, browser, folder, wanted)
                if not wanted or "panel" in wanted:
                    take_panel(server, browser, folder)
        finally:
            server.stop()


def saved(server: Comfy, name: str, plan: Any) -> Path:
    """The folder of a grid on the server with this plan."""
    from cocktail.nodes.grid.engine.store.store import Store

    store = Store(server.base / "output" / "cocktail" / "grids" / name)
    store.save_plan(plan)
    return store.folder


def take(server: Comfy, browser: Browser, folder: Path, wanted: Collection[str]) -> None:
    shots = {what: shot for what, shot in SHOTS.items() if not wanted or what in wanted}
    for width, height in SIZES.items():
        for scheme in SCHEMES:
            for what, (state, prepare) in shots.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page.goto(f"{server.url}/cocktail/view#{quote(json.dumps(state))}")
                page.wait_for_load_state("networkidle")
                prepare(page)
                page.wait_for_function(SEEN)
                page.screenshot(path=folder / f"{what}-{width}-{scheme}.png")
                page.close()


def take_panel(server: Comfy, browser: Browser, folder: Path) -> None:
    """The list, and a run with each of its parts."""
    page = ready(server, browser)
    page.set_viewport_size({"width": 1600, "height": 1500})
    open_panel(page)
    panel = page.locator(".cocktail-runs")
    # Over the page: its sidebar is narrower than the widest.
    panel.evaluate("one => Object.assign(one.style, { position: 'fixed', inset: 0, zIndex: 9999 })")
    for scheme in SCHEMES:
        page.evaluate(PALETTE, scheme)
        for width in PANELS:
            widen(page, width)
            panel.screenshot(path=folder / f"panel-list-{width}-{scheme}.png")
            show(page, "second")
            page.locator(".cocktail-runs .plot canvas").wait_for()
            for title, content in PARTS.items():
                part(page, title).locator(content).first.wait_for(state="attached")
                page.wait_for_timeout(SETTLE_MS)
                what = title.lower().replace(" ", "-")
                panel.screenshot(path=folder / f"panel-{what}-{width}-{scheme}.png")
            page.keyboard.press("Escape")
            item(page, "second").wait_for()
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
