"""Every saved graph runs as it is on a fresh ComfyUI with the miniatures. The demo's and the
search's have tests of their own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        told = outputs[key]
        assert any(told.values()), f"{graph[key]['class_type']} shows nothing"
        for result in told.get("cocktail", ()):
            assert not (isinstance(result, dict) and result.get("failed")), result
