"""Runs that are not as they should be, on a real server of their own and in its panel: names and
texts of strangers, folders from elsewhere, half of them gone, two who press opposite buttons, and
addresses for notices that do not answer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import Run

from .comfy import Comfy
from .made_runs import make_run
from .nodes.test_runs import held, training
from .pages import launched
from .panel import item, open_panel, part, press, ready, show, told
from .trainer.conftest import make_tiny_base

HTML = "<img src=x onerror=alert(1)> & <b>co</b>"
NAMES = ["../up", "..", "x" * 300, "\U0001f378", "CON", "lpt1", "nul.txt", "com1.safetensors"]
READS = ("", "metrics", "curve", "columns", "samples", "log", "settings", "heatmap", "pairs")
READS = (*READS, "words", "table")
RIGHTS_BIND = os.name != "nt"
"""Whether a folder can be locked; on Windows chmod does not do it."""
RUN_S = 600
"""So long is waited for a run, as in nodes/test_runs.py."""


@pytest.fixture(scope="module")
def server(comfyui: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """A ComfyUI that rights bind."""
    server = Comfy(comfyui, tmp_path_factory.mktemp("strange"), root, bound=True)
    make_tiny_base(server.base / "models" / "checkpoints" / "tiny-strange.safetensors", 1)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.base / "models")


@pytest.fixture(scope="module")
def browser(dev) -> Iterator[Browser]:
    with launched(dev) as browser:
        yield browser


@pytest.fixture
def page(server: Comfy, browser: Browser) -> Iterator[Page]:
    """A run that is as it should be, and the panel at its list."""
    if not (server.base / "output" / "cocktail" / "runs" / "sound").exists():
        make_run(server.base, "sound", epochs=2)
    page = ready(server, browser)
    page.evaluate("() => localStorage.clear()")
    open_panel(page)
    yield page
    page.close()


def status(server: Comfy, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Status and text of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        server.url + path, data, {"Content-Type": "application/json"} if body is not None else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def folders(server: Comfy) -> set[Path]:
    """What is in the folders of runs and checkpoints."""
    below = (server.base / "output", server.base / "models")
    return {path for folder in below for path in folder.rglob("*")}


def until(server: Comfy, name: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The run once it is so."""
    deadline = time.monotonic() + RUN_S
    while not reached(run := server.get(f"/cocktail/runs/{name}")):
        assert time.monotonic() < deadline, run
        time.sleep(0.05)
    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_is_refused_by_every_route_and_makes_no_folder(server, name):
    if not (server.base / "output" / "cocktail" / "runs" / "named").exists():
        make_run(server.base, "named", epochs=2)
    before = folders(server)
    body = {"name": name, "epoch": 1, "start": False}
    code, text = status(server, "/cocktail/runs/named/fork", body)
    assert code == 400 and "name" in text, text
    for what in (*READS, "stop", "resume", "delete", "rename", "restore"):
        sent = None if what in READS else {"title": "t"} if what == "rename" else {}
        where = f"/cocktail/runs/{quote(name, safe='')}/{what}".rstrip("/")
        code, text = status(server, where, sent)
        assert 400 <= code < 500, (what, code, text)
    assert folders(server) == before


def test_texts_of_strangers_are_text_in_every_part_of_the_panel(page, server):
    run = make_run(server.base, "foreign", epochs=3, status="failed", message=HTML)
    (run.folder / "log.txt").write_text(f"epoch 1\n{HTML}\n", encoding="utf-8")
    (run.folder / "validation.jsonl").unlink()
    for epoch in range(4):
        levels = {f"id{n}": [0.9 if n == 0 else 0.1 + 0.01 * n] * 2 for n in range(12)}
        pairs = {key: losses[0] for key, losses in levels.items()}
        line = {"epoch": epoch, "step": 20 * epoch, "pairs": pairs, "levels": levels}
        Lines(run.folder / "validation.jsonl").append(line)
    server.post("/cocktail/runs/foreign/rename", {"title": f"{HTML} \U0001f378"})
    show(page, "foreign")
    panel = page.locator(".cocktail-runs")
    expect(panel.locator("h2")).to_have_text(f"{HTML} \U0001f378")
    expect(panel.locator(".head .error")).to_have_text(HTML)
    expect(panel.locator(".head pre")).to_contain_text(HTML)
    expect(part(page, "Log").locator("pre")).to_contain_text(HTML)
    expect(part(page, "Pairs").locator(".caption").first).to_have_text("a <i>shape</i> 0")
    for title in page.locator(".cocktail-runs [role=tab]:visible").all_text_contents():
        part(page, title)
    expect(panel.locator("img[src=x], b:text-is('co'), i:text-is('shape')")).to_have_count(0)
    shutil.rmtree(run.folder)


def newer(run: Run) -> None:
    file = run.folder / "run.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**value, "format": 999}), encoding="utf-8")


