"""The subgraph blueprints in subgraphs/: listed, offered by the page's node search, and run."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from .pages import launched, open_page

SUBGRAPHS = {
    "Grid and Sheet": "CocktailGridPlan CocktailRenderGrid CocktailGridSheet",
    "Pick, Mix and Save": "CocktailPickCheckpoint CocktailPickCheckpoint CocktailIngredient "
    "CocktailIngredient CocktailWeightedSum CocktailMergeToFile",
    "Train, Wait and Chart": "CocktailFineTune CocktailWaitForRun CocktailLossChart",
}
FILL = """() => {
    const graph = window.app.graph;
    const box = graph.nodes.find(node => node.title === "Grid and Sheet");
    const add = (kind, values) => {
        const node = window.LiteGraph.createNode(kind);
        graph.add(node);
        for (const [name, value] of Object.entries(values))
            node.widgets.find(widget => widget.name === name).value = value;
        return node;
    };
    const columns = { checkpoint_1: "miniature_base.safetensors" };
    for (let i = 2; i < 9; i++) columns[`checkpoint_${i}`] = "none";
    const axes = [
        add("CocktailAxisCheckpoints", columns),
        add("CocktailAxis", { target: "prompt", values: "a red circle" }),
        add("CocktailAxis", { target: "seed", values: "1, 2" }),
    ];
    axes.forEach((axis, i) => axis.connect(0, box, `axis_${i + 1}`));
    const own = { name: "from-blueprint", steps: 1, width: 32, height: 32 };
    for (const [name, value] of Object.entries(own))
        box.widgets.find(widget => widget.name === name).value = value;
    return window.app.graphToPrompt().then(found => found.output);
}"""


@pytest.fixture
def page(comfy, dev):
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    with launched(dev) as browser:
        page, _ = open_page(browser, comfy)
        page.evaluate("window.app.graph.clear()")
        yield page


def add(page, name: str) -> None:
    """By the search for nodes: its name, Enter, and on newer pages a click where it shall lie."""
    page.evaluate("window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    older, newer = (page.get_by_placeholder(words) for words in ("Search Nodes", "Add a node..."))
    search = older.or_(newer)
    search.fill(name)
    expect(page.get_by_role("option").filter(has_text=name).first).to_be_visible()
    is_placed_by_click = newer.is_visible()
    search.press("Enter")
    if is_placed_by_click:
        expect(search).to_be_hidden()
        page.mouse.click(600, 400)
    page.wait_for_function(
        "name => window.app.graph.nodes.some(node => node.title === name)", arg=name
    )


def test_the_server_lists_them_as_this_packs(comfy):
    listed = comfy.get("/global_subgraphs").values()
    ours = {one["name"] for one in listed if one["info"]["node_pack"] == "custom_nodes.cocktail"}
    assert ours == SUBGRAPHS.keys()


def test_they_are_added_by_the_node_search_with_their_nodes_in_them(page):
    for name, kinds in SUBGRAPHS.items():
        add(page, name)
        inside = page.evaluate(
            "name => window.app.graph.nodes.find(node => node.title === name)"
            ".subgraph.nodes.map(node => node.type)",
            name,
        )
        assert sorted(inside) == sorted(kinds.split()), name


def test_a_graph_with_one_runs(comfy, page):
    add(page, "Grid and Sheet")
    outputs = comfy.run(page.evaluate(FILL))
    (made,) = [
        result
        for output in outputs.values()
        for result in output.get("cocktail", ())
        if "rendered" in result
    ]
    assert (made["name"], made["rendered"], made["failed"]) == ("from-blueprint", 2, 0)
    assert [output["images"] for output in outputs.values() if "images" in output]


def test_their_nodes_are_ours_and_say_what_they_are_for(comfy, root):
    known = comfy.get("/object_info")
    for name, kinds in SUBGRAPHS.items():
        file = root / "subgraphs" / f"{name}.json"
        saved = json.loads(file.read_text(encoding="utf-8"))
        assert len(saved["extra"]["BlueprintDescription"]) > 30
        (inner,) = saved["definitions"]["subgraphs"]
        assert {node["type"] for node in inner["nodes"]} == set(kinds.split()) <= known.keys()
        assert saved["nodes"][0]["type"] == inner["id"] and inner["name"] == name
