"""The panel of runs in ComfyUI's sidebar, in a real browser on a real server, with run folders made
by code; and numbers such as 1.5e-6 on nodes.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.ballot import Ballot
from cocktail.nodes.grid.engine.vote.log import VoteLog
from cocktail.trainer.jobs.job import exclusive
from cocktail.trainer.runs import Run
from cocktail.trainer.sweep.sweep import Member, Sweep

from .comfy import Comfy
from .grid.test_plan import FIXED
from .grid.voting import vote_on
from .made_runs import PROMPTS, make_run, set_state
from .pages import PATIENCE_MS, Held, launched
from .panel import (
    PALETTE,
    TAB,
    close_panel,
    item,
    open_panel,
    part,
    press,
    ready,
    show,
    told,
    widen,
)

KINDS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic nodes", "Nodes 2.0"])
NODE = """kind => window.app.graph.nodes.find(node => node.type === kind)"""
BADGE = f"{TAB} :is(.p-badge, .sidebar-icon-badge)"
SEEN = f"""names => {{
    const node = ({NODE})("CocktailTrainingSettings");
    return names.map(name => node.isWidgetVisible(node.widgets.find(one => one.name === name)));
}}"""
"""Whether advanced widgets, a fine number and another one, are drawn on the classic canvas."""
HTML = "<img src=x onerror=alert(1)> & <b>co</b>"
UPDATES = 10_000
ALL = re.compile(r"/cocktail/runs$")
BIN = re.compile(r"/cocktail/runs\?deleted=true")


@pytest.fixture(scope="module")
def browser(dev) -> Iterator[Browser]:
    with launched(dev) as browser:
        yield browser


@pytest.fixture(scope="module")
def runs(comfy: Comfy) -> dict[str, Run]:
    """Runs on the server: a finished one and one like it, and one that has failed."""
    return {
        "good": make_run(comfy.base, "good"),
        "other": make_run(comfy.base, "other", lowest=4, settings={"loss": {"min_snr_gamma": 5.0}}),
        "failed": make_run(comfy.base, "failed", done=2, status="failed", message="Out of memory"),
    }


@pytest.fixture(scope="module")
def opened(comfy: Comfy, browser: Browser, runs: dict[str, Run]) -> Iterator[Page]:
    """ComfyUI's page, once for this file."""
    page = ready(comfy, browser)
    yield page
    page.close()


@pytest.fixture
def page(opened: Page) -> Iterator[Page]:
    """The page with an empty graph and the panel at its list."""
    opened.evaluate("() => { window.app.graph.clear(); localStorage.clear(); }")
    open_panel(opened)
    yield opened
    opened.keyboard.press("Escape")
    close_panel(opened)


def learning_rate(page: Page) -> dict[str, Any]:
    """What the node's widget shows, what the prompt would hold, and what a workflow saves."""
    return page.evaluate(
        f"""async () => {{
            const node = ({NODE})("CocktailTrainingSettings");
            const at = node.widgets.findIndex(widget => widget.name === "learning_rate");
            const prompt = (await window.app.graphToPrompt()).output[node.id].inputs;
            const {{ nodes }} = window.app.graph.serialize();
            const saved = nodes.find(one => String(one.id) === String(node.id));
            return {{
                shown: node.widgets[at].value,
                sent: prompt.learning_rate,
                saved: saved.widgets_values[at],
            }};
        }}"""
    )


def has_rate(page: Page, shown: str, number: float) -> None:
    """The page takes what is typed in its own time."""
    wanted = {"shown": shown, "sent": number, "saved": number}
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while (found := learning_rate(page)) != wanted:
        assert time.monotonic() < deadline, found
        page.wait_for_timeout(20)


def type_rate(page: Page, text: str, nodes_2: bool) -> None:
    """By hand, as a person would."""
    if nodes_2:
        field = page.get_by_label("learning_rate", exact=True)
        field.fill(text)
        field.press("Tab")
        return
    x, y = page.evaluate(
        f"""() => {{
            const node = ({NODE})("CocktailTrainingSettings");
            const widget = node.widgets.find(widget => widget.name === "learning_rate");
            const box = window.app.canvas.canvas.getBoundingClientRect();
            const [x, y] = node.pos;
            return [box.left + x + node.size[0] / 2, box.top + y + widget.last_y + 10];
        }}"""
    )
    page.mouse.click(x, y)
    field = page.locator(".graphdialog input")
    field.fill(text)
    field.press("Enter")
    field.wait_for(state="detached")


