"""What a cell carries: two graphs that are the same graph, or the workflow of a person."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

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
