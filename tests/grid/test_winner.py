"""A graph stops until there are enough votes, and goes on with the checkpoint that they prefer."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from PIL import Image

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.vote.chart import chart_png, table
from cocktail.nodes.grid.engine.vote.enough import (
    DECISION,
    NUMBER,
    ROUNDS_OVER,
    UNTIL,
    page,
    progress,
)
from cocktail.nodes.grid.engine.vote.field import field_of
from cocktail.nodes.grid.engine.vote.ranking import JUDGE, report
from cocktail.nodes.grid.engine.vote.strengths import Comparison
from cocktail.nodes.grid.engine.vote.verdict import Verdict
from cocktail.nodes.grid.engine.vote.winner import by_hand, by_loss, checkpoint_of

from ..comfy import Comfy, ComfyError
from ..conftest import CHECKPOINT
from ..judge import vote_for
from .grids import axis_node, checkpoints_node, grid_prompt
from .voting import axis, key_of, made_field, vote_on

OTHER = "miniature_v1.safetensors"


def winner_prompt(**inputs: Any) -> dict[str, Any]:
    """A grid of two checkpoints and three seeds, and its winner."""
    axes = [checkpoints_node(CHECKPOINT, OTHER, labels="old\nnew"), axis_node("seed", 1, 2, 3)]
    prompt = grid_prompt("voted", axes, steps=1)
    del prompt["sheet"]
    pick = {"grid": ["render", 0], "rule": "votes", "name": "", **inputs}
    return {**prompt, "winner": {"class_type": "CocktailPickWinner", "inputs": pick}}


def loaded(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with a stock loader behind the winner."""
    return {
        **prompt,
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ["winner", 0]}},
        "latent": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "decode": {
            "class_type": "VAEDecode",
            "inputs": {"samples": ["latent", 0], "vae": ["load", 2]},
        },
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }


