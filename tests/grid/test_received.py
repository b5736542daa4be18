"""Grids, workflows and servers of strangers: nothing outside the folders is read or written,
nothing starts by itself, and what is wrong with one of them holds up no other.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socketserver
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cocktail.nodes.grid.engine.check.twins import pixel_hashes
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.feed import remote
from cocktail.nodes.grid.engine.feed.fed_grid import FORMAT, Order, order_from_json
from cocktail.nodes.grid.engine.feed.remote import Failed, Gone, Refused, Server
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.store import cell_file, estimate, export
from cocktail.nodes.grid.engine.store.picture import MOST_PIXELS, open_picture
from cocktail.nodes.grid.engine.store.pixels import classes
from cocktail.nodes.grid.engine.store.store import Store, list_grids
from cocktail.nodes.grid.engine.view.thumbnails import thumbnail
from cocktail.nodes.grid.engine.vote.ballot import Ballot
from cocktail.nodes.grid.engine.vote.winners import columns_of, winner_among

from ..trainer.test_damaged_jobs import MUTATIONS, mutated, with_a_mutated_line
from .drawn import Drawn, draw_grid
from .feeding import axis, ended, feed
from .grids import folder_of, wait_for
from .test_plan import FIXED, content_of, typed

PLAIN: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0},
    },
    "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
"""A workflow that needs no model."""


class Slow(socketserver.BaseRequestHandler):
    """A server that sends its answer byte by byte: each comes soon, and the whole never."""

    answer = b""

    def handle(self) -> None:
        self.request.recv(1 << 16)
        with contextlib.suppress(OSError):
            for byte in self.answer:
                self.request.sendall(bytes([byte]))
                threading.Event().wait(0.01)


@pytest.mark.parametrize("part", ["head", "body", "chunks", "error"])
def test_a_server_that_answers_byte_by_byte_is_given_up(monkeypatch, part):
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.2)
    head = b"HTTP/1.1 %d OK\r\n" % (500 if part == "error" else 200)
    answers = {
        "head": head + b"X: " + b"x" * 2_000,
        "body": head + b"Content-Length: 2000\r\n\r\n" + b" " * 2_000,
        "chunks": head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 400,
        "error": head + b"Content-Length: 2000\r\n\r\n" + b" " * 2_000,
    }
    monkeypatch.setattr(Slow, "answer", answers[part])
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.05,))
        thread.start()
        server = Server(f"http://127.0.0.1:{web.server_address[1]}")
        began = time.monotonic()
        try:
            with pytest.raises((Gone, Refused)):
                server.send({}, "a", "9") if part == "error" else server.known()
            assert time.monotonic() - began < 5
        finally:
            web.shutdown()
            thread.join()


def plan(name: str, count: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "workflow": PLAIN, "axes": [axis("1.color", f"1-{count}")], **more}


def status_of(comfy, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        comfy.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def blended(image: list[Any]) -> dict[str, Any]:
    """Nodes that show a picture together with a plain one, node 2."""
    inputs = {"image1": image, "image2": ["2", 0], "blend_factor": 0.5, "blend_mode": "normal"}
    return {
        "2": PLAIN["1"],
        "3": {"class_type": "ImageBlend", "inputs": inputs},
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


OUTSIDE = [
    *("/etc/hostname", "../models/x.png", "../", "a/../../x", "C:/x.png", "..\\x.png"),
    *("/etc/hostname [output]", "../../etc/hostname [temp]", "sub/.hidden.png"),
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("how", ["workflow", "axis", "fixed"])
def test_a_workflow_cannot_name_a_file_outside_of_comfyuis_folders(comfy, name, how):
    load = {"class_type": "LoadImage", "inputs": {"image": name if how == "workflow" else "x.png"}}
    described: dict[str, Any] = {
        "name": "outside",
        "workflow": {"1": load, "9": PLAIN["9"]},
        "axes": [axis("1.image", name)] if how == "axis" else [axis("1.image", "x.png")],
    }
    if how != "axis":
        described["workflow"] |= blended(["1", 0])
        described["axes"] = [axis("2.color", 8, 16)]
    if how == "fixed":
        described["fixed"] = {"1.image": name}
    for path in ("/cocktail/grids/plan", "/cocktail/grids"):
        status, answer = status_of(comfy, path, {"plan": described})
        assert status == 400, answer
        assert "sha" not in json.dumps(answer).lower()
        assert "is refused" in answer["error"] or "does not offer" in answer["error"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", ["linked.png", "linked/x.png"])
def test_pictures_that_the_owner_has_linked_into_the_input_folder_are_taken(comfy, tmp_path, name):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    link = comfy.base / "input" / name.split("/")[0]
    link.symlink_to(tmp_path if "/" in name else tmp_path / "x.png")
    try:
        load = {"class_type": "LoadImage", "inputs": {"image": name}}
        workflow = {"1": load, **blended(["1", 0])}
        described = {"name": "linked", "workflow": workflow, "axes": [axis("2.color", 1, 2)]}
        status, answer = status_of(comfy, "/cocktail/grids/plan", {"plan": described})
        assert status == 200, answer
        described["workflow"]["1"]["inputs"]["image"] = f"{name}/../../x.png"
        status, answer = status_of(comfy, "/cocktail/grids/plan", {"plan": described})
        assert status == 400 and "is refused" in answer["error"]
    finally:
        link.unlink()


class Strange(BaseHTTPRequestHandler):
    """A server that answers like no ComfyUI: the form is the first part of its path."""

    def do_GET(self) -> None:
        form, _, path = self.path[1:].partition("/")
        path = path.split("?")[0].split("/")[0]
        if form == "eps" or form == path:
            self.answer(self.well(path) if form == "eps" else b"[3, {}]")
        elif form in ODD:
            self.answer(ODD[form])
        else:
            self.answer(self.well(path))

    do_POST = do_GET

    def well(self, path: str) -> bytes:
        """What a ComfyUI answers, with PostScript for a picture."""
        if path == "view":
            return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
        if path == "history":
            id = self.path.rpartition("/")[2]
            outputs = {"9": {"images": [{"filename": "a.png"}]}}
            return json.dumps({id: {"status": {"messages": []}, "outputs": outputs}}).encode()
        answers = {
            "queue": {"queue_running": [], "queue_pending": []},
            "system_stats": {"system": {}, "devices": []},
            "prompt": {"prompt_id": "given"},
        }
        return json.dumps(answers.get(path, {})).encode()

    def answer(self, data: bytes) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


ODD = {
    "html": b"<html><body>Log in first</body></html>",
    "list": b"[]",
    "null": b"null",
    "text": b'"well"',
    "number": b"1e999",
    "deep": b"[" * 100_000,
    "bytes": b"\xff\xfe",
    "half": b'{"system": {"comfyui_version": "\\ud800"}, "queue_running": [["\\ud800"]]}',
    "nothing": b"",
    "words": b'{"system": 1, "queue_running": {"a": 1}, "queue_pending": "ab", "prompt_id": {}}',
}
FORMS = (*ODD, "system_stats", "queue", "prompt", "history", "eps")


class Garbage(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.sendall(b"220 mail.example ESMTP ready\r\n")


@pytest.fixture(scope="module")
def strange() -> Iterator[list[str]]:
    """The addresses of servers that answer strangely, one for each form."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), Strange)
    mail = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage)
    threads = [threading.Thread(target=one.serve_forever, args=(0.05,)) for one in (web, mail)]
    for thread in threads:
        thread.start()
    base = f"http://127.0.0.1:{web.server_port}"
    yield [f"http://127.0.0.1:{mail.server_address[1]}", *(f"{base}/{form}" for form in FORMS)]
    for one, thread in zip((web, mail), threads, strict=True):
        one.shutdown()
        one.server_close()
        thread.join()


