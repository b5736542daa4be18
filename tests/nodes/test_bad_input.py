"""Bad input through /prompt: refused on the node that has it, before any training, in words that
help.
"""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from ..comfy import ComfyError, reasons
from .graphs import fine_tune, node


def write_header(path, shapes):
    """A safetensors file of zeros with tensors of these shapes."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.fixture
def checkpoints(comfy):
    folder = comfy.base / "models" / "checkpoints" / "wrong"
    folder.mkdir(exist_ok=True)
    return folder


def runs(comfy):
    return {run["name"] for run in comfy.get("/cocktail/runs")["runs"]}


def refused(comfy, graph):
    """Why a graph is refused by validation, by node; no run has come of it."""
    before = runs(comfy)
    answer = comfy.post("/prompt", {"prompt": graph, "client_id": "test"})
    assert runs(comfy) == before
    return reasons(answer)


def with_base(checkpoint):
    graph = fine_tune("never")
    graph["base"]["inputs"]["checkpoint"] = checkpoint
    return graph


def test_a_missing_checkpoint_is_refused_with_the_nearest_name(comfy):
    errors = refused(comfy, with_base("miniature_bace.safetensors"))
    assert "Did you mean miniature_base.safetensors?" in errors["base"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "C:\\x.safetensors"])
def test_a_path_is_not_a_checkpoint(comfy, name):
    assert "is refused" in refused(comfy, with_base(name))["base"]


UNET = "model.diffusion_model."


def test_a_base_that_is_not_whole_is_refused_with_the_name_of_the_tensor(comfy, checkpoints):
    tensors = load_file(comfy.base / "models" / "checkpoints" / "miniature_base.safetensors")
    cut = {name: tensor for name, tensor in tensors.items() if name != f"{UNET}out.2.bias"}
    save_file(cut, checkpoints / "cut.safetensors")
    error = refused(comfy, with_base("wrong/cut.safetensors"))["base"]
    assert f"cannot be trained: {UNET}out.2.bias is missing" in error


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (
            "SDXL",
            {
                UNET + "input_blocks.0.0.weight": [320, 4, 3, 3],
                UNET + "label_emb.0.0.weight": [8, 8],
            },
        ),
        (
            "Stable Diffusion 2",
            {
                UNET + "input_blocks.0.0.weight": [320, 4, 3, 3],
                UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 1024],
            },
        ),
        ("a LoRA", {"lora_unet_down.lora_down.weight": [4, 8]}),
        ("a VAE", {"encoder.conv_in.weight": [8, 3, 3, 3]}),
    ],
)
def test_a_checkpoint_of_another_kind_is_called_by_its_name(comfy, checkpoints, kind, shapes):
    write_header(checkpoints / f"{kind}.safetensors", shapes)
    errors = refused(comfy, with_base(f"wrong/{kind}.safetensors"))
    assert f"is {kind} (" in errors["base"] and "choose one of that kind" in errors["base"]


def test_a_cut_off_checkpoint_is_refused(comfy, checkpoints, miniatures):
    with (miniatures / "miniature_base.safetensors").open("rb") as file:
        (checkpoints / "cut.safetensors").write_bytes(file.read(1_000_000))
    assert "truncated or damaged" in refused(comfy, with_base("wrong/cut.safetensors"))["base"]


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "C:x", ".hidden", "CON"])
def test_a_run_name_that_is_a_path_is_refused(comfy, name):
    assert "cannot name a run" in refused(comfy, fine_tune(name))["run"]
    draw = {"draw": node("CocktailDrawShapes", name=name, count=2, seed=1), **load(["draw", 0])}
    assert "cannot name a folder" in refused(comfy, draw)["draw"]


def load(folder, on_problem="stop"):
    return {
        "load": node(
            "CocktailLoadDataset", folder=folder, caption_text="first line", on_problem=on_problem
        )
    }


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("input/nowhere", "There is no dataset folder 'input/nowhere'"),
        ("input/../output", "is refused"),
        ("input", "There is no dataset folder"),
        ("/etc", "There is no dataset folder"),
        ("input/empty", "There is no picture in input/empty"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused(comfy, folder, words):
    (comfy.base / "input" / "empty").mkdir(exist_ok=True)
    assert words in refused(comfy, load(folder))["load"]


def test_a_damaged_picture_or_caption_stops_the_load_or_is_skipped_and_reported(comfy):
    folder = comfy.base / "input" / "mixed"
    folder.mkdir(exist_ok=True)
    for name in ("good", "latin", "torn"):
        Image.effect_noise((64, 64), 50).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} one", encoding="utf-8")
    (folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "torn.png").write_bytes((folder / "torn.png").read_bytes()[:500])
    with pytest.raises(ComfyError) as error:
        comfy.run(load("input/mixed"))
    assert error.value.nodes.keys() == {"load"}
    assert "latin.png: the caption is not UTF-8" in str(error.value)
    assert "torn.png: the file is damaged" in str(error.value)
    report = comfy.run(load("input/mixed", "skip"))["load"]["cocktail"][0]
    assert (report["found"], report["pairs"], report["skipped"]) == (3, 1, 2)
    assert {problem["file"] for problem in report["problems"]} == {"latin.png", "torn.png"}


def test_drawing_into_a_folder_that_holds_something_else_is_refused(comfy):
    folder = comfy.base / "input" / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "holiday.png").write_bytes(b"mine")
    graph = {"draw": node("CocktailDrawShapes", name="mine", count=2, seed=1), **load(["draw", 0])}
    with pytest.raises(ComfyError, match="nothing in it is overwritten"):
        comfy.run(graph)
    assert [path.name for path in folder.iterdir()] == ["holiday.png"]


def test_settings_that_do_not_fit_together_are_refused(comfy):
    errors = refused(comfy, fine_tune("never", resolution=72))
    assert "must be a multiple of bucket_step, 16" in errors["settings"]
    assert "between 64 and 2048" in refused(comfy, fine_tune("never", resolution=4096))["settings"]


CONTRACT = json.loads(
    (Path(__file__).parents[1] / "node_contract.json").read_text(encoding="utf-8")
)
VALID = {
    "checkpoint": "miniature_base.safetensors",
    "name": "wrong-types",
    "run_name": "wrong-types",
    "folder": "input/few-2",
    "file": "none",
    "base": "miniature_base.safetensors",
    "ids": "0" * 16,
    "texts": "a text",
    "sampler": "euler",
    "scheduler": "normal",
}
"""Values of inputs without a default that can be used."""
ELSEWHERE = {"CocktailCaptionDataset", "CocktailDownloadImages"}
"""Refused before, as this ComfyUI has no model for captions and no network."""
WRONG = {
    "a text": ["draw", 0],
    "an object": {"name": "x"},
    "a number": 3,
    "nothing": None,
    "true or false": False,
}
"""What is linked or stands where one of the pack's own types belongs, and how it is called."""
DRAW = {"draw": node("CocktailDrawShapes", name="few-2", count=2, seed=3)}


