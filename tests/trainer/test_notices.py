"""What a run tells elsewhere, and that nothing which goes wrong there reaches it."""

from __future__ import annotations

import json
import sys
import threading
import types
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from cocktail.trainer import notices
from cocktail.trainer.data.fetch.network import NetworkSettings, read_network_settings
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.journal import Journal
from cocktail.trainer.notices import FULL_DISK, INTERRUPTED, Notices, deliver, event_between
from cocktail.trainer.runs import State

from .test_runs import make

SECRET = "a caption in /home/somebody/pictures"
RUNNING = State("running", epoch=1, epochs=2, step=10, steps=20, first_validation=0.2)


class Hook(BaseHTTPRequestHandler):
    """Answers by its path: /ok, /500, /401, /away, and /hang when the test is over."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, json.loads(body)))
        if self.path == "/hang":
            self.server.over.wait(120)
        status = {"/ok": 204, "/500": 500, "/401": 401, "/away": 302}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/ok")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setattr(notices, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(notices, "PAUSES_S", (0.0, 0.0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.got, server.over = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def allow(tmp_path, **settings):
    file = tmp_path / "network.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return file


def tell(tmp_path, file, *states):
    """What a run that goes through these states tells; its notices.jsonl."""
    run = make(tmp_path)
    told = Notices(run, file)
    for before, after in zip((RUNNING, *states), states, strict=False):
        told.note(before, after)
    told.close()
    return Lines(run.folder / "notices.jsonl").read().lines


def test_every_event_is_told_once_in_words_and_figures(tmp_path, hook):
    file = allow(tmp_path, notify=[f"{hook.url}/ok"], private_addresses=True)
    full = replace(RUNNING, status="paused", message=f"{FULL_DISK} ({SECRET})")
    rising = replace(RUNNING, trend="The validation loss has been rising since epoch 1")
    ended = replace(rising, status="finished", epoch=2, step=20, last_validation=0.19)
    prompt = replace(RUNNING, status="paused", message="Has left the device to a prompt")
    lines = tell(tmp_path, file, RUNNING, prompt, full, full, RUNNING, rising, rising, ended)
    bodies = [body for _, body in hook.got]
    assert [body["event"] for body in bodies] == ["paused for disk", "trend up", "finished"]
    assert bodies[-1]["text"] == (
        "The run one has finished at epoch 2 of 2, step 20 of 20. "
        "Validation loss 0.2000 -> 0.1900 (-5.0 %)."
    )
    assert "rising since epoch 1" in bodies[1]["text"]
    assert "somebody" not in json.dumps(bodies) and all("message" not in body for body in bodies)
    assert [line["delivered"] for line in lines] == [True] * 3


def test_details_come_with_it_only_if_the_file_asks_for_them(tmp_path, hook):
    failed = replace(RUNNING, status="failed", message=SECRET)
    wanted = {"notify": [f"{hook.url}/ok"], "private_addresses": True}
    tell(tmp_path, allow(tmp_path, **wanted), failed)
    tell(tmp_path, allow(tmp_path, **wanted, notify_details=True), failed)
    assert [body.get("message") for _, body in hook.got] == [None, SECRET]


@pytest.mark.parametrize("file", ["none", "empty", "downloads only"])
def test_without_leave_nothing_is_sent(tmp_path, hook, file):
    settings = {"download": True, "private_addresses": True} if file == "downloads only" else {}
    place = None if file == "none" else allow(tmp_path, **settings)
    assert tell(tmp_path, place, replace(RUNNING, status="finished")) == [] and hook.got == []


@pytest.mark.parametrize(
    ("path", "tries", "words"),
    [
        ("/500", 3, "it answered 500"),
        ("/hang", 3, "no answer within"),
        ("/401", 1, "it answered 401"),
        ("/away", 1, "it answered 302"),
    ],
)
def test_a_hook_that_does_not_take_it_is_named_in_the_log_without_its_key(
    tmp_path, hook, capsys, monkeypatch, path, tries, words
):
    if path == "/hang":
        monkeypatch.setattr(notices, "TIMEOUT_S", 1.0)
    bad = f"{hook.url}{path}"
    file = allow(tmp_path, notify=[bad, f"{hook.url}/ok"], private_addresses=True)
    lines = tell(tmp_path, file, replace(RUNNING, status="finished"))
    assert [place for place, _ in hook.got] == [path] * tries + ["/ok"]
    said = capsys.readouterr().err
    assert "'finished' was not delivered to http://127.0.0.1: " in said and words in said
    assert path not in said
    assert [line["delivered"] for line in lines] == [False, True] and words in lines[0]["reason"]


def test_a_hook_that_hangs_holds_up_the_end_of_a_run_only_for_a_while(tmp_path, hook, capsys):
    file = allow(tmp_path, notify=[f"{hook.url}/hang"], private_addresses=True)
    told = Notices(make(tmp_path), file)
    told.note(RUNNING, replace(RUNNING, status="finished"))
    told.close(wait_s=0.05)
    assert "given up" in capsys.readouterr().err


def test_private_addresses_are_refused_unless_the_file_allows_them(tmp_path, hook):
    (line,) = tell(
        tmp_path, allow(tmp_path, notify=[f"{hook.url}/ok"]), replace(RUNNING, status="finished")
    )
    assert "not an address of the public internet" in line["reason"] and hook.got == []


def test_a_damaged_settings_file_is_told_of_and_the_run_goes_on(tmp_path, capsys):
    file = tmp_path / "network.json"
    file.write_text('{"notify": "https://example.org"}', encoding="utf-8")
    with pytest.raises(TrainerError, match="must be a list of addresses"):
        read_network_settings(file)
    assert tell(tmp_path, file, replace(RUNNING, status="finished")) == []
    assert "was not sent: notify in" in capsys.readouterr().err


def test_the_journal_tells_what_becomes_of_its_run(tmp_path, hook):
    file = allow(tmp_path, notify=[f"{hook.url}/ok"], private_addresses=True)
    run = make(tmp_path)
    journal = Journal(run, settings_file=file)
    journal.update(status="running")
    journal.update(status="failed", message=SECRET)
    journal.close()
    assert [body["event"] for _, body in hook.got] == ["failed"]


class Apprise:
    """Stands in for the package: takes good:// addresses and notes what it is given."""

    told: ClassVar[list] = []

    def add(self, address):
        return address.startswith("good://")

    def notify(self, body, title):
        Apprise.told.append((title, body))
        return True


