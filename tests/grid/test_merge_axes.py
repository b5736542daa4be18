"""Axes of mixes: what their values are, and that a cell of a mix is the one that the merged file
gives.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest

from cocktail.merge.recipe import Ingredient, weighted_sum
from cocktail.merge.text import to_text
from cocktail.nodes.grid.engine.axes.mixes import (
    BLOCKS,
    MULTIPLIER,
    SHARE,
    merge_axis,
    recipes_axis,
)
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.cell.mix import read
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.of_settings import make_plan

from ..comfy import Comfy
from .grids import axis_node, cells, folder_of, grid_prompt, pixels, replace_or_remove, wait_for
from .test_plan import FIXED

A, B, C = (Ingredient(f"{name}.safetensors") for name in "abc")


def texts(axis: Any) -> list[str]:
    """The mixes of an axis as a person writes them; a checkpoint's name where it is none."""
    return [
        to_text(read(v.set["recipe"])) if v.set["recipe"] else v.set["checkpoint"]
        for v in axis.values
    ]


def test_shares_multipliers_and_block_weights_are_values():
    shares = merge_axis(SHARE, "0.25-0.75 [3]", A, B)
    assert [value.label for value in shares.values] == ["B x 0.25", "B x 0.5", "B x 0.75"]
    assert texts(shares) == ["0.75 a + 0.25 b", "0.5 a + 0.5 b", "0.25 a + 0.75 b"]
    assert texts(merge_axis(MULTIPLIER, "0.5, 1", A, B, C)) == ["a + 0.5 (b - c)", "a + 1 (b - c)"]
    blocks = merge_axis(BLOCKS, "WRAP08\n" + ", ".join(["0.5"] * 25), A, B, labels="wrap\nhalf")
    assert [value.label for value in blocks.values] == ["wrap", "half"]
    assert len({value.set["recipe"] for value in blocks.values}) == 2


def test_recipes_are_values_beside_checkpoints():
    mix = weighted_sum([(A, 60), (B, 40)])
    assert texts(recipes_axis([A, mix, B, A])) == [
        "a.safetensors",
        "0.6 a + 0.4 b",
        "b.safetensors",
    ]
    typed = typed_axis(
        "recipe", "a\n0.6 a + 0.4 b", {"checkpoint": ["a.safetensors", "b.safetensors"]}
    )
    assert texts(typed) == ["a.safetensors", "0.6 a + 0.4 b"]


@pytest.mark.parametrize(
    ("kind", "text", "c", "words"),
    [
        (SHARE, "0.5\nhalf", None, "Line 2 of the values: 'half' is not a share of B"),
        (SHARE, "nan", None, "is not a share of B"),
        (SHARE, "1e-999999999", None, "is not a share of B"),
        (SHARE, " ", None, "has no values"),
        (SHARE, "0.5, 0.50", None, "appears twice"),
        (SHARE, "0.5", C, "does not use C"),
        (MULTIPLIER, "0.5", None, "needs a recipe C"),
        (BLOCKS, "1, 2, 3", None, "Line 1 of the values"),
        (BLOCKS, "NO_PRESET", None, "NO_PRESET"),
    ],
)
def test_what_is_no_mix_is_refused(kind: str, text: str, c: Ingredient | None, words: str):
    with pytest.raises(GridError, match=words):
        merge_axis(kind, text, A, B, c)


def test_a_mix_is_known_by_the_content_of_its_ingredients():
    def keys(content: Any) -> list[str]:
        axis = merge_axis(SHARE, "0.25, 0.5", A, B)
        return [cell.key for cell in make_plan("g", FIXED, [axis], content).cells]

    same = keys(lambda kind, name: "a" * 64 if name == A.name else "b" * 64)
    assert len(set(same)) == 2
    assert keys(lambda kind, name: "a" * 64 if name == A.name else "c" * 64)[0] not in same
    renamed = merge_axis(SHARE, "0.25, 0.5", Ingredient("other.safetensors"), B)
    plan = make_plan(
        "g", FIXED, [renamed], lambda kind, name: "b" * 64 if name == B.name else "a" * 64
    )
    assert [cell.key for cell in plan.cells] == same


