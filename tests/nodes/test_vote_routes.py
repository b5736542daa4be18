"""Voting over HTTP: blind questions, votes, undo, and the ranking."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from cocktail.nodes.grid.engine.store.store import Store

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
