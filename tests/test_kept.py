"""What earlier versions have made opens and goes on: a run, a grid and a saved dataset.

tests/kept holds the input and output folders of a ComfyUI that ran kept/graph.json with version
0.1.0 of 2026-11, but for the weights; its checkpoint was `zeros`. BASE in the files stands for
ComfyUI's base folder, and kept/told.json is what routes and nodes said then.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.model.single_file import read_shapes
from cocktail.trainer.settings.run_settings import RunSettings

KEPT = Path(__file__).parent / "kept"
TOLD = json.loads((KEPT / "told.json").read_text(encoding="utf-8"))
GRAPH = json.loads((KEPT / "graph.json").read_text(encoding="utf-8"))


def zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A checkpoint of zeros in fp16, whose bytes follow from names and shapes alone."""
    header, at = {}, 0
    for name in sorted(shapes):
        size = 2 * math.prod(shapes[name])
        place = [at, at + size]
        header[name] = {"dtype": "F16", "shape": list(shapes[name]), "data_offsets": place}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


@pytest.fixture(scope="module")
def base(comfy, comfyui, miniatures):
    """The base folder of a ComfyUI, with what is kept in its places."""
    shapes = read_shapes(miniatures / "miniature_base.safetensors")
    checkpoint = comfy.base / "models" / "checkpoints" / "zeros.safetensors"
    zeros(checkpoint, shapes)
    for file in sorted((KEPT / "base").rglob("*")):
        target = comfy.base / file.relative_to(KEPT / "base")
        if file.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".parquet":
            dataset = Dataset.load(file)
            replace(dataset, root=dataset.root.replace("BASE", str(comfy.base))).save(target)
        elif file.suffix == ".json":
            text = file.read_text(encoding="utf-8")
            text = text.replace("BASE", str(comfy.base)).replace("COMFYUI", str(comfyui))
            target.write_text(text, encoding="utf-8")
        else:
            shutil.copyfile(file, target)
    yield comfy.base
    checkpoint.unlink()


def results(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What each file that holds a result says, and when it was written."""
    kinds = (".png", ".jsonl", ".parquet")
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.suffix in kinds or path.name == "run.json"
    }


def test_a_run_is_listed_with_its_id_and_its_settings(comfy, base):
    (listed,) = [run for run in comfy.get("/cocktail/runs")["runs"] if run["name"] == "kept-run"]
    told = dict(TOLD["run"])
    # Settings that came later are told too, at their defaults.
    told["settings"] = RunSettings.from_json(told["settings"]).to_json()
    assert {key: listed[key] for key in TOLD["listed"]} == TOLD["listed"]
    one = comfy.get("/cocktail/runs/kept-run")
    assert {key: one[key] for key in told} == told


def test_the_metrics_of_a_run_are_read(comfy, base):
    found = comfy.get("/cocktail/runs/kept-run/metrics?after=0")
    assert found["lines"] == TOLD["metrics"]


def test_a_saved_dataset_opens_with_the_same_fingerprint(comfy, base):
    (file,) = (KEPT / "base").rglob("manifest.parquet")
    assert Dataset.load(file).fingerprint == TOLD["fingerprint"]
    inputs = {"resolutions": "64", "bucket_step": 16, "bucket_table": "generated"}
    prompt = {
        "1": {"class_type": "CocktailOpenDataset", "inputs": {"saved_dataset": "kept-pairs"}},
        "2": {"class_type": "CocktailDatasetOverview", "inputs": {"dataset": ["1", 0], **inputs}},
    }
    opened = comfy.run(prompt)["1"]["cocktail"][0]
    assert opened["fingerprint"] == TOLD["fingerprint"]


def test_the_cells_of_a_grid_have_the_same_keys_and_are_finished(comfy, base):
    grid = comfy.get("/cocktail/grids/kept-grid")
    assert {cell["key"]: cell["status"] for cell in grid["cells"]} == TOLD["cells"]


def test_queueing_the_same_graph_finds_all_of_it(comfy, base):
    plan = base / "output" / "cocktail" / "grids" / "kept-grid" / "plan.json"
    before, planned = results(base / "output"), plan.read_bytes()
    outputs = comfy.run(GRAPH)
    assert results(base / "output") == before
    assert plan.read_bytes() == planned
    for node, told in TOLD["outputs"].items():
        found = outputs[node]["cocktail"][0]
        assert {key: found[key] for key in told} == told
