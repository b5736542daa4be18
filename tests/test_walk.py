"""A run from its graph to the bin and back, and a grid from its graph to the winner of its vote, in
a real browser: everything by buttons and keys, with ComfyUI restarted in between. The run goes on
in Nodes 2.0 and then by nodes alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from .comfy import Comfy
from .grid.grids import axis_node, checkpoints_node, grid_prompt, wait_for
from .judge import checkpoints_of
from .nodes.graphs import fine_tune, node
from .pages import launched, open_page, press_run
from .panel import TAB, item, part, press, show, told
from .trainer.conftest import make_tiny_base

NAME = "walk"
EPOCHS = 5000
"""More than the walk sees."""
GRID = "walked"
LIKED = "bright-walk.safetensors"
VOTES = 4
DATA = ("CocktailDrawShapes", "CocktailLoadDataset", "CocktailSplitDataset")
FEW = """layers.unet_layers = cross attention
validation.every_epochs = 5
validation.train_share = 1"""
NODES_2 = "on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"


@pytest.fixture(scope="module")
def base(comfy: Comfy) -> Iterator[str]:
    """The name of a checkpoint that trains in no time."""
    file = comfy.base / "models" / "checkpoints" / "tiny-walk.safetensors"
    yield make_tiny_base(file, 1).name
    comfy.post(f"/cocktail/runs/{NAME}/stop", {})
    file.unlink()


@pytest.fixture(scope="module")
def bright(comfy: Comfy) -> Iterator[None]:
    """A checkpoint whose pictures are brighter than the miniatures', which are all alike."""
    from safetensors.numpy import load_file, save_file

    folder = comfy.base / "models" / "checkpoints"
    tensors = load_file(folder / "miniature_base.safetensors")
    bias = tensors["first_stage_model.decoder.conv_out.bias"]
    tensors["first_stage_model.decoder.conv_out.bias"] = bias + bias.dtype.type(0.3)
    save_file(tensors, folder / LIKED)
    yield
    (folder / LIKED).unlink()


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


def voted() -> dict:
    """A grid, its vote, and the checkpoint that is picked."""
    axes = [checkpoints_node("miniature_base.safetensors", LIKED), axis_node("seed", *range(5))]
    found = grid_prompt(GRID, axes, steps=1, width=32, height=32)
    del found["sheet"]
    enough = {"until": "so many votes", "votes": VOTES, "pictures": "two at a time"}
    found["vote"] = node("CocktailVote", grid=["render", 0], **enough)
    rule = {"rule": "votes", "name": "", "when": "as it stands"}
    found["winner"] = node("CocktailPickWinner", grid=["vote", 0], **rule)
    return {str(at): one for at, one in enumerate(numbered(found), start=1)}


def vote_link(page: Page) -> Locator:
    """The button on the Vote node."""
    page.evaluate(
        """() => {
            const { graph, canvas } = window.app;
            canvas.centerOnNode(graph.nodes.find((node) => node.type === "CocktailVote"));
        }"""
    )
    return page.locator("a", has_text=f"Vote on {GRID}")


def vote(booth: Page, comfy: Comfy, votes: int) -> None:
    """Vote by keys for the pictures of the checkpoint that is liked, until there are so many."""
    of = checkpoints_of(comfy, GRID)
    status = booth.locator(".vote .status")
    expect(status).to_have_text(re.compile(r"^\d votes?,"))
    for number in range(int(status.inner_text()[0]), votes):
        expect(status).to_have_text(of_mine(number))
        left = booth.locator(".choice img").first.get_attribute("src").rpartition("/")[2]
        booth.keyboard.press("ArrowLeft" if of[left] == LIKED else "ArrowRight")
    expect(status).not_to_have_text(of_mine(votes - 1))


def of_mine(votes: int) -> str:
    return f"{votes} vote{'s' * (votes != 1)}, {votes} of them yours."


def picked(comfy: Comfy) -> str | None:
    """The checkpoint that the prompt which was run last has picked."""
    (last,) = comfy.get("/history?max_items=1").values()
    told = [one["cocktail"][0] for one in last["outputs"].values() if "cocktail" in one]
    return next((one["checkpoint"] for one in told if "checkpoint" in one), None)


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