def of_another_machine(run: Run) -> None:
    """As a folder of a Windows machine that was copied here while it trained."""
    file = run.folder / "run.json"
    text = file.read_text(encoding="utf-8")
    here = json.dumps(str(run.folder.parents[3]))[1:-1]
    assert here in text
    file.write_text(text.replace(here, "D:\\\\ComfyUI"), encoding="utf-8")
    state = json.loads((run.folder / "state.json").read_text(encoding="utf-8"))
    (run.folder / "state.json").write_text(
        json.dumps({**state, "status": "running"}), encoding="utf-8"
    )
    (run.folder / "process.json").write_text(
        json.dumps({"pid": 4, "started": 0.0, "device": "cuda:7"}), encoding="utf-8"
    )


def without_rights(run: Run) -> None:
    run.folder.chmod(0)


def test_folders_from_elsewhere_are_listed_told_of_and_hold_up_nothing(page, server):
    unreadable = ("newer", "locked") if RIGHTS_BIND else ("newer",)
    made = {
        name: make_run(server.base, name, epochs=2, done=1, status="stopped")
        for name in ("copied", *unreadable)
    }
    newer(made["newer"])
    of_another_machine(made["copied"])
    if RIGHTS_BIND:
        without_rights(made["locked"])
    try:
        for name in unreadable:
            expect(item(page, name)).to_contain_text("unreadable")
        show(page, "newer")
        error = page.locator(".cocktail-runs .head .error")
        expect(error).to_contain_text("Update Cocktail")
        if RIGHTS_BIND:
            page.locator(".cocktail-runs .back").press("Enter")
            show(page, "locked")
            expect(error).to_contain_text("ermission")
        page.locator(".cocktail-runs .back").press("Enter")
        show(page, "copied")
        expect(page.locator(".cocktail-runs .tag").first).to_have_text("interrupted")
        expect(page.locator(".cocktail-runs .plot canvas")).to_have_count(1)
        press(page, "Resume")
        expect(told(page)).to_contain_text("base.safetensors")
        page.locator(".cocktail-runs .back").press("Enter")
        show(page, "sound")
        expect(page.locator(".cocktail-runs .plot canvas")).to_have_count(1)
        page.locator(".cocktail-runs .back").press("Enter")
        show(page, "newer")
        press(page, "Delete…")
        dialog = page.get_by_role("dialog", name="Delete newer")
        dialog.get_by_role("button", name="Delete").click()
        expect(item(page, "newer")).to_have_count(0)
        assert "newer" in [one["name"] for one in server.get("/cocktail/runs?deleted=true")["runs"]]
    finally:
        for run in made.values():
            if run.folder.exists():
                run.folder.chmod(0o755)
            shutil.rmtree(run.folder, ignore_errors=True)


def test_where_nothing_can_be_written_a_plan_is_told_and_its_feed_refused_in_words(server):
    image = {"width": 16, "height": 16, "batch_size": 1, "color": 0}
    plan = {
        "name": "read-only",
        "workflow": {
            "1": {"class_type": "EmptyImage", "inputs": image},
            "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        },
        "axes": [{"target": "1.color", "values": "1, 2"}],
    }
    folder = server.base / "output" / "cocktail" / "grids"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o555)
    try:
        told = server.post("/cocktail/grids/plan", {"plan": plan})
        fed = server.post("/cocktail/grids", {"plan": plan})
    finally:
        folder.chmod(0o755)
    assert "error" not in told, told
    if RIGHTS_BIND:
        assert "Nothing can be written in the folder of the grid" in fed["error"]
        assert not any(folder.glob("read-only*"))


def test_a_run_of_which_any_part_is_gone_is_told_of_in_words_on_every_route(server):
    whole = make_run(server.base, "half", epochs=2)
    names = sorted(path.name for path in whole.folder.iterdir())
    assert {"run.json", "state.json", "metrics.jsonl", "samples"} <= set(names)
    kept = server.base / "kept half"
    shutil.move(whole.folder, kept)
    all_but = [[one for one in names if one != name] for name in names]
    for gone in (names, *([name] for name in names), *all_but):
        shutil.copytree(kept, whole.folder)
        for name in gone:
            path = whole.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        listed = {run["name"]: run for run in server.get("/cocktail/runs")["runs"]}
        if listed.get("half", {}).get("status") == "unreadable":
            assert listed["half"]["message"], gone
        changes = {"resume": {}, "stop": {}, "rename": {"title": "t"}, "delete": {}}
        for what, body in {**dict.fromkeys(READS), **changes}.items():
            code, text = status(server, f"/cocktail/runs/half/{what}".rstrip("/"), body)
            assert code < 500, (gone, what, text)
            assert code == 200 or json.loads(text)["error"], (gone, what, text)
        shutil.rmtree(whole.folder, ignore_errors=True)


