"""A cell as a prompt: the nodes that make it, and the files that they read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..plan.plan import Cell, Plan
from .remote import Refused, Server

if TYPE_CHECKING:
    from .ray_cluster import RayServer


def prompt_of(cell: Cell, plan: Plan) -> tuple[dict[str, Any], str]:
    """The API prompt that makes a cell, and its output node. Save Image becomes Preview Image: we
    keep the picture ourselves.
    """
    prompt, output = cell.settings.api_prompt(f"cocktail/{plan.name}"), cell.settings.output
    node = prompt[output]
    if node["class_type"] == "SaveImage":
        node["class_type"], node["inputs"] = "PreviewImage", {"images": node["inputs"]["images"]}
    return prompt, output


def check_files(server: Server | RayServer, cells: Sequence[Cell]) -> None:
    """Raise Refused if another server lacks a file of these cells, or has one of another size."""
    wanted = sorted({file for cell in cells for file in cell.settings.comfy_files})
    for folder in dict.fromkeys(folder for folder, _ in wanted):
        if folder == "input":
            raise Refused(
                "the grid loads pictures from the input folder, which only this ComfyUI has"
            )
        there = server.sizes(folder)
        if not there:
            continue
        for file in [file for kind, file in wanted if kind == folder]:
            ours, theirs = _size(folder, file), there.get(file.replace("\\", "/"), -1)
            if theirs == -1:
                raise Refused(f"it has no {file} in {folder}")
            if theirs is not None and ours is not None and theirs != ours:
                raise Refused(f"its {file} is another file: {theirs:,} bytes, not {ours:,}")


def _size(folder: str, name: str) -> int | None:
    import folder_paths

    path = folder_paths.get_full_path(folder, name)
    return os.stat(path).st_size if path else None  # noqa: PTH116
