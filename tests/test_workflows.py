"""The saved graphs in workflows/: what the browser opens is what the API prompts say, and nothing
private is in them.
"""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from .measured import measure, opened_in_both
from .paths import in_the_way

ROOT = Path(__file__).resolve().parents[1]
GRAPHS = sorted((ROOT / "workflows").glob("*.json"))
ELSEWHERE = {
    "CocktailAddValidationSet",
    "CocktailBlockWeightsByGroup",
    "CocktailCaptionDataset",
    "CocktailComputeSettings",
    "CocktailControlRun",
    "CocktailDataSettings",
    "CocktailDatasetImages",
    "CocktailDownloadImages",
    "CocktailEmaSettings",
    "CocktailForkRun",
    "CocktailImportEveryDream2",
    "CocktailLayerSettings",
    "CocktailLeaveOutPairs",
    "CocktailLoggingSettings",
    "CocktailLossHeatMap",
    "CocktailLossSettings",
    "CocktailMixCaptions",
    "CocktailOpenDataset",
    "CocktailOpenRun",
    "CocktailOptimizerSettings",
    "CocktailSample",
    "CocktailSampleSettings",
    "CocktailSavingSettings",
    "CocktailScoreRecipe",
    "CocktailSetCaptions",
    "CocktailShowSettings",
    "CocktailStandOut",
}
"""Nodes that need the network, a model of one's own, an earlier result or a choice: their help
pages show how they are linked.
"""
APP_VIEWS = ("cocktail_60_20_20", "cosmopolitan_miniature", "epochs_grid", "weighted_sum")
"""Graphs that newer frontends also open as a form (app mode)."""
KEEP_THEIR_NAMES = {
    "CocktailBakeLora",
    "CocktailExtractLora",
    "CocktailFineTune",
    "CocktailMergeToFile",
    "CocktailPruneCheckpoint",
    "CocktailRangeTest",
    "CocktailRemakeFromFile",
    "CocktailSaveDataset",
    "CocktailSweep",
}
"""Nodes that refuse a name under which something else was made."""
NOTE = "MarkdownNote"
"""A kind of node that only the page knows."""
TITLE = 30
"""The height of a node's title, which is above its position."""
MARGIN = 10
"""Pixels between a node and the edge of its group, at least."""
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


@pytest.fixture(scope="module")
def known_to_comfy_cli(object_info):
    from comfy_cli.cql.engine import Graph

    return Graph.from_object_info(object_info)


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_comfy_run_finds_nothing_wrong_with_an_api_prompt(file, known_to_comfy_cli):
    """`comfy run --workflow` refuses what its own check finds; test_skill.py lets it run one."""
    prompt = read(file.parent / "api" / file.name)
    assert known_to_comfy_cli.validate_workflow(prompt)["errors"] == []


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_saved_graph_uses_nodes_that_exist_and_names_no_path(file, object_info):
    graph = read(file)
    assert {node["type"] for node in graph["nodes"]} <= {*object_info, NOTE}
    values = [node.get("widgets_values", []) for node in graph["nodes"]]
    assert [text for text in strings(values) if PATH.search(text)] == []


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_saved_graph_opens_with_nodes_side_by_side_and_each_within_one_group(file):
    graph = read(file)
    places = {node["id"]: place(node) for node in graph["nodes"]}
    pairs = [f"{a} and {b}" for a, b in combinations(places, 2) if touch(places[a], places[b])]
    assert pairs == [], "nodes that overlap"
    groups = [corners(*group["bounding"]) for group in graph["groups"]]
    loose = [n for n, at in places.items() if sum(holds(group, at) for group in groups) != 1]
    assert loose == [], "nodes that are not in one group"
    pairs = [(a, b) for a, b in combinations(groups, 2) if touch(a, b)]
    assert pairs == [], "groups that overlap"


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_note_in_every_group_says_what_to_change_and_how_long_it_takes(file):
    graph = read(file)
    notes = [node for node in graph["nodes"] if node["type"] == NOTE]
    for group in graph["groups"]:
        (note,) = [one for one in notes if holds(corners(*group["bounding"]), place(one))]
        (text,) = note["widgets_values"]
        assert re.search(r"\*\*(Your own|To change):\*\*", text), group["title"]
        assert re.search(r"\*\*Takes\*\* ", text), group["title"]


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_note_beside_what_keeps_its_name_says_that_a_change_needs_a_new_one(file):
    graph = read(file)
    for group in graph["groups"]:
        edge = corners(*group["bounding"])
        inside = [node for node in graph["nodes"] if holds(edge, place(node))]
        if KEEP_THEIR_NAMES & {node["type"] for node in inside}:
            (text,) = next(node for node in inside if node["type"] == NOTE)["widgets_values"]
            assert re.search(r"\bnew (run )?names?\b", text), group["title"]


