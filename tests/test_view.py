"""The viewer of grids and its vote, in a browser on a real server, with pictures made by code."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy
import pytest
import segno
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.view.folder import export_folder
from cocktail.trainer.links import OWN

from .comfy import Comfy, free_port
from .grid.drawn import Drawn, draw_grid
from .grid.test_plan import FIXED
from .pages import PATIENCE_MS, Held, launched

HTML = "<img src=x onerror=alert(1)> of a fox"
MOST_IMAGES = 300
CELL = re.compile(r"/cells/[0-9a-f]+$")


class Levels(Drawn):
    """Pictures of one colour: the brighter the higher the model's number; seed 1 has the same
    picture for models 0 and 1.
    """

    def pictures(self, cells: Any, done: int, total: int) -> list[numpy.ndarray]:
        if self.fails and any(map(self.fails, cells)):
            raise RuntimeError("out of memory")
        return [numpy.full((16, 16, 3), brightness(cell.settings), numpy.uint8) for cell in cells]


def brightness(settings: Any) -> int:
    model = int(settings.checkpoint.split()[-1])
    return 30 * (1 if (model, settings.seed) == (0, 1) else model) + settings.seed


def drawn(
    comfy: Comfy, name: str, models: int, prompts: int, seeds: int, fails: Any = None, **fixed: Any
) -> Store:
    """A grid on the server whose pictures are Levels."""
    lines = "\n".join([HTML, *(f"prompt {number}" for number in range(1, prompts))])
    axes = [
        checkpoint_axis([(f"model {number}", "") for number in range(models)]),
        typed_axis("prompt", lines, {}),
        typed_axis("seed", "\n".join(map(str, range(seeds))), {}),
    ]
    plan = make_plan(name, {**FIXED, **fixed}, axes, lambda kind, name: f"content of {name}")
    store = Store(comfy.base / "output" / "cocktail" / "grids" / name)
    store.save_plan(plan)
    draw_grid(plan, store.folder, Levels(fails))
    return store


@pytest.fixture(scope="module")
def browser(dev) -> Iterator[Browser]:
    with launched(dev) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(PATIENCE_MS)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    yield page
    page.close()
    assert troubles == []


def keys_at(store: Store, *positions: tuple[int, ...]) -> list[str]:
    """The keys of the cells at these positions."""
    cells = json.loads((store.folder / "plan.json").read_text())["cells"]
    at = {tuple(cell["position"]): cell["key"] for cell in cells}
    return [at[position] for position in positions]


def show(page: Page, comfy: Comfy, **state: Any) -> None:
    page.goto(f"{comfy.url}/cocktail/view#{quote(json.dumps(state))}")


def tile(page: Page, words: str) -> Locator:
    return page.get_by_role("button", name=words, exact=False)


def sound(page: Page) -> None:
    """axe-core finds nothing."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_large_grid_is_seen_everywhere_with_few_pictures(comfy: Comfy, page: Page):
    drawn(comfy, "large", models=6, prompts=20, seeds=5)
    show(page, comfy, grid="large", tile=48)
    page.locator(".tile.there img[src]").first.wait_for()
    expect(page.locator(".status")).to_have_text("600 of 600 cells.")
    assert page.evaluate("document.body.querySelectorAll('b, [onerror]').length") == 0
    seen: set[str] = set()
    height = page.evaluate("document.querySelector('.table').scrollHeight")
    for top in range(0, height, 500):
        page.evaluate(
            """async top => {
                const frame = () => new Promise(requestAnimationFrame);
                document.querySelector('.table').scrollTo(0, top);
                for (let frames = 0; frames < 3; frames++) await frame();
            }""",
            top,
        )
        assert page.locator("img").count() <= MOST_IMAGES
        seen |= set(page.locator(".tile").evaluate_all("all => all.map(one => one.title)"))
    assert len(seen) == 600
    assert any(HTML in words for words in seen)


def test_axes_are_moved_values_hidden_and_the_address_keeps_it(comfy: Comfy, page: Page):
    drawn(comfy, "moved", models=3, prompts=2, seeds=2)
    show(page, comfy, grid="moved")
    labels = page.locator(".heads .label")
    expect(labels).to_have_text(["model 0", "model 1", "model 2"])
    chip = page.locator("details[data-axis='2']")
    chip.locator("summary").focus()
    page.keyboard.press("Enter")
    chip.locator("select").select_option("columns")
    expect(labels).to_have_text(["model 0", "model 1", "model 2", *["seed 0", "seed 1"] * 3])
    first = page.locator("details[data-axis='0']")
    first.locator("summary").click()
    first.get_by_label("model 1").uncheck()
    expect(page.locator(".heads .label")).to_have_count(2 + 4)
    page.locator("details[data-axis='1'] summary").drag_to(
        page.locator(".zone > span", has_text="Tabs")
    )
    expect(page.get_by_role("group", name="prompt").get_by_role("button")).to_have_count(2)
    page.reload()
    expect(page.locator(".heads .label")).to_have_count(2 + 4)
    expect(page.get_by_role("group", name="prompt").get_by_role("button")).to_have_count(2)
    sound(page)


def test_pictures_are_compared_with_the_baseline_and_with_each_other(comfy: Comfy, page: Page):
    drawn(comfy, "compared", models=3, prompts=1, seeds=2)
    show(page, comfy, grid="compared")
    tile(page, "model 0, prompt").first.focus()
    page.keyboard.press("b")
    expect(page.locator(".status")).to_have_text("This column is the baseline.")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    words, badge = page.locator(".lens .words"), page.locator(".lens .badge")
    expect(words).to_contain_text("model 1")
    page.keyboard.press("d")
    expect(badge).to_have_text("Pixel-equal.")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.keyboard.press("d")
    expect(badge).to_have_text("100.0 % of the pixels differ, by 30.00 of 255 on average.")
    sound(page)
    page.keyboard.press("Escape")
    for key in ("c", "ArrowRight", "c", "f", "v"):
        page.keyboard.press(key)
    expect(page.locator(".lens .pane")).to_have_count(2)
    expect(words).to_have_text("checkpoint: model 1 | checkpoint: model 2")
    page.keyboard.press("s")
    expect(page.get_by_label("where the slider is")).to_be_visible()
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator(".tile.favourite")).to_have_count(1)


