"""Every saved graph runs as it is on a fresh ComfyUI with the miniatures. The demo's and the
search's have tests of their own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "workflows" / "api"
OF_THEIR_OWN = ("cosmopolitan_miniature", "cocktail_search")
GRAPHS = [file for file in sorted(FOLDER.glob("*.json")) if file.stem not in OF_THEIR_OWN]


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_saved_graph_runs(comfy, file):
    graph = json.loads(file.read_text(encoding="utf-8"))
    info = comfy.get("/object_info")
    outputs = comfy.run(graph, timeout=900)
    shows = {key for key, node in graph.items() if info[node["class_type"]]["output_node"]}
    assert shows and shows <= outputs.keys()
    for key in shows:
        told, kind = outputs[key], graph[key]["class_type"]
        assert told.get("text") or told.get("images"), f"{kind} shows nothing"
        for text in told.get("text", ()):
            assert re.search(r"\w", text), f"{kind} shows the text {text!r}"
        for image in told.get("images", ()):
            assert drawn(comfy.base / image["type"] / image["subfolder"] / image["filename"]), kind
        for result in told.get("cocktail", ()):
            if "rendered" in result:
                assert result["rendered"] + result["reused"] == result["cells"], result


def drawn(file):
    """Whether a picture is more than one colour."""
    with Image.open(file) as picture:
        return any(low < high for low, high in picture.convert("RGB").getextrema())
