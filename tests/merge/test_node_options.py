"""What the merge nodes can do as the command line: strengths by block, mixes of noise and v, .sft
files.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail.merge.checkpoint import bind_to_files
from cocktail.merge.command_line import main
from cocktail.merge.hashing import file_hashes
from cocktail.merge.text import parse

from ..comfy import ComfyError
from .conftest import sd15_tensors
from .test_lora_mixing import NAMES, lora, product
from .test_nodes import node
from .test_quantised import WEIGHT, checkpoint
from .test_quantised import weight as drawn_weight


@pytest.fixture(scope="module")
def models(comfy):
    """ComfyUI's folder of models, with small files in it."""
    folder = comfy.base / "models"
    (folder / "loras").mkdir(exist_ok=True)
    small = {name: tensor.contiguous() for name, tensor in sd15_tensors(1).items()}
    save_file(small, folder / "checkpoints" / "small.sft")
    save_file(sd15_tensors(2) | {"v_pred": torch.tensor([])}, folder / "checkpoints" / "vpred.sft")
    save_file(lora(3, 4, alpha=2), folder / "loras" / "small.sft")
    yield folder
    for file in (folder / "loras").glob("*.sft"):
        file.unlink()


def bake(**inputs):
    given = {"checkpoint": "small.sft", "lora": "small.sft", "strength": 0.8, "name": "blocks"}
    return {"bake": node("CocktailBakeLora", **given, **inputs)}


def test_a_lora_is_baked_with_a_strength_for_each_block(comfy, models, tmp_path):
    weights = ["0"] * 25
    weights[1], weights[12] = "1", "0.5"
    plain = comfy.run(bake())["bake"]["cocktail"][0]["checkpoint"]
    made = comfy.run(bake(block_weights=", ".join(weights)))["bake"]["cocktail"][0]["checkpoint"]
    assert made != plain
    before, after = sd15_tensors(1), load_file(models / "checkpoints" / made)
    patch = load_file(models / "loras" / "small.sft")
    for (weight, name), share in zip(NAMES.items(), (0.8, 0.4, 0.0), strict=True):
        expected = before[weight].double() + share * product(patch, name)
        torch.testing.assert_close(after[weight].double(), expected, rtol=2e-3, atol=2e-3)
    files = [str(models / "checkpoints" / "small.sft"), str(models / "loras" / "small.sft")]
    out = tmp_path / "same.safetensors"
    blocks = ["--strength", "0.8", "--blocks", ", ".join(weights)]
    assert main(["bake-lora", *files, str(out), *blocks]) == 0
    assert out.read_bytes() == (models / "checkpoints" / made).read_bytes()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("1, 2", "2 block weights"),
        ("GRAD_W", "Did you mean GRAD_V"),
        (", ".join(["1"] * 19), "SDXL"),
        ("1, , 1", "empty"),
    ],
)
def test_wrong_block_weights_are_refused_on_the_node(comfy, models, written, words):
    assert words in comfy.errors(bake(block_weights=written))["bake"]


def test_noise_and_v_are_mixed_only_where_it_is_allowed(comfy, models):
    graph = {"text": node("CocktailRecipeFromText", text="0.5 small + 0.5 vpred")}
    graph["file"] = node(
        "CocktailMergeToFile", recipe=["text", 0], name="allowed", precision="fp16"
    )
    with pytest.raises(ComfyError, match="switch on allow_mixed_prediction"):
        comfy.run(graph)
    graph["file"]["inputs"]["allow_mixed_prediction"] = True
    (made,) = comfy.run(graph)["file"]["cocktail"]
    told = (
        "These models do not predict the same: small.sft predicts epsilon (nothing in it says "
        "otherwise), vpred.sft predicts v (the tensor v_pred). The mix predicts neither."
    )
    assert made["notes"][0] == told
    graph["file"] = node("CocktailMergeToModel", recipe=["text", 0], precision="fp16")
    graph["show"] = node("PreviewAny", source=["file", 0])
    with pytest.raises(ComfyError, match="switch on allow_mixed_prediction"):
        comfy.run(graph)


