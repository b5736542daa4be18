"""Words of strangers - names of files, captions, metadata - are shown in ComfyUI's page and never
obeyed there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from cocktail.nodes.host.progress import JOINER, as_text

from .comfy import Comfy
from .nodes.graphs import node
from .pages import launched, open_page, press_run
from .trainer.folders import picture

KINDS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic nodes", "Nodes 2.0"])
FOLDER = "hostile [[here]] __LNK0__ &lt;"
IMAGE = ".<img src=x onerror=obeyed=1>"
TOLD = """text => window.app.graph.nodes.some(node => node.widgets?.some(
    widget => String(widget.value).replaceAll("\\u2060", "").includes(text)))"""
IN_PAGE = """text => [document.body.textContent, ...window.app.graph.nodes.flatMap(
    node => (node.widgets ?? []).map(widget => String(widget.value)))].some(
    told => told.replaceAll("\\u2060", "").includes(text))"""
CONTRACT = json.loads((Path(__file__).parent / "node_contract.json").read_text(encoding="utf-8"))
DETAILS = """() => [...document.querySelectorAll("button")].some(
    button => button.textContent.trim() === "View details" && button.checkVisibility())"""
IN_HTML = """text => window.app.graph.nodes.some(node => node.widgets?.some(widget =>
    (widget.element ?? widget.component)
    && String(widget.value).replaceAll("\\u2060", "").includes(text)))"""
"""Classic nodes of newer pages draw their texts on the canvas instead."""
SHOWN = """text => [...document.querySelectorAll("span")].some(
    span => span.textContent.replaceAll("\\u2060", "").includes(text))"""


@pytest.fixture(scope="module")
def browser(dev) -> Iterator[Browser]:
    with launched(dev) as browser:
        yield browser


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>", "</span><script>1</script>", "<!-- -->", "<?x?>",
        "[[here|https://example.org]]", "[[[here|javascript:alert(1)]]", "__LNK7__", "___LNK0__",
        "&lt;b&gt; &#60; &#x3c;", "<<b>>", "<\nb>", "\ud800",
    ],
)  # fmt: skip
def test_a_text_for_the_page_reads_the_same_and_has_no_markup(text):
    shown = as_text(text)
    assert shown.replace(JOINER, "") == text.replace("\ud800", "?")
    assert shown.encode("utf-8")
    for mark in ("<i", "</", "<!", "<?", "<b", "<s", "[[", "__LNK", "&l", "&#"):
        assert mark not in shown


def test_what_is_no_markup_stays_as_it_is():
    text = "a < b, x<3, R&D, lr 1e-6 [a|b] snake__case\nhttp://host/?a=1&b=2"
    assert as_text(text) == text


@KINDS
def test_a_hostile_name_is_shown_on_the_node_and_in_the_error_as_it_is(comfy, browser, nodes_2):
    folder = comfy.base / "input" / FOLDER
    picture(folder, "a.png")
    (folder / "<b>bad.png").write_bytes(b"no picture")
    (folder / f"a{IMAGE}").write_bytes(b"")
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    comfy.post("/settings/Comfy.VueNodes.Enabled", nodes_2)
    page, complaints = open_page(browser, comfy)
    page.set_default_timeout(30_000)
    try:
        queue(comfy, page, "skip")
        page.wait_for_function(TOLD, arg=IMAGE)
        if not nodes_2 and page.evaluate(IN_HTML, IMAGE):
            page.wait_for_function(SHOWN, arg=IMAGE)
        queue(comfy, page, "stop")
        open_error(page, "<b>bad.png")
        untouched(page)
        for name, graph in attacks(comfy).items():
            page.keyboard.press("Escape")
            expect(page.locator(".p-dialog-mask")).to_have_count(0)
            send(page, graph)
            page.wait_for_function(f"text => ({IN_PAGE})(text) || ({DETAILS})()", arg=mark(name))
            if page.evaluate(DETAILS):
                page.get_by_role("button", name="View details").click()
            page.wait_for_function(IN_PAGE, arg=mark(name))
            untouched(page)
        assert not any("destructure" in text for text in complaints), complaints
    finally:
        page.close()
        comfy.post("/settings/Comfy.VueNodes.Enabled", False)


def open_error(page: Page, text: str) -> None:
    """Have the page show an error with this text: by itself in older pages, on a click in newer."""
    details = page.get_by_role("button", name="View details")
    error = page.get_by_text(text).filter(visible=True).first
    expect(error.or_(details).first).to_be_visible()
    if details.is_visible():
        details.click()
    error.wait_for()


def untouched(page: Page) -> None:
    assert page.evaluate("document.querySelectorAll('img[src=x], span b').length") == 0
    assert page.evaluate("window.obeyed") is None


def mark(name: str) -> str:
    """A text that would set `obeyed`, if the page took it for markup; with the name of who shows it
    at its beginning, since long texts are cut.
    """
    return f"{name} <img src=x onerror=obeyed=1>"


def attacks(comfy: Comfy) -> dict[str, dict[str, Any]]:
    """Graphs with the words of strangers in a checkpoint's metadata, in the columns of a
    table, in the settings of EveryDream2 and in a plan.
    """
    metadata = {
        "sd_merge_recipe": json.dumps(
            {
                "type": "webui",
                "primary_model_hash": "a" * 64,
                "secondary_model_hash": "b" * 64,
                "tertiary_model_hash": None,
                "interp_method": "Weighted sum",
                "multiplier": 0.3,
            }
        ),
        "sd_merge_models": json.dumps(
            {"a" * 64: {"name": mark("recipe")}, "b" * 64: {"name": mark("recipe")}}
        ),
    }
    header = json.dumps({"__metadata__": metadata}).encode()
    checkpoint = comfy.base / "models" / "checkpoints" / "hostile.safetensors"
    checkpoint.write_bytes(len(header).to_bytes(8, "little") + header)
    table = comfy.base / "input" / "hostile.csv"
    table.write_text(f"image,{mark('column')}\na.png,x\n", encoding="utf-8")
    shown = filled("CocktailSelectPairs", table="input/hostile.csv")
    axes = [{"target": "seed", "values": "1, 2"}]
    plan = {"name": "hostile", "fixed": {mark("plan"): 1}, "axes": axes}
    return {
        "recipe": {
            "1": node("CocktailRecipeFromFile", checkpoint="hostile.safetensors"),
            "2": filled("CocktailMergeToFile", recipe=["1", 0], name="hostile"),
        },
        "column": {"1": shown},
        "key": {"1": filled("CocktailImportEveryDream2", train=json.dumps({mark("key"): 1}))},
        "plan": {"1": node("CocktailGridPlanJson", plan=json.dumps(plan))},
    }


def filled(id: str, **given: Any) -> dict[str, Any]:
    """A node with the defaults of what is not given."""
    known = CONTRACT[id]["inputs"]
    defaults = {name: one["default"] for name, one in known.items() if "default" in one}
    return node(id, **defaults | given)


def queue(comfy: Comfy, page: Page, on_problem: str) -> None:
    """Queue a load of the hostile folder by hand."""
    graph = {
        "1": node(
            "CocktailLoadDataset",
            folder=f"input/{FOLDER}",
            caption_text="first line",
            on_problem=on_problem,
            layout="auto",
            caption_column="",
            background="#ffffff",
        ),
        "2": node("CocktailSaveDataset", dataset=["1", 0], name=f"hostile-{on_problem}"),
    }
    send(page, graph)


def send(page: Page, graph: dict[str, Any]) -> None:
    page.evaluate("graph => window.app.loadApiJson(graph, 'hostile')", graph)
    with page.expect_response(lambda response: response.url.endswith("/prompt")) as answer:
        press_run(page)
    # A plan is refused when it is queued, all others when they are worked on.
    assert answer.value.status == (400 if "plan" in graph["1"]["inputs"] else 200)