def test_settings_of_a_cell_are_told_and_its_prompt_is_copied(comfy: Comfy, page: Page):
    store = drawn(comfy, "settings", models=2, prompts=2, seeds=1)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    show(page, comfy, grid="settings")
    tile(page, "model 1").first.click()
    page.keyboard.press("m")
    expect(page.locator(".facts dl")).to_contain_text("checkpoint")
    expect(page.locator(".facts dl")).to_contain_text(HTML)
    page.get_by_role("button", name="Copy API prompt").click()
    expect(page.locator(".lens .badge")).to_have_text("The API prompt is on the clipboard.")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    (key,) = keys_at(store, (1, 0, 0))
    assert copied == comfy.get(f"/cocktail/grids/settings/cells/{key}")["prompt"]
    texts = [node["inputs"].get("text") for node in copied.values()]
    assert HTML in texts


WAYS = {
    "ArrowRight": (1, 1, 0), "ArrowDown": (2, 1, 0), "PageDown": (2, 1, 1),
    "ArrowLeft": (2, 0, 1), "ArrowUp": (1, 0, 1), "PageUp": (1, 0, 0),
}  # fmt: skip
"""Where keys lead, one after the other, from model 1 and the first prompt and seed."""


@pytest.mark.parametrize("columns, rows", [([0], [1, 2]), ([1], [2]), ([2], [])])
def test_arrows_in_the_large_view_go_as_on_model_sites_however_axes_stand(
    comfy: Comfy, page: Page, columns: list[int], rows: list[int]
):
    drawn(comfy, "ways", models=3, prompts=2, seeds=2)
    show(page, comfy, grid="ways", columns=columns, rows=rows, tabs=[1, 0, 0])
    start = f"model 1, prompt: {HTML}, seed: seed 0"
    tile(page, start).first.focus()
    page.keyboard.press("Enter")
    words = page.locator(".lens .words")
    expect(page.locator(".lens")).to_be_focused()
    for key, (model, prompt, seed) in WAYS.items():
        page.keyboard.press(key)
        text = f"checkpoint: model {model}, prompt: {('prompt 1' if prompt else HTML)}"
        expect(words).to_have_text(f"{text}, seed: seed {seed}")
    page.get_by_role("button", name="Next: prompt").press("Enter")
    page.get_by_role("button", name="Next: checkpoint").press("Enter")
    expect(page.get_by_role("button", name="Next: checkpoint")).to_be_focused()
    page.keyboard.press("Escape")
    expect(tile(page, "model 2, prompt: prompt 1, seed: seed 0")).to_be_focused()


def test_settings_that_come_late_take_neither_the_keys_nor_the_place_of_newer_ones(comfy, page):
    drawn(comfy, "hasty", models=3, prompts=1, seeds=1)
    show(page, comfy, grid="hasty")
    tile(page, "model 0").click()
    page.keyboard.press("m")
    facts = page.locator(".facts")
    expect(facts).to_contain_text("model 0")
    late = Held(page, CELL)
    page.get_by_role("button", name="Copy API prompt").focus()
    page.keyboard.press("ArrowRight")
    late.wait()
    page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text("model 2")
    expect(page.locator(".lens")).to_be_focused()
    late.let_go()
    expect(facts).to_contain_text("model 2")
    page.route(CELL, lambda route: route.abort(), times=1)
    page.keyboard.press("ArrowLeft")
    expect(facts).to_have_text("ComfyUI does not answer. Is it still running?")
    page.keyboard.press("ArrowLeft")
    expect(facts).to_contain_text("model 0")


def test_cells_appear_while_they_are_rendered(comfy: Comfy, page: Page):
    store = drawn(comfy, "filling", models=2, prompts=1, seeds=1)
    (one, *_) = store.files().values()
    hidden = store.folder / one
    data = hidden.read_bytes()
    hidden.unlink()
    show(page, comfy, grid="filling")
    expect(page.locator(".tile.missing")).to_have_count(1)
    hidden.write_bytes(data)
    expect(page.locator(".tile.there")).to_have_count(2)


def vote_for_the_brighter(page: Page, votes: int) -> None:
    """Vote by keyboard until there are no more questions, at most so often."""
    for _ in range(votes):
        page.wait_for_function(
            "document.querySelector('.choice img')?.complete || document.querySelector('.ranking')"
        )
        if page.locator(".ranking").count():
            return
        asked = page.locator(".choice img").evaluate_all(
            """all => Promise.all(all.map(async (image) => {
                await image.decode();
                const canvas = new OffscreenCanvas(1, 1), context = canvas.getContext("2d");
                context.drawImage(image, 0, 0, 1, 1);
                return context.getImageData(0, 0, 1, 1).data[0];
            }))"""
        )
        before = page.locator(".vote .status").inner_text()
        page.keyboard.press("ArrowLeft" if asked[0] > asked[1] else "ArrowRight")
        page.wait_for_function(
            "text => document.querySelector('.vote .status').innerText !== text", arg=before
        )


def test_a_vote_by_keyboard_finds_the_best_through_reload_and_undo(comfy: Comfy, page: Page):
    store = drawn(comfy, "tournament", models=4, prompts=4, seeds=3)
    show(page, comfy, grid="tournament", vote=True)
    expect(page.locator(".vote .status")).to_have_text("0 votes, 0 of them yours.")
    sound(page)
    assert "model" not in page.locator("body").inner_text()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".vote .status")).to_have_text("1 vote, 1 of them yours.")
    page.keyboard.press("Backspace")
    expect(page.locator(".vote .status")).to_have_text("0 votes, 0 of them yours.")
    vote_for_the_brighter(page, 3)
    page.reload()
    expect(page.locator(".vote .status")).to_have_text("3 votes, 3 of them yours.")
    vote_for_the_brighter(page, 60)
    ranking = page.locator(".ranking tbody tr")
    expect(ranking.first.locator("th")).to_have_text("model 3")
    expect(page.locator(".vote .status")).to_contain_text("model 3 is the best")
    sound(page)
    lines = [json.loads(line) for line in (store.folder / "votes.jsonl").read_text().splitlines()]
    assert (
        len(lines) >= 5
        and comfy.get("/cocktail/grids/tournament/votes/ranking")["leader"] == "model 3"
    )