@KINDS
def test_a_learning_rate_is_typed_read_queued_and_saved_as_it_is_written(comfy, browser, nodes_2):
    page = ready(comfy, browser, nodes_2)
    page.evaluate(
        """() => {
            const node = window.LiteGraph.createNode("CocktailTrainingSettings");
            node.pos = [400, 80];
            window.app.graph.add(node);
            Object.assign(window.app.canvas.ds, { scale: 1, offset: [0, 0] });
            window.app.canvas.setDirty(true, true);
        }"""
    )
    if nodes_2:
        page.get_by_label("learning_rate", exact=True).wait_for()
    else:
        page.wait_for_function(f"() => ({NODE})('CocktailTrainingSettings').widgets[0].last_y > 0")
        assert page.evaluate(SEEN, ["weight_decay", "gradient_clip"]) in ([True] * 2, [False] * 2)
    has_rate(page, "1.5e-6", 1.5e-6)
    type_rate(page, "2.5e-7", nodes_2)
    has_rate(page, "2.5e-7", 2.5e-7)
    if nodes_2:
        expect(page.get_by_label("learning_rate", exact=True)).to_have_value("2.5e-7")
    saved = page.evaluate("() => window.app.graph.serialize()")
    page.evaluate("() => window.app.graph.clear()")
    page.evaluate("graph => window.app.loadGraphData(graph)", saved)
    page.wait_for_function(f"() => ({NODE})('CocktailTrainingSettings')")
    has_rate(page, "2.5e-7", 2.5e-7)
    if nodes_2:
        expect(page.get_by_label("learning_rate", exact=True)).to_have_value("2.5e-7")
    type_rate(page, "1.5e", nodes_2)
    page.wait_for_function(
        f"() => ({NODE})('CocktailTrainingSettings').widgets.some(one => one.value === '1.5e')"
    )
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    settings = [next(iter(sent)), 0]
    sent["100"] = {"class_type": "CocktailShowSettings", "inputs": {"settings": settings}}
    assert "learning_rate" in " ".join(comfy.errors(sent).values())
    slot = page.evaluate(
        f"""() => ({NODE})("CocktailTrainingSettings").inputs
            .find(input => input.name === "learning_rate").type"""
    )
    assert slot == "FLOAT"
    page.close()


def test_runs_are_listed_with_their_states_and_text_stays_text(page, comfy, runs):
    for name, state in {"good": "finished", "other": "finished", "failed": "failed"}.items():
        expect(item(page, name)).to_contain_text(state)
    comfy.post("/cocktail/runs/other/rename", {"title": HTML})
    expect(item(page, "other").locator(".name")).to_have_text(HTML)
    show(page, "other")
    expect(page.locator(".cocktail-runs h2")).to_have_text(HTML)
    log = part(page, "Log").locator("pre")
    expect(log).to_contain_text("loss <b>0.14</b>")
    assert page.locator(".cocktail-runs :is(img[src=x], b:text('co'))").count() == 0
    comfy.post("/cocktail/runs/other/rename", {"title": ""})


def test_a_run_opened_by_key_while_the_bin_is_still_read_stays_open(page):
    close_panel(page)
    late = Held(page, BIN)
    open_panel(page)
    widen(page, 480)
    item(page, "good").press("Enter")
    back = page.locator(".cocktail-runs .back")
    expect(back).to_be_focused()
    late.let_go()
    expect(page.locator(".cocktail-runs")).to_have_attribute("data-view", "run")
    back.press("Enter")
    expect(item(page, "good")).to_be_focused()
    item(page, "good").press("Enter")
    page.locator(".cocktail-runs").get_by_label("smoothing").press("Escape")
    expect(item(page, "good")).to_be_focused()


def test_a_run_that_has_failed_says_why(page):
    show(page, "failed")
    expect(page.locator(".cocktail-runs .head .error")).to_have_text("Out of memory")
    expect(page.locator(".cocktail-runs .facts")).to_contain_text("40 of 200")


def test_the_chart_tells_the_lowest_validation_on_every_axis(page):
    show(page, "good")
    plot = page.locator(".cocktail-runs .plot")
    lowest = "validation 0.1422 at the start, lowest 0.1387 at"
    expect(plot).to_have_attribute("aria-label", re.compile(f"{lowest} step 120 "))
    expect(plot.locator("canvas")).to_have_count(1)
    for entry in ("training, smoothed", "validation", "checkpoint", "best"):
        expect(page.locator(".cocktail-runs .legend").first).to_contain_text(entry)
    page.get_by_label("horizontal axis").select_option("epoch")
    expect(plot).to_have_attribute("aria-label", re.compile(f"{lowest} epoch 6 "))
    page.get_by_label("horizontal axis").select_option("time")
    expect(plot).to_have_attribute("aria-label", re.compile(f"{lowest} 47 s "))
    page.get_by_role("checkbox", name="log").check()
    page.get_by_role("checkbox", name="rate").check()
    expect(page.locator(".cocktail-runs .legend").first).to_contain_text("learning rate")
    plot.focus()
    page.keyboard.press("End")
    expect(page.locator(".cocktail-runs .chart .readout")).to_contain_text("learning rate 1.5e-6")


def test_the_chart_shows_whom_votes_prefer_and_leads_to_the_columns_of_epochs(comfy, page):
    names = [saved["name"] for saved in comfy.get("/cocktail/runs/good")["checkpoints"]]
    axes = [checkpoint_axis([(name, "") for name in names]), typed_axis("seed", "1, 2, 3", {})]
    store = Store(comfy.base / "output" / "cocktail" / "grids" / "chosen-in-panel")
    store.save_plan(make_plan(store.folder.name, FIXED, axes, lambda kind, name: f"of {name}"))
    field = Ballot(store).field
    for place in range(3):
        VoteLog(store.folder).add(vote_on(field, place, (0, 1), (1,)))
    show(page, "good")
    plot = page.locator(".cocktail-runs .plot")
    leads = "leads the vote: step [0-9]+, 3 votes in chosen-in-panel"
    expect(plot).to_have_attribute("aria-label", re.compile(leads))
    expect(page.locator(".cocktail-runs .legend").first).to_contain_text("leads the vote")
    plot.focus()
    for key in ("End", "Enter"):
        page.keyboard.press(key)
    link = page.locator(".cocktail-runs .epoch a")
    expect(link).to_have_text("chosen-in-panel")
    last = len(names) - 1
    state = {"grid": "chosen-in-panel", "columns": [0], "rows": [1], "base": [[0, last]]}
    address = unquote(link.get_attribute("href") or "").partition("/cocktail/view#")[2]
    assert json.loads(address) == state


