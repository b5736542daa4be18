"""ComfyUI's page in a real browser: the template is found, opens, is queued with a click, and its
sheets appear.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, TimeoutError

from .comfy import Comfy
from .demo import Demo, products
from .pages import launched, open_page, press_run

TEMPLATE = "cosmopolitan_miniature"
FOREIGN = {
    "version": 0.4,
    "nodes": [
        {
            "id": 1,
            "type": "EmptyLatentImage",
            "pos": [0, 0],
            "size": [200, 100],
            "inputs": [],
            "outputs": [],
            "properties": {"cnr_id": "some-pack", "ver": "1.0.0"},
            "widgets_values": [512, 512, 1],
        }
    ],
    "links": [],
}
"""A graph of some other pack. The page looks its name up on the web, and complains that it may not.
"""
NODES = """count => window.app.graph.nodes
    .filter(node => node.type !== "MarkdownNote").length === count"""
SHOWN = """kind => window.app.graph.nodes.filter(node => node.type === kind)
    .map(node => (node.imgs ?? []).filter(
        image => image.complete && image.naturalWidth > 200).length)"""


@pytest.fixture(scope="module")
def browser(dev) -> Iterator[Browser]:
    with launched(dev) as browser:
        yield browser


@pytest.fixture(scope="module")
def baseline(comfyui, browser, tmp_path_factory) -> set[str]:
    """What the page complains of without the pack."""
    server = Comfy(comfyui, tmp_path_factory.mktemp("bare base"), pack=None)
    server.start()
    try:
        page, complaints = open_page(browser, server)
        with (
            contextlib.suppress(TimeoutError),
            page.expect_console_message(
                lambda message: "api.comfy.org" in message.text, timeout=30_000
            ),
        ):
            page.evaluate("graph => window.app.loadGraphData(graph)", FOREIGN)
        page.close()
        return complaints
    finally:
        server.stop()


def page_of(demo: Demo, browser: Browser) -> tuple[Page, set[str]]:
    """ComfyUI's page as it is from the second visit on: the first one shows the template browser
    unasked, some time after it is drawn.
    """
    demo.comfy.post("/settings/Comfy.TutorialCompleted", True)
    return open_page(browser, demo.comfy)


def open_template(page: Page) -> None:
    """By hand: the template browser, the pack's name, the graph."""
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Templates").first.click()
    dialog.get_by_text("cocktail", exact=True).first.click()
    dialog.get_by_text(TEMPLATE).first.click()
    dialog.wait_for(state="hidden")


def test_the_template_opens_runs_and_shows_its_sheets(demo: Demo, browser, baseline, tmp_path):
    page, complaints = page_of(demo, browser)
    open_template(page)
    page.wait_for_function(NODES, arg=len(demo.graph))
    page.wait_for_load_state("networkidle")
    with page.expect_response(lambda response: response.url.endswith("/prompt")) as answer:
        press_run(page)
    queued = answer.value.json()
    assert answer.value.status == 200 and not queued["node_errors"]
    assert products(demo.comfy.wait(queued["prompt_id"])) == products(demo.outputs)
    # Pictures are loaded when their node is drawn: all of the graph has to be in view.
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    for kind, count in (("CocktailGridSheet", 2), ("CocktailLossChart", 1)):
        page.wait_for_function(
            f"kind => ({SHOWN})(kind).filter(n => n > 0).length === {count}", arg=kind
        )
    page.screenshot(path=tmp_path / "graph.png")
    print("screenshot:", tmp_path / "graph.png")
    page.close()
    assert complaints <= baseline, complaints - baseline


def test_the_prompt_that_the_browser_sends_is_the_committed_one(demo: Demo, browser):
    page, _ = page_of(demo, browser)
    open_template(page)
    page.wait_for_function(NODES, arg=len(demo.graph))
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    page.close()
    plain = {key: (node["class_type"], node["inputs"]) for key, node in sent.items()}
    assert plain == {key: (node["class_type"], node["inputs"]) for key, node in demo.graph.items()}


