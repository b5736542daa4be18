"""A real ComfyUI as a client sees it, and the API prompts of small grids."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any


class Server:
    """Requests to a running ComfyUI, as any client makes them."""

    def __init__(self, url: str, base: Path) -> None:
        self.url = url
        self.base = base

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def start(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt; the id under which it will be found."""
        answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        assert not answer.get("node_errors"), answer
        return answer["prompt_id"]

    def finish(self, prompt_id: str, timeout_s: float = 300) -> dict[str, Any]:
        """The history entry of a prompt, once it has ended in whatever way."""
        entry = wait_for(lambda: self.get(f"/history/{prompt_id}").get(prompt_id), timeout_s)
        return entry

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a prompt that succeeds."""
        entry = self.finish(self.start(prompt))
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
        return entry["outputs"]

    def error(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """What ComfyUI says about the node that failed."""
        entry = self.finish(self.start(prompt))
        errors = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
        assert len(errors) == 1, entry["status"]
        return errors[0]

    def refusal(self, prompt: dict[str, Any]) -> dict[str, str]:
        """What ComfyUI says about each node when it refuses a prompt before running it."""
        answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        return {
            node: " ".join(error["details"] for error in found["errors"])
            for node, found in answer["node_errors"].items()
        }

    def grid_folder(self, name: str) -> Path:
        return self.base / "output" / "cocktail" / "grids" / name


def wait_for(look: Any, timeout_s: float = 60) -> Any:
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
    """The API prompt of a grid that is planned, rendered and drawn; small and quick unless settings say otherwise."""
    fixed = {
        "checkpoint": "none", "prompt": "a red circle", "negative_prompt": "", "seed": 1, "steps": 3, "cfg": 4.0,
        "sampler": "euler", "scheduler": "normal", "width": 64, "height": 64, "clip_skip": 1,
    }  # fmt: skip
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
