"""The two graphs that a cell carries are the same graph."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.workflow import api_prompt, encode_png, ui_workflow

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
"""The widgets of the stock nodes by position; after a seed comes what the page does with it after queueing."""


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
    assert as_the_page_converts_it(ui_workflow(cell, "cell")) == api_prompt(cell, "cell")


def test_a_png_carries_both_graphs_and_its_pixels():
    pixels = numpy.arange(8 * 16 * 3, dtype=numpy.uint8).reshape(8, 16, 3)
    picture = Image.open(io.BytesIO(encode_png(pixels, SETTINGS, "cell")))
    assert numpy.array_equal(numpy.asarray(picture), pixels)
    assert json.loads(picture.info["prompt"]) == api_prompt(SETTINGS, "cell")
    assert json.loads(picture.info["workflow"]) == ui_workflow(SETTINGS, "cell")


def test_a_png_without_graphs_says_nothing():
    pixels = numpy.zeros((8, 8, 3), numpy.uint8)
    assert Image.open(io.BytesIO(encode_png(pixels, None, ""))).info == {}
