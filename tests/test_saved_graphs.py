"""Every saved graph runs on a fresh ComfyUI with the miniatures: as it is with `--all`, otherwise
with at most FEW steps of sampling, epochs and values of an axis, in fp32, with few pairs and small
pictures, and experiments with a tiny model.
The demo's, the search's and that of the whole method have tests of their own.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from cocktail.trainer.range_test import FEWEST

from .judge import run_voted
from .trainer.conftest import make_tiny_base

FOLDER = Path(__file__).resolve().parents[1] / "workflows" / "api"
OF_THEIR_OWN = ("cosmopolitan", "cosmopolitan_miniature", "cocktail_search")
WITH_ALL = (
    "epochs_grid", "finetune_768_adamw", "finetune_above_768", "generated_captions",
    "gentler_slope", "sweep_attention", "sweep_conditional_dropout", "sweep_text_encoder",
    "vodka_mixes",
)  # fmt: skip
"""Graphs that train what others train too, at other sizes or more often: only with `--all`."""
GRAPHS = [
    pytest.param(file, id=file.stem, marks=[pytest.mark.only_all] if file.stem in WITH_ALL else [])
    for file in sorted(FOLDER.glob("*.json"))
    if file.stem not in OF_THEIR_OWN
]
FEW = 2
PAIRS, BATCH = 12, 4
"""What a training is left with."""
MOST = {
    "steps": FEW,
    "epochs": FEW,
    "batch_size": BATCH,
    "validation_timesteps": 1,
    "most": FEW,
    "cells": 1,
    "width": 32,
    "height": 32,
}
VALUES = {"steps": "1, 2", "size": "32, 48"}
"""Of an axis."""


@pytest.fixture(scope="module")
def tiny(comfy):
    """The name of a checkpoint that trains in no time."""
    file = comfy.base / "models" / "checkpoints" / "tiny-2.safetensors"
    yield make_tiny_base(file, 2).name
    file.unlink()


@pytest.mark.more_with_all("saved graphs with all their steps and epochs")
@pytest.mark.parametrize("file", GRAPHS)
def test_a_saved_graph_runs(comfy, tiny, file):
    graph = json.loads(file.read_text(encoding="utf-8"))
    if not os.environ.get("COCKTAIL_ALL"):
        shorten(graph)
        shorten_experiment(graph, tiny)
    info = comfy.get("/object_info")
    outputs, wanted = run_voted(comfy, graph, timeout=900)
    results = [result for told in outputs.values() for result in told.get("cocktail", ())]
    picked = [one["checkpoint"] for one in results if one.get("rule") == "votes"]
    assert picked == ([wanted] if wanted else [])
    shows = {key for key, node in graph.items() if info[node["class_type"]]["output_node"]}
    assert shows and shows <= outputs.keys()
    for key in shows:
        told, kind = outputs[key], graph[key]["class_type"]
        assert told.get("text") or told.get("images"), f"{kind} shows nothing"
        for text in told.get("text", ()):
            assert re.search(r"\w", text), f"{kind} shows the text {text!r}"
        for image in told.get("images", ()):
            assert drawn(comfy.base / image["type"] / image["subfolder"] / image["filename"]), kind
        for result in told.get("cocktail", ()):
            if "rendered" in result:
                assert result["rendered"] + result["reused"] == result["cells"], result


def shorten(graph):
    """Let nothing in a graph take more than MOST, nor train on more than PAIRS, nor in bf16, for
    which most processors are slow.
    """
    trains = any(node["class_type"] == "CocktailFineTune" for node in graph.values())
    for node in graph.values():
        inputs = node["inputs"]
        if inputs.get("precision") == "bf16":
            inputs["precision"] = "fp32"
        for name in MOST.keys() & inputs.keys():
            if isinstance(inputs[name], int):
                inputs[name] = min(inputs[name], MOST[name])
        if "Axis" in node["class_type"] and isinstance(inputs.get("values"), str):
            inputs["values"] = VALUES.get(inputs.get("target"), few(inputs["values"]))
            inputs["labels"] = "\n".join(inputs["labels"].splitlines()[:FEW])
        if "changes" in inputs:
            epochs = f"epochs = {FEW}"
            inputs["changes"] = re.sub(r"(?m)^epochs = .*", epochs, inputs["changes"])
        if "plan" in inputs and isinstance(inputs["plan"], str):
            small = re.sub(r'"(width|height)": \d+', r'"\1": 32', inputs["plan"])
            inputs["plan"] = re.sub(r'"steps": \d+', f'"steps": {FEW}', small)
        if trains and node["class_type"] == "CocktailDrawShapes":
            inputs |= {"count": PAIRS, "name": f"shapes-{PAIRS}"}


def few(values):
    """The first values of an axis: of lines, of a list, of a range or of "3 seeds"."""
    if "\n" in values:
        return "\n".join(values.splitlines()[:FEW])
    values = re.sub(r"\[\d+\]", f"[{FEW}]", values)
    return re.sub(r"^\d+(?= seeds$)|^([^,]+,[^,]+),.*", lambda m: m[1] or f"{FEW}", values)


def shorten_experiment(graph, tiny):
    """Let a sweep, a range test and fine-tunes without a grid train a tiny model on few pairs, with
    one variant or the fewest steps. Of a sweep's grid there is the plan: ComfyUI cannot sample the
    tiny model, and other graphs render grids.
    """
    kinds = {node["class_type"] for node in graph.values()}
    only_trains = "CocktailFineTune" in kinds and "CocktailRenderGrid" not in kinds
    if not only_trains and not kinds & {"CocktailSweep", "CocktailRangeTest"}:
        return
    for key, node in list(graph.items()):
        kind, inputs = node["class_type"], node["inputs"]
        if kind in ("CocktailRenderGrid", "CocktailGridSheet"):
            del graph[key]
        elif kind == "CocktailBase":
            inputs["checkpoint"] = tiny
        elif kind == "CocktailDrawShapes":
            inputs |= {"count": PAIRS, "name": f"shapes-{PAIRS}"}
        elif kind == "CocktailTrainingSettings":
            inputs["epochs"] = 1
        elif kind == "CocktailFineTune":
            inputs["run_name"] += "-tiny"
        elif kind == "CocktailChangeSettings":
            lines = f"resolution = 64\nbatch_size = {BATCH}\n"
            if "bucket_table = " in inputs["changes"]:
                inputs["changes"] = lines + re.sub(
                    r"(?m)^(resolution|batch_size) = .*\n?", "", inputs["changes"]
                )
        elif kind == "CocktailSweep":
            inputs["variants"] = inputs["variants"].splitlines()[0]
        elif kind == "CocktailRangeTest":
            inputs["steps"] = FEWEST


def drawn(file):
    """Whether a picture is more than one colour."""
    with Image.open(file) as picture:
        return any(low < high for low, high in picture.convert("RGB").getextrema())