def test_a_vote_on_a_phone_by_touch(comfy: Comfy, browser: Browser):
    drawn(comfy, "touched", models=4, prompts=2, seeds=2)
    context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    show(page, comfy, grid="touched", vote=True, count=4)
    expect(page.locator(".choice")).to_have_count(4)
    for at in (2, 0, 1):
        page.locator(".choice").nth(at).tap()
    expect(page.locator(".vote .status")).to_have_text("1 vote, 1 of them yours.")
    page.get_by_role("button", name="All bad").tap()
    expect(page.locator(".vote .status")).to_have_text("2 votes, 2 of them yours.")
    sound_everywhere(page)
    context.close()


@pytest.fixture
def network(comfy: Comfy) -> Iterator[Path]:
    """The owner's settings file, which is as before afterwards."""
    file = comfy.base / "user" / "cocktail" / "network.json"
    before = file.read_bytes() if file.is_file() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    yield file
    file.unlink() if before is None else file.write_bytes(before)


def scanned(page: Page, network: Path) -> str:
    """The link that the vote's page opens to phones, which the owner allows; its QR code says the
    same.
    """
    known = json.loads(network.read_bytes()) if network.is_file() else {}
    allowed = {**known, "phone_port": free_port(), "phone_address": "127.0.0.1"}
    network.write_text(json.dumps(allowed), encoding="utf-8")
    page.get_by_role("button", name="Vote on a phone").click()
    expect(page.locator("dialog a")).to_contain_text("/#")
    link = page.locator("dialog a").inner_text()
    code = segno.make(link, error="m", micro=False)
    uri = code.svg_data_uri(scale=6, border=4, dark="#000", light="#fff")
    expect(page.get_by_role("img", name="QR code")).to_have_attribute("src", uri)
    return link


def test_whoever_scans_the_code_votes_by_thumb_until_there_are_enough(
    comfy: Comfy, browser: Browser, page: Page, network: Path
):
    store = drawn(comfy, "thumbs", models=4, prompts=1, seeds=6)
    page.goto(f"{comfy.url}/cocktail/view#vote=thumbs&votes=4")
    expect(page.locator(".place")).to_contain_text(HTML)
    link = scanned(page, network)
    sound_everywhere(page)
    context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True)
    phone = context.new_page()
    phone.set_default_timeout(PATIENCE_MS)
    troubles: list[str] = []
    phone.on("pageerror", lambda error: troubles.append(str(error)))
    phone.on("dialog", lambda dialog: troubles.append(dialog.message))
    phone.goto(link)
    status, choices = phone.locator("#status"), phone.locator(".choice")
    expect(status).to_have_text("0 votes of yours.")
    expect(choices).to_have_count(2)
    phone.get_by_label("Your name").fill(HTML)
    phone.get_by_label("Your name").blur()
    ready = phone.locator('#pictures[aria-busy="false"]')
    ready.wait_for()
    choices.first.tap()
    expect(status).to_have_text("1 vote of yours.")
    sound(phone)
    phone.get_by_role("button", name="Undo").tap()
    expect(status).to_have_text("0 votes of yours.")

    late = Held(phone, re.compile(r"/question\?.*count=4"))
    phone.get_by_label("how many pictures").select_option("4")
    late.wait()
    phone.get_by_label("how many pictures").select_option("2")
    ready.wait_for()
    phone.get_by_role("button", name="Equal", exact=True).tap()
    expect(status).to_have_text("1 vote of yours.")
    late.let_go()
    expect(choices).to_have_count(2)
    phone.get_by_label("how many pictures").select_option("4")
    expect(choices).to_have_count(4)
    for at in (2, 0, 1):
        choices.nth(at).tap()
    expect(status).to_have_text("2 votes of yours.")
    expect(choices).to_have_count(4)
    phone.emulate_media(color_scheme="dark")
    sound(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.get_by_role("button", name="All bad").tap()
    expect(status).to_have_text("3 votes of yours.")
    assert not re.search("fox|model", phone.content()), "the vote is blind"

    page.reload()
    expect(page.locator(".vote .status")).to_have_text("3 votes, 0 of them yours.")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".vote .status")).to_contain_text("as many as were wanted")
    expect(page.locator(".vote")).to_contain_text("judged by two people")
    sound(page)
    phone.get_by_role("button", name="All bad").tap()
    expect(status).to_contain_text("the vote is over")
    assert troubles == []
    context.close()
    cast = [json.loads(line) for line in (store.folder / "votes.jsonl").read_text().splitlines()]
    assert [one["judge"] for one in cast if one["kind"] == "vote"].count(f"{HTML} (phone)") == 4


def test_a_grid_that_is_not_there_is_told_and_all_are_listed(comfy: Comfy, page: Page):
    drawn(comfy, "listed", models=2, prompts=1, seeds=1)
    show(page, comfy, grid="no such grid")
    expect(page.get_by_role("alert")).to_contain_text("no such grid")
    page.get_by_text("All grids").click()
    page.get_by_role("link", name="listed", exact=True).click()
    expect(page.locator(".tile.there")).to_have_count(2)


