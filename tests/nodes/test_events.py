"""What the page is told of runs: only those that changed, and nothing while nothing happens."""

from __future__ import annotations

import asyncio
import json
import shutil
import time

import aiohttp

from cocktail.trainer.jobs.job import LOCK, exclusive
from cocktail.trainer.jobs.lock import Lock
from cocktail.trainer.runs import State

from ..comfy import Comfy
from ..made_runs import make_run as made_run
from ..made_runs import set_state
from .run_folders import HTML, make_run, post


def test_only_runs_that_changed_are_told(here):
    from cocktail.nodes.finetune.events import BUSY_S, IDLE_S, Watcher, tell

    sent = []

    def send(event: str, changes: dict) -> None:
        assert event == "cocktail.runs"
        sent.append(([run["name"] for run in changes["runs"]], changes["gone"]))

    first, second, watcher = make_run(here), make_run(here, "two"), Watcher()
    tell(watcher, send)
    tell(watcher, send)
    assert sent == [], "a page that opens asks for all runs itself"
    assert watcher.pause_s() == IDLE_S
    post("/cocktail/runs/one/rename", {"title": HTML})
    tell(watcher, send)
    tell(watcher, send)
    assert sent.pop() == (["one"], []) and not sent
    lock = Lock(second.folder / LOCK)
    assert lock.take()
    second.write_state(State("running", step=1))
    tell(watcher, send)
    assert sent.pop() == (["two"], [])
    assert watcher.pause_s() == BUSY_S >= 0.25, "more than four a second"
    second.write_state(State("running", step=1))
    tell(watcher, send)
    assert not sent, "a heartbeat alone is no news"
    lock.let_go()
    tell(watcher, send)
    assert sent.pop() == (["two"], []), "its process has died, and no file says so"
    (first.folder / "state.json").write_text("{")
    third = make_run(here, "three")
    tell(watcher, send)
    assert sent.pop() == (["one", "three"], [])
    shutil.rmtree(third.folder)
    tell(watcher, send)
    assert sent.pop() == ([], ["three"])
    (second.folder / "state.json").write_text('{"status": "finished", "loss": NaN}')
    tell(watcher, lambda event, changes: json.dumps(changes, allow_nan=False))


CHANGES_S = 2.0


def test_a_page_is_told_of_a_busy_run_four_times_a_second_at_most(comfy: Comfy):
    run = made_run(comfy.base, "counted", epochs=2, done=1, status="stopped")

    async def received(page, patience_s: float) -> list[dict]:
        """What the next event tells of the run, if it comes soon enough."""
        try:
            message = await page.receive(timeout=patience_s)
        except asyncio.TimeoutError:
            return []
        event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {}
        runs = event["data"]["runs"] if event.get("type") == "cocktail.runs" else []
        return [one for one in runs if one["name"] == run.name]

    async def follow() -> tuple[int, float]:
        async with aiohttp.ClientSession() as client, client.ws_connect(f"{comfy.url}/ws") as page:
            told, step, began = [], 20, time.monotonic()
            while step < 40 or time.monotonic() - began < CHANGES_S:
                step += 1
                set_state(run, status="running", step=step)
                told += await received(page, 0.02)
            end = time.monotonic() + 60
            while not told or told[-1]["step"] != step:
                assert time.monotonic() < end, "the last change is not told"
                told += await received(page, 60.0)
            return len(told), time.monotonic() - began

    with exclusive(run, "cpu"):
        count, seconds = asyncio.run(follow())
        set_state(run, status="stopped")
    assert 2 <= count <= 4 * seconds + 2
