"""The saved graphs in workflows/: what the browser opens is what the API prompts say, and nothing
private is in them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GRAPHS = sorted((ROOT / "workflows").glob("*.json"))
ELSEWHERE = {
    "CocktailDownloadImages",
    "CocktailCaptionDataset",
    "CocktailDatasetImages",
    "CocktailSetCaptions",
    "CocktailMixCaptions",
    "CocktailOpenDataset",
    "CocktailAddValidationSet",
    "CocktailBlockWeightsByGroup",
    "CocktailChangeSettings",
    "CocktailComputeSettings",
    "CocktailDataSettings",
    "CocktailEmaSettings",
    "CocktailImportEveryDream2",
    "CocktailLayerSettings",
    "CocktailLoggingSettings",
    "CocktailLossSettings",
    "CocktailOptimizerSettings",
    "CocktailSample",
    "CocktailSampleSettings",
    "CocktailSavingSettings",
    "CocktailShowSettings",
    "CocktailTrainingPreset",
    "CocktailValidationSettings",
}
"""Nodes that need the network, a model of one's own, an earlier result or a choice: their help
pages show how they are linked.
"""
PATH = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\)|\.\.[\\/]")


def read(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


def strings(value):
    """Every text anywhere in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        yield from strings(list(value.values()))


@pytest.fixture(scope="module")
def object_info(comfy):
    return comfy.get("/object_info")


def test_every_saved_graph_has_its_api_prompt_and_the_other_way_round():
    assert GRAPHS
    prompts = sorted((ROOT / "workflows" / "api").glob("*.json"))
    assert [file.name for file in GRAPHS] == [file.name for file in prompts]


def test_every_saved_graph_has_a_thumbnail_for_the_template_browser():
    assert [file.name for file in GRAPHS if not file.with_suffix(".jpg").is_file()] == []


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_saved_graph_converts_to_exactly_its_api_prompt(file, object_info):
    from comfy_cli.workflow_to_api import convert_ui_to_api

    def plain(prompt):
        return {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()}

    committed = read(file.parent / "api" / file.name)
    assert plain(convert_ui_to_api(read(file), object_info)) == plain(committed)


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_saved_graph_uses_nodes_that_exist_and_names_no_path(file, object_info):
    graph = read(file)
    assert {node["type"] for node in graph["nodes"]} <= object_info.keys()
    values = [node.get("widgets_values", []) for node in graph["nodes"]]
    assert [text for text in strings(values) if PATH.search(text)] == []


def test_every_node_of_the_pack_is_shown_in_a_saved_graph(object_info):
    ours = {name for name in object_info if name.startswith("Cocktail")} - ELSEWHERE
    assert ours <= {node["type"] for file in GRAPHS for node in read(file)["nodes"]}


def test_the_template_browser_lists_every_saved_graph(comfy):
    assert sorted(comfy.get("/workflow_templates")["cocktail"]) == [file.stem for file in GRAPHS]