def test_whatever_a_server_answers_is_its_own_trouble(strange):
    for url in strange:
        server = Server(url)
        asks = (
            lambda s: s.numerics(),
            lambda s: s.sizes("checkpoints"),
            lambda s: s.known(),
            lambda s: s.has_ended("a"),
            lambda s: s.result("a", "9"),
            lambda s: s.forget(["a"], True),
            lambda s: s.send(PLAIN, "a", "9"),
        )
        refused = 0
        for ask in asks:
            try:
                ask(server)
            except (Gone, Refused, Failed) as error:
                refused += 1
                assert str(error)
        assert refused >= (0 if url.endswith("eps") else 1), url


def test_strange_servers_leave_the_grid_to_the_others(comfy, strange):
    file = comfy.base / "user" / "cocktail" / "servers.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"servers": strange, "lease_s": 2}))
    try:
        done = feed(comfy, plan("strange", 60), servers="all", in_flight=2)
    finally:
        file.unlink()
    assert (done["state"], done["finished"], done["failed"]) == ("finished", 60, 0), done
    assert done["servers"]["this"] == ""
    assert all(done["servers"][url] for url in strange if not url.endswith("history")), done


def test_a_grid_that_another_comfyui_feeds_is_not_changed_here(comfy):
    assert feed(comfy, plan("mine", 2))["state"] == "finished"
    folder = folder_of(comfy.base, "theirs")
    shutil.copytree(folder_of(comfy.base, "mine"), folder, ignore=shutil.ignore_patterns(".*"))
    described = json.loads((folder / "feed.json").read_text())
    described["state"], described["plan"]["name"] = "running", "theirs"
    (folder / "feed.json").write_text(json.dumps(described))
    before = (folder / "feed.json").read_bytes()
    with FileLock(folder / ".feed.lock"):
        for action in ("pause", "cancel", "resume", "retry"):
            status, answer = status_of(comfy, f"/cocktail/grids/theirs/{action}", {})
            assert status == 409 and "Another ComfyUI" in answer["error"], answer
        status, answer = status_of(comfy, "/cocktail/grids", {"plan": plan("theirs", 2)})
        assert status == 409, answer
        assert (folder / "feed.json").read_bytes() == before
    assert status_of(comfy, "/cocktail/grids/theirs/cancel", {})[1]["state"] == "cancelled"
    with FileLock(folder / ".feed.lock", timeout=120):
        pass


