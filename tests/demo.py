"""The demo's graph on a real ComfyUI, and what came out of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from .comfy import Comfy


class Demo:
    """The graph of workflows/api as any client queues it."""

    def __init__(self, comfy: Comfy, graph: Path) -> None:
        self.comfy = comfy
        self.graph: dict[str, Any] = json.loads(graph.read_text(encoding="utf-8"))
        self.outputs: dict[str, Any] = {}
        self.seconds = 0.0

    def run(self) -> None:
        started = time.monotonic()
        self.outputs = self.comfy.run(self.graph, timeout=3600)
        self.seconds = time.monotonic() - started

    def ids(self, kind: str) -> list[str]:
        """Ids of the graph's nodes of that kind."""
        return [key for key, node in self.graph.items() if node["class_type"] == kind]

    def results(self, kind: str) -> list[dict[str, Any]]:
        """What each node of that kind reported as JSON."""
        return [self.outputs[key]["cocktail"][0] for key in self.ids(kind)]

    def pictures(self, kind: str) -> list[Path]:
        """The files that the nodes of that kind show."""
        output = self.comfy.base / "output"
        return [
            output / image["subfolder"] / image["filename"]
            for key in self.ids(kind)
            for image in self.outputs[key]["images"]
        ]


def products(outputs: dict[str, Any]) -> dict[str, Any]:
    """The pictures and checkpoints that nodes report; not whether they were made or found."""
    found = {}
    for key, output in outputs.items():
        made = [result.get("checkpoint") for result in output.get("cocktail", [])]
        made += output.get("images", [])
        if any(made):
            found[key] = made
    return found