def test_a_help_page_and_its_picture_are_where_the_page_looks_for_them(comfy, browser, root):
    page, _ = open_page(browser, comfy)
    folder = "/extensions/cocktail/docs"
    text = page.evaluate(
        "async path => (await fetch(path)).text()", f"{folder}/CocktailLossChart.md"
    )
    assert text == (root / "web" / "docs" / "CocktailLossChart.md").read_text(encoding="utf-8")
    picture = re.search(r"!\[[^]]+\]\(([^)]+)\)", text)[1]
    width = page.evaluate(
        "async path => (await createImageBitmap(await (await fetch(path)).blob())).width",
        f"{folder}/{picture}",
    )
    page.close()
    assert width > 300


MAP = """() => {
    const node = window.app.graph.nodes.find(node => node.type === "CocktailQueueGrid");
    const element = node?.widgets?.find(widget => widget.name === "cells")?.element;
    if (!element) return null;
    const canvas = element.querySelector("canvas"), picture = element.querySelector("img");
    const pen = canvas.getContext("2d"), colours = {};
    for (let x = 2; !canvas.hidden && x < canvas.width; x += 14)
        for (let y = 2; y < canvas.height; y += 14) {
            const colour = [...pen.getImageData(x, y, 1, 1).data].join();
            colours[colour] = (colours[colour] ?? 0) + 1;
        }
    return { text: element.firstChild.textContent, colours, seen: picture.naturalWidth };
}"""
WHOLE = """() => window.app.graph.nodes
    .flatMap(node => node.widgets ?? []).filter(widget => widget.name === "cells")
    .every(({ element }) => 0 < element.firstChild.offsetHeight
        && element.firstChild.offsetHeight <= element.clientHeight)"""
"""Whether the line of text of every map has room."""
FIT = "() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')"


def test_the_map_of_a_grid_fills_on_its_node_and_is_there_after_a_reload(
    comfy: Comfy, browser, baseline, root, tmp_path
):
    graph = json.loads((root / "workflows" / "grid_any_input.json").read_text(encoding="utf-8"))
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    page, complaints = open_page(browser, comfy)
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    page.wait_for_function(f"() => ({MAP})()?.text.startsWith('cells appear')")
    page.evaluate(FIT)
    page.wait_for_function(WHOLE)
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert "cells" not in sent["12"]["inputs"]
    press_run(page)
    page.wait_for_function(
        f"() => ({MAP})()?.text === 'any_input: 12 of 12 cells, finished'", timeout=180_000
    )
    found = page.evaluate(MAP)
    assert found["colours"] == {"46,158,91,255": 12}, found
    page.wait_for_function(f"() => ({MAP})().seen === 64")
    page.evaluate(FIT)
    page.screenshot(path=tmp_path / "map.png")
    print("screenshot:", tmp_path / "map.png")
    saved = page.evaluate("() => window.app.graph.serialize()")
    assert complaints <= baseline, complaints - baseline
    page.close()
    page, _ = open_page(browser, comfy)
    page.evaluate("graph => window.app.loadGraphData(graph)", saved)
    page.wait_for_function(f"() => ({MAP})()?.text === 'any_input: 12 of 12 cells'")
    page.close()


BARS = """() => {
    const node = window.app.graph.nodes.find(node => node.type === "CocktailBlockWeights");
    const widgets = Object.fromEntries((node?.widgets ?? []).map(widget => [widget.name, widget]));
    if (!widgets.bars) return null;
    const [canvas, text] = widgets.bars.element.children, box = canvas.getBoundingClientRect();
    return {
        weights: widgets.weights.value, preset: widgets.preset.value, base: widgets.base.value,
        text: text.textContent,
        box: { x: box.x, y: box.y, width: box.width, height: box.height },
    };
}"""


