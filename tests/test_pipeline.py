"""The whole demo: it learns, it merges exactly, and nothing is ever computed twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy
import pytest
from PIL import Image

from cocktail.trainer.chart import COLOURS

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


def test_the_chart_draws_both_runs_and_their_fall(demo):
    """In its lower half the change of the validation loss, a colour for each run."""
    chart = rgb(*demo.pictures("CocktailLossChart"))
    lower = chart[len(chart) // 2 :]
    drawn = [colour for colour in COLOURS if is_colour(chart, colour).any()]
    assert drawn == list(COLOURS[:2])
    for colour in drawn:
        rows, columns = numpy.nonzero(is_colour(lower, colour))
        left, right = columns.min(), columns.max()
        at_first = rows[columns < left + 0.05 * (right - left)].min()
        later = rows[columns > (left + right) / 2].max()
        assert later > at_first + 0.3 * len(lower), colour


def is_colour(picture, colour):
    return (picture == [int(colour[at : at + 2], 16) for at in (1, 3, 5)]).all(axis=2)


def rgb(path):
    with Image.open(path) as picture:
        return numpy.asarray(picture.convert("RGB"))


def test_a_sheet_shows_every_cell_in_its_place(demo):
    """Pixel for pixel, a row for each prompt and a column for each checkpoint."""
    sheet = rgb(demo.pictures("CocktailGridSheet")[-1])
    grid = demo.comfy.get("/cocktail/grids/tasting")
    folder = demo.comfy.base / "output" / "cocktail" / "grids" / "tasting"
    cells = {tuple(cell["position"]): rgb(folder / cell["file"]) for cell in grid["cells"]}
    columns, rows = (sorted({position[axis] for position in cells}) for axis in (0, 1))
    assert len(cells) == len(columns) * len(rows) == 72
    # The untrained base paints every prompt alike; the first fine-tune does not.
    base, first, below = (place_of(cells[at], sheet) for at in ((0, 0), (1, 0), (1, 1)))
    assert first.left >= base.left + base.side and first.top == base.top
    assert below.top >= first.top + first.side and below.left == first.left
    for (x, y), picture in cells.items():
        left = base.left + x * (first.left - base.left)
        top = base.top + y * (below.top - base.top)
        shown = sheet[top : top + base.side, left : left + base.side]
        assert numpy.array_equal(shown, enlarged(picture, base.side // len(picture))), (x, y)


@dataclass(frozen=True)
class Place:
    left: int
    top: int
    side: int


def place_of(picture, sheet):
    """The first place in a sheet that shows a square picture, enlarged by a whole number."""
    for times in (1, 2, 3, 4):
        wanted = enlarged(picture, times)
        side, first = len(wanted), wanted[0].tobytes()
        for top in range(len(sheet) - side + 1):
            line, start = sheet[top].tobytes(), 0
            while (at := line.find(first, start)) >= 0:
                left, start = at // 3, at + 1
                shown = sheet[top : top + side, left : left + side]
                if at % 3 == 0 and numpy.array_equal(shown, wanted):
                    return Place(left, top, side)
    raise AssertionError("the sheet does not show this picture")


def enlarged(picture, times):
    return picture.repeat(times, 0).repeat(times, 1)


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
    before = made(demo.comfy)
    outputs = demo.comfy.run(demo.graph)
    assert made(demo.comfy) == before
    assert products(outputs) == products(demo.outputs)


def test_after_a_restart_of_comfyui_it_recomputes_nothing_either(demo):
    before = made(demo.comfy)
    demo.comfy.restart()
    outputs = demo.comfy.run(demo.graph)
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