LINES = """() => {
    const lines = (window.dashed = []);
    const pen = CanvasRenderingContext2D.prototype;
    window.realMove ??= pen.moveTo;
    pen.moveTo = function (x, y) {
        const share = x / this.canvas.width;
        if (this.getLineDash().length) lines.push([share, this.globalAlpha]);
        return window.realMove.call(this, x, y);
    };
}"""
"""Notes where on the chart dashed lines begin."""


def readout(page: Page) -> str:
    """What the chart says of its last step."""
    page.locator(".cocktail-runs .plot canvas").wait_for()
    page.locator(".cocktail-runs .plot").focus()
    page.keyboard.press("End")
    said = page.locator(".cocktail-runs .chart .readout")
    expect(said).to_contain_text("training, smoothed")
    return said.inner_text()


def picture(page: Page) -> str:
    return page.locator(".cocktail-runs .plot canvas").evaluate("one => one.toDataURL()")


def drawn_anew(page: Page, before: str) -> str:
    """The chart once it looks different."""
    page.wait_for_function(
        "old => document.querySelector('.cocktail-runs .plot canvas')?.toDataURL() !== old",
        arg=before,
    )
    return picture(page)


def test_the_chart_is_smoothed_as_the_slider_says_and_has_a_logarithmic_scale(page, runs):
    show(page, "good")
    losses = [line["loss"] for line in runs["good"].metrics() if line["kind"] == "step"]
    slider = page.get_by_label("smoothing")
    said = readout(page)
    step = int(re.match("step ([0-9]+) ", said)[1])
    raw = f"training, smoothed {losses[step - 1]:.4g} "
    assert raw not in said
    smooth = picture(page)
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_value("0")
    straight = drawn_anew(page, smooth)
    assert raw in readout(page)
    log = page.get_by_role("checkbox", name="log")
    log.check()
    drawn_anew(page, straight)
    log.uncheck()
    page.wait_for_function(
        "old => document.querySelector('.cocktail-runs .plot canvas')?.toDataURL() === old",
        arg=straight,
    )


def test_the_chart_marks_where_another_process_went_on(page, comfy):
    make_run(comfy.base, "resumed", restarted=3)
    page.evaluate(LINES)
    show(page, "resumed")
    expect(page.locator(".cocktail-runs .legend").first).to_contain_text("restart")
    ((share, _),) = {(round(share, 2), alpha) for share, alpha in page.evaluate("window.dashed")}
    over = page.locator(".cocktail-runs .plot .u-over").bounding_box()
    whole = page.locator(".cocktail-runs .plot canvas").bounding_box()
    at = (whole["width"] * share - (over["x"] - whole["x"])) / over["width"]
    assert at == pytest.approx(60 / 200, abs=0.02)


def test_a_part_of_the_chart_is_enlarged_by_dragging(page):
    show(page, "good")
    over = page.locator(".cocktail-runs .plot .u-over")
    over.wait_for()
    box = over.bounding_box()
    middle = box["y"] + box["height"] / 2
    with page.expect_request(re.compile("/good/curve.*from=")) as asked:
        page.mouse.move(box["x"] + box["width"] / 4, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=4)
        page.mouse.up()
    first, last = (
        int(re.search(f"{name}=([0-9]+)", asked.value.url)[1]) for name in ("from", "to")
    )
    assert 45 <= first <= 51 and 118 <= last <= 124
    plot = page.locator(".cocktail-runs .plot")
    expect(plot).to_have_attribute("aria-label", re.compile("validation 0.1396 at step 60"))
    page.get_by_role("button", name="Whole run").click()
    expect(plot).to_have_attribute("aria-label", re.compile("validation 0.1422 at the start"))
    expect(page.get_by_role("button", name="Whole run")).to_be_hidden()


def test_another_run_is_laid_over_the_chart_and_taken_away(page):
    show(page, "good")
    page.get_by_label("lay another run over this one").select_option("other")
    legend = page.locator(".cocktail-runs .legend").first
    expect(legend).to_contain_text("other: validation")
    page.get_by_label("take other away").click()
    expect(legend).not_to_contain_text("other")


def test_a_run_laid_over_while_the_chart_is_still_read_is_drawn(page):
    late = Held(page, re.compile(r"/cocktail/runs/good/curve"))
    show(page, "good")
    with page.expect_response(re.compile(r"/cocktail/runs/other/curve")):
        page.get_by_label("lay another run over this one").select_option("other")
    late.let_go()
    legend = page.locator(".cocktail-runs .legend").first
    expect(legend).to_contain_text("other: validation")
    page.get_by_label("take other away").click()
    expect(legend).not_to_contain_text("other")


def test_a_chart_whose_axis_changes_never_draws_a_curve_of_the_other_axis(page):
    show(page, "good")
    plot = page.locator(".cocktail-runs .plot")
    expect(plot).to_have_attribute("aria-label", re.compile("lowest 0.1387 at step 120 "))
    late = Held(page, re.compile(r"/cocktail/runs/good/curve.*x=epoch"))
    page.get_by_label("horizontal axis").select_option("epoch")
    late.wait()
    page.get_by_role("checkbox", name="rate").check()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    expect(plot).to_have_attribute("aria-label", re.compile("lowest 0.1387 at step 120 "))
    late.let_go()
    expect(plot).to_have_attribute("aria-label", re.compile("lowest 0.1387 at epoch 6 "))


