"""The queue feeder on a real ComfyUI: any workflow, axes on any input, cells that are right or
absent whatever happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy
import pytest
from PIL import Image

from ..comfy import Comfy
from ..conftest import link_or_copy
from .feeding import TEXT, alone, axis, cell_pixels, ended, feed, plan_of
from .grids import folder_of, wait_for

KILLED_AFTER = (2, 5) if os.environ.get("COCKTAIL_ALL") else (3,)
"""After so many of 8 cells the server is killed."""


def test_cells_of_any_workflow_equal_the_workflow_queued_by_hand(comfy, workflow, lively):
    plan = plan_of(
        "anything",
        workflow,
        axis("ImageBlend.blend_factor", "0-1 [3]"),
        axis("prompt v1.5.text", TEXT, "a green square"),
        {"target": "KSampler.seed", "values": [1, 7]},
        fixed={"KSampler.steps": 3},
        rules="KSampler.seed = *7 and ImageBlend.blend_factor = *0.5",
    )
    first = comfy.post("/cocktail/grids/plan", {"plan": plan})
    assert (first["cells"], first["missing"], first["loads"], first["left_out"]) == (10, 10, 1, 2)
    found = feed(comfy, plan)
    assert (found["state"], found["finished"], found["failed"]) == ("finished", 10, 0), found
    grid = comfy.get("/cocktail/grids/anything")
    blends = [cell["labels"][0] for cell in grid["cells"]]
    assert set(blends) == {"blend factor 0", "blend factor 0.5", "blend factor 1"}
    made = cell_pixels(comfy, "anything")
    for cell in (grid["cells"][0], grid["cells"][-1]):
        by_hand = alone(comfy, workflow, {"5.steps": 3, **cell["settings"]})
        assert numpy.array_equal(made[tuple(cell["labels"])], by_hand)
    # What a cell's file carries, and what the route gives, is the prompt of that picture alone.
    cell = grid["cells"][3]
    with Image.open(folder_of(comfy.base, "anything") / cell["file"]) as file:
        carried = json.loads(file.text["prompt"])
    assert carried == comfy.get(f"/cocktail/grids/anything/cells/{cell['key']}")["prompt"] | {
        "9": carried["9"]
    }
    assert "10" not in carried and carried["5"]["inputs"]["steps"] == 3
    rows = (folder_of(comfy.base, "anything") / "cells.csv").read_text().splitlines()
    assert len(rows) == 11 and "5.seed" in rows[0]
    # Another order of axes, titles for ids, one value more: only what is new is rendered.
    plan["axes"] = [
        plan["axes"][2],
        {**plan["axes"][0], "target": "8.blend_factor"},
        plan["axes"][1],
    ]
    plan["rules"] = ""
    again = comfy.post("/cocktail/grids/plan", {"plan": plan})
    assert (again["cells"], again["missing"]) == (12, 2)


BAD = [
    ({"workflow": {"nodes": [], "links": []}}, "format of the page"),
    ({"workflow": {"1": {"inputs": {}}}}, 'node 1 has no "class_type"'),
    ({"workflow": []}, "is not an API prompt"),
    ({"axes": [axis("Sampler.cfg", 1)]}, "Did you mean KSampler?"),
    ({"axes": [axis("KSampler.cfgs", 1)]}, "Did you mean cfg?"),
    ({"axes": [axis("KSampler.cfg")]}, "has no values"),
    ({"axes": [axis("KSampler.cfg", "high")]}, "takes a number"),
    ({"axes": [axis("KSampler.steps", "2.5")]}, "takes a whole number"),
    ({"axes": [axis("KSampler.cfg", 1e9)]}, "must be from"),
    ({"axes": [axis("KSampler.sampler_name", "eulr")]}, "Did you mean euler?"),
    ({"axes": [axis("KSampler.model", "x")]}, "takes a MODEL from another node"),
    ({"axes": [axis("CLIPTextEncode.text", "x")]}, "2 nodes called"),
    ({"axes": [axis("PreviewImage.images", "x")]}, "changes no picture"),
    ({"axes": [axis("9.filename_prefix", "x")]}, "changes no picture"),
    ({"axes": [axis("5.cfg", 1, 1)]}, "appears twice"),
    ({"axes": [axis("5.cfg", 1), axis("KSampler.cfg", 2)]}, "both vary 5.cfg"),
    ({"axes": [axis("5.seed", "1-1000"), axis("5.cfg", "1-30")]}, "cells; 20,000 is the most"),
    ({"output": "VAEDecode"}, "is not an output node"),
    ({"output": "Nowhere"}, "no node 'Nowhere'"),
    ({"output": ""}, "in 2 places"),
    ({"name": "../x"}, "cannot name a grid"),
    ({"fixed": {"KSampler.stepz": 1}}, "Did you mean steps?"),
    ({"rules": "size = 4"}, "size"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[words for _, words in BAD])
def test_a_plan_that_cannot_work_is_refused_before_anything_runs(comfy, workflow, wrong, message):
    plan = plan_of("refused", workflow, axis("KSampler.cfg", 1, 2)) | wrong
    assert message in comfy.post("/cocktail/grids", {"plan": plan})["error"]
    assert not folder_of(comfy.base, "refused").exists()


def test_a_folder_that_cannot_be_written_to_is_said_in_words_and_leaves_the_grid_free(
    comfy, workflow
):
    plan = plan_of("walled", workflow, axis("KSampler.cfg", 1))
    folder = folder_of(comfy.base, "walled")
    (folder / "plan.json").mkdir(parents=True)
    try:
        for _ in range(2):
            answer = comfy.post("/cocktail/grids", {"plan": plan})
            assert "Nothing can be written in the folder of the grid walled" in answer["error"]
        assert "cells" in comfy.post("/cocktail/grids/plan", {"plan": plan})
    finally:
        shutil.rmtree(folder)


def test_options_that_cannot_work_are_refused(comfy, workflow):
    plan = plan_of("refused", workflow, axis("KSampler.cfg", 1))
    for options, message in (
        ({"servers": ["http://10.0.0.1:8188"]}, "is not allowed"),
        ({"servers": ["ftp://x"]}, "is not the address"),
        ({"servers": ["http://[x"]}, "is not the address"),
        ({"servers": ["http://x:99999999"]}, "is not the address"),
        ({"servers": [["this"]]}, "is not the address"),
        ({"in_flight": 9}, "from 2 to 4"),
        ({"save_as": "GIF"}, "save_as must be one of"),
        ({"color": 1}, "color"),
    ):
        assert message in comfy.post("/cocktail/grids", {"plan": plan, **options})["error"]
    assert not folder_of(comfy.base, "refused").exists()


def test_pause_resume_retry_and_cancel(comfy, workflow):
    name = "paused"
    workflow["5"]["inputs"]["steps"] = 4
    plan = plan_of(name, workflow, axis("KSampler.seed", "6 seeds"), axis("4.batch_size", 1, 2))
    comfy.post("/cocktail/grids", {"plan": plan})
    wait_for(lambda: comfy.get(f"/cocktail/grids/{name}/feed")["finished"] >= 1)
    assert comfy.post(f"/cocktail/grids/{name}/pause", {})["state"] == "paused"
    other = plan_of(name, workflow, axis("KSampler.cfg", 1, 2))
    assert "paused with another plan" in comfy.post("/cocktail/grids", {"plan": other})["error"]
    stands = ended(comfy, name, ("paused",))
    assert 0 < stands["finished"] + stands["failed"] < 12
    comfy.post(f"/cocktail/grids/{name}/resume", {})
    done = ended(comfy, name)
    # Cells that show two pictures fail with a word, and do not hold up the others.
    assert (done["state"], done["finished"], done["failed"]) == ("finished", 6, 6)
    failed = [c for c in comfy.get(f"/cocktail/grids/{name}")["cells"] if c["status"] == "failed"]
    assert {cell["reason"] for cell in failed} == {
        "Node 9 showed 2 pictures, but a cell is one picture. Set the batch size to 1."
    }
    comfy.post(f"/cocktail/grids/{name}/retry", {})
    wait_for(lambda: comfy.get(f"/cocktail/grids/{name}/feed")["in_flight"])
    assert comfy.post(f"/cocktail/grids/{name}/cancel", {})["state"] == "cancelled"
    assert ended(comfy, name)["finished"] == 6
    wait_for(lambda: not any(comfy.get("/queue").values()))


@pytest.mark.more_with_all("two kills instead of one")
def test_a_grid_goes_on_after_its_server_is_killed_and_no_cell_is_made_twice(
    comfyui, root, comfy, workflow, lively, tmp_path
):
    """Kill -9 in the middle of the grid; the undisturbed grid is made by the server of the
    session.
    """
    plan = plan_of("killed", workflow, axis("5.seed", "4 seeds"), axis("5.cfg", 2, 6))
    assert feed(comfy, plan)["finished"] == 8
    undisturbed = cell_pixels(comfy, "killed")
    server = Comfy(comfyui, tmp_path / "killed", root)
    link_or_copy(
        comfy.base / "models/checkpoints" / lively, server.base / "models/checkpoints" / lively
    )
    server.start()
    try:
        server.post("/cocktail/grids", {"plan": plan})
        folder = folder_of(server.base, "killed")
        for count in KILLED_AFTER:
            wait_for(lambda count=count: len([*folder.glob("cells/*/*.png")]) >= count)
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            server.start()
        assert ended(server, "killed")["finished"] == 8
        made = cell_pixels(server, "killed")
        assert made.keys() == undisturbed.keys()
        assert all(numpy.array_equal(made[label], undisturbed[label]) for label in made)
        lines = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
        finished = [line["key"] for line in lines if line["status"] == "finished"]
        # A kill between a file and its line in the log leaves the file: the cell is there, and not
        # made again.
        assert len(finished) == len(set(finished)) and len(finished) >= 8 - len(KILLED_AFTER)
    finally:
        server.stop()
        shutil.rmtree(server.base / "models")


@pytest.fixture
def second(comfyui, comfy, lively, tmp_path):
    """A plain ComfyUI without the pack, which the session's server may feed."""
    server = Comfy(comfyui, tmp_path / "second", None)
    link_or_copy(
        comfy.base / "models/checkpoints" / lively, server.base / "models/checkpoints" / lively
    )
    server.start()
    file = comfy.base / "user" / "cocktail" / "servers.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"servers": [server.url], "lease_s": 2}))
    yield server
    file.unlink()
    if server.process.poll() is None:
        server.stop()