def test_a_received_grid_is_not_fed_when_comfyui_starts(comfy):
    """As at a start: what was begun here goes on, what came from elsewhere waits for a person."""
    assert feed(comfy, plan("begun", 2))["state"] == "finished"
    for name in ("begun", "came"):
        folder = folder_of(comfy.base, name)
        if name == "came":
            begun = folder_of(comfy.base, "begun")
            shutil.copytree(begun, folder, ignore=shutil.ignore_patterns(".*"))
        described = json.loads((folder / "feed.json").read_text())
        described["state"], described["plan"]["name"] = "running", name
        (folder / "feed.json").write_text(json.dumps(described))
        for file in folder.glob("cells/*/*.png"):
            file.unlink()
    tickets = comfy.base / "output" / "cocktail" / ".feeds"
    shutil.copyfile(tickets / "begun.txt", tickets / "came.txt")
    comfy.restart()
    assert wait_for(lambda: comfy.get("/cocktail/grids/begun/feed")["state"] == "finished")
    assert wait_for(lambda: comfy.get("/cocktail/grids/came/feed")["state"] == "paused")
    came = comfy.get("/cocktail/grids/came/feed")
    assert "Resume it if you trust" in came["message"]
    assert not came["in_flight"] and came["finished"] == 0
    assert comfy.post("/cocktail/grids/came/resume", {})["state"] == "running"
    assert ended(comfy, "came")["finished"] == 2


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_the_cells_of_a_grid_of_ones_own_may_be_on_another_disk(tmp_path):
    grid = make_plan("g", FIXED, [typed("seed", 1, 2)], content_of)
    store = Store(tmp_path / "grids" / "g")
    store.save_plan(grid)
    (tmp_path / "disk").mkdir()
    (store.folder / "cells").symlink_to(tmp_path / "disk")
    store.save_plan(grid)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", ["cells", "damaged", "sheets", "cells.jsonl"])