def test_other_addresses_are_for_apprise(monkeypatch, hook):
    told = {"event": "finished", "run": "one", "text": "It is done."}
    allowed = NetworkSettings()
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert "pip install apprise" in deliver("good://topic", told, allowed)
    monkeypatch.setitem(sys.modules, "apprise", types.SimpleNamespace(Apprise=Apprise))
    assert deliver("good://no-such-host.invalid", told, allowed) == ""
    assert Apprise.told == [("Cocktail: one finished", "It is done.")]
    assert "does not know" in deliver("bad://no-such-host.invalid", told, allowed)
    assert "public internet" in deliver("good://127.0.0.1/x", told, allowed)
    assert deliver("good://127.0.0.1/x", told, NetworkSettings(private_addresses=True)) == ""


@pytest.mark.parametrize("address", ["http://[", "nonsense", "https://user:word@example.org/"])
def test_an_address_that_is_none_is_refused_at_once(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "apprise", types.SimpleNamespace(Apprise=Apprise))
    assert deliver(address, {"event": "finished", "run": "one", "text": "x"}, NetworkSettings())


def test_the_same_state_again_is_no_event():
    for status in ("running", "finished", "failed", "paused"):
        state = replace(RUNNING, status=status, message=FULL_DISK, trend="rising")
        assert event_between(state, state) == ""


def test_a_run_whose_process_was_killed_is_told_of_in_words(tmp_path, hook):
    file = allow(tmp_path, notify=[f"{hook.url}/ok"], private_addresses=True)
    told = Notices(make(tmp_path), file)
    told.tell(INTERRUPTED, replace(RUNNING, status="interrupted", message=SECRET))
    told.close()
    ((_, body),) = hook.got
    assert body["event"] == "interrupted" and "message" not in body
    assert body["text"] == (
        "The run one was interrupted at epoch 1 of 2, step 10 of 20: its process has died. "
        "Resume it, and it goes on from where it was saved last."
    )