def test_a_cell_of_a_mix_is_the_one_of_the_merged_file_and_no_file_is_written(
    comfy: Comfy, lively: str
):
    def ingredient(name: str) -> dict[str, Any]:
        return {"class_type": "CocktailIngredient", "inputs": {"checkpoint": name}}

    checkpoints = comfy.base / "models" / "checkpoints"
    parts = {"a": ingredient(lively), "b": ingredient("miniature_v3.safetensors")}
    axis = {
        "class_type": "CocktailAxisMerge",
        "inputs": {"a": ["a", 0], "b": ["b", 0], "kind": SHARE, "values": "0.25, 0.5, 0.75"},
    }
    prompts = axis_node("prompt", "a red circle", "a square")
    prompt = {**parts, **grid_prompt("ratios", [axis, prompts])}
    there = files_of(checkpoints)
    (result,) = comfy.run(prompt)["render"]["cocktail"]
    assert (result["rendered"], result["failed"], result["loads"]) == (6, 0, 3)
    assert files_of(checkpoints) == there
    merge = {
        "sum": {
            "class_type": "CocktailWeightedSum",
            "inputs": {
                "a": ["a", 0],
                "b": ["b", 0],
                **{f"share_of_{x}": 50.0 if x in "ab" else 0.0 for x in "abcdef"},
            },
        },
        "file": {
            "class_type": "CocktailMergeToFile",
            "inputs": {"recipe": ["sum", 0], "name": "half", "precision": "fp16"},
        },
    }
    (made,) = comfy.run({**parts, **merge})["file"]["cocktail"]
    comfy.run(grid_prompt("from-file", [axis_node("checkpoint", made["checkpoint"]), prompts]))
    mixed = cells(folder_of(comfy.base, "ratios"))[2:4]
    for mine, theirs in zip(mixed, cells(folder_of(comfy.base, "from-file")), strict=True):
        assert mine["settings"]["prompt"] == theirs["settings"]["prompt"]
        assert numpy.array_equal(pixels(mine["file"]), pixels(theirs["file"]))
    assert (
        len({pixels(cell["file"]).tobytes() for cell in cells(folder_of(comfy.base, "ratios"))})
        == 6
    )
    (checkpoints / made["checkpoint"]).unlink()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_an_ingredient_that_is_replaced_or_removed_half_way_gets_no_cell_under_its_old_key(
    comfy: Comfy, lively: str, how: str
):
    checkpoints = comfy.base / "models" / "checkpoints"
    changing = checkpoints / "ingredient.safetensors"
    shutil.copyfile(checkpoints / "miniature_v3.safetensors", changing)
    parts = {
        name: {"class_type": "CocktailIngredient", "inputs": {"checkpoint": checkpoint}}
        for name, checkpoint in (("a", lively), ("b", changing.name))
    }
    axis = {
        "class_type": "CocktailAxisMerge",
        "inputs": {"a": ["a", 0], "b": ["b", 0], "kind": SHARE, "values": "0.25, 0.75"},
    }
    name = f"ingredient-{how}"
    prompt = grid_prompt(name, [axis, axis_node("seed", *range(4))], steps=16)
    try:
        running = comfy.queue({**parts, **prompt})
        wait_for(lambda: [*folder_of(comfy.base, name).glob("cells/*/*.png")])
        replace_or_remove(changing, how)
        result = comfy.wait(running)["render"]
        assert "ingredient" in result["text"][0]
        assert str(checkpoints) not in result["text"][0]
        counts = result["cocktail"][0]
        assert (counts["rendered"], counts["failed"]) == (4, 4)
    finally:
        changing.unlink(missing_ok=True)


def files_of(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))