def is_over(run: dict[str, Any]) -> bool:
    """Whether no process works on it."""
    return run["status"] in ("stopped", "finished") or run["at_rest"]


def alone(name: str, **settings: Any) -> dict[str, Any]:
    """Train, without waiting for it."""
    graph = training("tiny-strange.safetensors", name, **settings)
    return {key: node for key, node in graph.items() if key not in ("wait", "pick")}


def test_two_who_press_opposite_buttons_are_told_and_the_run_stays_true(server, browser):
    server.run(alone("pressed"))
    process = held(server, "pressed", 2)
    one, other = (ready(server, browser) for _ in range(2))
    for page in (one, other):
        open_panel(page)
        show(page, "pressed")
    press(one, "Pause")
    expect(told(one)).to_contain_text("It saves and then frees the device")
    press(other, "Stop")
    expect(told(other)).to_contain_text("It stops after the step it is in")
    process.resume()
    run = until(server, "pressed", is_over)
    assert run["status"] in ("paused", "stopped")
    for page in (one, other):
        expect(page.locator(".cocktail-runs .tag").first).to_have_text(run["status"])

    press(one, "Delete…")
    press(other, "Resume")
    expect(told(other)).to_contain_text("It waits for its turn")
    dialog = one.get_by_role("dialog", name="Delete pressed")
    dialog.get_by_role("button", name="Delete").click()
    expect(told(one)).to_have_class(re.compile("error"))
    assert server.get("/cocktail/runs/pressed")["status"] != "unreadable"
    for page in (one, other):
        page.close()

    for _ in range(2):
        answers = at_once(server, "pressed", "pause", "resume")
        assert set(answers) <= {200, 409}, answers
    server.post("/cocktail/runs/pressed/stop", {})
    until(server, "pressed", is_over)
    codes = at_once(server, "pressed", "delete", "resume")
    assert codes[0] == 200 or codes[1] == 200, codes
    (deleted,) = [
        one["key"]
        for one in server.get("/cocktail/runs?deleted=true")["runs"]
        if one["name"] == "pressed"
    ] or [None]
    assert (deleted is None) == (codes[0] != 200)
    if deleted:
        code, text = status(server, "/cocktail/runs/pressed/restore", {"key": deleted})
        assert code == 200, (codes, text)
    code, text = status(server, "/cocktail/runs/pressed/resume", {})
    assert code == 200 or codes[1] == 200, (codes, text)
    until(server, "pressed", lambda run: run["status"] == "finished")
    lines = server.get("/cocktail/runs/pressed/metrics")["lines"]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert sorted(set(steps)) == list(range(1, max(steps) + 1))


def at_once(server: Comfy, name: str, *actions: str) -> list[int]:
    """The statuses of requests that are sent at the same moment."""
    ready_all, codes = threading.Barrier(len(actions)), [0] * len(actions)

    def send(number: int) -> None:
        ready_all.wait()
        codes[number] = status(server, f"/cocktail/runs/{name}/{actions[number]}", {})[0]

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


class Hook(BaseHTTPRequestHandler):
    """Answers by its path: /ok, /500, and /hang when the test is over."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(self.path)
        if self.path == "/hang":
            self.server.over.wait(300)
        self.send_response(500 if self.path == "/500" else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def gives_up(log: str) -> bool:
    """Whether a run waits no longer for the address that does not answer: it has tried three times
    beside the one that answers 500, or its end came before.
    """
    return "still under way" in log or log.count("was not delivered") == 2


def test_a_run_ends_as_it_should_whatever_the_addresses_for_notices_do(page, server):
    hook = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    hook.got, hook.over = [], threading.Event()
    thread = threading.Thread(target=hook.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{hook.server_port}"
    settings = server.base / "user" / "cocktail" / "network.json"
    settings.parent.mkdir(exist_ok=True)
    addresses = [f"{url}/{what}" for what in ("ok", "500", "hang")]
    settings.write_text(json.dumps({"notify": addresses, "private_addresses": True}))
    try:
        server.run(alone("told-elsewhere", epochs=1, save_every_epochs=1))
        until(server, "told-elsewhere", lambda run: run["status"] == "finished")
        assert len(server.get("/cocktail/runs/told-elsewhere")["checkpoints"]) == 1
        deadline = time.monotonic() + RUN_S
        while not gives_up(server.get("/cocktail/runs/told-elsewhere/log")["text"]):
            assert time.monotonic() < deadline, "it was not told"
            time.sleep(0.1)
        show(page, "told-elsewhere")
        log = part(page, "Log").locator("pre")
        expect(log).to_contain_text("'finished' was not delivered to http://127.0.0.1: ")
        expect(log).to_contain_text("it answered 500")
        assert hook.got[0] == "/ok" and {*hook.got} == {"/ok", "/500", "/hang"}
    finally:
        settings.unlink()
        hook.over.set()
        hook.shutdown()
        hook.server_close()
        thread.join()
