"""The check of a grid: random cells rendered again in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cocktail.nodes.grid.engine.check.result import SAME, cause, chosen

from ..comfy import Comfy
from .grids import axis_node, cells, folder_of, grid_prompt

HERE = {"torch": "2", "device": "cpu"}


@pytest.mark.parametrize(
    ("alone", "shuffled", "between", "batched", "then", "words"),
    [
        (0, 0, 0, False, HERE, SAME),
        (3, 0, 3, False, HERE, "what was rendered before a cell changes it"),
        (1, 1, 0, False, {"torch": "1", "device": "cpu"}, "torch was 1 and is 2"),
        (1, 1, 0, True, HERE, "sampled in a batch"),
        (9, 9, 0, False, HERE, "has been edited"),
        (9, 9, 0, False, None, "has been edited"),
    ],
)
def test_the_likely_cause_is_named(alone, shuffled, between, batched, then, words):
    assert words in cause(alone, shuffled, between, batched, then, HERE)


def test_cells_are_drawn_by_the_seed_from_those_that_are_finished():
    listed = [{"key": str(n), "status": "finished" if n % 2 else "missing"} for n in range(40)]
    drawn = [[cell["key"] for cell in chosen(listed, 5, seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(int(key) % 2 for key in drawn[0]) and len(set(drawn[0])) == 5
    assert len(chosen(listed, 100, 0)) == 20


def test_cells_are_equal_to_what_a_fresh_process_makes_and_an_edited_one_is_found(
    comfy: Comfy, comfyui: Path, lively: str, root: Path
):
    axes = [axis_node("seed", 1, 2), axis_node("sampler", "euler", "dpmpp_2m_sde")]
    prompt = grid_prompt("checked", axes, checkpoint=lively)
    prompt["check"] = {
        "class_type": "CocktailCheckGrid",
        "inputs": {"grid": ["render", 0], "cells": 3, "seed": 0},
    }
    outputs = comfy.run(prompt)["check"]
    (result,) = outputs["cocktail"]
    assert (result["equal"], len(result["checked"]), result["finished"]) == (3, 3, 4)
    assert {(cell["alone"], cell["shuffled"]) for cell in result["checked"]} == {(0, 0)}
    assert outputs["text"][0].startswith("3 of 3 checked cells are equal")

    (key,) = {cell["key"] for cell in result["checked"][:1]}
    (edited,) = (c["file"] for c in cells(folder_of(comfy.base, "checked")) if c["key"] == key)
    with Image.open(edited) as picture:
        picture.putpixel((5, 5), (picture.getpixel((5, 5))[0] ^ 7, 0, 0))
        text = PngInfo()
        text.add_text("cocktail", picture.info["cocktail"])
        picture.save(edited, pnginfo=text)
    ended = run_command(root, "checked", "--cells", "3", comfyui=comfyui, base=comfy.base)
    assert ended.returncode == 1, ended.stderr
    assert "2 of 3 checked cells are equal" in ended.stdout
    assert "DIFFERS" in ended.stdout and "has been edited" in ended.stdout


def run_command(
    root: Path, *arguments: str, comfyui: Path, base: Path
) -> subprocess.CompletedProcess:
    """Run the command of the check with the folders of a ComfyUI."""
    command = [sys.executable, root / "nodes" / "grid" / "engine" / "check" / "command.py"]
    places = ["--comfyui", comfyui, "--", "--cpu", "--base-directory", base]
    whole = [os.fspath(part) for part in (*command, *arguments, *places)]
    return subprocess.run(whole, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-grid", "There is no grid named"),
        pytest.param("../up", "cannot name a grid", marks=pytest.mark.only_all),
    ],
)
def test_the_command_says_what_is_wrong_with_its_arguments(
    root: Path, comfyui: Path, comfy: Comfy, name: str, words: str
):
    ended = run_command(root, name, comfyui=comfyui, base=comfy.base)
    assert ended.returncode == 2
    assert words in ended.stderr