def test_pictures_are_those_of_the_grid_and_small_ones_are_kept_elsewhere(
    comfy: Comfy, tmp_path: Path
):
    store = drawn(comfy, "pictures", models=2, prompts=1, seeds=1)
    key, file = next(iter(store.files().items()))
    picture = tmp_path / "picture"

    def asked(path: str) -> Image.Image:
        picture.write_bytes(comfy.raw(f"/cocktail/grids/pictures/pictures/{path}"))
        return Image.open(picture)

    assert asked(key).format == "PNG"
    small = asked(f"{key}?side=128")
    assert (small.format, small.size) == ("WEBP", (16, 16))
    assert list((comfy.base / "temp" / "cocktail" / "thumbnails" / "128").iterdir())
    assert not list(store.folder.rglob("*.webp"))
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (store.folder / file).unlink()
    (store.folder / file).symlink_to(secret)
    for path in (key, f"{key}?side=128", "a" * 64, "..%2f..%2fplan"):
        assert "no picture" in comfy.failed(f"/cocktail/grids/pictures/pictures/{path}")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_cells_behind_a_link_are_shown_if_it_is_the_owners(
    comfy: Comfy, page: Page, tmp_path, monkeypatch
):
    key = comfy.base / "user" / "cocktail" / "installation.key"
    monkeypatch.setenv("COCKTAIL_KEY_FILE", str(key))  # the grid is begun as this ComfyUI does
    store = drawn(comfy, "linked", models=2, prompts=1, seeds=1)
    cells = store.folder / "cells"
    cells.rename(tmp_path / "other disk")
    cells.symlink_to(tmp_path / "other disk", target_is_directory=True)
    show(page, comfy, grid="linked")
    seen = "() => [...document.querySelectorAll('.tile.there img')].map(one => one.naturalWidth)"
    page.wait_for_function(f"() => ({seen})().join() === '16,16'")
    exported = export_folder(store, tmp_path / "out", tmp_path / "small")
    assert len([*exported.glob("pictures/*/*")]) == 2
    # As if it had come like this from elsewhere.
    (store.folder.parent / OWN / "linked.txt").unlink()
    other = page.context.browser.new_page()
    show(other, comfy, grid="linked")
    word = other.locator(".tile .word").first
    expect(word).to_have_text("cannot be read")
    other.locator(".tile").first.focus()
    other.keyboard.press("f")
    expect(other.locator(".tile.favourite")).to_have_count(1)
    expect(word).to_have_text("cannot be read")
    other.close()
    key = next(iter(store.files()))
    assert "behind a link" in comfy.failed(f"/cocktail/grids/linked/pictures/{key}")


def test_a_vote_that_the_server_does_not_take_leaves_nothing_chosen(comfy: Comfy, page: Page):
    store = drawn(comfy, "lost", models=3, prompts=2, seeds=2)
    show(page, comfy, grid="lost", vote=True)
    status = page.locator(".vote .status")
    expect(status).to_have_text("0 votes, 0 of them yours.")
    page.route("**/votes", lambda route: route.abort())
    page.keyboard.press("ArrowLeft")
    expect(status).to_contain_text("does not answer")
    page.unroute("**/votes")
    page.keyboard.press("ArrowRight")
    expect(status).to_have_text("1 vote, 1 of them yours.")
    (line,) = (store.folder / "votes.jsonl").read_text().splitlines()
    vote = json.loads(line)
    assert vote["order"] == vote["shown"][1:]


def test_any_axis_is_voted_on_and_waiting_for_pictures_names_nobody(comfy: Comfy, page: Page):
    drawn(comfy, "axes", models=2, prompts=2, seeds=2)
    page.goto(f"{comfy.url}/cocktail/view#vote=axes&axis=seed")
    expect(page.get_by_label("what is voted on")).to_have_value("seed")
    expect(page.locator(".place")).to_contain_text("checkpoint: model")
    for votes in range(1, 5):
        page.keyboard.press("ArrowDown")
        s = "s" * (votes != 2)
        expect(page.locator(".vote .status")).not_to_have_text(
            f"{votes - 1} vote{s}, {votes - 1} of them yours."
        )
    expect(page.locator(".vote .status")).to_have_text("You have compared all finished pictures.")
    assert page.locator(".ranking").count() == 0
    page.get_by_role("button", name="Show the ranking").click()
    expect(page.locator(".ranking tbody tr")).to_have_count(2)


def test_cells_are_chosen_and_the_baseline_is_set_without_a_keyboard(comfy: Comfy, page: Page):
    drawn(comfy, "clicked", models=3, prompts=1, seeds=1)
    show(page, comfy, grid="clicked")
    page.locator(".tile").first.click()
    page.get_by_role("button", name="Baseline").click()
    for _ in range(3):
        page.get_by_role("button", name="Choose").click()
        page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".label.base")).to_have_text("model 0")
    page.get_by_role("button", name="Compare (3)").click()
    expect(page.locator(".lens .pane")).to_have_count(3)
    expect(page.get_by_role("button", name="Difference")).to_have_count(0)
    page.keyboard.press("d")
    expect(page.locator(".lens .pane")).to_have_count(3)


def test_of_two_axes_chosen_in_haste_the_last_one_is_voted_on(comfy: Comfy, page: Page):
    drawn(comfy, "haste", models=2, prompts=2, seeds=2)
    show(page, comfy, grid="haste", vote=True)
    axis, place = page.get_by_label("what is voted on"), page.locator(".place")
    expect(place).to_contain_text("prompt: ")
    late = Held(page, re.compile(r"/votes/question\?.*axis=prompt"))
    axis.select_option("prompt")
    late.wait()
    axis.select_option("seed")
    expect(place).to_contain_text("checkpoint: model")
    status = page.locator(".vote .status")
    page.keyboard.press("ArrowLeft")
    expect(status).to_have_text("1 vote, 1 of them yours.")
    late.let_go()
    expect(status).to_have_text("1 vote, 1 of them yours.")
    expect(axis).to_have_value("seed")
    expect(place).to_contain_text("checkpoint: model")


def test_a_large_view_that_is_opened_while_the_last_one_closes_stays_open(comfy: Comfy, page: Page):
    drawn(comfy, "again", models=2, prompts=1, seeds=1)
    show(page, comfy, grid="again")
    tile(page, "model 0").click()
    page.evaluate(
        """() => {
            document.querySelector(".lens").close();
            document.querySelectorAll(".tile")[1].click();
        }"""
    )
    expect(page.locator(".lens .words")).to_contain_text("model 1")
    expect(page.locator(".lens .pane img")).to_have_count(1)