def test_a_grid_whose_folder_leads_elsewhere_is_not_rendered(tmp_path, name):
    grid = make_plan("g", FIXED, [typed("seed", 1, 2)], content_of)
    store = Store(tmp_path / "g")
    store.folder.mkdir()
    (tmp_path / "outside").mkdir()
    (store.folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(GridError, match="leads out of its folder"):
        store.save_plan(grid)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A folder with the grids "damaged" and "sound"."""
    root = tmp_path_factory.mktemp("pristine")
    for name in ("damaged", "sound"):
        grid = make_plan(name, FIXED, [typed("seed", 1, 2)], content_of)
        failing = grid.cells[1].key
        draw_grid(grid, root / name, Drawn(fails=lambda cell, key=failing: cell.key == key))
        store = Store(root / name)
        store.save_plan(grid)
        export.write(store)
        order = Order(("this",), sent={"id": {"server": "this", "key": failing}})
        fed = {"format": FORMAT, **vars(order), "plan": grid.to_json()}
        (root / name / "feed.json").write_text(json.dumps(fed))
        (root / name / "votes.jsonl").write_text(vote_line(grid.cells[0].key, grid.cells[1].key))
    return root


def vote_line(*keys: str, time: str = "1.0") -> str:
    said = {"kind": "vote", "id": "1" * 32, "judge": "me", "shown": keys, "order": keys[:1]}
    return json.dumps({**said, "bad": False, "time": "T"}).replace('"T"', time) + "\n"


@pytest.mark.more_with_all("500 damaged grids")
@settings(
    max_examples=MUTATIONS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_a_grids_files_hold_the_list_goes_on(pristine, data):
    folder = pristine / "damaged"
    files = sorted(path for path in folder.rglob("[!.]*.json*"))
    target = data.draw(st.sampled_from(files))
    mutate = mutated if target.suffix == ".json" else with_a_mutated_line
    before = target.read_bytes()
    content = mutate(data, before)
    target.unlink() if content is None else target.write_bytes(content)
    try:
        look_at(folder)
    finally:
        target.write_bytes(before)


def look_at(folder: Path) -> None:
    """Ask for all that is told of the grids beside a damaged one, and of it."""
    listed = {grid["name"]: grid for grid in list_grids(folder.parent)}
    assert (listed["sound"]["cells"], listed["sound"]["finished"], listed["sound"]["failed"]) == (
        2,
        1,
        1,
    )
    json.dumps(listed, ensure_ascii=False, default=str)
    store = Store(folder)
    for ask in (
        export.manifest,
        export.states,
        lambda s: export.settings_of(s, "0" * 64),
        Store.log,
    ):
        try:
            ask(store)
        except (GridError, OSError):
            continue
    for count in (2, 4):
        with contextlib.suppress(GridError, OSError):
            Ballot(store).question("me", count)
    for by in ((), ("judge",)):
        with contextlib.suppress(GridError, OSError):
            Ballot(store).report(by)
    for of_all in (winner_among, columns_of):
        of_all(folder.parent, ["m1"])
    with contextlib.suppress(GridError, OSError):
        classes(store, 9.0)
    estimate.learn(folder.parent)
    with contextlib.suppress(OSError):
        estimate.estimate_workflow([], store.log())
    try:
        fed = json.loads((folder / "feed.json").read_bytes())
        fed.pop("format", None), fed.pop("plan", None)
        order_from_json(fed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass


KEYS = ("a" * 64, "b" * 64)
MODELS = [{"label": name, "set": {"checkpoint": name}} for name in ("m1", "m2")]
AXIS = {"target": "checkpoint", "label": "c", "values": MODELS}
SOUND = {
    "axes": [AXIS],
    "cells": [{"key": key, "position": [n], "settings": {}} for n, key in enumerate(KEYS)],
}


def at(*positions: Any) -> dict[str, Any]:
    return {"cells": [{"key": k, "position": p} for k, p in zip(KEYS, positions, strict=True)]}


def valued(**said: Any) -> dict[str, Any]:
    return {"axes": [{**AXIS, "values": [{**MODELS[0], **said}, MODELS[1]]}]}


ODD_PLANS: dict[str, dict[str, Any]] = {
    **{f"axes {odd}": {"axes": odd} for odd in ({}, None, "ab", 5, [[]], [{}])},
    **{f"cells {odd}": {"cells": odd} for odd in (None, {}, [1], [{}])},
    "no position": {"cells": [{"key": key} for key in KEYS]},
    **{
        f"position {odd}": at(odd, [1])
        for odd in ([], "ab", {}, None, [-1], [99], [0.5], [True], [[]], [0, 0], [10**30])
    },
    **{f"label {odd}": valued(label=odd) for odd in (None, 5, [], {})},
    **{f"set {odd}": valued(set=odd) for odd in (None, [], "ab", 5)},
    "target": {"axes": [{**AXIS, "target": [1]}]},
    "name of the axis": {"axes": [{**AXIS, "label": None}]},
    "values": {"axes": [{**AXIS, "values": "xy"}]},
    "no axes at all": {"axes": [], **at([], [])},
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("odd", list(ODD_PLANS))
def test_the_votes_of_a_grid_whose_plan_is_odd_are_its_own_trouble(tmp_path, odd, indent):
    for name, change in (("odd", ODD_PLANS[odd]), ("sound", {})):
        (tmp_path / name).mkdir()
        plan = json.dumps({"name": name, **SOUND, **change}, indent=indent)
        (tmp_path / name / "plan.json").write_text(plan)
        (tmp_path / name / "votes.jsonl").write_text(vote_line(*KEYS))
    won = winner_among(tmp_path, ["m1", "m2"])
    assert won is not None and (won.grid, won.checkpoint) == ("sound", "m1")
    assert "sound" in [found["grid"] for found in columns_of(tmp_path, ["m1"])]
    ballot = Ballot(Store(tmp_path / "odd"))
    with pytest.raises(GridError):
        ballot.question("me", 2)
    with pytest.raises(GridError):
        ballot.report(["judge"])
    listed = {grid["name"]: grid for grid in list_grids(tmp_path)}
    assert listed["sound"]["cells"] == 2 and listed["odd"]["name"]


@pytest.mark.parametrize("time", ["1" + "0" * 400, "[" * 700 + "]" * 700, "null"])
def test_a_vote_that_is_none_is_left_out(tmp_path, time):
    folder = tmp_path / "g"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"name": "g", **SOUND}))
    (folder / "votes.jsonl").write_text(vote_line(*KEYS, time=time))
    told = Ballot(Store(folder)).report()
    assert told["votes"] == 0 and "1 line of votes.jsonl is damaged" in told["problem"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
def test_pipes_in_the_place_of_pictures_are_not_waited_for(tmp_path):
    folder = tmp_path / "g"
    (folder / "cells" / "aa").mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"name": "g", **SOUND}))
    picture = folder / "cells" / "aa" / f"{KEYS[0]}.png"
    os.mkfifo(picture)
    store, asked = Store(folder), []

    def look() -> None:
        asked.append((store.files(), store.is_finished(KEYS[0])))
        asked.append(Ballot(store).question("me", 2)["question"])
        asked.append(cell_file.fault(picture, KEYS[0]))
        for read in (open_whole, lambda path: thumbnail(path, 128, tmp_path / "small")):
            with pytest.raises(OSError, match="no regular file"):
                read(picture)
        with pytest.raises(GridError, match="or no file"):
            store.save_plan(make_plan("g", FIXED, [typed("seed", 1)], content_of))
        asked.append("done")

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(120)
    assert not looking.is_alive()
    wrong = "is no picture (it is a link or no regular file)"
    assert asked == [({}, False), None, wrong, "done"]


def open_whole(path: Path) -> None:
    with open_picture(path) as opened:
        opened.load()


def test_a_picture_has_a_limit_though_another_pack_has_switched_off_pillows(tmp_path, monkeypatch):
    """A few bytes that say they are 90,000 x 90,000 pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    head = struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", b"")
    )
    for read in (open_whole, lambda path: thumbnail(path, 128, tmp_path / "small")):
        with pytest.raises(OSError, match=f"more than {MOST_PIXELS:,} pixels"):
            read(tmp_path / "a.png")


def part(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_received_picture_is_read_as_png_or_webp_alone(tmp_path, monkeypatch):
    """Pillow would start Ghostscript for PostScript."""
    grid = make_plan("g", FIXED, [typed("seed", 1)], content_of)
    store = Store(tmp_path / "g")
    path = store.cell_path(grid.cells[0].key)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    asked: list[Any] = []
    opened = Image.open

    def noted(file: Any, formats: Any = None) -> Any:
        asked.append(formats)
        return opened(file, formats=formats)

    monkeypatch.setattr(Image, "open", noted)
    with pytest.raises(GridError):
        pixel_hashes(grid, store)
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(path.read_bytes()), formats=asked[0])
    assert asked[0] == ("PNG", "WEBP")


def test_every_picture_is_opened_by_formats_that_are_named(root):
    for folder in ("nodes", "trainer", "merge"):
        for file in (root / folder).rglob("*.py"):
            for line in file.read_text(encoding="utf-8").splitlines():
                assert "Image.open(" not in line or "formats=" in line, f"{file.name}: {line}"
