"""The pack as ComfyUI's loader meets it: under an odd module name, with every node complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

LOAD = """
import asyncio, importlib.util, json, os, sys, time
comfyui, pack = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config
import nodes
import server
from comfy_api.latest import ComfyExtension, io

start = time.process_time()
name = pack.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, os.path.join(pack, "__init__.py"))
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
found = asyncio.run(extension.get_node_list())
seconds = time.process_time() - start

assert isinstance(extension, ComfyExtension)
def parts(items):
    return [{"id": item.id, "tooltip": getattr(item, "tooltip", None)} for item in items]
result = []
for node in found:
    schema = node.GET_SCHEMA()
    result.append({
        "id": schema.node_id, "display_name": schema.display_name, "category": schema.category,
        "description": schema.description,
        "inputs": parts(schema.inputs), "outputs": parts(schema.outputs),
    })
heavy = [name for name in ("diffusers", "matplotlib", "accelerate") if name in sys.modules]
print(json.dumps({"seconds": seconds, "nodes": result, "heavy": heavy, "path": sys.path}))
"""


def load(comfyui, root, bytecode):
    """Load the pack in a Python of its own, which keeps compiled modules in a folder as a user's
    does.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(comfyui), str(root)],
        capture_output=True,
        text=True,
        cwd=comfyui,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory):
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture(scope="module")
def loaded(comfyui, root, bytecode):
    return load(comfyui, root, bytecode)


def test_it_loads_under_an_odd_name_and_leaves_the_module_path_alone(loaded, root):
    assert loaded["nodes"]
    assert str(root) not in loaded["path"]


def test_no_heavy_library_is_imported_with_it(loaded):
    assert loaded["heavy"] == []


def test_every_node_explains_itself(loaded):
    for node in loaded["nodes"]:
        assert node["id"].startswith("Cocktail")
        assert node["display_name"] and node["category"].startswith("cocktail/"), node["id"]
        assert len(node["description"]) > 20, node["id"]
        for part in node["inputs"] + node["outputs"]:
            assert part["tooltip"], f"{node['id']}.{part['id']} has no tooltip"


def test_the_help_page_of_every_node_is_true_to_its_schema(loaded, root):
    promised = json.loads((root / "tests" / "node_contract.json").read_text(encoding="utf-8"))
    assert promised.keys() == {node["id"] for node in loaded["nodes"]}
    found = {
        node["id"]: untrue(
            (root / "web" / "docs" / f"{node['id']}.md").read_text(encoding="utf-8"),
            [part["id"] for part in node["inputs"]],
            promised[node["id"]],
        )
        for node in loaded["nodes"]
    }
    assert {name: problems for name, problems in found.items() if problems} == {}


def untrue(page, inputs, promised):
    """What a help page does not say of its node, or says of an input that the node lacks."""
    table = page.partition("\n## Inputs\n")[2].partition("\n| input |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    rows = [name for cell in cells for name in named(cell)]
    problems = [f"rows of {rows}, not of {inputs}"] if sorted(rows) != sorted(inputs) else []
    output = re.search(r"^## Outputs?$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    told = output[1] if output else ""
    problems += [f"no output {name}" for name, _ in promised["outputs"] if f"`{name}`" not in told]
    words = re.sub(r"\s+", " ", page)
    return problems + [
        f"{name} can be {choice}"
        for name, entry in promised["inputs"].items()
        for choice in entry.get("choices", ())
        if not re.search(rf"(?<![\w-]){re.escape(choice)}(?![\w-])", words)
    ]


def named(cell):
    """The inputs of a row: one, several, or the first and last of numbered ones."""
    names = re.findall(r"`([^`]+)`", cell)
    if " to " in cell:
        (start, first), (_, last) = (name.rsplit("_", 1) for name in names)
        return [f"{start}_{number}" for number in range(int(first), int(last) + 1)]
    return names


def test_no_help_page_is_left_of_a_node_that_is_gone(loaded, root):
    pages = {page.stem for page in (root / "web" / "docs").glob("*.md")}
    assert pages == {node["id"] for node in loaded["nodes"]}


def test_every_node_gives_search_words(root, loaded):
    sources = "".join(file.read_text(encoding="utf-8") for file in (root / "nodes").rglob("*.py"))
    for node in loaded["nodes"]:
        _, _, rest = sources.partition(f'node_id="{node["id"]}"')
        assert "search_aliases=" in rest.partition("inputs=")[0], node["id"]
