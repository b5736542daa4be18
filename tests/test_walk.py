"""A run from its graph to the bin and back, in a real browser: everything by the panel's buttons,
with ComfyUI restarted in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from .comfy import Comfy
from .nodes.graphs import fine_tune, node
from .pages import launched, open_page
from .panel import TAB, item, part, press, show, told
from .trainer.conftest import make_tiny_base

NAME = "walk"
EPOCHS = 5000
"""More than the walk sees."""
FEW = "layers.unet_layers = cross attention\nvalidation.every_epochs = 5"


@pytest.fixture(scope="module")
def base(comfy: Comfy) -> Iterator[str]:
    """The name of a checkpoint that trains in no time."""
    file = comfy.base / "models" / "checkpoints" / "tiny-walk.safetensors"
    yield make_tiny_base(file, 1).name
    comfy.post(f"/cocktail/runs/{NAME}/stop", {})
    file.unlink()


@pytest.fixture(scope="module")
def page(comfy: Comfy, dev) -> Iterator[Page]:
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    with launched(dev) as browser:
        expect.set_options(timeout=60_000)
        page, _ = open_page(browser, comfy)
        yield page


def graph(base: str) -> dict:
    """Draw, load, split and fine-tune."""
    found = fine_tune(NAME, count=16, batch_size=2, epochs=EPOCHS, save_every_epochs=EPOCHS)
    for key in ("wait", "pick"):
        del found[key]
    found["base"]["inputs"]["checkpoint"] = base
    found["few"] = node("CocktailChangeSettings", settings=["settings", 0], changes=FEW)
    found["run"]["inputs"]["settings"] = ["few", 0]
    return {str(at): one for at, one in enumerate(numbered(found), start=1)}


def numbered(graph: dict) -> list[dict]:
    """The nodes of a graph whose ids are words, linked by their numbers, as pages save them."""
    at = {name: str(number) for number, name in enumerate(graph, start=1)}
    return [
        one
        | {
            "inputs": {
                key: [at[value[0]], value[1]] if isinstance(value, list) else value
                for key, value in one["inputs"].items()
            }
        }
        for one in graph.values()
    ]


def stands(page: Page, status: str) -> None:
    expect(page.locator(".cocktail-runs .head .tag")).to_have_text(status)


def facts(page: Page) -> Locator:
    return page.locator(".cocktail-runs .facts")


def run_of(comfy: Comfy, name: str = NAME) -> dict:
    return comfy.get(f"/cocktail/runs/{name}")


def grows(page: Page, comfy: Comfy) -> None:
    """The run goes on, and the panel shows it: its steps, and a longer curve in the chart."""
    step = run_of(comfy)["step"]
    plot = page.locator(".cocktail-runs .plot")
    expect(plot.locator("canvas")).to_have_count(1)
    expect(plot).to_have_attribute("data-last-step", re.compile("^[1-9]"))
    before = plot.get_attribute("data-last-step")
    expect(plot).not_to_have_attribute("data-last-step", before)
    expect(facts(page)).not_to_contain_text(f"{step} of ")
    assert run_of(comfy)["step"] > step


def test_a_run_is_walked_from_its_graph_to_the_bin_and_back(page, comfy, base):
    page.evaluate("graph => window.app.loadApiJson(graph, 'walk')", graph(base))
    page.get_by_test_id("queue-button").click()
    page.locator(TAB).click()
    item(page, NAME).wait_for()
    show(page, NAME)
    stands(page, "running")
    grows(page, comfy)

    press(page, "Sample now…")
    page.get_by_label("Prompts").fill("a red circle")
    page.get_by_role("button", name="Draw").click()
    expect(part(page, "Samples").locator(".picture")).to_have_count(1)

    device = part(page, "Device")
    device.get_by_label("While prompts use its device").select_option("polite")
    device.get_by_role("button", name="Apply").click()
    expect(told(page)).to_contain_text("from its next step on")
    assert run_of(comfy)["sharing"]["policy"] == "polite"

    press(page, "Save now")
    expect(told(page)).to_contain_text("A checkpoint is written")
    checkpoints = part(page, "Checkpoints")
    expect(checkpoints.locator("li").first).to_be_visible()
    press(page, "Pause")
    stands(page, "paused")
    paused = run_of(comfy)["step"]

    comfy.restart()
    expect(page.locator(".cocktail-runs")).to_be_visible()
    stands(page, "paused")
    press(page, "Resume")
    stands(page, "running")
    grows(page, comfy)
    assert run_of(comfy)["step"] > paused

    press(page, "Stop")
    stands(page, "stopped")
    checkpoints.get_by_label(re.compile("add a Choose Checkpoint node")).first.click()
    expect(told(page)).to_contain_text("Added Choose Checkpoint")
    press(page, "Fork…")
    page.get_by_label("Start it at once").uncheck()
    page.get_by_role("dialog").get_by_role("button", name="Fork").click()
    forked = f"{NAME}-2"
    expect(page.locator(".cocktail-runs h2")).to_have_attribute("title", forked)
    assert run_of(comfy, forked)["status"] == "stopped"
    page.get_by_label("lay another run over this one").select_option(NAME)
    expect(page.locator(".cocktail-runs .legend").first).to_contain_text(f"{NAME}: ")

    press(page, "Delete…")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(item(page, forked)).to_have_count(0)
    page.get_by_text(re.compile("^Bin ")).click()
    page.get_by_label(f"restore {forked}").click()
    expect(page.locator(".cocktail-runs h2")).to_have_attribute("title", forked)
    assert run_of(comfy, forked)["status"] == "stopped"
