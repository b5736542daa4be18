"""What a cell carries: two graphs that are the same graph, or the workflow of a person."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cocktail.nodes.grid.engine.axes.inputs import input_axis
from cocktail.nodes.grid.engine.cell import node_inputs
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.feed.prompts import prompt_of
from cocktail.nodes.grid.engine.plan.of_workflow import workflow_plan

from .feeding import axis, cell_pixels, feed, plan_of
from .test_plan import SETTINGS

WIDGETS = {
    "CheckpointLoaderSimple": ["ckpt_name"],
    "CLIPSetLastLayer": ["stop_at_clip_layer"],
    "CLIPTextEncode": ["text"],
    "EmptyLatentImage": ["width", "height", "batch_size"],
    "KSampler": ["seed", None, "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "VAEDecode": [],
    "SaveImage": ["filename_prefix"],
}
"""The widgets of the stock nodes by position; after a seed comes what the page does with it after
queueing.
"""


def as_the_page_converts_it(workflow: dict[str, Any]) -> dict[str, Any]:
    """The API prompt of a workflow, by the rules of the page."""
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        names = WIDGETS[node["type"]]
        assert len(names) == len(node["widgets_values"])
        inputs = {
            name: value
            for name, value in zip(names, node["widgets_values"], strict=True)
            if name is not None
        }
        if "text" in inputs:
            inputs["text"] = inputs["text"].replace("\\{", "{").replace("\\}", "}")
        for slot, socket in enumerate(node["inputs"]):
            number, source, output, target, at, kind = links[socket["link"]]
            assert (target, at, kind) == (node["id"], slot, socket["type"])
            origin = workflow["nodes"][source - 1]
            assert origin["id"] == source
            assert number in origin["outputs"][output]["links"]
            assert origin["outputs"][output]["type"] == kind
            inputs[socket["name"]] = [str(source), output]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


@pytest.mark.parametrize(
    "cell",
    [
        SETTINGS,
        replace(SETTINGS, clip_skip=2, width=64, height=96, seed=2**40, negative_prompt="blurry"),
        replace(SETTINGS, prompt="a {red|green} circle, naïve"),
    ],
)
def test_the_workflow_converts_to_the_prompt(cell):
    assert as_the_page_converts_it(cell.ui_workflow("cell")) == cell.api_prompt("cell")


def test_the_json_of_a_grid_over_a_workflow_does_not_change_between_versions(comfy):
    workflow = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
        },
        "7": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["7", 0], "filename_prefix": "x"},
        },
    }
    axis = {"target": "EmptyImage.color", "values": "255"}
    plan = {"name": "pinned", "workflow": workflow, "axes": [axis]}
    found = comfy.post("/cocktail/grids/plan", {"plan": plan, "cells": True})
    assert found["plan"] == {
        "format": 1,
        "name": "pinned",
        "fixed": {},
        "axes": [
            {
                "label": "EmptyImage.color",
                "target": "EmptyImage.color",
                "values": [{"label": "color 255", "set": {"1.color": 255}}],
            }
        ],
        "rules": [],
        "contents": {},
        "workflow": workflow,
        "output": "9",
        "cells": [
            {
                "position": [0],
                "key": "979d744e879d8122f8c211c3175bb3157cf5dee524cdec0288864565f44119d1",
                "settings": {"1.color": 255},
            }
        ],
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def test_a_workflow_with_a_subgraph_is_planned_and_queued(comfy):
    """The page exports its nodes with ids such as 12:3, by which a person names them."""
    workflow = {
        "12:1": node("EmptyImage", width=16, height=16, batch_size=1, color=0),
        "12:4:2": node("ImageInvert", image=["12:1", 0]),
        "9": node("SaveImage", images=["12:4:2", 0], filename_prefix="x"),
    }
    workflow["12:1"]["_meta"]["title"] = "Paper"
    for number, target in enumerate(("12:1.color", "Paper.color")):
        plan = plan_of(f"subgraph-{number}", workflow, axis(target, 0, 255))
        found = feed(comfy, plan)
        assert (found["state"], found["finished"], found["failed"]) == ("finished", 2, 0), found
        made = cell_pixels(comfy, plan["name"]).values()
        assert [picture[0, 0].tolist() for picture in made] == [[255, 255, 255], [255, 255, 0]]
    refused = comfy.post(
        "/cocktail/grids/plan", {"plan": plan_of("x", workflow, axis("12:7.a", 1))}
    )
    assert "no node '12:7'" in refused["error"] and "ImageInvert (12:4:2)" in refused["error"]


LOOP = {
    "1": node("EmptyLatentImage", width=64, height=64),
    "2": node("LoopOpen", remaining=3, initial_value1=["1", 0]),
    "3": node("KSampler", seed=1, latent_image=["2", 2]),
    "4": node("LoopClose", flow_control=["2", 0], initial_value1=["3", 0]),
    "5": node("VAEDecode", samples=["4", 0]),
    "9": node("SaveImage", images=["5", 0], filename_prefix="x"),
}
"""A loop as ComfyUI's own tests write them: its end is linked to its beginning, and copies what
lies between when it runs.
"""


@pytest.fixture
def loops(monkeypatch):
    """No ComfyUI up to 0.33 brings nodes for loops: these are declared as packs declare theirs."""
    kinds = {"LoopClose": {"flow_control": ("FLOW_CONTROL", {"rawLink": True})}}
    monkeypatch.setattr(node_inputs, "specs", lambda kind: kinds.get(kind, {}))
    monkeypatch.setattr(node_inputs, "file_of", lambda *_: None)
    monkeypatch.setattr(node_inputs, "is_output", lambda kind: kind == "SaveImage")
    monkeypatch.setattr(node_inputs, "read_value", lambda _prompt, _id, _name, value: value)


def test_a_workflow_with_a_loop_is_planned_whole_with_what_lies_within_it(loops):
    axes = [input_axis("3.seed", [1, 2]), input_axis("2.remaining", [3, 4])]
    plan = workflow_plan("loop", LOOP, axes, {})
    prompts = [prompt_of(cell, plan)[0] for cell in plan.cells]
    assert all(prompt.keys() == LOOP.keys() for prompt in prompts)
    found = [(one["3"]["inputs"]["seed"], one["2"]["inputs"]["remaining"]) for one in prompts]
    assert found == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert len({cell.key for cell in plan.cells}) == 4


def test_an_output_within_a_loop_is_refused_by_name(loops):
    inside = LOOP | {"5": node("VAEDecode", samples=["3", 0])}
    words = r"SaveImage \(9\) is within a loop, between LoopOpen \(2\) and LoopClose \(4\)"
    with pytest.raises(GridError, match=words):
        workflow_plan("loop", inside, [], {})
