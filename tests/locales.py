"""Writes locales/en, the English words of all nodes as ComfyUI's page looks them up.

    COMFYUI_PATH=.comfy/comfyui .venv/bin/python -m tests.locales

They are read from the nodes, so that a translation has one file to start from and English never
says something else than the nodes do.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .comfy import Comfy

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = ROOT / "locales" / "en"


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        server = Comfy(Path(os.environ["COMFYUI_PATH"]).resolve(), Path(base), ROOT)
        try:
            server.start()
            found = english(server.get("/object_info"))
        finally:
            server.stop()
    ENGLISH.mkdir(parents=True, exist_ok=True)
    for name, words in found.items():
        (ENGLISH / name).write_text(as_text(words), encoding="utf-8")
        print(ENGLISH / name)


def as_text(words: dict[str, Any]) -> str:
    return json.dumps(words, indent=2, ensure_ascii=False) + "\n"


def english(nodes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The files of locales/en by name, from /object_info."""
    ours = {name: nodes[name] for name in sorted(nodes) if name.startswith("Cocktail")}
    parts = {part for info in ours.values() for part in info["category"].split("/")}
    return {
        "nodeDefs.json": {key(name): node_words(info) for name, info in ours.items()},
        "main.json": {"nodeCategories": {key(part): part for part in sorted(parts)}},
    }


def node_words(info: dict[str, Any]) -> dict[str, Any]:
    """Title, description, and the names and tooltips of inputs and outputs."""
    inputs = {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            options = (*info["input"][group][name], {})[1]
            inputs[key(name)] = told(options.get("display_name") or name, options.get("tooltip"))
    tooltips = info.get("output_tooltips") or [None] * len(info["output_name"])
    outputs = {
        str(number): told(*words)
        for number, words in enumerate(zip(info["output_name"], tooltips, strict=True))
    }
    words = {"display_name": info["display_name"], "description": info["description"]}
    return words | {"inputs": inputs, "outputs": outputs}


def told(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, **({"tooltip": tooltip} if tooltip else {})}


def key(id: str) -> str:
    """A key of the page: dots part levels there."""
    return id.replace(".", "_")


if __name__ == "__main__":
    main()
