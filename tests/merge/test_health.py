"""Every command sees the same faults of a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from cocktail.merge.command_line import main
from cocktail.merge.inspection import inspect_file

from .conftest import TEXT, UNET, sd15_tensors

BROKEN = UNET + "output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"
POSITIONS = TEXT + "embeddings.position_ids"


def spoilt(value, name=BROKEN, seed=1):
    tensors = sd15_tensors(seed)
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[-1] = value
    return tensors


@pytest.fixture
def folder(tmp_path, write):
    write("good", sd15_tensors(2))
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
    sides = {f"{name}.lora_up.weight": (32, 2), f"{name}.lora_down.weight": (2, 768)}
    write("lora", {k: torch.ones(shape).half() for k, shape in sides.items()})
    return tmp_path


COMMANDS = {
    "run": ["run", "0.5 good + 0.5 bad", "OUT", "--models", "."],
    "prune": ["prune", "bad.safetensors", "OUT"],
    "prune to bf16": ["prune", "bad.safetensors", "OUT", "--precision", "bf16"],
    "extract-lora": ["extract-lora", "bad.safetensors", "good.safetensors", "OUT"],
    "bake-lora": ["bake-lora", "bad.safetensors", "lora.safetensors", "OUT"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nan_and_infinity_are_refused_by_name(folder, write, capsys, monkeypatch, command, value):
    write("bad", spoilt(value))
    monkeypatch.chdir(folder)
    arguments = [a.replace("OUT", "out.safetensors") for a in COMMANDS[command]]
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert "contain NaN or infinity" in told and BROKEN in told and "bad.safetensors" in told
    assert not (folder / "out.safetensors").exists()


def test_compare_leaves_them_out_and_names_them(folder, write, capsys, monkeypatch):
    write("bad", spoilt(float("nan"), seed=2))
    monkeypatch.chdir(folder)
    assert main(["compare", "good.safetensors", "bad.safetensors"]) == 0
    told = capsys.readouterr().out
    assert f"with NaN or infinity, left out: 1 tensors ({BROKEN})" in told
    assert "nan %" not in told and "All tensors are equal" not in told


def test_compare_sees_other_position_ids_in_whatever_type(folder, write, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    right = torch.arange(77).reshape(1, 77)
    for made, are_equal in (
        (right.half(), True),
        (right + 1, False),
        (torch.full((1, 77), 0.58).half(), False),
    ):
        write("bad", load_file("good.safetensors") | {POSITIONS: made})
        for files in (("good", "bad"), ("bad", "good")):
            assert main(["compare", *(f"{name}.safetensors" for name in files)]) == 0
            told = capsys.readouterr().out
            assert ("All tensors are equal." in told) == are_equal
            assert (f"with other whole numbers: 1 tensors ({POSITIONS})" in told) != are_equal


def test_inspect_names_everything_that_is_wrong(folder, write):
    tensors = spoilt(float("nan")) | {UNET + "out.2.weight": torch.zeros(4, 320, 3, 3).half()}
    tensors[POSITIONS] = torch.full((1, 77), 0.58).half()
    told = " ".join(inspect_file(write("bad", tensors)).notes)
    assert f"1 tensors contain NaN or infinity: the checkpoint is broken ({BROKEN})" in told
    assert f"1 weights are all zero ({UNET}out.2.weight)" in told
    assert f"1 position_ids are not 0, 1, 2, ...; a merge and prune mend them ({POSITIONS})" in told
    assert inspect_file(folder / "good.safetensors").notes == ()


def test_inspect_says_what_a_unet_predicts_and_recipes_of_other_tools(write):
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
        "2": {"class_type": "ModelMergeSimple", "inputs": {"ratio": 0.5}},
    }
    metadata = {
        "mecha_recipe": 'version 0.1.0\nmodel "a.safetensors"\nmodel "b"\nmerge "slerp" &0 &1',
        "sd_merge_recipe": json.dumps({"type": "sd-webui-model-mixer", "mode": ["Sum"]}),
        "prompt": json.dumps(prompt),
        "modelspec.prediction_type": "v",
    }
    told = "; ".join(inspect_file(write("x", sd15_tensors(1), metadata)).notes)
    assert "predicts v (modelspec.prediction_type is 'v')" in told
    assert "merged by sd-mecha: slerp of a.safetensors, b" in told
    assert "merged by model-mixer" in told
    assert "saved by ComfyUI: ModelMergeSimple of x.safetensors" in told


@pytest.mark.parametrize("command", ["prune", "prune to bf16", "bake-lora"])
def test_broken_position_ids_are_mended_as_in_a_merge(folder, write, monkeypatch, command):
    write("bad", sd15_tensors(1) | {POSITIONS: torch.full((1, 77), 0.58).half()})
    monkeypatch.chdir(folder)
    assert main([a.replace("OUT", "out.safetensors") for a in COMMANDS[command]]) == 0
    assert torch.equal(load_file("out.safetensors")[POSITIONS], torch.arange(77).reshape(1, 77))


def test_infinity_in_the_noise_schedule_is_no_fault(folder, write, monkeypatch):
    schedule = {"sqrt_recip_alphas_cumprod": torch.tensor([1.0, float("inf")])}
    write("bad", sd15_tensors(1) | schedule)
    monkeypatch.chdir(folder)
    assert main([a.replace("OUT", "out.safetensors") for a in COMMANDS["prune"]]) == 0
    assert main(["run", "0.5 bad + 0.5 good", "merged.safetensors", "--models", "."]) == 0


@pytest.mark.parametrize("precision", ["as it is", "bf16"])
def test_averaged_copies_that_are_kept_are_looked_at_too(write, tmp_path, capsys, precision):
    tensors = sd15_tensors(1)
    tensors["model_ema.diffusion_modelout2bias"][0] = float("nan")
    out = tmp_path / "out.safetensors"
    command = ["prune", str(write("a", tensors)), str(out), "--precision", precision]
    assert main([*command, "--ema", "keep"]) == 1 and not out.exists()
    assert "NaN or infinity: model_ema.diffusion_modelout2bias in a" in capsys.readouterr().err
    assert main(command) == 0