def test_a_run_that_appears_while_the_list_is_read_stays_open(page, comfy):
    make_run(comfy.base, "leaver", epochs=2, done=1, status="stopped")
    show(page, "leaver")
    press(page, "Delete…")
    late = Held(page, ALL)
    page.get_by_role("dialog", name="Delete leaver").get_by_role("button", name="Delete").click()
    expect(item(page, "leaver")).to_have_count(0)
    late.wait()
    make_run(comfy.base, "comer", epochs=2, done=1, status="stopped")
    show(page, "comer")
    late.let_go()
    expect(item(page, "comer")).to_have_attribute("aria-current", "true")
    expect(page.locator(".cocktail-runs h2")).to_have_attribute("title", "comer")
    expect(page.locator(".cocktail-runs")).to_have_attribute("data-view", "run")


def test_a_run_that_is_deleted_while_the_bin_is_read_is_in_the_bin(page, comfy):
    make_run(comfy.base, "binned", epochs=2, done=1, status="stopped")
    close_panel(page)
    late = Held(page, BIN)
    open_panel(page)
    late.wait()
    show(page, "binned")
    press(page, "Delete…")
    page.get_by_role("dialog", name="Delete binned").get_by_role("button", name="Delete").click()
    expect(item(page, "binned")).to_have_count(0)
    late.let_go()
    count = len(comfy.get("/cocktail/runs?deleted=true")["runs"])
    expect(page.locator(".cocktail-runs .binned summary")).to_have_text(f"Bin ({count})")
    page.locator(".cocktail-runs .binned summary").click()
    expect(page.get_by_label("restore binned")).to_be_visible()


def test_settings_of_a_run_that_was_left_do_not_replace_those_of_the_next(page, runs):
    widen(page, 900)
    show(page, "good")
    settings = part(page, "Settings")
    expect(settings.locator("tbody tr").first).to_be_visible()
    # What is new of the run is read, and meanwhile another is opened.
    late = Held(page, re.compile(r"/cocktail/runs/good/metrics"))
    set_state(runs["good"], status="stopped")
    late.wait()
    show(page, "other")
    expect(settings.get_by_label("compare with")).to_contain_text("Differences to good")
    late.let_go()
    expect(settings.get_by_label("compare with")).to_contain_text("Differences to good")
    set_state(runs["good"], status="finished")


def test_an_older_list_of_checkpoints_does_not_replace_a_newer_one(page, comfy):
    show(page, "good")
    late = Held(page, re.compile(r"/cocktail/runs/good$"))
    row = part(page, "Checkpoints").locator("li").filter(has_text="Epoch 4")
    late.wait()
    page.get_by_role("tab", name="Checkpoints").click()
    row.get_by_role("button", name="Pin", exact=True).click()
    expect(row).to_contain_text("pinned")
    late.let_go()
    expect(row).to_contain_text("pinned")
    row.get_by_role("button", name="Unpin").click()
    expect(row).not_to_contain_text("pinned")


def test_an_older_policy_of_a_run_does_not_replace_a_newer_one(page, comfy):
    make_run(comfy.base, "shared", epochs=2, done=1, status="stopped")
    show(page, "shared")
    policy = part(page, "Device").get_by_label("While prompts use its device")
    expect(policy).to_have_value("exclusive")
    part(page, "Log")
    late = Held(page, re.compile(r"/cocktail/devices$"))
    part(page, "Device")
    late.wait()
    comfy.post("/cocktail/runs/shared/policy", {"policy": "polite"})
    part(page, "Device")
    expect(policy).to_have_value("polite")
    late.let_go()
    expect(policy).to_have_value("polite")


def test_the_sweeps_of_a_run_are_its_own_and_an_older_table_does_not_replace_a_newer_one(
    page, comfy, runs
):
    sweeps = comfy.base / "output" / "cocktail" / "sweeps"
    settings = runs["good"].settings

    def sweep_of(name: str, label: str) -> None:
        members = Member(name, "", None, label), Member("failed", "epochs", 5, "five")
        Sweep(f"of-{name}", "base.safetensors", "drawn", members, settings).save(sweeps)

    sweep_of("good", "first of good")
    sweep_of("other", "first of other")
    widen(page, 900)
    show(page, "good")
    baseline = part(page, "Sweep").locator("tbody tr").first
    for name in ("good", "other", "good"):
        show(page, name)
        expect(baseline).to_contain_text(f"first of {name}")
    late = Held(page, re.compile(r"/cocktail/sweeps/of-other$"))
    show(page, "other")
    late.wait()
    sweep_of("other", "renamed")
    page.get_by_role("tab", name="Sweep").press("Enter")
    expect(baseline).to_contain_text("renamed")
    late.let_go()
    expect(baseline).to_contain_text("renamed")
    for name in ("good", "other"):
        shutil.rmtree(sweeps / f"of-{name}")


MAP = """async () => {
    const { attach } = await import("/extensions/cocktail/grid/minimap.mjs");
    const node = {
        id: 1, size: [0, 0], computeSize: () => [1, 1], setSize() {},
        addDOMWidget(name, kind, element) { this.element = element; return {}; },
    };
    const asked = [], listeners = new Set();
    const api = {
        fetchApi: () => new Promise(answer => asked.push(answer)),
        fileURL: path => path, apiURL: path => path,
    };
    attach(node, api, listeners);
    const tell = event => listeners.forEach(listen => listen({ node: 1, ...event }));
    const settle = () => new Promise(done => setTimeout(done));
    const answer = async (at, name, states) => {
        const grid = {
            name, states, keys: ["a", "b"], positions: [[0], [1]], files: {},
            axes: [{ values: ["one", "two"] }],
        };
        asked[at]({ ok: true, json: async () => grid });
        await settle();
    };
    return FLOW;
}"""