def exported(comfy: Comfy, page: Page) -> Path:
    """The folder that the page's button has exported its grid to."""
    page.get_by_role("button", name="Export").click()
    words = page.get_by_text("open its index.html")
    expect(words).to_have_text(re.compile(r"The folder is output/cocktail/exports/"))
    found = re.search(r"output/(\S+);", words.inner_text())
    return comfy.base / "output" / found[1]


def test_an_exported_folder_works_from_its_file_without_a_network(
    comfy: Comfy, page: Page, browser: Browser
):
    store = drawn(comfy, "exported", models=3, prompts=2, seeds=2)
    show(page, comfy, grid="exported")
    expect(page.locator(".tile.there")).to_have_count(12)
    folder = exported(comfy, page)
    assert len(list(folder.glob("pictures/*/*.png"))) == len(store.files())
    page.reload()
    again = exported(comfy, page)
    assert (folder.name, again.name) == ("exported", "exported-2")
    assert {path.name for path in folder.parent.iterdir()} >= {"exported", "exported-2"}
    assert not list(folder.parent.glob(".exported*"))
    shutil.rmtree(store.folder)
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.set_offline(True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    # axe-core asks for the style sheet in a way that no page from a file may.
    page.on("requestfailed", lambda r: r.resource_type == "xhr" or troubles.append(r.url))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.goto((folder / "index.html").as_uri())
    expect(page.locator(".tile.there")).to_have_count(12)
    expect(page.locator(".sides .label").first).to_have_text(HTML)
    page.wait_for_function(
        "[...document.querySelectorAll('.tile img')].every(image => image.naturalWidth === 16)"
    )
    for name in ("Vote", "Export"):
        expect(page.get_by_text(name, exact=True)).to_have_count(0)
    sound(page)
    page.locator("details[data-axis='2'] summary").focus()
    page.keyboard.press("Enter")
    page.get_by_label("where seed is").select_option("columns")
    expect(page.locator(".heads .label")).to_have_count(3 + 6)
    page.get_by_label("where seed is").select_option("rows")
    tile(page, "model 0, prompt").first.focus()
    for key in ("f", "b", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".lens .words")).to_contain_text("model 1")
    page.keyboard.press("d")
    expect(page.locator(".lens .pane.difference img")).to_have_count(2)
    expect(page.locator(".lens .badge")).to_have_text("The pixels differ.")
    sound(page)
    page.keyboard.press("s")
    expect(page.get_by_label("where the slider is")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("d")
    expect(page.locator(".lens .badge")).to_have_text("Pixel-equal.")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.keyboard.press("m")
    expect(page.locator(".facts dl")).to_contain_text(HTML)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save API prompt").click()
    prompt = json.loads(Path(saved.value.path()).read_text())
    assert {node["class_type"] for node in prompt.values()} >= {"KSampler", "SaveImage"}
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator(".tile.favourite")).to_have_count(1)
    page.get_by_label("rows that are shown").select_option("different")
    expect(page.locator(".status")).to_contain_text("4 rows are shown.")
    assert troubles == []
    context.close()


def test_only_rows_whose_pictures_differ_are_shown(comfy: Comfy, page: Page):
    store = drawn(comfy, "differing", models=2, prompts=2, seeds=2)
    show(page, comfy, grid="differing", rows=[1, 2], columns=[0])
    expect(page.locator(".tile.there")).to_have_count(8)
    page.get_by_label("rows that are shown").select_option("different")
    status = page.locator(".status")
    expect(status).to_have_text("8 of 8 cells. 2 rows are shown.")
    expect(page.locator(".sides .label", has_text="seed 1")).to_have_count(0)
    # A picture that was changed since it was written is read again.
    plan = json.loads((store.folder / "plan.json").read_text())
    (cell,) = (cell for cell in plan["cells"] if cell["position"] == [1, 1, 1])
    Image.new("RGB", (16, 16), "red").save(store.cell_path(cell["key"]))
    page.reload()
    expect(status).to_have_text("8 of 8 cells. 3 rows are shown.")


def test_a_cell_is_rendered_again_beside_itself_and_its_graph_is_opened(comfy: Comfy, page: Page):
    workflow = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 255},
        },
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "never"},
        },
    }
    axes = [{"target": "EmptyImage.color", "values": "255, 65280"}]
    comfy.post("/cocktail/grids", {"plan": {"name": "anew", "workflow": workflow, "axes": axes}})
    show(page, comfy, grid="anew")
    expect(page.locator(".tile.there")).to_have_count(2)
    # Seeds keep all their digits on the way to the queue.
    seeds = '{"seed":[18446744073709551615,7,1.5]}'
    again = "text => import('/cocktail/web/view/exact.mjs').then(m => m.write(m.parse(text)))"
    assert page.evaluate(again, seeds) == seeds
    page.locator(".tile").first.click()
    page.keyboard.press("m")
    page.get_by_text("Render again with ...").click()
    page.get_by_label("width").fill("many")
    page.get_by_role("button", name="Queue it").click()
    expect(page.get_by_text("width must be a whole number.")).to_be_visible()
    page.get_by_label("width").fill("32")
    page.get_by_text("All other inputs").click()
    page.get_by_role("textbox", name="color").fill("16711680")
    sound(page)
    page.get_by_role("button", name="Queue it").click()
    expect(page.locator(".lens .pane")).to_have_count(2)
    expect(page.locator(".lens .caption").last).to_have_text("again, width: 32, color: 16711680")
    expect(page.locator(".lens .badge")).to_have_text("Different sizes: 16 x 16 and 32 x 16.")
    assert not list((comfy.base / "output").glob("never*"))
    page.get_by_role("button", name="Back to the cell").click()
    expect(page.get_by_text("Done.")).to_be_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open in ComfyUI").click()
    opened.value.wait_for_function(
        "window.app?.graph?.nodes?.some(node => node.type === 'EmptyImage')", timeout=PATIENCE_MS
    )
    opened.value.close()


def scrolled(page: Page) -> list[float]:
    return page.locator(".table").evaluate("one => [one.scrollLeft, one.scrollTop]")


def under(page: Page, x: int, y: int) -> str:
    """The cell at a place of the screen."""
    return page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('.tile').title", [x, y]
    )


