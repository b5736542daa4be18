"""What the page is told of runs: only those that changed, and nothing while nothing happens."""

from __future__ import annotations

import json
import shutil

from cocktail.trainer.jobs.job import LOCK
from cocktail.trainer.jobs.lock import Lock
from cocktail.trainer.runs import State

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
    assert sent.pop() == (["two"], []) and watcher.pause_s() == BUSY_S <= 0.25
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
