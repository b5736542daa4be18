"""Votes from phones: whoever has the link sees the pictures of one grid and votes, no more."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.phone import door
from cocktail.nodes.grid.engine.phone.app import FILES
from cocktail.nodes.grid.engine.phone.gate import (
    ADMITTED,
    BURST,
    LIFETIME_S,
    MOST_WRONG,
    TOO_OFTEN,
    WAIT_S,
    WRONG,
    Gate,
    network_of,
)
from cocktail.nodes.grid.engine.phone.serving import PhoneServer
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.log import VoteLog
from cocktail.trainer.errors import TrainerError

from ..comfy import free_port
from .drawn import Drawn, draw_grid, drawn_plan
from .grids import wait_for
from .voting import made_field, vote_on

HERE = "127.0.0.1"
PATHS = (
    "/plan.json", "/../plan.json", "/pictures/", "/pictures/../plan.json", "/pictures/..%2fplan",
    "/pictures/..%2f..%2fother%2fcells", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/votes",
    "/pictures/" + "a" * 64, "/pictures/" + "g" * 64, "/pictures/" + "A" * 64, "/index.html",
    "/cocktail/grids", "/api/cocktail/grids", "/prompt", "/view?filename=x", "/ranking",
    "/votes/ranking", "/states", "/question/..", "/phone.mjs/..", "/phone.css%00.json",
    "/pictures/%00", "/pictures/" + "../" * 30 + "etc/passwd", "/pictures/%F0%9F%8D%B8",
)  # fmt: skip


class Clock:
    """A second later whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 1.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def drawn(folder: Path, **more: Any) -> Store:
    plan = drawn_plan(checkpoints=3, **more)
    store = Store(folder)
    store.save_plan(plan)
    draw_grid(plan, folder, Drawn())
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return drawn(tmp_path / "g")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "network.json"
    file.write_text(json.dumps({"phone_port": free_port(), "phone_address": HERE}))
    return file


@pytest.fixture
def phones() -> Iterator[PhoneServer]:
    server = PhoneServer(Gate(clock=Clock()))
    yield server
    for session in server.gate.sessions():
        server.gate.end(session.grid)
    if server._thread is not None:
        server._thread.join(30)