def test_the_map_of_a_grid_misses_no_cell_that_is_finished_while_it_is_read(page):
    flow = """(async () => {
        tell({ name: "g", feed: { state: "running", in_flight: ["a"] } });
        tell({ name: "g", key: "a", status: "running" });
        await answer(0, "g", "..");
        tell({ name: "g", key: "a", status: "finished" });
        for (let at = 1; at < asked.length; at++) await answer(at, "g", at > 1 ? "f." : "..");
        tell({ name: "g", key: "b", status: "finished" });
        return node.element.firstChild.textContent;
    })()"""
    assert page.evaluate(MAP.replace("FLOW", flow)).startswith("g: 2 of 2 cells")


def test_the_map_shows_the_grid_that_was_queued_last_whichever_answer_comes_first(page):
    flow = """(async () => {
        tell({ name: "old", key: "a", status: "running" });
        tell({ name: "new", key: "a", status: "running" });
        await answer(1, "new", "f.");
        await answer(0, "old", "ff");
        return [node.element.firstChild.textContent, node.properties.cocktail_grid];
    })()"""
    assert page.evaluate(MAP.replace("FLOW", flow)) == ["new: 1 of 2 cells", "new"]


def test_samples_are_a_strip_and_one_is_looked_at_with_the_keys_alone(page):
    show(page, "good")
    samples = part(page, "Samples")
    expect(samples.locator(".prompt")).to_have_text(list(PROMPTS))
    expect(samples.locator(".picture")).to_have_count(22)
    samples.locator(".picture").first.focus()
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog", name="sample")
    text = large.locator("[role=status]")
    expect(text).to_have_text(PROMPTS[0])
    expect(large).to_contain_text("epoch 0, step 0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(text).to_have_text(PROMPTS[1])
    expect(large).to_contain_text("epoch 1, step 20")
    page.wait_for_function("() => document.querySelector('dialog.large img').naturalWidth === 32")
    page.keyboard.press("Escape")
    expect(large).to_have_count(0)
    expect(samples.locator(".picture:focus")).to_have_count(1)


@KINDS
def test_checkpoints_go_into_the_graph_and_into_a_grid(comfy, browser, runs, nodes_2):
    page = ready(comfy, browser, nodes_2)
    open_panel(page)
    show(page, "good")
    checkpoints = part(page, "Checkpoints")
    name = "cocktail/good/good-e006-s000120.safetensors"
    checkpoints.get_by_label("add a Load Checkpoint node for epoch 6").click()
    expect(told(page)).to_contain_text("Added Load Checkpoint")
    checkpoints.get_by_label("add a Choose Checkpoint node for epoch 6").click()
    expect(told(page)).to_contain_text("Added Choose Checkpoint")
    for epoch in (2, 6):
        checkpoints.get_by_label(f"epoch {epoch}, step {20 * epoch} for a grid").check()
    checkpoints.get_by_role("button", name="Send to a grid").click()
    expect(told(page)).to_contain_text("Added Grid Axis: Checkpoints")
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    found = {node["class_type"]: node["inputs"] for node in sent.values()}
    assert found["CheckpointLoaderSimple"]["ckpt_name"] == name
    assert found["CocktailChooseCheckpoint"]["checkpoint"] == name
    axis = found["CocktailAxisCheckpoints"]
    assert axis["checkpoint_1"] == "cocktail/good/good-e002-s000040.safetensors"
    assert (axis["checkpoint_2"], axis["checkpoint_3"]) == (name, "none")
    assert axis["labels"] == "epoch 2\nepoch 6 (best)"
    page.close()


def test_a_checkpoint_is_pinned(page, comfy):
    show(page, "good")
    row = part(page, "Checkpoints").locator("li").filter(has_text="Epoch 3")
    row.get_by_role("button", name="Pin", exact=True).click()
    expect(row).to_contain_text("pinned")
    pinned = [c["epoch"] for c in comfy.get("/cocktail/runs/good")["checkpoints"] if c["pinned"]]
    assert pinned == [3]
    row.get_by_role("button", name="Unpin").click()
    expect(row).not_to_contain_text("pinned")


def test_settings_show_what_differs_from_another_run(page):
    show(page, "good")
    settings = part(page, "Settings")
    settings.get_by_label("find a setting").fill("learning_rate")
    expect(settings.locator("tbody tr:not([hidden])").first).to_contain_text("1.5e-6")
    settings.get_by_label("find a setting").fill("")
    settings.get_by_label("compare with").select_option("other")
    expect(settings.locator("tbody tr")).to_have_count(1)
    expect(settings.locator("tbody tr")).to_have_text("loss.min_snr_gamma05")


COLOUR = """(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data]"""


def test_noise_levels_are_a_map_whose_colours_and_words_say_what_rises(page, comfy):
    show(page, "good")
    levels = part(page, "Noise levels")
    canvas = levels.locator("canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("detail overfits from epoch"))
    found = comfy.get("/cocktail/runs/good/heatmap")
    assert canvas.get_attribute("aria-label").endswith(found["words"])
    assert (canvas.get_attribute("width"), canvas.get_attribute("height")) == ("11", "3")
    risen, _, fallen = found["relative"][10]
    assert risen > 0 > fallen == min(min(row) for row in found["relative"])
    red, _, blue, seen = canvas.evaluate(COLOUR, [10, 0])
    assert red > blue and seen == pytest.approx(255 * risen / -fallen, abs=1)
    red, _, blue, seen = canvas.evaluate(COLOUR, [10, 2])
    assert blue > red and seen == 255
    assert canvas.evaluate(COLOUR, [0, 1])[3] == 0, "the first is what others are compared with"
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    loss, relative = found["loss"][1][2], found["relative"][1][2]
    said = f"composition (noise steps 667 to 999): loss {loss:.4g}, {100 * relative:.1f} %"
    expect(levels.locator(".readout")).to_have_text(f"epoch 1, {said}")


def test_pairs_that_stand_out_are_listed_with_their_captions_as_text(page, comfy):
    show(page, "good")
    rows = part(page, "Pairs").locator(".pairs li")
    (first, *_) = comfy.get("/cocktail/runs/good/pairs?limit=20")["pairs"]
    assert (first["id"], first["part"]) == ("id11", "training")
    expect(rows.first.locator(".caption")).to_have_text("a <i>shape</i> 11")
    expect(rows.first).to_contain_text(first["words"])
    expect(rows.first).to_contain_text("training · score ")


def test_the_sweep_of_a_run_is_a_table_that_leads_to_its_other_runs(page, comfy, runs):
    show(page, "failed")
    expect(page.get_by_role("tab", name="Log")).to_be_visible()
    expect(page.get_by_role("tab", name="Sweep")).to_have_count(0)
    members = (
        Member("good", "", None, "baseline"),
        Member("other", "loss.min_snr_gamma", 5.0, "<b>min-SNR</b> 5"),
    )
    Sweep("snr", "base.safetensors", "drawn", members, runs["good"].settings).save(
        comfy.base / "output" / "cocktail" / "sweeps"
    )
    page.locator(".cocktail-runs .back").press("Enter")
    show(page, "other")
    table = part(page, "Sweep")
    expect(table.locator("tbody tr")).to_have_count(2)
    expect(table.locator("tbody tr").nth(1)).to_contain_text("<b>min-SNR</b> 5")
    expect(table).to_contain_text("more than 2 standard errors")
    (variant,) = comfy.get("/cocktail/sweeps/snr")["table"]["rows"][1:]
    expect(table.locator("tbody tr").nth(1)).to_contain_text(variant["verdict"])
    table.get_by_role("button", name="baseline").click()
    expect(page.locator(".cocktail-runs h2")).to_have_attribute("title", "good")
    shutil.rmtree(comfy.base / "output" / "cocktail" / "sweeps" / "snr")


def test_a_run_is_renamed_deleted_after_a_question_and_brought_back(page, comfy):
    make_run(comfy.base, "away", epochs=2, done=1, status="stopped")
    show(page, "away")
    press(page, "Rename…")
    page.get_by_label("Title").fill("A better <i>title</i>")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.locator(".cocktail-runs h2")).to_have_text("A better <i>title</i>")
    press(page, "Delete…")
    question = page.get_by_role("dialog", name="Delete A better")
    expect(question.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    assert comfy.get("/cocktail/runs/away")["name"] == "away"
    press(page, "Delete…")
    question.get_by_role("button", name="Delete").click()
    expect(item(page, "away")).to_have_count(0)
    assert "away" not in [run["name"] for run in comfy.get("/cocktail/runs")["runs"]]
    page.locator(".cocktail-runs .binned summary").click()
    page.get_by_label("restore A better <i>title</i>").click()
    expect(page.locator(".cocktail-runs h2")).to_have_text("A better <i>title</i>")
    assert comfy.get("/cocktail/runs/away")["step"] == 20


def test_a_run_at_work_is_followed_and_told_when_it_ends(page, comfy):
    run = make_run(comfy.base, "working", done=4, status="stopped")
    with exclusive(run, "cpu"):
        set_state(run, status="running", memory=3_000_000_000, eta_s=125.0)
        expect(item(page, "working")).to_contain_text("running")
        expect(item(page, "working")).to_contain_text("2 min 5 s left · CPU")
        expect(page.locator(BADGE)).to_have_text("1")
        show(page, "working")
        facts = page.locator(".cocktail-runs .facts")
        expect(facts).to_contain_text("3.0 GB")
        expect(facts.locator("div").filter(has_text="left")).to_have_text("left2 min 5 s")
        expect(facts.locator("div[title=cpu]")).to_have_text("deviceCPU")
        for step in (81, 82):
            line = {"kind": "step", "epoch": 5, "step": step, "time": 1.0, "loss": 0.3}
            with (run.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            set_state(run, step=step)
            expect(facts).to_contain_text(f"{step} of 200")
        buttons = page.locator(".cocktail-runs .buttons button")
        expect(buttons).to_have_text(
            ["Pause", "Stop", "Save now", "Sample now…", "Fork…", "Rename…"]
        )
        press(page, "Save now")
        expect(told(page)).to_contain_text("A checkpoint is written")
        set_state(run, status="preparing", message="Encoding pictures (40 of 400)")
        silent = json.loads((run.folder / "state.json").read_text(encoding="utf-8"))
        silent["updated"] -= 90
        (run.folder / "state.json").write_text(json.dumps(silent), encoding="utf-8")
        phase = re.escape("Encoding pictures (40 of 400)")
        expect(facts).to_contain_text(re.compile(f"silent for.*1 min.*{phase}"))
        set_state(run, status="finished", message="Finished 10 epochs")
    expect(page.get_by_text("working has finished", exact=True)).to_be_visible()
    expect(page.locator(BADGE)).to_have_count(0)


def test_a_run_that_gives_way_is_at_work_and_one_that_a_person_paused_is_not(page, comfy):
    run = make_run(comfy.base, "yields", done=4, status="stopped")
    buttons = page.locator(".cocktail-runs .buttons button")
    with exclusive(run, "cpu"):
        set_state(run, status="paused", message="Has left the device to a prompt")
        show(page, "yields")
        expect(buttons).to_have_text(["Pause", "Stop", "Fork…", "Rename…"])
        press(page, "Pause")
        expect(told(page)).to_contain_text("It saves and then frees the device")
        assert [one["command"] for one in run.take_requests()] == ["pause"]
        set_state(run, status="paused", at_rest=True)
        expect(buttons).to_have_text(["Resume", "Stop", "Extend…", "Fork…", "Rename…", "Delete…"])


def test_a_run_is_extended_after_a_question(page, comfy):
    make_run(comfy.base, "longer", epochs=4)
    show(page, "longer")
    press(page, "Extend…")
    question = page.get_by_role("dialog", name="Extend longer")
    expect(question).to_contain_text("It has 4 epochs.")
    question.get_by_label("Epochs in all").fill("9")
    question.get_by_label("Go on at once").uncheck()
    question.get_by_role("button", name="Extend").click()
    expect(told(page)).to_contain_text("It now has 9 epochs.")
    run = comfy.get("/cocktail/runs/longer")
    assert (run["status"], run["epochs"]) == ("stopped", 9)
    expect(page.locator(".cocktail-runs .head .tag")).to_have_text("stopped")
    page.get_by_role("tab", name="Samples").press("Escape")
    expect(told(page)).to_be_hidden()


ENDED = """async ({ action, states }) => {
    const { Notices } = await import("/extensions/cocktail/runs/notices.mjs");
    const said = [];
    const say = kind => (summary, given) => said.push({ kind, summary, ...given });
    const toast = action
        ? { dismiss() {}, success: say("success"), error: say("error"), warning: say("warning") }
        : { add: said.push.bind(said) };
    const opened = [];
    const command = { execute: id => opened.push(id) };
    const notices = new Notices({ extensionManager: { toast, command } }, "cocktail-runs");
    for (const [status, at_rest] of states) {
        notices.hear([{ name: "one", title: "", message: "why", status, at_rest }]);
    }
    said.forEach(one => one.action?.onClick());
    return { said, opened, wanted: notices.take() };
}"""


@pytest.mark.parametrize("before", [["queued", False], ["running", False], ["paused", False]])
def test_the_end_of_a_run_is_told_with_a_button_that_opens_it(page, before):
    ended = page.evaluate(ENDED, {"action": True, "states": [before, ["failed", False]]})
    ((said,), opened) = ended["said"], ended["opened"]
    assert (said["kind"], said["summary"], said["description"]) == (
        ("error", "one has failed", "why")
    )
    assert said["action"]["label"] == "Show the run"
    assert (opened, ended["wanted"]) == (["Workspace.ToggleSidebarTab.cocktail-runs"], "one")


def test_a_page_whose_messages_have_no_button_says_where_the_run_is(page):
    states = [["preparing", False], ["interrupted", False]]
    ended = page.evaluate(ENDED, {"action": False, "states": states})
    ((said,), opened) = ended["said"], ended["opened"]
    assert said["severity"] == "warn" and said["detail"].endswith("under Runs.")
    quiet = [["paused", True], ["failed", False], ["stopped", False], ["failed", False]]
    assert not opened and not page.evaluate(ENDED, {"action": True, "states": quiet})["said"]


def test_words_that_come_after_the_end_of_a_run_are_read_and_then_no_more(page, comfy):
    run = make_run(comfy.base, "talkative")
    show(page, "talkative")
    log = part(page, "Log").locator("pre")
    expect(log).to_contain_text("loss <b>0.14</b>")
    with (run.folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write("The notice 'finished' was not delivered\n")
    expect(log).to_contain_text("was not delivered", timeout=PATIENCE_MS)
    page.evaluate(
        """() => {
            window.realNow = Date.now;
            window.later = 0;
            Date.now = () => window.realNow() + window.later;
        }"""
    )
    asked: list[str] = []

    def note(request) -> None:
        asked.append(request.url)

    def wait_minutes(count: int) -> None:
        """Until the list of all runs has been read so often, and each time the log if it is due."""
        for _ in range(count):
            with page.expect_response(ALL):
                page.evaluate("() => { window.later += 60000; }")

    page.on("request", note)
    try:
        wait_minutes(3)
        assert any("/runs/talkative/log" in url for url in asked), "once more, late enough"
        asked.clear()
        wait_minutes(3)
        assert asked and not any("/runs/talkative/log" in url for url in asked)
    finally:
        page.remove_listener("request", note)
        page.evaluate("() => { Date.now = window.realNow; }")


def test_a_button_that_comes_too_late_says_why(page, comfy):
    run = make_run(comfy.base, "late", done=4, status="stopped")
    refusal = json.dumps({"error": "late has finished <b>already</b>."})
    page.route(
        "**/api/cocktail/runs/late/pause",
        lambda route: route.fulfill(status=409, content_type="application/json", body=refusal),
    )
    with exclusive(run, "cpu"):
        set_state(run, status="running")
        show(page, "late")
        press(page, "Pause")
        expect(told(page)).to_have_class(re.compile("error"))
        expect(told(page)).to_contain_text("late has finished <b>already</b>.")
        set_state(run, status="finished")
    page.unroute("**/api/cocktail/runs/late/pause")


def test_the_panel_fits_from_320_pixels_to_half_a_screen(page):
    show(page, "good")
    wide = """() => [...document.querySelectorAll(".cocktail-runs .detail *")].filter(
        one => one.offsetParent && !one.closest(".scroll, .tabs, .plot, pre") &&
        one.getBoundingClientRect().right >
            document.querySelector(".cocktail-runs").getBoundingClientRect().right + 1
    ).map(one => one.className)"""
    filled = {
        "Samples": ".picture", "Noise levels": "canvas", "Checkpoints": "li",
        "Settings": "tbody tr", "Pairs": "p", "Device": "p", "Log": "pre",
    }  # fmt: skip
    expect(page.locator(".cocktail-runs [role=tab]:visible")).to_have_text([*filled])
    for width in (320, 480, 900):
        widen(page, width)
        for title, content in filled.items():
            expect(part(page, title).locator(content).first).to_be_attached()
            page.wait_for_function(f"() => ({wide})().length === 0")
        expect(page.locator(".cocktail-runs .list")).to_be_visible(visible=width == 900)


def tab_to(page: Page, place: Locator, back: bool = False) -> None:
    """By the Tab key alone."""
    for _ in range(600):  # other files of tests leave runs in the list
        if place.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    raise AssertionError(f"Tab does not lead to {place}")


def test_everything_is_reached_by_keyboard_alone(page, comfy):
    make_run(comfy.base, "keys", epochs=2, done=1, status="stopped")
    root = page.locator(".cocktail-runs")
    item(page, "keys").wait_for()
    page.locator(TAB).focus()
    tab_to(page, item(page, "keys"))
    page.keyboard.press("Enter")
    expect(root.locator(".back")).to_be_focused()
    for name in ("Resume", "Extend…", "Fork…", "Rename…", "Delete…"):
        tab_to(page, root.locator(".buttons").get_by_role("button", name=name))
    overlay = page.get_by_label("lay another run over this one")
    for place in (page.get_by_label("smoothing"), page.get_by_label("horizontal axis"), overlay):
        tab_to(page, place)
    page.keyboard.type("good")
    expect(root.locator(".legend").first).to_contain_text("good: validation")
    tab_to(page, page.get_by_role("tab", name="Samples"))
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Log")).to_be_focused()
    tab_to(page, root.locator(".buttons").get_by_role("button", name="Delete…"), back=True)
    page.keyboard.press("Enter")
    question = page.get_by_role("dialog", name="Delete keys")
    tab_to(page, question.get_by_role("button", name="Delete"))
    page.keyboard.press("Enter")
    expect(item(page, "keys")).to_have_count(0)
    tab_to(page, root.locator(".binned summary"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("restore keys"))
    page.keyboard.press("Enter")
    expect(root.locator("h2")).to_have_attribute("title", "keys")


INKS = {"dark": "#56b4e9", "light": "#0067a8"}


@pytest.mark.parametrize("palette", INKS)
def test_the_panel_is_sound_in_every_part_light_and_dark(page, palette):
    page.evaluate(PALETTE, palette)
    show(page, "good")
    smooth = page.locator(".cocktail-runs .legend .swatch.smooth")
    expect(smooth).to_have_attribute("style", f"--ink: {INKS[palette]};")
    for title in ("Samples", "Noise levels", "Checkpoints", "Settings", "Pairs", "Device", "Log"):
        part(page, title)
        for _ in range(20):  # a part that is still being read is left time
            found = Axe().run(page, ".cocktail-runs")
            if not found.violations_count:
                break
            page.wait_for_timeout(250)
        assert found.violations_count == 0, (title, found.generate_report())
    page.evaluate(PALETTE, "dark")


JAVASCRIPT = "text/javascript"
OLD_APP = """export const app = {
    extensionManager: { registerSidebarTab: tab => (window.tab = tab) },
    registerExtension: extension => extension.setup(),
};"""
OLD_API = """export const api = Object.assign(new EventTarget(), {
    fetchApi: fetch.bind(window), apiURL: path => path, fileURL: path => path,
});"""


def test_a_page_of_before_sidebar_tabs_had_a_store_is_given_the_panel_too(comfy, browser, runs):
    page = browser.new_page()
    for name, text in {"app": OLD_APP, "api": OLD_API}.items():
        page.route(
            f"**/scripts/{name}.js",
            lambda route, request, body=text: route.fulfill(body=body, content_type=JAVASCRIPT),
        )
    page.goto(f"{comfy.url}/extensions/cocktail/openapi.json")
    page.evaluate(
        """async () => {
            await import("/extensions/cocktail/cocktail.js");
            const place = document.body.appendChild(document.createElement("div"));
            await window.tab.render(place);
        }"""
    )
    show(page, "good")
    expect(page.locator(".cocktail-runs .plot canvas")).to_have_count(1)
    page.evaluate("() => window.tab.destroy()")
    expect(page.locator(".cocktail-runs")).to_have_count(0)
    page.close()


FOLLOW = """async updates => {
    const { Curve, MOST } = await import("/extensions/cocktail/runs/curve.mjs");
    let step = 0;
    const routes = { get: async (name, what) => {
        if (what === "metrics") {
            step += 1;
            return { lines: [{ kind: "step", epoch: 1, step, loss: 0.1 + 1 / step }], next: step };
        }
        const x = Array.from({ length: 1000 }, (_, at) => (at * step) / 1000);
        const train = { x, min: [...x], max: [...x], mean: [...x] };
        return { train, next: step, last_step: step };
    } };
    const curve = new Curve(routes, "made");
    await curve.load("step");
    let most = 0;
    for (let update = 0; update < updates; update += 1) {
        await curve.follow();
        for (const values of Object.values(curve.value.train)) most = Math.max(most, values.length);
    }
    return { most, MOST, step, last: curve.value.last_step };
}"""


def test_ten_thousand_steps_are_followed_in_bounded_memory(page):
    found = page.evaluate(FOLLOW, UPDATES)
    assert found["step"] == found["last"] == UPDATES
    assert found["most"] <= found["MOST"] + 1