def voted(prompt: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """The prompt with a Vote in front of the winner."""
    given = {"until": "it is decided", "votes": 9, "pictures": "two at a time", **inputs}
    winner = {**prompt["winner"], "inputs": {**prompt["winner"]["inputs"], "grid": ["vote", 0]}}
    vote = {"class_type": "CocktailVote", "inputs": {"grid": ["render", 0], **given}}
    return {**prompt, "vote": vote, "winner": winner}


def ranked(prompt: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    inputs = {"grid": ["render", 0], **inputs}
    return {**prompt, "ranking": {"class_type": "CocktailRanking", "inputs": inputs}}


def test_a_graph_stops_for_votes_and_goes_on_with_the_winner(comfy: Comfy, lively: str):
    with pytest.raises(ComfyError) as stopped:
        comfy.run(winner_prompt())
    (message,) = stopped.value.nodes.values()
    assert "voted is not over: 0 votes; it is decided when one value" in message
    assert "/cocktail/view#vote=voted" in message
    with pytest.raises(ComfyError, match="0 votes, and 1 or more are needed. Vote on its page"):
        comfy.run(winner_prompt(when="as it stands"))

    vote_for(comfy, "voted", OTHER, "Ann")
    ranking = ranked(winner_prompt())
    del ranking["winner"]
    for prompt in (winner_prompt(), ranking, voted(winner_prompt())):
        with pytest.raises(ComfyError) as stopped:
            comfy.run(prompt)
        (message,) = stopped.value.nodes.values()
        assert re.search("is not over: 3 votes; .* of 90%, now [0-9]+%, or when", message)
        assert "/cocktail/view#vote=voted" in message and "queue this graph again" in message
        assert not re.search(r"\b(new|old|leads)\b", message), "the vote is blind"
    found = comfy.run(winner_prompt(when="as it stands"))
    assert found["winner"]["cocktail"][0]["checkpoint"] == OTHER

    with pytest.raises(ComfyError, match="3 of 9 votes"):
        comfy.run(voted(winner_prompt(), until="so many votes", votes=9))

    for judge in ("Bob", "Cy"):
        vote_for(comfy, "voted", OTHER, judge)
    found = comfy.run(voted(winner_prompt(when="as it stands"), until="the rounds are over"))
    assert found["vote"]["text"][0].endswith(" votes: decided")
    votes = comfy.base / "output" / "cocktail" / "grids" / "voted" / "votes.jsonl"
    assert '"kind": "rounds", "axis": "checkpoint", "votes": 9' in votes.read_text()
    one = {"when": "as it stands", "where": "seed = 2"}
    assert comfy.run(winner_prompt(**one))["winner"]["cocktail"][0]["checkpoint"] == OTHER
    with pytest.raises(ComfyError, match="'where' chooses votes, and the rule is 'last'"):
        comfy.run(winner_prompt(rule="last", **one))
    with pytest.raises(ComfyError, match="seed axis has no value '4'"):
        comfy.run(winner_prompt(where="seed = 4"))
    assert found["winner"]["cocktail"][0]["checkpoint"] == OTHER
    compared = {"grid": ["render", 0], "baseline": "old", "most": 2, "gain": 4.0}
    baseline = {"class_type": "CocktailCompareToBaseline", "inputs": compared}
    prompt = {**ranked(loaded(winner_prompt()), by="seed, judge"), "baseline": baseline}
    found = comfy.run(prompt)
    differences = found["baseline"]["cocktail"][0]
    assert (differences["baseline"], differences["compared"]) == ("old", 3)
    assert differences["largest"] > 0 and found["baseline"]["images"]
    picked, ranking = found["winner"]["cocktail"][0], found["ranking"]["cocktail"][0]
    assert (picked["checkpoint"], picked["label"]) == (OTHER, "new")
    assert found["show"]["images"]
    assert ranking["leader"] == "new" and ranking["verdict"]["state"] == "decided"
    assert set(ranking["by"]) == {"seed", JUDGE} and found["ranking"]["images"]

    found = comfy.run(winner_prompt(rule="by hand", name="old"))
    assert found["winner"]["cocktail"][0]["checkpoint"] == CHECKPOINT
    found = comfy.run(winner_prompt(rule="last"))
    assert found["winner"]["cocktail"][0]["checkpoint"] == OTHER
    with pytest.raises(ComfyError, match="no value 'odl'. Did you mean old"):
        comfy.run(winner_prompt(rule="by hand", name="odl"))
    with pytest.raises(ComfyError, match="run with a validation loss"):
        comfy.run(winner_prompt(rule="lowest validation loss"))
    with pytest.raises(ComfyError, match="seed axis has no checkpoints"):
        comfy.run(winner_prompt(rule="by hand", axis="seed", name="seed 2"))


def test_a_vote_is_enough_when_it_is_decided_or_all_that_was_asked_for_is_there():
    made = [Comparison((0, 1), (0,))] * 12

    def told(count: int, until: str, votes: int = 12, state: str = "more votes") -> tuple:
        verdict = Verdict(state, 1, (0.1, 0.899, 0.0, 0.001), "")
        found = progress(made[:count], verdict, until, votes)
        return found.ends, found.text

    ends, text = told(12, DECISION)
    assert not ends and text.startswith("12 votes; it is decided when")
    assert "with a probability of 90%, now 89%," in text, "not rounded up to what is needed"
    assert not told(0, DECISION, state="not separated")[0]
    for until in UNTIL:
        assert told(1, until, state="decided") == (True, "1 vote: decided")
    assert told(11, NUMBER) == (False, "11 of 12 votes") and told(12, NUMBER)[0]
    first = "1 vote; round 1 of 2 with 4 candidates has 4 votes left"
    assert told(1, ROUNDS_OVER) == (False, first)
    assert told(11, ROUNDS_OVER)[1].endswith("round 2 of 2 with 2 candidates has 1 vote left")
    assert told(12, ROUNDS_OVER) == (True, "12 votes, all 2 rounds are over")
    assert page("a b", "cfg", ROUNDS_OVER, 48, 2) == (
        "/cocktail/view#vote=a+b&axis=cfg&method=rounds&votes=48&count=2"
    )
    assert page("g", "", NUMBER, 9) == "/cocktail/view#vote=g&votes=9"
    assert page("g", where=" size = 64 ") == "/cocktail/view#vote=g&where=size+%3D+64"


def test_the_lowest_loss_and_the_hand_find_their_candidate():
    field = made_field(3)
    assert by_loss(field, {"m0": 0.3, "m2": 0.1, "elsewhere": 0.0}) == 2
    assert by_hand(field, " m1 ") == 1 and checkpoint_of(field, 1) == "m1"
    for refused in ("", "m9"):
        with pytest.raises(GridError, match="It has these: m0, m1, m2"):
            by_hand(field, refused)
    with pytest.raises(GridError, match="by votes or by hand"):
        by_loss(field, {})


def test_a_ranking_is_a_picture_and_a_table_in_which_labels_stay_text():
    field = made_field(3)
    votes = [vote_on(field, place, (0, 1), (1,), "a|b <b>$x$") for place in range(6)]
    found = report(field, votes, ["prompt", JUDGE])
    found["ranking"][0]["label"] = found["leader"] = "$\\frac{" + "x" * 100
    with Image.open(io.BytesIO(chart_png(found))) as picture:
        assert picture.width == 1200
    text = table(found)
    assert "a\\|b &lt;b>$x$" in text and "**prompt: p0**" in text
    assert "| m1 | +" in table(report(field, votes))


def test_the_winner_is_known_by_its_place_where_labels_are_equal():
    axes = [axis("checkpoint", "a", "b"), axis("seed", "1", "2")]
    for value in axes[0]["values"]:
        value["label"] = "new"
    positions = [(c, s) for c in range(2) for s in range(2)]
    field = field_of(axes, positions, [key_of(position) for position in positions])
    votes = [vote_on(field, place, (0, 1), (1,)) for place in (0, 1)]
    assert checkpoint_of(field, report(field, votes)["leader_number"]) == "b"
    with pytest.raises(GridError, match="2 values called 'new'"):
        by_hand(field, "new")
    assert by_hand(field, "b") == 1