class Phone:
    """What a phone can send."""

    def __init__(self, url: str) -> None:
        address, self.token = url.split("/#")
        self.host = address.removeprefix("http://")

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        data = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection._validate_path = lambda path: None  # type: ignore[attr-defined]
            connection.request(method, path, data, {**sent, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def question(self, judge: str) -> dict[str, Any]:
        status, data = self.ask("GET", f"/question?judge={judge}")
        assert status == 200, data
        return json.loads(data)

    def vote(self, judge: str, asked: dict[str, Any], best: int = 0) -> tuple[int, bytes]:
        shown = [one["key"] for one in asked["shown"]]
        body = {"judge": judge, "question": asked["id"], "shown": shown, "order": [shown[best]]}
        return self.ask("POST", "/votes", body)


def test_of_a_million_guesses_few_are_looked_at_and_none_gets_in(tmp_path: Path):
    """Guesses come all the time while the link lasts."""
    clock, guesses = Clock(), 20_000
    gate = Gate(clock=clock)
    token = gate.open(tmp_path).token
    assert len(token) >= 43
    clock.step = LIFETIME_S / guesses / 10
    looked_at = sum(gate.admit("192.168.0.66", f"{n:043d}")[0] == WRONG for n in range(guesses))
    in_all = MOST_WRONG * LIFETIME_S / WAIT_S
    assert 0 < looked_at <= in_all < 1_000_000 / 200
    for client in range(guesses):
        assert gate.admit(f"10.0.{client // 250}.{client % 250}", token[:-1])[1] is None
    assert gate.admit("192.168.0.7", token)[0] == ADMITTED


def test_a_client_that_guesses_or_asks_too_often_waits_and_others_do_not(tmp_path: Path):
    clock = Clock()
    clock.step = 0.0
    gate = Gate(clock=clock)
    token = gate.open(tmp_path).token
    assert [gate.admit("::1", "x")[0] for _ in range(MOST_WRONG)] == [WRONG] * MOST_WRONG
    assert gate.admit("::1", token)[0] == TOO_OFTEN
    clock.now += WAIT_S + 1
    assert gate.admit("::1", token)[0] == ADMITTED
    asked = [gate.admit("10.0.0.1", token)[0] for _ in range(int(BURST) + 5)]
    assert asked == [ADMITTED] * int(BURST) + [TOO_OFTEN] * 5
    assert gate.admit("10.0.0.2", token)[0] == ADMITTED
    clock.now += LIFETIME_S
    assert gate.admit("10.0.0.2", token)[0] == WRONG and gate.sessions() == []
    assert network_of("fe80::1%eth0") == network_of("fe80::2") != network_of("fe80:1::1")


def test_without_leave_of_the_owner_nothing_listens(store: Store, tmp_path: Path):
    phones = PhoneServer()
    with pytest.raises(GridError, match='"phone_port": 8190'):
        phones.open(tmp_path / "network.json", store.folder)
    for value in (80, True, "8190", 70_000):
        (tmp_path / "network.json").write_text(json.dumps({"phone_port": value}))
        with pytest.raises(TrainerError, match="a number from 1024 to 65535"):
            phones.open(tmp_path / "network.json", store.folder)
    assert phones._thread is None and phones.gate.sessions() == []


@pytest.mark.parametrize("rules", [{}, {"method": "rounds", "round_votes": 6}, {"votes": 5}])
def test_a_phone_votes_until_the_vote_is_over_and_so_is_its_link(store, settings, phones, rules):
    _, url = phones.open(settings, store.folder, **rules)
    phone, log = Phone(url), VoteLog(store.folder)
    log.add(vote_on(made_field(), 0, (0, 1), (1,), "Ann"))
    plan = store.saved_plan()
    model = dict(zip(plan.keys, (position[2] for position in plan.positions()), strict=True))
    for votes in count():
        told = phone.question("Bob")
        assert set(told) == {"question", "over", "own"} and told["own"] == votes
        assert all(set(one) == {"key", "width", "height"} for one in told["question"]["shown"])
        models = [model[one["key"]] for one in told["question"]["shown"]]
        status, data = phone.vote("Bob", told["question"], models.index(max(models)))
        assert status == 200, data
        if json.loads(data)["over"]:
            break
    assert 4 <= votes + 1 <= rules.get("round_votes", 40)
    assert {vote.judge for vote in log.read().standing} == {"Ann", "Bob (phone)"}
    assert phone.ask("GET", "/question")[0] == 401
    phones._thread.join(30)
    assert not phones._thread.is_alive()


def test_a_picture_is_pixels_alone_and_of_this_grid_alone(store, settings, phones, tmp_path):
    other = drawn(tmp_path / "other", prompts=4)
    phone = Phone(phones.open(settings, store.folder)[1])
    key = store.saved_plan().keys[0]
    with Image.open(store.cell_path(key)) as whole:
        assert "model 0" in whole.info["prompt"]
    status, data = phone.ask("GET", f"/pictures/{key}")
    assert status == 200 and b"checkpoint" not in data and b"model" not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (16, 16))
        assert not {"exif", "xmp", "prompt", "workflow"} & picture.info.keys()
    foreign = next(k for k in other.saved_plan().keys if k not in store.saved_plan().keys)
    assert phone.ask("GET", f"/pictures/{foreign}")[0] == 404
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    store.cell_path(key).unlink()
    store.cell_path(key).symlink_to(secret)
    assert phone.ask("GET", f"/pictures/{key}")[0] == 404


def test_no_path_and_no_method_leads_to_anything_else(store, settings, phones):
    phone = Phone(phones.open(settings, store.folder)[1])
    for path in FILES:
        assert phone.ask("GET", path, Authorization="")[0] == 200
    for path in PATHS:
        status, data = phone.ask("GET", path)
        assert status in (400, 404), (path, status, data)
        assert b"model" not in data and b"root:" not in data and b"grid/" not in data
        assert phone.ask("GET", path, Authorization="Bearer x")[0] in (400, 401, 404, 429)
    phones.gate.clock.now += 2 * WAIT_S
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "CONNECT", "POST"):
        for path in ("/", "/question", "/pictures/" + "a" * 64):
            assert phone.ask(method, path)[0] in (400, 404), (method, path)
    for body in ([], {"judge": 1}, {"x": 1}, {"question": "../x"}, {"shown": ["../../x"] * 2}):
        assert phone.ask("POST", "/votes", body)[0] == 400
    assert phone.ask("POST", "/votes", {"judge": "x" * 20_000})[0] in (400, 413)
    assert phone.ask("POST", "/votes", {}, **{"Content-Type": "text/plain"})[0] == 400
    assert VoteLog(store.folder).read().standing == ()