def test_the_table_is_dragged_and_zoomed_under_heads_that_stay(comfy: Comfy, page: Page):
    drawn(comfy, "canvas", models=8, prompts=6, seeds=2)
    # As a chart of losses links to an epoch.
    show(page, comfy, grid="canvas", columns=[0], rows=[1, 2], base=[[0, 7]], tile=200)
    expect(page.locator(".label.base")).to_have_text("model 7")
    expect(page.locator(".label.base")).to_be_in_viewport(ratio=1)
    before = scrolled(page)
    assert before[0] > 0 and before[1] == 0
    page.mouse.move(600, 600)
    page.mouse.down()
    page.mouse.move(700, 300, steps=4)
    page.mouse.up()
    assert scrolled(page) == [before[0] - 100, 300]
    expect(page.locator(".lens")).to_be_hidden()
    table = page.locator(".table").bounding_box()
    heads, sides = (page.locator(f"{name} .label") for name in (".heads", ".sides"))
    assert {box["y"] for one in heads.all() if (box := one.bounding_box())} == {table["y"]}
    assert min(one.bounding_box()["x"] for one in sides.all()) == table["x"]
    side = page.evaluate("document.querySelector('.corner').offsetWidth")
    assert page.evaluate(
        "([x, y]) => Boolean(document.elementFromPoint(x, y).closest('.sides'))",
        [table["x"] + side / 4, 600],
    )
    width, seen = page.locator(".tile").first.bounding_box()["width"], under(page, 700, 500)
    page.keyboard.down("Control")
    page.mouse.move(700, 500)
    page.mouse.wheel(0, -150)
    page.keyboard.up("Control")
    expect(page.get_by_label("size of the pictures")).not_to_have_value("200")
    page.wait_for_function("width => document.querySelector('.tile').offsetWidth > width", arg=300)
    assert width == 200 and under(page, 700, 500) == seen
    page.mouse.click(700, 500)
    expect(page.locator(".lens .words")).to_have_text(seen)
    page.keyboard.press("Escape")
    large = page.locator(".tile").first.bounding_box()["width"]
    page.keyboard.press("-")
    page.wait_for_function(
        'tile => RegExp(`"tile":${tile}[,}]`).test(decodeURIComponent(location.hash))',
        arg=large - 32,
    )
    page.reload()
    expect(page.locator(".label.base")).to_have_count(1)
    assert page.locator(".tile").first.bounding_box()["width"] == large - 32 < 310


def dragged(page: Page, axis: int, to: Locator) -> None:
    page.locator(f"details[data-axis='{axis}'] summary").drag_to(to)


def test_axes_are_dragged_before_each_other_and_between_rows_and_columns(comfy, page):
    drawn(comfy, "dragged", models=2, prompts=2, seeds=2)
    show(page, comfy, grid="dragged")
    chips = [page.locator(f"details[data-axis='{axis}'] summary") for axis in range(3)]
    heads, sides = page.locator(".heads .label"), page.locator(".sides .label")
    zones = {name: page.locator(".zone > span", has_text=name) for name in ("Columns", "Rows")}
    seeds, models = ["seed 0", "seed 1"], ["model 0", "model 1"]
    expect(sides).to_have_text([HTML, "prompt 1", *seeds, *seeds])
    dragged(page, 2, chips[1])
    expect(sides).to_have_text([*seeds, HTML, "prompt 1", HTML, "prompt 1"])
    dragged(page, 2, chips[0])
    expect(heads).to_have_text([*seeds, *models, *models])
    expect(sides).to_have_text([HTML, "prompt 1"])
    dragged(page, 0, zones["Rows"])
    expect(heads).to_have_text(seeds)
    expect(sides).to_have_text([HTML, "prompt 1", *models, *models])
    dragged(page, 1, zones["Columns"])
    expect(heads).to_have_text([*seeds, HTML, "prompt 1", HTML, "prompt 1"])
    chips[1].press("Enter")
    page.locator("details[data-axis='1']").get_by_role("button", name="Further out").press("Enter")
    expect(heads).to_have_text([HTML, "prompt 1", *seeds, *seeds])
    expect(sides).to_have_text(models)


def test_rows_are_left_out_by_gaps_favourites_and_rejects(comfy: Comfy, page: Page):
    def fails(cell: Any) -> bool:
        return brightness(cell.settings) == 30 and cell.settings.prompt == "prompt 1"

    store = drawn(comfy, "filtered", models=2, prompts=4, seeds=1, fails=fails)
    (key,) = keys_at(store, (0, 2, 0))
    store.cell_path(key).unlink()
    show(page, comfy, grid="filtered", rows=[1])
    sides, filters = page.locator(".sides .label"), page.get_by_label("rows that are shown")
    expect(page.locator(".status")).to_have_text("6 of 8 cells, 1 failed.")
    tile(page, "model 1, prompt: prompt 1").click()
    expect(page.locator(".status")).to_have_text("This cell failed: out of memory")
    filters.select_option("Rows with missing or failed cells")
    expect(sides).to_have_text(["prompt 1", "prompt 2"])
    page.reload()
    expect(sides).to_have_text(["prompt 1", "prompt 2"])
    filters.select_option("All rows")
    for words in (
        "model 0, prompt: prompt 3",
        "model 1, prompt: prompt 3",
        f"model 0, prompt: {HTML}",
    ):
        tile(page, words).press("x")
        expect(tile(page, words)).to_have_class(re.compile("reject"))
    tile(page, "model 1, prompt: <").press("f")
    filters.select_option("Rows that are not all rejected")
    expect(sides).to_have_text([HTML, "prompt 1", "prompt 2"])
    filters.select_option("Rows with favourites")
    expect(sides).to_have_text([HTML])
    expect(page.locator(".status")).to_have_text("6 of 8 cells, 1 failed. 1 rows are shown.")
    # The large view steps over what is not shown.
    tile(page, "model 1").press("Enter")
    page.get_by_role("button", name="Favourite", exact=True).press("Enter")
    reject = page.get_by_role("button", name="Reject", exact=True)
    reject.press("Enter")
    expect(reject).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".lens .words")).to_contain_text(HTML)
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator(".tile.reject")).to_have_count(0)
    expect(page.locator(".status")).to_have_text("6 of 8 cells, 1 failed. 0 rows are shown.")


