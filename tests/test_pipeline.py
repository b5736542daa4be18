"""The whole demo: it learns, it merges exactly, and nothing is ever computed twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import numpy
import pytest

from .demo import products


def files(folder):
    """Everything that the pack has made, with the time of its last change; a run's bookkeeping left
    out.
    """
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.suffix in (".safetensors", ".png") or path.name in ("metrics.jsonl", "cells.jsonl")
    }


def made(comfy):
    return files(comfy.base / "output") | files(comfy.base / "models" / "checkpoints" / "cocktail")


def test_validation_loss_falls_by_a_fifth_in_both_runs(demo):
    runs = demo.results("CocktailWaitForRun")
    assert len(runs) == 2
    for run in runs:
        print(f"{run['run']}: {run['first_validation']:.4f} -> {run['best']['loss']:.4f}")
        assert run["status"] == "finished"
        assert run["best"]["loss"] < 0.8 * run["first_validation"]


def test_the_fine_tuned_model_paints_the_background_that_is_asked_for(demo, root):
    folder = demo.comfy.base / "output" / "cocktail" / "grids" / "tasting"
    command = [sys.executable, root / "trainer" / "__main__.py", "shapes", folder, "--judge"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(printed)
    lines = re.findall(r"^ *(\d+) of +(\d+) +(.+)$", printed, re.MULTILINE)
    scores = {name: int(right) for right, asked, name in lines if int(asked) == 12}
    assert scores["miniature_base.safetensors"] <= 4
    for pick in demo.results("CocktailPickCheckpoint"):
        assert scores[pick["checkpoint"]] >= 10, pick["run"]


def test_charts_and_sheets_are_there_to_see(demo):
    from PIL import Image

    pictures = demo.pictures("CocktailLossChart") + demo.pictures("CocktailGridSheet")
    assert len(pictures) >= 3
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 200


@pytest.mark.parametrize("number", range(3))
def test_a_merged_file_is_what_float64_arithmetic_gives(demo, number):
    """Within half a unit in the last place of fp16, computed from the ingredients' own tensors."""
    from safetensors.numpy import load_file

    folder = demo.comfy.base / "models" / "checkpoints"
    result = demo.results("CocktailMergeToFile")[number]
    merged = load_file(folder / result["checkpoint"])
    node = demo.graph[demo.ids("CocktailMergeToFile")[number]]
    weights = shares(demo, node["inputs"]["recipe"][0])
    assert abs(sum(weights.values()) - 1) < 1e-12
    ingredients = {ingredient: load_file(folder / ingredient) for ingredient in weights}
    worst = 0.0
    for name, tensor in merged.items():
        if tensor.dtype != numpy.float16:
            continue
        exact = sum(
            weight * ingredients[ingredient][name].astype(numpy.float64)
            for ingredient, weight in weights.items()
        )
        unit = numpy.spacing(numpy.abs(tensor)).astype(numpy.float64)
        error = numpy.abs(tensor.astype(numpy.float64) - exact) / unit
        worst = max(worst, float(error.max()))
    print(f"{result['checkpoint']}: {worst:.4f} units in the last place")
    assert worst <= 0.5 + 1e-9


def shares(demo, key):
    """The share of every ingredient in what a merge node makes, worked out from the graph."""
    node = demo.graph[key]
    inputs = node["inputs"]
    if node["class_type"] == "CocktailIngredient":
        name = inputs["checkpoint"]
        if isinstance(name, list):
            source = demo.graph[name[0]]
            if source["class_type"] == "CocktailChooseCheckpoint":
                name = source["inputs"]["checkpoint"]
            else:
                name = demo.outputs[name[0]]["cocktail"][0]["checkpoint"]
        return {name: 1.0}
    if node["class_type"] == "CocktailAddDifference":
        parts = {"a": 1.0, "b": inputs["multiplier"], "c": -inputs["multiplier"]}
    else:
        parts = {side: inputs[f"share_of_{side}"] for side in "abcdef" if side in inputs}
        parts = {side: share / sum(parts.values()) for side, share in parts.items()}
    total = {}
    for side, share in parts.items():
        for name, part in shares(demo, inputs[side][0]).items():
            total[name] = total.get(name, 0.0) + share * part
    return total


def test_stock_comfyui_samples_from_the_merged_file(demo):
    checkpoint = demo.results("CocktailMergeToFile")[-1]["checkpoint"]
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red circle"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {
            "width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0],
            "latent_image": ["3", 0], "seed": 1, "steps": 2, "cfg": 4.0,
            "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {
            "images": ["5", 0], "filename_prefix": "stock"}},
    }  # fmt: skip
    assert demo.comfy.run(prompt)["6"]["images"]


def test_queueing_it_again_recomputes_nothing(demo):
    before, started = made(demo.comfy), time.monotonic()
    outputs = demo.comfy.run(demo.graph)
    took = time.monotonic() - started
    print(f"again: {took:.1f} s")
    assert took < 30
    assert made(demo.comfy) == before
    assert products(outputs) == products(demo.outputs)


def test_after_a_restart_of_comfyui_it_recomputes_nothing_either(demo):
    before = made(demo.comfy)
    demo.comfy.restart()
    started = time.monotonic()
    outputs = demo.comfy.run(demo.graph)
    took = time.monotonic() - started
    print(f"after a restart: {took:.1f} s")
    assert took < 60
    assert made(demo.comfy) == before
    assert products(outputs) == products(demo.outputs)
    rendered = [outputs[key]["cocktail"][0]["rendered"] for key in demo.ids("CocktailRenderGrid")]
    assert rendered == [0] * len(rendered)


def test_every_checkpoint_says_what_it_was_made_of(demo):
    from safetensors import safe_open

    def metadata(result):
        path = demo.comfy.base / "models" / "checkpoints" / result["checkpoint"]
        with safe_open(path, framework="numpy") as file:
            return file.metadata()

    for result in demo.results("CocktailMergeToFile"):
        assert metadata(result)["cocktail.recipe_hash"] == result["recipe_hash"]
        recipe = json.loads(metadata(result)["cocktail.recipe"])
        assert re.fullmatch("[0-9a-f]{64}", first_ingredient(recipe)["sha256"])
    for result in demo.results("CocktailPickCheckpoint"):
        card = json.loads(metadata(result)["cocktail.run"])
        assert (card["run"], card["epoch"]) == (result["run"], result["epoch"])


def first_ingredient(recipe):
    """The leftmost ingredient of a recipe in JSON."""
    while recipe["kind"] != "ingredient":
        recipe = recipe["a"] if "a" in recipe else recipe["parts"][0]["recipe"]
    return recipe