def test_a_phone_takes_back_no_vote_of_somebody_at_the_page(store, settings, phones):
    phone = Phone(phones.open(settings, store.folder)[1])
    VoteLog(store.folder).add(vote_on(made_field(), 0, (0, 1), (1,), "Ann"))
    assert phone.ask("POST", "/votes/undo", {"judge": "Ann"})[0] == 400
    assert phone.vote("Ann", phone.question("Ann")["question"])[0] == 200
    for status in (200, 400):
        assert phone.ask("POST", "/votes/undo", {"judge": "Ann"})[0] == status
    assert [vote.judge for vote in VoteLog(store.folder).read().standing] == ["Ann"]


def test_two_phones_at_once_lose_no_vote_and_none_counts_twice(store, settings, phones):
    phone = Phone(phones.open(settings, store.folder, count=2)[1])
    cast: list[str] = []

    def judge(name: str) -> None:
        for _ in range(3):
            asked = phone.question(name)["question"]
            if asked and phone.vote(name, asked)[0] == 200:
                cast.append(asked["id"])

    threads = [threading.Thread(target=judge, args=(name,)) for name in ("Ann", "Bob", "Ann")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    standing = [vote.id for vote in VoteLog(store.folder).read().standing]
    assert sorted(standing) == sorted(set(cast)) and len(cast) > 3


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from killed import import_pack
import_pack()
from cocktail.nodes.grid.engine.phone.serving import PhoneServer
print(PhoneServer().open(Path(sys.argv[2]), Path(sys.argv[3]))[1], flush=True)
time.sleep(600)
"""


def test_of_a_server_that_is_killed_every_vote_that_was_taken_is_there(store, settings):
    given = (str(Path(__file__).parents[1]), str(settings), str(store.folder))
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, *given], stdout=subprocess.PIPE, text=True
    )
    taken: list[str] = []
    try:
        assert server.stdout is not None
        phone = Phone(server.stdout.readline().strip())

        def judge(name: str) -> None:
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
                while asked := phone.question(name)["question"]:
                    if phone.vote(name, asked)[0] == 200:
                        taken.append(asked["id"])

        threads = [threading.Thread(target=judge, args=(name,)) for name in ("Ann", "Bob")]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(taken) > 2 or not any(thread.is_alive() for thread in threads))
    finally:
        server.kill()
        server.communicate()
    for thread in threads:
        thread.join()
    log = VoteLog(store.folder)
    before = log.read()
    assert len(taken) > 2 and set(taken) <= {vote.id for vote in before.standing}
    log.add(vote_on(made_field(), 0, (0, 1), (1,), "Cy"))
    after = log.read()
    assert after.standing[:-1] == before.standing and after.damaged == int(before.cut)


def test_a_vote_that_is_opened_while_the_server_closes_is_open(store, settings, phones):
    phones.open(settings, store.folder)
    before = phones._thread
    phones.gate.end(store.folder)
    wait_for(lambda: phones._closing)
    phone = Phone(phones.open(settings, store.folder)[1])
    assert phone.question("Ann")["question"] and phones._thread is not before


def slow(address: tuple[str, int], said: bytes, count: int) -> list[socket.socket]:
    """Connections of somebody who says only that and then nothing."""
    made = []
    for _ in range(count):
        made.append(socket.create_connection(address, timeout=30))
        with contextlib.suppress(OSError):
            made[-1].sendall(said)
    return made


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nX: ", b"POST"])
def test_one_who_opens_many_connections_and_says_nothing_has_few_and_not_for_long(
    store, settings, phones, monkeypatch, said
):
    phone = Phone(phones.open(settings, store.folder)[1])
    host, port = phone.host.split(":")
    if said == b"POST":
        said = (
            f"POST /votes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phone.token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        ).encode()
    made = slow((host, int(port)), said, 3 * door.MOST_OF_ONE)
    try:
        wait_for(lambda: sum(map(is_open, made)) <= door.MOST_OF_ONE)
        assert VoteLog(store.folder).read().standing == ()
        monkeypatch.setattr(door, "LONGEST_S", 0.1)
        wait_for(lambda: not any(map(is_open, made)))
        monkeypatch.undo()
        assert phone.ask("GET", "/question")[0] == 200
    finally:
        for one in made:
            one.close()


def test_a_new_link_ends_the_one_before_and_a_grid_that_is_gone_is_told(store, settings, phones):
    first = Phone(phones.open(settings, store.folder)[1])
    second = Phone(phones.open(settings, store.folder)[1])
    assert first.token != second.token
    assert first.ask("GET", "/question")[0] == 401 and second.ask("GET", "/question")[0] == 200
    store.folder.rename(store.folder.with_name("renamed"))
    status, data = second.ask("GET", "/question")
    assert status == 410 and "no longer there" in data.decode()
    phones.gate.end(store.folder)
    assert second.ask("GET", "/question")[0] == 401
