"""What saved graphs rely on: ids, order and types of inputs and outputs, and the choices that are
ours.

After a change that is meant, run the tests once with COCKTAIL_WRITE_CONTRACT=1 and look at the
difference.
"""

from __future__ import annotations

import json
import os

import pytest

from cocktail.merge.presets import read_presets

LISTINGS = {
    "checkpoint",
    "checkpoint_a",
    "checkpoint_b",
    "folder",
    "base",
    "saved_dataset",
    "saved_run",
    "table",
    "model",
    "sampler",
    "scheduler",
    "vae",
    "lora",
    "image",
    "file",
    "quantise_like",
    *(f"checkpoint_{number}" for number in range(1, 9)),
}
"""Inputs whose choices are files of this machine or ComfyUI's own lists."""


def contract(info, own):
    """The promises of one node, from its entry in /object_info, without presets of one's `own`."""
    inputs = {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, *options = info["input"][group][name]
            settings = options[0] if options else {}
            choices = kind if isinstance(kind, list) else settings.get("options")
            inputs[name] = {"type": "COMBO" if isinstance(kind, list) else kind}
            if group == "optional":
                inputs[name]["optional"] = True
            if choices is not None and name not in LISTINGS:
                inputs[name]["choices"] = [choice for choice in choices if choice not in own]
            if "default" in settings and name not in LISTINGS:
                inputs[name]["default"] = settings["default"]
    outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    return {"inputs": inputs, "outputs": outputs, "output_node": info["output_node"]}


@pytest.fixture(scope="module")
def live(comfy):
    nodes = comfy.get("/object_info")
    own = read_presets(comfy.base / "output" / "cocktail" / "block_presets.txt")
    return {
        name: contract(nodes[name], own) for name in sorted(nodes) if name.startswith("Cocktail")
    }


def test_saved_graphs_go_on_working(live, root):
    file = root / "tests" / "node_contract.json"
    if os.environ.get("COCKTAIL_WRITE_CONTRACT"):
        file.write_text(json.dumps(live, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert live.keys() == kept.keys()
    for name in kept:
        assert list(live[name]["inputs"]) == list(kept[name]["inputs"]), f"{name}: order of inputs"
        assert live[name] == kept[name], name


def test_every_node_comes_from_this_pack_and_under_its_category(comfy):
    for name, info in comfy.get("/object_info").items():
        if name.startswith("Cocktail"):
            assert info["python_module"] == "custom_nodes.cocktail"
            assert info["category"] in {
                f"cocktail/{part}" for part in ("dataset", "fine-tune", "merge", "grid", "select")
            }