def test_a_run_is_walked_from_its_graph_to_the_bin_and_back(page, comfy, base, bright):
    page.evaluate("graph => window.app.loadApiJson(graph, 'walk')", graph(base))
    press_run(page)
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

    page.evaluate("graph => window.app.loadApiJson(graph, 'vote')", voted())
    press_run(page)
    vote_link(page).wait_for(state="attached")
    with page.context.expect_page() as opened:
        vote_link(page).evaluate("link => link.click()")
    booth = opened.value
    vote(booth, comfy, 2)
    booth.reload()
    vote(booth, comfy, 3)

    comfy.restart()
    expect(page.locator(".cocktail-runs")).to_be_visible()
    stands(page, "paused")

    vote(booth, comfy, VOTES)
    booth.close()
    page.evaluate("() => window.app.loadGraphData(window.app.graph.serialize())")
    vote_link(page).wait_for(state="attached")
    page.keyboard.press("Escape")
    press_run(page)
    wait_for(lambda: comfy.get("/history") and picked(comfy))
    assert picked(comfy) == LIKED
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


def test_in_nodes_2_it_goes_on_from_its_graph_and_a_checkpoint_comes_into_it(page, comfy, base):
    page.locator(".cocktail-runs .back").click()
    page.evaluate(NODES_2, True)
    page.evaluate("graph => window.app.loadApiJson(graph, 'walk')", graph(base))
    page.locator("[data-node-id]").first.wait_for()
    stopped = run_of(comfy)["step"]
    press_run(page)
    show(page, NAME)
    stands(page, "running")
    grows(page, comfy)
    assert run_of(comfy)["step"] > stopped
    row = part(page, "Checkpoints").locator("li").first
    row.get_by_label(re.compile("add a Choose Checkpoint node")).click()
    expect(told(page)).to_contain_text("Added Choose Checkpoint")
    expect(page.locator("[data-node-id]").filter(has_text="Choose Checkpoint")).to_be_visible()
    page.evaluate(NODES_2, False)


def until(comfy: Comfy, status: str, name: str = NAME) -> None:
    wait_for(lambda: run_of(comfy, name)["status"] == status)


def test_nodes_do_what_the_buttons_do(comfy):
    opened = node("CocktailOpenRun", saved_run=NAME)

    def ask(action: str, **inputs: str) -> str:
        asked = node("CocktailControlRun", run=["open", 0], action=action, **inputs)
        return comfy.run({"open": opened, "ask": asked})["ask"]["cocktail"][0]["status"]

    def count(kind: str) -> int:
        lines = comfy.get(f"/cocktail/runs/{NAME}/metrics")["lines"]
        return [line["kind"] for line in lines].count(kind)

    saved, drawn = count("checkpoint"), count("samples")
    assert ask("nothing") == "running"
    epoch = run_of(comfy)["checkpoints"][0]["epoch"]
    fork = node("CocktailForkRun", run=["open", 0], epoch=epoch, run_name="by-node")
    fork["inputs"]["changes"] = "loss.min_snr_gamma = 5"
    (told,) = comfy.run({"open": opened, "fork": fork})["fork"]["cocktail"]
    assert (told["run"], told["status"]) == ("by-node", "queued")
    comfy.post("/cocktail/runs/by-node/stop", {})
    until(comfy, "stopped", "by-node")
    compared = comfy.get(f"/cocktail/runs/by-node/settings?compare={NAME}")["differences"]
    assert {one["name"] for one in compared} == {"base", "loss.min_snr_gamma"}
    ask("save a checkpoint")
    ask("draw samples", prompts="a blue square")
    wait_for(lambda: count("samples") > drawn)
    assert (count("checkpoint"), count("samples")) == (saved + 1, drawn + 1)
    ask("pause")
    until(comfy, "paused")
    assert ask("resume") == "queued"
    ask("stop")
    until(comfy, "stopped")


def test_pairs_that_stand_out_are_shown_and_left_out(comfy):
    prompt = {at: one for at, one in graph("").items() if one["class_type"] in DATA}
    (split,) = [at for at, one in prompt.items() if one["class_type"] == DATA[-1]]
    prompt["open"] = node("CocktailOpenRun", saved_run=NAME)
    sheet = {"count": 3, "part": "training", "least": 0.0, "columns": 3, "side": 64}
    prompt["stand"] = node("CocktailStandOut", run=["open", 0], **sheet)
    prompt["leave"] = node("CocktailLeaveOutPairs", dataset=[split, 0], ids=["stand", 2])
    found = comfy.run(prompt)
    (told,) = found["stand"]["cocktail"]
    ids = [pair["id"] for pair in told["pairs"]]
    listed = comfy.get(f"/cocktail/runs/{NAME}/pairs")["pairs"]
    assert [one["id"] for one in listed if one["part"] == "training"][:3] == ids
    assert len(set(ids)) == 3
    (left,) = found["leave"]["cocktail"]
    assert (left["before"], left["pairs"], left["absent"]) == (16, 13, [])
    assert set(left["left_out"]) == set(ids)
    (shown,) = found["stand"]["images"]
    with Image.open(comfy.base / shown["type"] / shown["subfolder"] / shown["filename"]) as picture:
        assert picture.width >= 3 * 64