VIEWS = "[...document.querySelectorAll('.lens .pane img')].map(one => one.style.transform)"
SHOWN = "[...document.querySelectorAll('.lens .pane img')].map(one => one.style.opacity)"


def colour(page: Page) -> int:
    """How bright the middle of the first picture of the large view is on the screen."""
    box = page.locator(".lens .pane").first.bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    return Image.open(
        io.BytesIO(page.screenshot(clip={**place, "width": 1, "height": 1}))
    ).getpixel((0, 0))[0]


def test_four_pictures_zoom_together_and_are_shown_in_turn(comfy: Comfy, page: Page):
    drawn(comfy, "zoomed", models=5, prompts=1, seeds=1)
    show(page, comfy, grid="zoomed")
    tile(page, "model 0").focus()
    for key in ("c", "ArrowRight") * 5:
        page.keyboard.press(key)
    page.keyboard.press("v")
    # The first of five is chosen no more.
    captions = [f"checkpoint: model {number}" for number in range(1, 5)]
    expect(page.locator(".lens .pane .caption")).to_have_text(captions)
    sound(page)

    def views(text: str) -> None:
        found = set(page.evaluate(VIEWS))
        assert len(found) == 1 and re.fullmatch(text, found.pop())

    views(r"translate\(0px, 0px\) scale\(1\)")
    page.keyboard.press("z")
    views(r".* scale\(4\)")
    page.keyboard.press("+")
    views(r".* scale\(6\)")
    place = page.evaluate(VIEWS)[0]
    left, top = map(float, re.findall(r"(-?[0-9.]+)px", place))
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    views(rf"translate\({left - 60:g}px, {top + 60:g}px\) scale\(6\)")
    page.mouse.move(300, 300)
    page.mouse.down()
    page.mouse.move(310, 280)
    page.mouse.up()
    views(rf"translate\({left - 50:g}px, {top + 40:g}px\) scale\(6\)")
    page.get_by_role("button", name="Zoom out").press("Enter")
    views(r".* scale\(4\)")
    page.keyboard.press("z")
    views(r"translate\(0px, 0px\) scale\(1\)")
    page.keyboard.press("k")
    for shown in (2, 3, 0):
        page.wait_for_function(f"shown => {SHOWN}.join() === shown", arg=one_of_four(shown))
    page.keyboard.press("g")
    expect(page.locator(".lens .pane")).to_have_count(4)
    assert page.evaluate(SHOWN) == ["1"] * 4


def one_of_four(shown: int) -> str:
    return ",".join("1" if at == shown else "0" for at in range(4))


def test_a_difference_has_a_gain_and_space_changes_to_the_baseline_and_back(comfy, page):
    drawn(comfy, "gained", models=3, prompts=1, seeds=2)
    show(page, comfy, grid="gained")
    tile(page, "model 1, prompt").first.press("b")
    tile(page, "model 2, prompt").last.press("Enter")
    for shown in ("The baseline.", ""):
        assert page.locator(".lens .pane img").evaluate("one => one.decode()") is None
        before = colour(page)
        page.keyboard.press("Space")
        expect(page.locator(".lens .badge")).to_have_text(shown)
        page.locator(".lens .pane img").evaluate("one => one.decode()")
        assert abs(colour(page) - before) == 30
    page.keyboard.press("d")
    expect(page.locator(".lens .badge")).to_contain_text("by 30.00 of 255")
    gain = page.get_by_label("gain of the difference")
    for value in (1, 4):
        gain.fill(str(value))
        assert abs(colour(page) - 30 * value) <= value


REPLANNED_MS = 15_000
"""Longer than the page waits at most before it looks at a small grid again."""


def test_a_grid_that_is_renamed_planned_anew_or_deleted_while_it_is_open(comfy: Comfy, page: Page):
    page.clock.install()
    store = drawn(comfy, "watched", models=3, prompts=2, seeds=1)
    show(page, comfy, grid="watched", rows=[1])
    status, tiles = page.locator(".status"), page.locator(".tile")
    expect(status).to_have_text("6 of 6 cells.")
    tile(page, "model 0").first.press("b")
    for words in ("model 0", "model 1"):
        tile(page, f"{words}, prompt: prompt 1").press("c")
    compare = page.get_by_role("button", name="Compare")
    expect(compare).to_have_text("Compare (2)")
    other = store.folder.with_name("watched-elsewhere")
    store.folder.rename(other)
    page.clock.fast_forward(REPLANNED_MS)
    expect(status).to_have_text("There is no grid named watched.")
    expect(tiles).to_have_count(6)
    other.rename(store.folder)
    page.clock.fast_forward(REPLANNED_MS)
    expect(status).to_have_text("6 of 6 cells.")
    # Other cells on the same axes: what was chosen is not there any more, the baseline is.
    drawn(comfy, "watched", models=3, prompts=2, seeds=1, steps=9)
    page.clock.fast_forward(REPLANNED_MS)
    expect(compare).to_have_text("Compare")
    expect(page.locator(".label.base")).to_have_text("model 0")
    expect(page.locator(".tile.chosen")).to_have_count(0)
    # Other axes.
    drawn(comfy, "watched", models=2, prompts=1, seeds=2)
    page.clock.fast_forward(REPLANNED_MS)
    expect(page.locator(".heads .label")).to_have_text(["model 0", "model 1"])
    expect(page.locator(".sides .label")).to_have_text([HTML, "seed 0", "seed 1"])
    expect(page.locator(".label.base")).to_have_count(0)
    tile(page, "model 1, prompt").first.press("Enter")
    shutil.rmtree(store.folder)
    page.keyboard.press("m")
    expect(page.locator(".facts")).to_have_text("There is no grid named watched.")
    page.keyboard.press("Escape")
    page.reload()
    expect(page.get_by_role("alert")).to_have_text("There is no grid named watched.")