def test_sft_files_are_in_the_lists_and_are_read(comfy, models, tmp_path):
    inputs = comfy.get("/object_info/CocktailBakeLora")["CocktailBakeLora"]["input"]["required"]
    for name in ("checkpoint", "lora"):
        kind, options = inputs[name]
        assert "small.sft" in (kind if isinstance(kind, list) else options["options"])
    found = comfy.run(
        {
            "inspect": node("CocktailInspectCheckpoint", checkpoint="small.sft"),
            "prune": node(
                "CocktailPruneCheckpoint",
                checkpoint="small.sft",
                name="of_sft",
                precision="as it is",
                ema="drop",
                convert_vae=False,
            ),
        }
    )
    assert found["inspect"]["cocktail"][0]["family"] == "SD1.5"
    assert found["inspect"]["cocktail"][0]["autov3"]
    made = found["prune"]["cocktail"][0]["checkpoint"]
    assert (models / "checkpoints" / made).is_file()
    axis = {"target": "checkpoint", "values": "small\nvpred*"}
    loras = {"target": "LoRA", "values": "small:0.5"}
    fixed = {"prompt": "", "negative_prompt": "", "seed": 1, "steps": 1, "cfg": 1, "width": 64,
             "height": 64, "sampler": "euler", "scheduler": "normal", "clip_skip": 1}  # fmt: skip
    plan = {"name": "of_sft", "fixed": fixed, "axes": [axis, loras]}
    answer = comfy.post("/cocktail/grids/plan", {"plan": plan, "cells": True})
    labels = [value["label"] for value in answer["plan"]["axes"][0]["values"]]
    assert labels == ["small", "vpred"] and answer["cells"] == 2
    (models / "loras" / "cut.sft").write_bytes((models / "loras" / "small.sft").read_bytes()[:-9])
    loras["values"] = "cut"
    assert "cut.sft" in comfy.post("/cocktail/grids/plan", {"plan": plan})["error"]


def test_a_checkpoint_is_quantised_like_another(comfy, models):
    def write(name, tensors, metadata=None):
        path = models / "checkpoints" / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
        return path

    checkpoint(write, "like_fp8", 1, "comfy", drawn_weight(1))
    inputs = {
        "checkpoint": "small.sft",
        "name": "",
        "precision": "as it is",
        "ema": "drop",
        "convert_vae": False,
        "quantise_like": "like_fp8.safetensors",
    }
    graph = {"prune": node("CocktailPruneCheckpoint", **inputs)}
    (made,) = comfy.run(graph)["prune"]["cocktail"]
    tensors = load_file(models / "checkpoints" / made["checkpoint"])
    assert made["made"] and tensors[WEIGHT].dtype == torch.float8_e4m3fn
    graph["prune"]["inputs"]["convert_vae"] = True
    assert "switch convert_vae off" in comfy.errors(graph)["prune"]
    graph["prune"]["inputs"] |= {"convert_vae": False, "quantise_like": "small.sft"}
    with pytest.raises(ComfyError, match="no quantised weight"):
        comfy.run(graph)
    save_file(sd15_tensors(9), models / "checkpoints" / "cocktail" / "taken.safetensors")
    graph["prune"]["inputs"] |= {"quantise_like": "like_fp8.safetensors", "name": "taken"}
    with pytest.raises(ComfyError, match="Nothing is overwritten"):
        comfy.run(graph)


def test_a_renamed_sft_file_is_found_again_by_its_content(tmp_path, capsys):
    for name in ("a.sft", "b.sft"):
        save_file(sd15_tensors(4 if name == "a.sft" else 5), tmp_path / name)
    out = tmp_path / "mix.safetensors"
    folder = ["--models", str(tmp_path)]
    assert main(["run", "0.5 a + 0.5 b", str(out), *folder]) == 0
    (tmp_path / "a.sft").rename(tmp_path / "other.sft")
    assert main(["remake", str(out), str(tmp_path / "again.safetensors"), *folder]) == 0
    assert "the same file" in capsys.readouterr().out
    assert file_hashes(tmp_path / "b.sft").autov3
    assert bind_to_files(parse('"b.sft"'), lambda name: tmp_path / name).hash
