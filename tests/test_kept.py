"""What earlier versions have made opens and goes on: runs, grids, a saved dataset, a download, a
merge.

tests/kept holds the input and output folders of a ComfyUI that ran kept/graph.json with version
0.1.0 of 2026-11, but for the weights; its checkpoint was `zeros`. BASE in the files stands for
ComfyUI's base folder, and kept/told.json is what routes and nodes said then.

The run `half-run` was stopped after 4 of 16 steps and the grid `half-grid` interrupted after 2 of 6
cells, by the same version and graph. Of large files the headers are kept, and filled up here: what
a resume point holds with zeros.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cocktail.merge.checkpoint import SAME_FILE, remake
from cocktail.trainer.data.fetch.job import DownloadJob, images
from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.model.single_file import read_shapes
from cocktail.trainer.settings.run_settings import RunSettings

KEPT = Path(__file__).parent / "kept"
TOLD = json.loads((KEPT / "told.json").read_text(encoding="utf-8"))
GRAPH = json.loads((KEPT / "graph.json").read_text(encoding="utf-8"))


def zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A checkpoint of zeros in fp16, whose bytes follow from names and shapes alone."""
    header, at = laid_out(shapes)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + at)


def uniform(path: Path, shapes: dict[str, tuple[int, ...]], value: float) -> None:
    """The same with another value in every place."""
    header, at = laid_out(shapes)
    path.write_bytes(header + struct.pack("<e", value) * (at // 2))


def laid_out(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """The beginning of a safetensors file of these tensors in fp16, and the bytes of all."""
    header, at = {}, 0
    for name in sorted(shapes):
        size = 2 * math.prod(shapes[name])
        place = [at, at + size]
        header[name] = {"dtype": "F16", "shape": list(shapes[name]), "data_offsets": place}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text, at


def wait_for(true, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.1)


def filled_up(header: Path, path: Path) -> None:
    """The safetensors file with this header, all zeros, as long as its resume point says it is."""
    text = header.read_bytes().strip()
    end = max(tensor["data_offsets"][1] for tensor in json.loads(text).values())
    manifest = json.loads((header.parent / "manifest.json").read_text(encoding="utf-8"))
    size = manifest["sizes"][path.name]
    with path.open("wb") as file:
        file.write(struct.pack("<Q", size - end - 8) + text.ljust(size - end - 8))
        file.truncate(size)


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
        elif file.suffix == ".header":
            filled_up(file, target.with_suffix(".safetensors"))
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


def half_done(nodes: str, **changes: object) -> dict[str, dict]:
    """Some nodes of the graph, with the inputs by which they made what is half done."""
    graph = {node: GRAPH[node] for node in nodes.split()}
    return {
        node: {**one, "inputs": {name: changes.get(name, v) for name, v in one["inputs"].items()}}
        for node, one in graph.items()
    }


def test_a_run_that_was_stopped_goes_on_from_its_resume_point(comfy, base):
    folder = base / "output" / "cocktail" / "runs" / "half-run"
    listed = comfy.get("/cocktail/runs/half-run")
    assert (listed["status"], listed["step"], listed["steps"]) == ("stopped", 4, 16)
    before = (folder / "metrics.jsonl").read_bytes()
    told = comfy.get("/cocktail/runs/half-run/metrics?after=0")
    comfy.run(half_done("1 2 4 5 6", epochs=8, run_name="half-run"))

    def new() -> list[dict]:
        path = f"/cocktail/runs/half-run/metrics?after={told['next']}"
        return [line for line in comfy.get(path)["lines"] if line["kind"] == "step"]

    wait_for(lambda: new() or comfy.get("/cocktail/runs/half-run")["status"] == "failed")
    comfy.post("/cocktail/runs/half-run/stop", {})
    wait_for(lambda: comfy.get("/cocktail/runs/half-run")["status"] in ("stopped", "finished"))
    assert new()[0]["step"] == 5 and new()[0]["epoch"] == 3
    assert comfy.get("/cocktail/runs/half-run")["id"] == listed["id"]
    assert (folder / "metrics.jsonl").read_bytes().startswith(before)


def test_a_grid_that_was_interrupted_is_completed(comfy, base):
    folder = base / "output" / "cocktail" / "grids" / "half-grid"

    def statuses() -> dict[str, str]:
        cells = comfy.get("/cocktail/grids/half-grid")["cells"]
        return {cell["key"]: cell["status"] for cell in cells}

    cells = statuses()
    assert sorted(cells.values()) == ["finished"] * 2 + ["missing"] * 4
    before = results(folder / "cells")
    assert len(before) == 2
    six = "1\n2\n3\n4\n5\n6"
    comfy.run(half_done("8 9 10", values=six, name="half-grid", steps=4))
    assert statuses() == dict.fromkeys(cells, "finished")
    now = results(folder / "cells")
    assert len(now) == 6 and now.items() >= before.items()


def test_a_download_opens_with_its_pictures_and_asks_only_for_what_failed(base):
    job = DownloadJob.open(base / "output" / "cocktail" / "datasets" / "half-download")
    assert (job.state().status, job.state().ok, job.state().total) == ("finished", 1, 2)
    assert images(job.folder) == {1: "images/000001.png"}
    assert not job.has_work()
    again = replace(job, settings=replace(job.settings, retry_failed="transient"))
    assert again.has_work()


def test_a_merge_is_made_again_by_its_own_metadata_bit_for_bit(tmp_path):
    """Its ingredients were all zeros and all ones; the VAE is that of the first."""
    shapes = json.loads((KEPT / "merge" / "shapes.json").read_text(encoding="utf-8"))
    uniform(tmp_path / "a.safetensors", shapes, 0)
    uniform(tmp_path / "b.safetensors", shapes, 1)
    header = (KEPT / "merge" / "header.json").read_bytes()
    tensors = json.loads(header)
    del tensors["__metadata__"]
    made = bytearray()
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        value = 0 if name.startswith("first_stage_model.") else 0.75
        made += struct.pack("<e", value) * math.prod(tensor["shape"])
    (tmp_path / "mix.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + made)
    again = tmp_path / "again.safetensors"
    assert remake(tmp_path / "mix.safetensors", again, tmp_path.joinpath) == SAME_FILE
