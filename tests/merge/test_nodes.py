"""The merge nodes on a real ComfyUI."""

from __future__ import annotations

import pytest

from ..comfy import ComfyError

SIDES = {"a": "miniature_base", "b": "miniature_v1", "c": "miniature_v3"}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def merge(name, multiplier=0.5, precision="fp16", **changed):
    """base + multiplier x (v3 - v1), saved; `changed` replaces inputs of the nodes of that id."""
    graph = {side: node("CocktailIngredient", checkpoint=f"{file}.safetensors") for side, file in SIDES.items()}  # fmt: skip
    graph["sum"] = node("CocktailAddDifference", a=["a", 0], b=["c", 0], c=["b", 0], multiplier=multiplier)  # fmt: skip
    graph["file"] = node("CocktailMergeToFile", recipe=["sum", 0], name=name, precision=precision)
    for key, inputs in changed.items():
        graph[key]["inputs"] |= inputs
    return graph


def refused(comfy, graph):
    with pytest.raises(ComfyError) as error:
        comfy.run(graph)
    return error.value.nodes


def test_a_recipe_is_made_once_and_another_under_its_name_is_refused(comfy):
    made = comfy.run(merge("bitter"))["file"]["cocktail"][0]
    path = comfy.base / "models" / "checkpoints" / made["checkpoint"]
    before = path.stat().st_mtime_ns
    assert made["shares"] == {"miniature_base.safetensors": 1.0, "miniature_v3.safetensors": 0.5, "miniature_v1.safetensors": -0.5}  # fmt: skip
    comfy.restart()
    assert comfy.run(merge("bitter"))["file"]["cocktail"][0] == made
    errors = refused(comfy, merge("bitter", multiplier=0.75))
    assert errors.keys() == {"file"} and "Nothing is overwritten" in errors["file"]
    assert path.stat().st_mtime_ns == before


def test_a_merge_without_a_name_is_named_by_its_recipe(comfy):
    made = comfy.run(merge("", multiplier=0.25))["file"]["cocktail"][0]
    assert made["recipe_hash"][:12] in made["checkpoint"]


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", ".hidden", "NUL"])
def test_a_path_is_no_name_of_a_merge(comfy, name):
    assert "cannot name a merge" in comfy.errors(merge(name))["file"]


def test_a_checkpoint_that_is_missing_or_none_is_refused_on_its_ingredient(comfy):
    bad = comfy.base / "models" / "checkpoints" / "page.safetensors"
    bad.write_text("<html>404</html>", encoding="utf-8")
    for name, words in (("nowhere.safetensors", "There is no checkpoint"), ("page.safetensors", "page.safetensors")):  # fmt: skip
        errors = comfy.errors(merge("never", b={"checkpoint": name}))
        assert errors.keys() == {"b"} and words in errors["b"]


def test_shares_that_are_all_zero_or_out_of_range_are_refused(comfy):
    graph = merge("never")
    graph["sum"] = node("CocktailWeightedSum", a=["a", 0], b=["b", 0], share_of_a=0.0, share_of_b=0.0)  # fmt: skip
    assert "All shares are 0" in comfy.errors(graph)["sum"]
    graph["sum"]["inputs"]["share_of_b"] = -1.0
    assert "Shares go from 0" in comfy.errors(graph)["sum"]