def test_the_page_draws_no_node_over_another_or_its_groups_edge_and_no_link_through_one(comfy, dev):
    """At the sizes that the installed frontend really gives, in both kinds of nodes, and along the
    curves that it really draws.
    """
    graphs = {file.stem: read(file) for file in GRAPHS}
    with opened_in_both(comfy, dev) as pages:
        for kind, page in zip(("classic nodes", "Nodes 2.0"), pages, strict=True):
            for name, graph in graphs.items():
                found = measure(page, graph)
                assert found.nodes.keys() == {node["id"] for node in graph["nodes"]}
                over = [
                    (a, b)
                    for a, b in combinations(found.nodes, 2)
                    if found.nodes[a].touches(found.nodes[b])
                ]
                assert over == [], f"{name}, {kind}: nodes over nodes"
                loose = [
                    key
                    for key, box in found.nodes.items()
                    if not any(group.contains(box, MARGIN) for group in found.groups)
                ]
                assert loose == [], f"{name}, {kind}: nodes over the edge of their group"
                through = links_through_nodes(graph, found)
                assert through == [], f"{name}, {kind}: links through nodes"


def links_through_nodes(graph, found):
    """By titles: from, to, and the nodes in the way."""
    titles = {node["id"]: node["title"] for node in graph["nodes"]}
    through = []
    for key, source, _, target, *_ in graph["links"]:
        others = {n: box for n, box in found.nodes.items() if n not in (source, target)}
        hit = in_the_way(found.links[key], others)
        if hit:
            through.append((titles[source], titles[target], [titles[n] for n in hit]))
    return through


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_every_reroute_of_a_saved_graph_is_on_the_links_that_it_names(file):
    graph = read(file)
    reroutes = {one["id"]: one for one in graph["extra"].get("reroutes", [])}
    on = {key: set() for key in reroutes}
    for link in graph["extra"].get("linkExtensions", []):
        key = link["parentId"]
        while key is not None:
            on[key].add(link["id"])
            key = reroutes[key].get("parentId")
    assert on == {key: set(one["linkIds"]) for key, one in reroutes.items()}
    assert all(on.values())
    assert {link for links in on.values() for link in links} <= {link[0] for link in graph["links"]}


def test_the_prompts_of_the_method_are_in_the_graph_and_in_a_file_to_load():
    (note,) = [n for n in read(ROOT / "workflows" / "epochs_grid.json")["nodes"]
               if n["type"] == NOTE and "```" in n["widgets_values"][0]]  # fmt: skip
    (block,) = re.findall(r"```\n(.*?)```", note["widgets_values"][0], re.S)
    prompts = (ROOT / "workflows" / "prompts_21.txt").read_text(encoding="utf-8")
    assert block == prompts and len(set(prompts.splitlines())) == 21


def test_a_title_names_one_node_of_its_graph_and_an_id_one_graph():
    for file in GRAPHS:
        titles = [node.get("title") for node in read(file)["nodes"]]
        assert None not in titles and len(set(titles)) == len(titles), file.stem
        prompt = read(file.parent / "api" / file.name)
        assert {node["_meta"]["title"] for node in prompt.values()} <= set(titles), file.stem
    assert len({read(file)["id"] for file in GRAPHS}) == len(GRAPHS)


@pytest.mark.parametrize("name", APP_VIEWS)
def test_an_app_view_shows_inputs_and_results_that_the_graph_has(name, object_info):
    graph = read(ROOT / "workflows" / f"{name}.json")
    nodes, view = {node["id"]: node for node in graph["nodes"]}, graph["extra"]["linearData"]
    labels = []
    for key, widget in view["inputs"]:
        entry = next(one for one in nodes[key]["inputs"] if one["name"] == widget)
        assert "widget" in entry and entry["link"] is None, (nodes[key]["title"], widget)
        labels.append(entry.get("label", widget))
    assert len(set(labels)) == len(labels), "a form shows labels, without the titles of nodes"
    assert not [label for label in labels if "_" in label or label in ("name", "text", "values")]
    assert view["outputs"]
    for key in view["outputs"]:
        assert object_info[nodes[key]["type"]]["output_node"], nodes[key]["title"]


def place(node):
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return corners(x, y - TITLE, width, height + TITLE)


def corners(x, y, width, height):
    return x, y, x + width, y + height


def touch(one, other):
    return all(one[i] < other[i + 2] and other[i] < one[i + 2] for i in (0, 1))


def holds(group, at):
    return all(group[i] < at[i] and at[i + 2] < group[i + 2] for i in (0, 1))


def test_every_node_of_the_pack_is_shown_in_a_saved_graph(object_info):
    ours = {name for name in object_info if name.startswith("Cocktail")} - ELSEWHERE
    assert ours <= {node["type"] for file in GRAPHS for node in read(file)["nodes"]}


def test_the_template_browser_lists_every_saved_graph(comfy):
    assert sorted(comfy.get("/workflow_templates")["cocktail"]) == [file.stem for file in GRAPHS]
