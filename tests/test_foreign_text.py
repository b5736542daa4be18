"""Words of strangers - names of files, captions, metadata - are shown in ComfyUI's page and never
obeyed there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from cocktail.nodes.host.progress import JOINER, as_text

from .comfy import Comfy
from .nodes.graphs import node
from .pages import launched, open_page
from .trainer.folders import picture

KINDS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic nodes", "Nodes 2.0"])
FOLDER = "hostile [[here|there]] __LNK0__ &lt;"
IMAGE = ".<img src=x onerror=obeyed=1>"
TOLD = """text => window.app.graph.nodes.some(node => node.widgets?.some(
    widget => String(widget.value).replaceAll("\\u2060", "").includes(text)))"""
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
        if not nodes_2:
            page.wait_for_function(SHOWN, arg=IMAGE)
        queue(comfy, page, "stop")
        dialog = page.get_by_role("dialog").filter(has_text="<b>bad.png")
        dialog.wait_for()
        assert page.evaluate("document.querySelectorAll('img[src=x], span b').length") == 0
        assert page.evaluate("window.obeyed") is None
        assert not any("destructure" in text for text in complaints), complaints
    finally:
        page.close()
        comfy.post("/settings/Comfy.VueNodes.Enabled", False)


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
    page.evaluate("graph => window.app.loadApiJson(graph, 'hostile')", graph)
    with page.expect_response(lambda response: response.url.endswith("/prompt")) as answer:
        page.get_by_test_id("queue-button").get_by_role("button").first.click()
    assert answer.value.status == 200, answer.value.text()
