"""Makes the pictures of the help pages and of README.md again, from a demo that has learned.

    COMFYUI_PATH=.comfy/comfyui .venv/bin/python -m tests.help_pictures BASE [PICTURE ...]

BASE is a finished demo's .comfy/base, or better a copy: its graph is queued once more with nodes
that draw what it has made, a run with samples is trained for the panel, a simulated judge votes on
its last grid, and all of that stays there.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page

from .comfy import Comfy
from .demo import Demo
from .judge import JUDGES, checkpoints_of
from .layout import load_dev
from .pages import launched, open_page, press_run
from .panel import PALETTE, open_panel, part, ready, show

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "web" / "docs"
WORKFLOWS = ROOT / "workflows"
DEMO = WORKFLOWS / "api" / "cosmopolitan_miniature.json"
GRID = "tasting"
LARGEST_BYTES = 60_000
README_BYTES = 200_000
RUN = "shapes-64"
PROMPTS = ("a red circle", "a blue square", "a green triangle")
ZOOM = 0.58
"""Classic nodes show no text below 0.57."""
LIKED = 1.2
"""Logits by which the simulated judge prefers a checkpoint to the one before it."""

Node = tuple[str, dict[str, Any]]
DRAWN: dict[str, Node] = {
    "loss_heat_map": ("CocktailLossHeatMap", {"run": ["9", 0]}),
    "compare_checkpoints": (
        "CocktailCompareCheckpoints",
        {"checkpoint_a": ["4", 0], "checkpoint_b": ["18", 0]},
    ),
    "compare_to_baseline": (
        "CocktailCompareToBaseline",
        {
            "grid": ["35", 0], "baseline": "vodka 96", "most": 4, "gain": 4.0, "axis": "",
            "clip_model": "none", "lpips": "none", "aesthetic_head": "none",
        },
    ),
    "contact_sheet": (
        "CocktailContactSheet",
        {
            "dataset": ["3", 0], "count": 12, "columns": 6, "side": 128,
            "order": "drawn by seed", "seed": 1,
        },
    ),
    "ranking": (
        "CocktailRanking", {"grid": ["35", 0], "axis": "", "by": "", "when": "as it stands"}
    ),
}  # fmt: skip
"""What nodes draw that are added to the demo's graph."""
IN_GRAPH = {"loss_chart": "CocktailLossChart", "grid_sheet": "CocktailGridSheet"}
"""What nodes of the demo's graph draw; the first picture of the first one."""


def main(base: Path, wanted: Collection[str]) -> None:
    server = Comfy(Path(os.environ["COMFYUI_PATH"]).resolve(), base, ROOT)
    server.start()
    try:
        demo = Demo(server, DEMO)
        if set(wanted) != {"panel"}:
            demo.run()
        with launched(load_dev()) as browser:
            if not wanted or "panel" in wanted:
                panel(demo, browser)
            seen(server, browser, lambda name: not wanted or name in wanted)
        if not wanted or "ranking" in wanted:
            vote(server)
        of_nodes = {*DRAWN, *IN_GRAPH}
        if of_nodes & set(wanted or of_nodes):
            for name, picture in drawn(demo).items():
                if not wanted or name in wanted:
                    keep(Image.open(picture), name)
    finally:
        server.stop()


def drawn(demo: Demo) -> dict[str, Path]:
    """The pictures that nodes draw."""
    graph = dict(demo.graph)
    for name, (kind, inputs) in DRAWN.items():
        graph[name] = {"class_type": kind, "inputs": inputs}
    outputs = demo.comfy.run(graph, timeout=3600)
    ids = {name: name for name in DRAWN} | {name: demo.ids(IN_GRAPH[name])[0] for name in IN_GRAPH}
    found = {}
    for name, key in ids.items():
        image = outputs[key]["images"][0]
        found[name] = demo.comfy.base / image["type"] / image["subfolder"] / image["filename"]
    return found


def vote(server: Comfy) -> None:
    """Votes of a judge who likes each checkpoint of the grid a little better than the one before
    it, until there is nothing more to ask.
    """
    of = checkpoints_of(server, GRID)
    places = {name: place for place, name in enumerate(dict.fromkeys(of.values()))}
    chance = random.Random(1)
    votes = f"/cocktail/grids/{GRID}/votes"
    for judge in JUDGES:
        while question := server.get(f"{votes}/question?judge={judge}")["question"]:
            shown = [one["key"] for one in question["shown"]]
            first, second = (places[of[key]] for key in shown)
            better = chance.random() < 1 / (1 + math.exp(LIKED * (second - first)))
            order = [shown[0] if better else shown[1]]
            cast = {"judge": judge, "question": question["id"], "shown": shown, "order": order}
            server.post(votes, cast)


