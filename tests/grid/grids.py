"""API prompts of small grids, and what such a grid leaves on disk."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from ..conftest import link_or_copy

SMALL = {"width": 32, "height": 32}
"""Settings for pictures of which only the pixels matter: a third of the work of grid_prompt's."""


def wait_for(look: Callable[[], Any], timeout_s: float = 300) -> Any:
    """What `look()` returns as soon as it is true."""
    end = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def axis_node(target: str, *values: Any) -> dict[str, Any]:
    lines = "\n".join(str(value) for value in values)
    return {"class_type": "CocktailAxis", "inputs": {"target": target, "values": lines}}


def checkpoints_node(*checkpoints: str, labels: str = "") -> dict[str, Any]:
    chosen = [*checkpoints, *["none"] * (8 - len(checkpoints))]
    inputs = {f"checkpoint_{number}": name for number, name in enumerate(chosen, start=1)}
    return {"class_type": "CocktailAxisCheckpoints", "inputs": {**inputs, "labels": labels}}


def grid_prompt(name: str, axes: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """The API prompt of a grid that is planned, rendered and drawn; small and quick unless settings
    say otherwise.
    """
    fixed = {
        **{"checkpoint": "none", "prompt": "a red circle", "negative_prompt": "", "seed": 1},
        **{"steps": 3, "cfg": 4.0, "sampler": "euler", "scheduler": "normal", "clip_skip": 1},
        **{"width": 64, "height": 64},
    }
    nodes = {f"axis {number}": axis for number, axis in enumerate(axes, start=1)}
    links = {f"axis_{number}": [f"axis {number}", 0] for number in range(1, len(axes) + 1)}
    plan = {"name": name, **links, **fixed, **settings}
    return {
        **nodes,
        "plan": {"class_type": "CocktailGridPlan", "inputs": plan},
        "render": {"class_type": "CocktailRenderGrid", "inputs": {"grid": ["plan", 0]}},
        "sheet": {
            "class_type": "CocktailGridSheet",
            "inputs": {"grid": ["render", 0], "max_width": 2048},
        },
    }


def folder_of(base: Path, name: str) -> Path:
    """The folder of a grid below ComfyUI's base directory."""
    return base / "output" / "cocktail" / "grids" / name


def pixels(path: Path) -> numpy.ndarray:
    return numpy.asarray(Image.open(path).convert("RGB"))


def write_no_model(path: Path) -> None:
    """A sound safetensors file that holds no model."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def cells(folder: Path) -> list[dict[str, Any]]:
    """The cells of a plan, each with its file."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    for cell in plan["cells"]:
        cell["file"] = folder / "cells" / cell["key"][:2] / f"{cell['key']}.png"
    return plan["cells"]


def replace_or_remove(checkpoint: Path, how: str) -> None:
    """Put miniature_v1 in the place of a checkpoint ("replaced"), or remove it; in no time."""
    if how != "replaced":
        checkpoint.unlink()
        return
    other = checkpoint.with_name("other.part")
    link_or_copy(checkpoint.with_name("miniature_v1.safetensors"), other)
    other.replace(checkpoint)