def test_block_weights_are_painted_as_bars_and_stay_text(
    comfy: Comfy, browser, baseline, root, tmp_path
):
    graph = json.loads((root / "workflows" / "block_weights.json").read_text(encoding="utf-8"))
    prompt = json.loads(
        (root / "workflows" / "api" / "block_weights.json").read_text(encoding="utf-8")
    )
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    page, complaints = open_page(browser, comfy)
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    page.wait_for_function(f"() => ({BARS})()?.box.y > 100 && ({BARS})().text.startsWith('drag')")
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert sent["3"]["inputs"] == prompt["3"]["inputs"]
    saved = page.evaluate("() => window.app.graph.serialize()")
    kept = next(node for node in saved["nodes"] if node["id"] == 3)["widgets_values"]
    assert kept == next(node for node in graph["nodes"] if node["id"] == 3)["widgets_values"]

    def at(slot: int, value: float) -> tuple[float, float]:
        box = page.evaluate(BARS)["box"]
        return box["x"] + (slot + 0.5) / 26 * box["width"], box["y"] + (1 - value) * box[
            "height"
        ] * 78 / 90

    def numbers() -> list[float]:
        return [float(number) for number in page.evaluate(BARS)["weights"].split(",")]

    page.mouse.move(*at(13, 0.5))
    page.wait_for_function(f"() => ({BARS})().text === 'M00: 0'")
    page.mouse.move(*at(3, 0.8))
    page.mouse.down()
    page.mouse.move(*at(9, 0.2), steps=2)
    page.mouse.up()
    curve = [abs(1 - 2 * n / 24) for n in range(25)]
    found = page.evaluate(BARS)
    assert found["preset"] == "custom" and found["text"].startswith("IN08: 0.")
    assert numbers()[3:10] == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], abs=0.04)
    assert numbers()[:3] + numbers()[10:] == pytest.approx([0, *curve[:2], *curve[9:]])
    painted = found["weights"]
    page.screenshot(path=tmp_path / "bars.png")
    print("screenshot:", tmp_path / "bars.png")

    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert numbers()[10] == pytest.approx(curve[9] + 0.05, abs=1e-4)
    page.keyboard.press("Control+z")
    page.wait_for_function(f"text => ({BARS})()?.weights === text", arg=painted)
    page.keyboard.press("Control+z")
    page.wait_for_function(f"() => ({BARS})()?.preset === 'GRAD_V'")
    page.keyboard.press("Control+y")
    page.wait_for_function(f"text => ({BARS})()?.weights === text", arg=painted)
    page.wait_for_function(f"() => ({BARS})().text.startsWith('drag')")

    def write(name: str, value: str) -> None:
        page.evaluate(
            """([name, value]) => {
                const kind = "CocktailBlockWeights";
                const node = window.app.graph.nodes.find(node => node.type === kind);
                node.widgets.find(widget => widget.name === name).value = value;
                node.setDirtyCanvas(true, true);
            }""",
            [name, value],
        )

    write("weights", "<img src=x>, 1")
    page.wait_for_function(f"() => ({BARS})().text === '<img is not a number'")
    write("weights", ", ".join(["1/4"] * 19))
    write("base", "0.5")
    page.wait_for_function(f"() => ({BARS})().text.startsWith('drag')")
    box = page.evaluate(BARS)["box"]
    page.mouse.click(box["x"] + 0.5 / 20 * box["width"], box["y"] + 1)
    assert 0.95 <= float(page.evaluate(BARS)["base"]) < 1
    assert page.evaluate(BARS)["weights"] == ", ".join(["1/4"] * 19)
    write("weights", painted)
    write("base", "")
    with page.expect_response(lambda response: response.url.endswith("/prompt")) as answer:
        press_run(page)
    assert answer.value.status == 200 and not answer.value.json()["node_errors"]
    outputs = comfy.wait(answer.value.json()["prompt_id"])
    made = outputs["20"]["cocktail"][0]["recipe"]
    assert made.startswith("mix(") and "GRAD_V" not in made
    page.close()
    assert complaints <= baseline, complaints - baseline