def seen(server: Comfy, browser: Browser, wanted: Callable[[str], bool]) -> None:
    """Screenshots of pages."""
    server.post("/settings/Comfy.TutorialCompleted", True)
    for name, state in (
        ("viewer", {"grid": GRID, "tile": 112}),
        ("vote", {"grid": GRID, "vote": True, "count": 4}),
    ):
        if wanted(name):
            page = browser.new_page(viewport={"width": 900, "height": 560})
            page.goto(f"{server.url}/cocktail/view#{json.dumps(state)}")
            page.locator("img[src]").first.wait_for()
            page.wait_for_load_state("networkidle")
            keep_page(page, name)
    for name, graph, take in (
        ("block_bars", "block_weights", block_bars),
        ("graph", DEMO.stem, opened_graph),
    ):
        if wanted(name):
            page, _ = open_page(browser, server)
            saved = json.loads((WORKFLOWS / f"{graph}.json").read_text(encoding="utf-8"))
            page.evaluate("graph => window.app.loadGraphData(graph)", saved)
            take(page, name)
            page.close()


def panel(demo: Demo, browser: Browser) -> None:
    """The panel with a run at work, which was paused on its way."""
    server, graph, settings = demo.comfy, {key: demo.graph[key] for key in "12345"}, ["5", 0]
    size = {"negative": "", "width": 64, "height": 64, "steps": 20, "cfg": 4.0, "seed": 1}
    for number, prompt in enumerate(PROMPTS):
        inputs = {"settings": settings, "prompt": prompt, **size}
        graph[f"sample {number}"] = {"class_type": "CocktailSample", "inputs": inputs}
        settings = [f"sample {number}", 0]
    for key, kind, inputs in (
        ("when", "SampleSettings", {"settings": settings, "every_epochs": 1, "every_steps": 0}),
        ("run", "FineTune", {"base": ["4", 0], "dataset": ["3", 0], "settings": ["when", 0]}),
    ):
        graph[key] = {"class_type": f"Cocktail{kind}", "inputs": inputs}
    graph["run"]["inputs"]["run_name"] = RUN
    server.run(graph)
    run = f"/cocktail/runs/{RUN}"

    def until(status: str, epoch: int = 0) -> None:
        """A run that trains has no message: with one it saves, validates or draws."""
        while (
            (found := server.get(run))["status"] != status
            or found["epoch"] < epoch
            or (status == "running" and found["message"])
        ):
            if found["status"] in ("failed", "finished"):
                raise SystemExit(f"{RUN} has {found['status']}: {found['message']}")
            time.sleep(0.5)

    until("running", 3)
    server.post(f"{run}/pause", {})
    until("paused")
    server.post(f"{run}/resume", {})
    until("running", 9)
    page = ready(server, browser)
    page.set_viewport_size({"width": 900, "height": 1172})
    page.evaluate(PALETTE, "dark")
    open_panel(page)
    root = page.locator(".cocktail-runs")
    root.evaluate("one => Object.assign(one.style, { position: 'fixed', inset: 0, zIndex: 9999 })")
    show(page, RUN)
    page.locator(".cocktail-runs .plot canvas").wait_for()
    part(page, "Samples").locator(".picture img").first.wait_for()
    page.wait_for_load_state("networkidle")
    keep_page(page, "panel", README_BYTES)
    server.post(f"{run}/stop", {})


def block_bars(page: Page, name: str) -> None:
    """The node with its bars."""
    box = page.evaluate(
        """async () => {
            const node = window.app.graph.nodes.find(one => one.type === "CocktailBlockWeights");
            const view = window.app.canvas.ds, [x, y] = node.pos;
            view.scale = 1;
            view.offset = [500 - x, 150 - y];
            window.app.graph.setDirtyCanvas(true, true);
            await new Promise(after => setTimeout(after, 1000));
            return { x: 490, y: 110, width: node.size[0] + 20, height: node.size[1] + 50 };
        }"""
    )
    page.screenshot(path=PICTURES / f"{name}.png", clip=box)
    keep(Image.open(PICTURES / f"{name}.png"), name)
    (PICTURES / f"{name}.png").unlink()


def opened_graph(page: Page, name: str) -> None:
    """The demo's graph after a run, from the loss chart on."""
    press_run(page)
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_function(
        """() => window.app.graph.nodes.filter(node => node.type === "CocktailGridSheet")
            .every(node => node.imgs?.length)"""
    )
    page.set_viewport_size({"width": 1600, "height": 1250})
    page.get_by_role("button", name="Try it out").locator("xpath=following::button[1]").click()
    page.evaluate(
        """async zoom => {
            const view = window.app.canvas.ds;
            const [x, y] = window.app.graph._groups[2].pos;
            view.scale = zoom;
            view.offset = [80 / zoom - x, 80 / zoom - y];
            window.app.graph.setDirtyCanvas(true, true);
            await new Promise(after => setTimeout(after, 2000));
        }""",
        ZOOM,
    )
    keep_page(page, name, README_BYTES)


def keep_page(page: Page, name: str, most: int = LARGEST_BYTES) -> None:
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file)
    keep(Image.open(file), name, most)
    file.unlink()
    page.close()


def keep(picture: Image.Image, name: str, most: int = LARGEST_BYTES) -> None:
    """Write a picture as good as its size allows."""
    whole = picture.convert("RGB")
    for width in (1200, 900, 720, 600):
        small = whole.copy()
        small.thumbnail((width, 2 * width))
        for quality in (90, 80, 70):
            small.save(PICTURES / f"{name}.jpg", quality=quality, optimize=True)
            if (PICTURES / f"{name}.jpg").stat().st_size < most:
                return


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