def test_a_plain_server_helps_and_when_it_is_lost_its_cells_go_to_others(comfy, workflow, second):
    plan = plan_of("farm", workflow, axis("KSampler.seed", "16 seeds"))
    comfy.post("/cocktail/grids", {"plan": plan, "servers": "all"})
    folder = folder_of(comfy.base, "farm")

    def by_class() -> dict[str, int]:
        classes: dict[str, int] = {}
        for line in (
            (folder / "cells.jsonl").read_text().splitlines()
            if (folder / "cells.jsonl").exists()
            else ()
        ):
            made_by = json.loads(line).get("numerics", "")
            classes[made_by] = classes.get(made_by, 0) + 1
        return classes

    wait_for(lambda: second.get("/history") and sum(by_class().values()) >= 4)
    assert second.get("/history"), "the second server got no prompt"
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.wait()
    done = ended(comfy, "farm")
    assert (done["state"], done["finished"], done["failed"]) == ("finished", 16, 0), done
    assert "does not answer" in done["servers"][second.url]
    made = cell_pixels(comfy, "farm")
    assert len({hashlib.sha256(picture.tobytes()).hexdigest() for picture in made.values()}) == 16


class Mute(BaseHTTPRequestHandler):
    """A server that looks well and hangs up on every prompt."""

    was_given_a_prompt = threading.Event()

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/queue": {"queue_running": [], "queue_pending": []},
            "/system_stats": {},
        }
        data = json.dumps(answers.get(self.path, {})).encode()
        self.send_response(404 if self.path.startswith("/experiment") else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.was_given_a_prompt.set()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_lost_while_it_is_given_a_prompt_leaves_nothing_out(comfy, workflow):
    mute = ThreadingHTTPServer(("127.0.0.1", 0), Mute)
    thread = threading.Thread(target=mute.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{mute.server_port}"
    file = comfy.base / "user" / "cocktail" / "servers.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"servers": [url], "lease_s": 2}))
    try:
        plan = plan_of("mute", workflow, axis("KSampler.seed", "8 seeds"))
        comfy.post("/cocktail/grids", {"plan": plan, "servers": "all"})
        done = ended(comfy, "mute")
    finally:
        file.unlink()
        mute.shutdown()
        mute.server_close()
        thread.join()
    assert (done["state"], done["finished"], done["failed"]) == ("finished", 8, 0), done
    assert Mute.was_given_a_prompt.is_set()