def votes_in(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.folder / "votes.jsonl").read_text().splitlines()]


def counted(page: Page, votes: int) -> None:
    told = f"{votes} vote{'s' * (votes != 1)}, {votes} of them yours."
    expect(page.locator(".vote .status")).to_have_text(told)


def test_of_two_tabs_with_the_same_question_one_is_answered(comfy: Comfy, page: Page):
    store = drawn(comfy, "tabs", models=3, prompts=2, seeds=2)
    show(page, comfy, grid="tabs", vote=True)
    counted(page, 0)
    other = page.context.browser.new_page()
    show(other, comfy, grid="tabs", vote=True)
    counted(other, 0)
    page.keyboard.press("a")
    counted(page, 1)
    with other.expect_response("**/votes") as refused:
        other.keyboard.press("b")
    assert refused.value.status == 409
    counted(other, 1)
    other.keyboard.press("b")
    counted(other, 2)
    first, second = votes_in(store)
    assert first["order"] == first["shown"][:1] and second["order"] == second["shown"][1:]
    other.close()


def test_pairs_are_voted_on_with_one_hand_and_four_by_letters(comfy: Comfy, page: Page):
    store = drawn(comfy, "letters", models=5, prompts=3, seeds=3)
    show(page, comfy, grid="letters", vote=True)
    for votes, key in enumerate("abex"):
        counted(page, votes)
        page.keyboard.press(key)
    counted(page, 4)
    one, other, equal, bad = votes_in(store)
    assert (one["order"], other["order"]) == (one["shown"][:1], other["shown"][1:])
    assert (equal["order"], bad["order"], bad["bad"]) == ([], [], True)
    assert not equal["bad"]
    page.get_by_label("how many pictures at a time").select_option("Four at once")
    page.get_by_label("how many pictures at a time").blur()
    ranks = page.locator(".choice[data-rank]")
    expect(page.locator(".choice")).to_have_count(4)
    page.keyboard.press("c")
    expect(ranks).to_have_count(1)
    page.keyboard.press("Backspace")
    expect(ranks).to_have_count(0)
    for votes, keys in enumerate((("b", "d", "Enter"), ("c", "a", "d"), ("x",)), start=5):
        for key in keys:
            page.keyboard.press(key)
        counted(page, votes)
    part, whole, bad = votes_in(store)[4:]
    assert part["order"] == [part["shown"][at] for at in (1, 3)]
    assert whole["order"] == [whole["shown"][at] for at in (2, 0, 3)]
    assert bad["bad"] and bad["order"] == []


def test_a_whole_tournament_on_a_phone_by_touch(comfy: Comfy, browser: Browser):
    store = drawn(comfy, "thumb", models=4, prompts=4, seeds=3)
    of = {
        cell["key"]: cell["settings"]["checkpoint"]
        for cell in json.loads((store.folder / "plan.json").read_text())["cells"]
    }
    context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    show(page, comfy, grid="thumb", vote=True)
    status = page.locator(".vote .status")
    for votes in range(60):
        expect(status).to_have_text(re.compile(f"^{votes} votes?,|is the best"))
        page.wait_for_function("document.querySelector('.choice img, .ranking')")
        if page.locator(".ranking").count():
            break
        choices = page.locator(".choice img")
        keys = [one.get_attribute("src").rpartition("/")[2] for one in choices.all()]
        choices.nth(max(range(2), key=lambda at: of[keys[at]])).tap()
    expect(status).to_have_text(re.compile("^model 3 is the best"))
    expect(page.locator(".ranking tbody th").first).to_have_text("model 3")
    sound_everywhere(page)
    context.close()


def pinched(page: Page, x: int, y: int, before: int, after: int) -> None:
    """Two fingers around a place that move apart."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, far: int) -> None:
        points = [{"x": x + side * far, "y": y, "id": at} for at, side in enumerate((-1, 1))]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", before)
    for far in range(before, after + 1, 10):
        touch("touchMove", far)
        page.evaluate("() => new Promise(requestAnimationFrame)")
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def sound_everywhere(page: Page) -> None:
    """axe-core finds nothing, on a desktop and on a phone, light and dark, and nothing is too
    wide.
    """
    for width, height in ((1200, 800), (390, 780)):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            sound(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def outlined(page: Page, keys: int) -> None:
    """Whatever the tabulator reaches is seen to have the focus."""
    for _ in range(keys):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const one = document.activeElement;
                const style = getComputedStyle(one);
                return one === document.body || style.outlineStyle !== "none" || one.outerHTML;
            }"""
        )
        assert found is True


def test_pages_are_sound_on_every_screen_and_the_focus_is_seen(comfy: Comfy, browser: Browser):
    drawn(comfy, "screens", models=3, prompts=2, seeds=2)
    context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    show(page, comfy, grid="screens", rows=[1], tile=96)
    page.locator(".tile.there img[src]").first.wait_for()
    pinched(page, 220, 500, 20, 60)
    page.wait_for_function("document.querySelector('.tile').offsetWidth > 200")
    expect(page.locator(".lens")).to_be_hidden()
    outlined(page, 12)
    for chip in page.locator("details.chip").all():
        chip.locator("summary").press("Enter")
        box = chip.locator(".menu").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        chip.locator("summary").press("Enter")
    sound_everywhere(page)
    tile(page, "model 0").first.press("Enter")
    expect(page.locator(".lens")).to_be_focused()
    assert page.locator(".lens").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    pinched(page, 195, 400, 20, 60)
    page.wait_for_function(f"{VIEWS}.every(one => / scale\\([23]/.test(one))")
    page.keyboard.press("z")
    page.keyboard.press("m")
    expect(page.locator(".facts dl")).to_contain_text("checkpoint")
    outlined(page, 14)
    sound_everywhere(page)
    show(page, comfy, grid="not there")
    expect(page.get_by_role("alert")).to_be_visible()
    sound_everywhere(page)
    page.get_by_text("All grids").press("Enter")
    expect(page.get_by_role("link", name="screens")).to_be_visible()
    sound_everywhere(page)
    context.close()
