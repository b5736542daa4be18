"""A recipe is planned once for each precision, whatever is made of it."""

from __future__ import annotations

import sys
import types
from collections import Counter

import pytest

from cocktail.merge import checkpoint
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint, notes_of
from cocktail.merge.command_line import main
from cocktail.merge.hashing import file_sha256
from cocktail.merge.in_memory import MergeBuffer
from cocktail.merge.recipe import Ingredient, weighted_sum
from cocktail.merge.text import to_text
from cocktail.nodes.grid.engine.axes.mixes import recipes_axis
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.render import merging
from cocktail.nodes.grid.engine.summary import summary

from ..grid.test_plan import FIXED

A, B = (Ingredient(f"{name}.safetensors") for name in "ab")
HALF, MOST = weighted_sum([(A, 1), (B, 1)]), weighted_sum([(A, 1), (B, 3)])


@pytest.fixture
def planned(monkeypatch):
    """How often each recipe was planned, by its text and precision."""
    counted = Counter()
    plan = checkpoint.make_plan

    def counting(recipe, headers, precision, *allowed):
        counted[to_text(recipe), precision] += 1
        return plan(recipe, headers, precision, *allowed)

    monkeypatch.setattr(checkpoint, "make_plan", counting)
    return counted


@pytest.fixture
def cellar(write, sd15, tmp_path):
    """The folder with the files a and b."""
    for seed, name in enumerate("ab", 1):
        write(name, sd15(seed))
    return tmp_path


def test_a_merge_to_a_file_with_its_notes(cellar, planned):
    bound = bind_to_files(HALF, cellar.joinpath)
    for precision in ("fp16", "fp32"):
        file = cellar / f"{precision}.safetensors"
        assert make_checkpoint(bound, file, precision)
        notes_of(bound, precision)
        assert not make_checkpoint(bound, file, precision)
    assert planned == {("0.5 a + 0.5 b", "fp16"): 1, ("0.5 a + 0.5 b", "fp32"): 1}


def test_a_merge_by_the_command_line(cellar, planned):
    arguments = ["run", "0.5 a + 0.5 b", str(cellar / "out.safetensors"), "--models", str(cellar)]
    assert main(arguments) == 0
    assert planned == {("0.5 a + 0.5 b", "fp16"): 1}


def test_a_merge_in_memory_and_then_to_a_file(cellar, planned):
    bound = bind_to_files(HALF, cellar.joinpath)
    MergeBuffer().merge(bound, "fp16")
    make_checkpoint(bound, cellar / "out.safetensors", "fp16")
    assert planned == {("0.5 a + 0.5 b", "fp16"): 1}


@pytest.fixture
def comfyui(monkeypatch, cellar):
    """What a grid of mixes asks ComfyUI for: where files are, and models of tensors."""
    management = types.SimpleNamespace(
        unload_all_models=lambda: None, throw_exception_if_processing_interrupted=lambda: None
    )
    bar = types.SimpleNamespace(update_absolute=lambda done, total: None)
    utils = types.SimpleNamespace(ProgressBar=lambda total: bar)
    comfy = types.SimpleNamespace(model_management=management, utils=utils)
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    monkeypatch.setattr(merging.names, "ingredient_path", cellar.joinpath)
    monkeypatch.setattr(merging.names, "cocktail_dir", cellar.joinpath)
    monkeypatch.setattr(merging.names, "hashes_file", lambda: cellar / "hashes.json")
    monkeypatch.setattr(merging, "_load", lambda merged: (object(), object(), object()))
    monkeypatch.setattr(merging, "_exchange", lambda models, merged: None)
    monkeypatch.setattr(merging, "_planned", type(merging._planned)())


def test_a_grid_of_merges_planned_and_rendered(cellar, comfyui, planned):
    def sha256_of(kind: str, name: str) -> str:
        return file_sha256(cellar / name)

    grid = make_plan("g", FIXED, [recipes_axis([HALF, MOST])], sha256_of)
    assert summary(grid)["cells"] == 2
    models = merging.MergedModels()
    for cell in grid.cells:
        models.load(cell.settings.recipe, grid.contents["checkpoint"])
    assert models.merges == 2
    assert planned == {("0.5 a + 0.5 b", "fp16"): 1, ("0.25 a + 0.75 b", "fp16"): 1}


def test_an_ingredient_that_is_replaced_after_planning_is_planned_anew(
    cellar, comfyui, planned, write, sd15
):
    grid = make_plan("g", FIXED, [recipes_axis([HALF])], lambda _, name: file_sha256(cellar / name))
    (cell,) = grid.cells
    first = merging.bound_to_files(cell.settings.recipe, grid.contents["checkpoint"])
    write("b", sd15(3))
    contents = {name: file_sha256(cellar / name) for name in ("a.safetensors", "b.safetensors")}
    second = merging.bound_to_files(cell.settings.recipe, contents)
    assert first.hash != second.hash
    assert planned == {("0.5 a + 0.5 b", "fp16"): 2}
