"""Saved graphs queued by POST /cocktail/graphs/NAME, with values by title and input."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from .comfy import ComfyError
from .judge import checkpoints_of, decide

NAME = "weighted_sum"
SHORT = {
    "The mix as a file.name": "by-post",
    "60 % A + 40 % B.share_of_a": 25,
    "Sample.steps": "1",
    "Picture.filename_prefix": "cocktail/by_post",
}


THE_METHOD = "cosmopolitan"
SMALL = {
    "Choose rows.sample": 16,
    "Settings at 64 px.epochs": 2, "Settings at 64 px.validation_timesteps": 1,
    "Settings at 80 px.epochs": 2, "Settings at 80 px.validation_timesteps": 1,
    "Plan of the epochs.steps": 1, "Plan of the tasting.steps": 1,
    "Plan of the epochs.width": 32, "Plan of the epochs.height": 32,
    "Plan of the tasting.width": 32, "Plan of the tasting.height": 32,
    "Rows: prompts for the epochs.values": "a red circle on a blue background",
    "Rows: prompts for the tasting.values": "a red circle on a blue background",
}  # fmt: skip
"""The whole method in about a minute of processor time."""
VALUES = {} if os.environ.get("COCKTAIL_ALL") else SMALL


def values_of(comfy, prompt_id: str) -> dict:
    """The inputs with which a prompt was queued, by title and name."""
    prompt = comfy.history(prompt_id)["prompt"][2]
    return {
        f"{node['_meta']['title']}.{name}": value
        for node in prompt.values()
        for name, value in node["inputs"].items()
    }


def test_graphs_are_listed_with_the_inputs_that_one_can_change(comfy, root: Path):
    graphs = {graph["name"]: graph for graph in comfy.get("/cocktail/graphs")["graphs"]}
    assert list(graphs) == sorted(file.stem for file in (root / "workflows").glob("*.json"))
    for graph in graphs.values():
        assert graph["about"] and graph["inputs"] and "problem" not in graph, graph["name"]
    inputs = graphs[NAME]["inputs"]
    assert inputs["Sample.cfg"] == {"type": "FLOAT", "default": 4.0, "min": 0.0, "max": 100.0}
    base = inputs["A.checkpoint"]
    assert base["type"] == "COMBO" and base["default"] == "miniature_base.safetensors"
    assert "miniature_v1.safetensors" in base["choices"]
    assert "60 % A + 40 % B.a" not in inputs
    loaded = inputs["The file, loaded.ckpt_name"]
    assert loaded["linked_to"] == "The mix as a file" and "default" not in loaded


def test_one_post_runs_a_graph_to_its_end_with_the_values_that_it_gives(comfy):
    answer = comfy.post(f"/cocktail/graphs/{NAME}", {"client_id": "curl", "values": SHORT})
    assert answer.get("graph") == NAME and answer["client_id"] == "curl", answer
    outputs = comfy.wait(answer["prompt_id"])
    values = values_of(comfy, answer["prompt_id"])
    assert values["60 % A + 40 % B.share_of_a"] == 25.0 and values["Sample.steps"] == 1
    (made,) = [
        result
        for output in outputs.values()
        for result in output.get("cocktail", ())
        if "by-post" in str(result.get("checkpoint"))
    ]
    assert (comfy.base / "models" / "checkpoints" / made["checkpoint"]).is_file()
    assert list((comfy.base / "output" / "cocktail").glob("by_post*.png"))


@pytest.mark.more_with_all("the whole method with the graph's own values")
def test_one_post_goes_from_a_table_to_the_card_of_a_release(comfy):
    body = {"client_id": "night", "values": VALUES} if VALUES else {}
    answer = comfy.post(f"/cocktail/graphs/{THE_METHOD}", body)
    outputs = comfy.wait(answer["prompt_id"], timeout=3600)
    told = by_title(comfy, answer["prompt_id"], outputs)
    rows, kept = told["Choose rows"]["rows"], told["Leave out what harms"]["pairs"]
    assert told["Find their pictures"]["matched"] == rows == VALUES.get("Choose rows.sample", rows)
    split = told["15 % for validation"]
    assert split["train"] + split["validation"] == kept
    # What has one caption stays together: some more may be held back.
    assert 0 <= split["validation"] - math.ceil(0.15 * kept) <= 3
    runs = {run["name"]: run for run in comfy.get("/cocktail/runs")["runs"]}
    for side in (64, 80):
        pick, run = told[f"Best of {side} px"], runs[f"cosmopolitan-{side}"]
        assert run["status"] == "finished"
        assert pick["validation_loss"] == run["best"]["loss"] and pick["run"] == run["name"]
    winner = told["The winner"]
    assert winner["rule"] == "last"
    assert winner["checkpoint"] == told["Save the cocktail"]["checkpoint"]
    card = comfy.base / "output" / told["The card of the release"]["card"]
    page = card.read_text(encoding="utf-8")
    for words in ("Cosmopolitan", "cosmopolitan-64", "cosmopolitan-80", "miniature_v3"):
        assert words in page, words
    assert len(list(card.parent.glob("pictures/*.webp"))) > 0


def test_a_graph_that_stops_for_votes_continues_with_the_same_request(comfy):
    body = {"client_id": "night", "values": VALUES | {"The winner.rule": "votes"}}
    stopped = comfy.post(f"/cocktail/graphs/{THE_METHOD}", body)
    with pytest.raises(ComfyError, match="view#vote=cosmopolitan-tasting"):
        comfy.wait(stopped["prompt_id"], timeout=900)
    liked = next(name for name in checkpoints_of(comfy, "cosmopolitan-tasting").values())
    decide(comfy, "cosmopolitan-tasting", liked)
    answer = comfy.post(f"/cocktail/graphs/{THE_METHOD}", body)
    outputs = comfy.wait(answer["prompt_id"], timeout=900)
    told = by_title(comfy, answer["prompt_id"], outputs)
    assert (told["The winner"]["rule"], told["The winner"]["checkpoint"]) == ("votes", liked)
    assert (comfy.base / "output" / told["The card of the release"]["card"]).is_file()


def by_title(comfy, prompt_id: str, outputs: dict) -> dict:
    """The first result of each node by its title."""
    prompt = comfy.history(prompt_id)["prompt"][2]
    return {
        prompt[key]["_meta"]["title"]: output["cocktail"][0]
        for key, output in outputs.items()
        if output.get("cocktail")
    }


def test_a_value_takes_the_place_of_a_link(comfy):
    values = SHORT | {"The file, loaded.ckpt_name": "miniature_v1.safetensors"}
    answer = comfy.post(f"/cocktail/graphs/{NAME}", {"values": values})
    comfy.wait(answer["prompt_id"])
    values = values_of(comfy, answer["prompt_id"])
    assert values["The file, loaded.ckpt_name"] == "miniature_v1.safetensors"


def test_all_that_is_wrong_is_named_by_title_and_input_and_nothing_is_queued(comfy):
    before = comfy.get("/prompt")["exec_info"]["queue_remaining"]
    wrong = {
        "A.checkpoint": "miniature_bose.safetensors",
        "Sample.steps": 0,
        "Sample.cfg": [1],
        "Sample.size": 3,
        "Sampler.cfg": 3,
        "60 % A + 40 % B.a": "x",
        "nonsense": 1,
    }
    answer = comfy.post(f"/cocktail/graphs/{NAME}", {"values": wrong})
    found = {(one["title"], one["input"]): one["message"] for one in answer["problems"]}
    assert (
        "Did you mean" in found["A", "checkpoint"] or "miniature_base" in found["A", "checkpoint"]
    )
    assert "from 1 to" in found["Sample", "steps"]
    assert "no input" in found["Sample", "size"]
    assert "no node" in found["Sampler", "cfg"]
    assert "from another node" in found["60 % A + 40 % B", "a"]
    assert len(found) == len(wrong) and "prompt_id" not in answer
    assert comfy.get("/prompt")["exec_info"]["queue_remaining"] == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("no_such_graph", {}),
        ("%2e%2e%2fapi%2fweighted_sum", {}),
        (NAME, {"values": [1]}),
        (NAME, {"values": {"A.checkpoint": None}}),
        (NAME, {"values": {"A.checkpoint": {"a": [["b"]] * 9}}}),
        (NAME, {"values": {"x" * 5_000: 1}}),
        (NAME, {"values": {"x.y": 1} | {f"{i}.y": 1 for i in range(2_000)}}),
        (NAME, {"client_id": 5}),
        (NAME, {"prompt": {}}),
    ],
)
def test_a_hostile_request_is_refused_in_words(comfy, path, body):
    answer = comfy.post(f"/cocktail/graphs/{path}", body)
    assert "prompt_id" not in answer and len(answer["error"]) > 10


def test_what_comfyui_refuses_is_told_by_title_and_input():
    from cocktail.nodes.saved_graphs import translated

    prompt = {"7": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Sample"}}}
    error = {
        "type": "required_input_missing", "message": "Required input is missing",
        "details": "model", "extra_info": {"input_name": "model"},
    }  # fmt: skip
    found = translated(prompt, {"7": {"errors": [error], "class_type": "KSampler"}})
    message = "Sample: Required input is missing: model"
    assert found == [{"title": "Sample", "input": "model", "message": message}]