def failed(comfy, **graph):
    """What the only node that fails of a graph says."""
    graph = DRAW | graph | {"end": node("PreviewAny", source=["bad", 0])}
    if not CONTRACT[graph["bad"]["class_type"]]["outputs"]:
        del graph["end"]
    with pytest.raises(ComfyError) as error:
        comfy.run(graph)
    assert error.value.nodes.keys() == {"bad"}
    return error.value.nodes["bad"]


def test_what_is_not_of_the_type_of_an_input_is_named_in_words(comfy):
    """In each node with an input of one of the pack's own types."""
    comfy.run(DRAW | {"end": node("PreviewAny", source=["draw", 0])})
    wrongs = itertools.cycle(WRONG.items())
    asked = 0
    for kind, found in CONTRACT.items():
        own = [name for name, one in found["inputs"].items() if one["type"].startswith("COCKTAIL")]
        if not own or kind in ELSEWHERE:
            continue
        called, wrong = next(wrongs)
        if all(found["inputs"][name].get("optional") for name in own):
            called, wrong = "a text", ["draw", 0]
        values = {
            name: VALID[name] if name in VALID else one["default"]
            for name, one in found["inputs"].items()
            if name in VALID or "default" in one
        }
        if kind == "CocktailBlockWeights":
            values["base"] = "0.5"
        said = failed(comfy, bad=node(kind, **values | dict.fromkeys(own, wrong)))
        assert any(f"{name} takes " in said for name in own), (kind, said)
        assert f", but gets {called}. Link an output of the type COCKTAIL_" in said, (kind, said)
        asked += 1
    assert asked > 50


@pytest.mark.parametrize(
    ("kind", "inputs", "said"),
    [
        ("TrainingPreset", {"preset": ["draw", 0]}, "preset cannot be 'input/few-2'."),
        ("TrainingPreset", {"preset": None}, "preset takes one of its choices, but gets nothing."),
        ("TrainingPreset", {"prset": ["draw", 0]}, "no input 'prset'. Did you mean preset?"),
        ("SplitDataset", {"share": ["draw", 0]}, "share takes a number, but gets a text. Enter"),
        ("SplitDataset", {"seed": ["draw", 0]}, "seed takes a whole number, but gets a text."),
        ("SplitDataset", {"dataset": {"__value__": [1]}}, "takes a dataset, but gets a list."),
    ],
)
def test_a_link_that_brings_no_choice_or_number_is_named_in_words(comfy, kind, inputs, said):
    values = {"preset": "ED2 2023 baseline"}
    if kind == "SplitDataset":
        values = {"dataset": ["load", 0], "share": 0.5, "seed": 1}
    bad = node(f"Cocktail{kind}", **values | inputs)
    assert said in failed(comfy, **load(["draw", 0]), bad=bad)


def test_no_choice_is_refused_before_the_graph_runs(comfy):
    graph = with_base({"a": 1})
    assert "checkpoint takes one of its choices, but gets an object." in str(refused(comfy, graph))
    del graph["base"]["inputs"]["checkpoint"]
    assert refused(comfy, graph)["base"] == "checkpoint"
