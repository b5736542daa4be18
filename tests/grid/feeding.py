"""Plans over any workflow, fed to the queue of a real ComfyUI, and what has become of them."""

from __future__ import annotations

import copy
from typing import Any

import numpy

from ..comfy import Comfy
from .grids import folder_of, pixels, wait_for

TEXT = "a red circle on a blue background"


def plan_of(name: str, workflow: dict[str, Any], *axes: dict[str, Any], **more: Any) -> dict:
    return {"name": name, "workflow": workflow, "output": "SaveImage", "axes": [*axes], **more}


def axis(target: str, *values: Any) -> dict[str, Any]:
    return {"target": target, "values": "\n".join(map(str, values))}


def feed(comfy: Comfy, plan: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Feed a plan, and how it stands when it has ended."""
    answer = comfy.post("/cocktail/grids", {"plan": plan, **options})
    assert "error" not in answer, answer
    return ended(comfy, plan["name"])


def ended(comfy: Comfy, name: str, states: tuple[str, ...] = ("finished", "stopped", "cancelled")):
    def look() -> Any:
        found = comfy.get(f"/cocktail/grids/{name}/feed")
        return found if found["state"] in states and not found["in_flight"] else None

    return wait_for(look)


def cell_pixels(comfy: Comfy, name: str) -> dict[tuple[str, ...], numpy.ndarray]:
    found = comfy.get(f"/cocktail/grids/{name}")
    folder = folder_of(comfy.base, name)
    return {
        tuple(cell["labels"]): pixels(folder / cell["file"])
        for cell in found["cells"]
        if cell["status"] == "finished"
    }


def alone(comfy: Comfy, workflow: dict[str, Any], changes: dict[str, Any]) -> numpy.ndarray:
    """The picture of the workflow queued by hand with these values."""
    prompt = copy.deepcopy(workflow)
    for target, value in changes.items():
        id, _, name = target.partition(".")
        prompt[id]["inputs"][name] = value
    (image,) = comfy.run(prompt)["9"]["images"]
    return pixels(comfy.base / "output" / image["subfolder"] / image["filename"])
