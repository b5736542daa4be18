"""Voting over HTTP: blind questions, votes, undo, and the ranking."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.phone.serving import PHONES
from cocktail.nodes.grid.engine.store import events
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.ballot import Ballot
from cocktail.nodes.grid.engine.vote.enough import ROUNDS_OVER, UNTIL, Enough
from cocktail.nodes.grid.engine.vote.verdict import NOTHING

from ..grid.drawn import Drawn, draw_grid, drawn_plan
from .run_folders import HTML, ask

VOTES = "/cocktail/grids/g/votes"


@pytest.fixture
def store(here: Path) -> Store:
    """A grid of 3 models, 3 prompts and 2 seeds."""
    plan = drawn_plan(checkpoints=3)
    store = Store(here / "output" / "cocktail" / "grids" / "g")
    store.save_plan(plan)
    draw_grid(plan, store.folder, Drawn())
    return store


def question(judge: str = "Ann", **more: object) -> dict:
    query = "".join(f"&{name}={quote(str(value))}" for name, value in more.items())
    status, found = ask("GET", f"{VOTES}/question?judge={quote(judge)}{query}")
    assert status == 200, found
    return found


def vote(asked: dict, order: list[str], judge: str = "Ann", **more: object) -> tuple[int, dict]:
    shown = [one["key"] for one in asked["question"]["shown"]]
    body = {"judge": judge, "question": asked["question"]["id"], "shown": shown, "order": order}
    return ask("POST", VOTES, {**body, **more})


def model_of(store: Store, key: str) -> str:
    plan = store.saved_plan()
    return dict(zip(plan.keys, (position[2] for position in plan.positions()), strict=True))[key]


def test_a_vote_from_the_first_question_to_the_decision(store):
    """The judge always prefers model 1."""
    for _ in range(40):
        asked = question()
        if asked["question"] is None:
            break
        best = next(
            (s["key"] for s in asked["question"]["shown"] if model_of(store, s["key"]) == 1), None
        )
        status, told = vote(asked, [best] if best else [])
        assert status == 200 and told["own"] == asked["own"] + 1
    assert asked["state"] == "decided" and asked["probability"] >= 0.9
    status, found = ask("GET", f"{VOTES}/ranking?by=prompt,judge")
    assert status == 200 and found["leader"] == "model 1" == found["ranking"][0]["label"]
    assert found["votes"] == told["votes"] and set(found["by"]) == {"prompt", "judge"}
    assert "model 1 is the best with a probability of" in found["verdict"]["text"]


def test_a_question_names_no_candidate_and_its_pictures_can_be_found(store):
    asked = question(count=2)
    assert "model" not in json.dumps(asked)
    assert set(asked["question"]["place"]) == {"seed", "prompt"}
    for shown in asked["question"]["shown"]:
        with Image.open(store.folder / shown["file"]) as picture:
            assert picture.size == (shown["width"], shown["height"])


def test_a_question_is_answered_once_and_undo_asks_it_again(store):
    asked = question()
    assert vote(asked, [])[0] == 200
    status, refused = vote(asked, [])
    assert status == 409 and "answered already" in refused["error"]
    status, undone = ask("POST", f"{VOTES}/undo", {"judge": "Ann"})
    assert status == 200 and undone["undone"] == asked["question"]["id"] and undone["votes"] == 0
    assert question()["question"] == asked["question"]
    assert vote(asked, [], both_bad=True)[0] == 200


def test_a_damaged_picture_is_left_out_and_a_cut_file_is_told(store):
    plan = store.saved_plan()
    for key, position in zip(plan.keys, plan.positions(), strict=True):
        if position[2] == 0:
            store.cell_path(key).write_bytes(b"no picture")
    assert vote(question(), [])[0] == 200
    for _ in range(5):
        shown = question()["question"]["shown"]
        assert all(model_of(store, one["key"]) for one in shown)
        assert vote(question(), [])[0] == 200
    data = (store.folder / "votes.jsonl").read_bytes()
    (store.folder / "votes.jsonl").write_bytes(data[:-20])
    assert question()["votes"] == 5 and "1 line of votes.jsonl" in question()["problem"]


def test_votes_are_text_and_only_on_pictures_that_are_there(store):
    assert vote(question(HTML), [], HTML)[0] == 200
    assert ask("GET", f"{VOTES}/ranking")[1]["judges"][0]["judge"] == HTML
    asked = question("Bob")
    store.cell_path(asked["question"]["shown"][0]["key"]).unlink()
    status, refused = vote(asked, [], "Bob")
    assert status == 400 and "There is no picture of the cell" in refused["error"]
    for body in ({}, {"question": "x", "shown": []}, {"question": "0" * 32, "shown": ["a", "b"]}):
        assert ask("POST", VOTES, body)[0] == 400


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("count=3", "count must be 2 or 4"), ("axis=steps", "no axis 'steps'"),
        ("method=x", "no method"), ("judge=", "Enter a judge's name"), ("round_votes=0", "from 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(store, query: str, told: str):
    status, refused = ask("GET", f"{VOTES}/question?{query}")
    assert status == 400 and told in refused["error"]
    status, refused = ask("GET", f"{VOTES}/ranking?by=steps")
    assert status == 400 and "judge, seed, prompt" in refused["error"]


@pytest.mark.parametrize(
    ("at_the_desk", "on_phones"),
    [
        ({}, {}),
        ({"method": "rounds", "round_votes": 4}, {"method": "rounds", "round_votes": 4}),
        ({"votes": 3}, {"votes": 3}),
    ],
)
def test_a_vote_that_is_over_at_the_desk_is_over_on_phones(store, at_the_desk, on_phones):
    session = PHONES.gate.open(store.folder, axis="checkpoint", **on_phones)
    try:
        while (asked := question(**at_the_desk))["question"]:
            assert not asked["over"] and PHONES.gate.of(store.folder) == session
            best = max(asked["question"]["shown"], key=lambda s: model_of(store, s["key"]))
            assert vote(asked, [best["key"]])[0] == 200
        assert asked["over"] and PHONES.gate.of(store.folder) is None
    finally:
        PHONES.gate.end(store.folder)


def test_the_end_by_rules_of_this_page_alone_leaves_phones_open(store):
    PHONES.gate.open(store.folder, axis="seed")
    try:
        while (asked := question(votes=2))["question"]:
            assert vote(asked, [])[0] == 200
        assert asked["over"] and asked["votes"] == 2
        assert PHONES.gate.of(store.folder)
    finally:
        PHONES.gate.end(store.folder)


def test_rounds_that_a_node_has_noted_are_those_of_page_and_ranking(store):
    Ballot(store).note(ROUNDS_OVER, 4)
    while (asked := question())["question"]:
        best = max(asked["question"]["shown"], key=lambda s: model_of(store, s["key"]))
        assert vote(asked, [best["key"]])[0] == 200
    assert asked["over"] and asked["votes"] <= 4
    found = ask("GET", f"{VOTES}/ranking")[1]
    assert found["leader"] == found["ranking"][0]["label"] and found["rounds"] == 4
    assert ask("GET", f"{VOTES}/ranking?method=rounds")[1]["rounds"] == 4
    assert question(method="rounds")["over"]
    assert not question(method="rounds", round_votes=99)["over"]
    freely = ask("GET", f"{VOTES}/ranking?method=active")[1]
    assert freely["rounds"] == 0 and all(one["stayed"] == 0 for one in freely["ranking"])
    assert question(method="active")["state"] == "more votes"


def test_a_vote_that_is_stored_is_never_refused(store, monkeypatch):
    def broken(*given, **more):
        raise OSError(errno.EIO, "it cannot be read")

    PHONES.gate.open(store.folder, axis="checkpoint")
    try:
        asked = question()
        with monkeypatch.context() as failing:
            failing.setattr(Store, "saved_plan", broken)
            assert vote(asked, [])[0] == 500
        assert not (store.folder / "votes.jsonl").exists()
        asked = question()
        monkeypatch.setattr(Ballot, "is_over", broken)
        status, told = vote(asked, [])
        assert (status, told["votes"], told["own"]) == (200, 1, 1)
        assert PHONES.gate.of(store.folder)
    finally:
        PHONES.gate.end(store.folder)


def test_a_disk_that_takes_no_note_of_the_rounds_is_told_in_words(store, monkeypatch):
    from cocktail.nodes.grid.vote import CocktailVote

    monkeypatch.setattr(events, "announce_vote", lambda *told: None)
    (store.folder / ".votes.jsonl.lock").mkdir()
    with pytest.raises(GridError, match="Free space or change the folder's permissions"):
        CocktailVote.execute(drawn_plan(checkpoints=3), ROUNDS_OVER, 4, "two at a time")


def test_where_all_pictures_are_alike_nobody_waits_for_votes(here, monkeypatch):
    from cocktail.nodes.grid.vote import AS_IT_STANDS, DECISION, report_of

    monkeypatch.setattr(events, "announce_vote", lambda *told: None)
    plan = drawn_plan()
    store = Store(here / "output" / "cocktail" / "grids" / "g")
    store.save_plan(plan)
    draw_grid(plan, store.folder, Drawn())
    with pytest.raises(GridError, match="is not over: 0 votes"):
        report_of(plan, "", [], DECISION)
    first, *others = (store.cell_path(cell.key) for cell in plan.cells)
    for file in others:
        shutil.copyfile(first, file)
    asked = question()
    assert asked["question"] is None and asked["over"] and asked["state"] == "all alike"
    ranked = ask("GET", f"{VOTES}/ranking")[1]
    assert asked["text"] == ranked["verdict"]["text"] == NOTHING
    for when in (DECISION, AS_IT_STANDS):
        assert report_of(plan, "", [], when)["leader"] == "model 0"
    for until in UNTIL:
        assert Ballot(store).progress(until, 9) == Enough(True, NOTHING)
    assert Ballot(store).is_over()


def test_models_with_the_same_pictures_win_together_and_nobody_waits(store):
    plan = store.saved_plan()
    cells = dict(zip(map(tuple, plan.positions()), plan.keys, strict=True))
    for (seed, prompt, model), key in cells.items():
        if model == 1:
            shutil.copyfile(store.cell_path(cells[seed, prompt, 0]), store.cell_path(key))
    for judge in ("Ann", "Bob", "Cy"):
        while (asked := question(judge))["question"] is not None:
            shown = [one["key"] for one in asked["question"]["shown"]]
            assert 2 in [model_of(store, key) for key in shown], "0 and 1 cannot be told apart"
            vote(asked, [key for key in shown if model_of(store, key) != 2], judge)
    assert asked["over"] and asked["state"] == "decided"
    both, _, words = asked["text"].partition(", whose pictures are alike, ")
    assert sorted(both.split(" and ")) == ["model 0", "model 1"]
    assert words.startswith("are the best with a probability of 9")
    assert Ballot(store).is_over() and Ballot(store).progress(UNTIL[0], 0).ends


def test_one_size_is_voted_on_alone(store):
    only = quote("prompt = prompt 1")
    status, asked = ask("GET", f"{VOTES}/question?where={only}")
    assert status == 200 and asked["question"]["place"]["prompt"] == "prompt 1"
    assert vote(asked, [])[0] == 200
    assert ask("GET", f"{VOTES}/ranking?where={only}")[1]["votes"] == 1
    none = ask("GET", f"{VOTES}/ranking?where={quote('prompt = prompt 2')}")[1]
    assert (none["votes"], none["elsewhere"]) == (0, 1)
    status, refused = ask("GET", f"{VOTES}/question?where=x")
    assert status == 400 and "write target = label" in refused["error"]


def test_votes_on_another_axis_are_not_counted_on_this_one(store):
    asked = question(axis="prompt")
    assert vote(asked, [], axis="prompt")[1]["votes"] == 1
    assert question()["votes"] == question()["own"] == 0
    assert question(axis="prompt")["own"] == 1
    for axis, status in (("checkpoint", 400), ("nothing", 400), ("prompt", 200), ("prompt", 400)):
        assert ask("POST", f"{VOTES}/undo", {"judge": "Ann", "axis": axis})[0] == status
    assert question(axis="prompt")["own"] == 0


def test_rounds_and_other_axes_can_be_voted_on(store):
    asked = question(method="rounds", round_votes=6)
    assert len(asked["question"]["shown"]) == 2
    asked = question(axis="prompt")
    assert set(asked["question"]["place"]) == {"seed", "checkpoint"}
    assert vote(asked, [])[0] == 200
    assert ask("GET", f"{VOTES}/ranking?axis=prompt")[1]["votes"] == 1
    assert (
        ask("GET", f"{VOTES}/ranking")[1] | {"elsewhere": 1, "votes": 0}
        == ask("GET", f"{VOTES}/ranking")[1]
    )
