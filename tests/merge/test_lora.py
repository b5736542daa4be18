"""LoRA files against plain linear algebra, and against the real ComfyUI, which loads what is
extracted and adds what is baked.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail.merge.command_line import main
from cocktail.merge.errors import MergeError
from cocktail.merge.lora import bake_lora, extract_lora, low_rank, usual_name

from .conftest import TEXT, UNET

IN_COMFYUI = """
import sys
comfyui, checkpoint, lora, out = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, comfyui)
import logging, torch
import comfy.options
comfy.options.enable_args_parsing()
import comfy.lora, comfy.sd, comfy.utils
logging.disable(logging.NOTSET)
missing = []
logging.warning = lambda message, *rest: missing.append(message)
model, clip, *_ = comfy.sd.load_checkpoint_guess_config(checkpoint, output_vae=False)
missing.clear()
patch = comfy.utils.load_torch_file(lora, safe_load=True)
model, clip = comfy.sd.load_lora_for_models(model, clip, patch, 0.75, 0.75)
assert not [m for m in missing if "not loaded" in m.lower()], missing
made = {}
for patcher, old, new in (
    (model, "diffusion_model.", "model.diffusion_model."),
    (clip.patcher, "clip_l.transformer.", "cond_stage_model.transformer."),
):
    weights = patcher.model.state_dict()
    for key, patches in patcher.patches.items():
        weight = comfy.lora.calculate_weight(patches, weights[key].float().clone(), key)
        made[new + key.removeprefix(old)] = weight.contiguous()
comfy.utils.save_torch_file(made, out)
"""


def tuned_like(tensors, rank):
    """The tensors with a change of that rank in all weights of more than one dimension."""
    random = np.random.default_rng(3)
    changed = dict(tensors)
    for name, value in tensors.items():
        # One layer of the text encoder stands for all twelve: their matrices are alike, and the
        # test stays short.
        is_changed = name.startswith(UNET) or ".layers.3." in name
        if name.endswith(".weight") and value.dim() > 1 and is_changed:
            flat = value.flatten(1)
            up, down = (
                random.standard_normal(shape)
                for shape in ((flat.shape[0], rank), (rank, flat.shape[1]))
            )
            step = torch.from_numpy(up @ down).float() * (0.02 / flat.shape[1] ** 0.5)
            changed[name] = (value.float() + step.reshape(value.shape)).to(value.dtype)
    return changed


def test_low_rank_is_the_best_one_there_is():
    random = np.random.default_rng(1)
    for shape in ((40, 90), (90, 40), (5, 90)):
        matrix = random.standard_normal(shape)
        up, down = low_rank(torch.from_numpy(matrix), 8)
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        best = (u[:, :8] * s[:8]) @ v[:8]
        assert np.allclose((up.double() @ down.double()).numpy(), best, atol=1e-5)


def test_the_real_comfyui_loads_an_extracted_lora_and_a_baked_checkpoint_has_its_weights(
    comfyui, miniatures, tmp_path
):
    base = next(iter(sorted(miniatures.rglob("*.safetensors"))))
    tensors = load_file(base)
    tuned, lora, baked = (tmp_path / f"{name}.safetensors" for name in ("tuned", "lora", "baked"))
    save_file({k: v.contiguous() for k, v in tuned_like(tensors, 3).items()}, tuned)
    count = extract_lora(tuned, base, lora, 4)
    done = bake_lora(base, lora, baked, 0.75)
    assert len(done.matched) == count > 30 and not done.unmatched
    command = [
        sys.executable,
        "-c",
        IN_COMFYUI,
        comfyui,
        base,
        lora,
        tmp_path / "comfy.safetensors",
    ]
    subprocess.run([str(part) for part in command], check=True, cwd=tmp_path, timeout=300)
    theirs, ours, goal = (
        load_file(tmp_path / "comfy.safetensors"),
        load_file(baked),
        load_file(tuned),
    )
    assert len(theirs) == count
    for name, value in ours.items():
        if name not in theirs:
            assert torch.equal(value, tensors[name]), name
            continue
        step = (goal[name].float() - tensors[name].float()) * 0.75
        size = float(step.abs().max())
        assert float((theirs[name] - value.float()).abs().max()) < 2e-3 * size + 1e-3 * float(
            value.abs().max()
        ), name
        assert float((value.float() - tensors[name].float() - step).norm() / step.norm()) < 0.05, (
            name
        )


def test_names_of_diffusers_are_those_of_the_checkpoint():
    for theirs, ours in (
        (
            "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
            "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        ),
        ("mid_block_attentions_0_proj_in", "middle_block_1_proj_in"),
        ("mid_block_resnets_1_conv1", "middle_block_2_in_layers_2"),
        ("up_blocks_1_attentions_2_proj_out", "output_blocks_5_1_proj_out"),
        ("up_blocks_0_upsamplers_0_conv", "output_blocks_2_1_conv"),
        ("up_blocks_1_upsamplers_0_conv", "output_blocks_5_2_conv"),
        ("down_blocks_0_downsamplers_0_conv", "input_blocks_3_0_op"),
        ("up_blocks_3_resnets_0_conv_shortcut", "output_blocks_9_0_skip_connection"),
        ("input_blocks_4_1_proj_in", "input_blocks_4_1_proj_in"),
    ):
        assert usual_name("lora_unet_" + theirs) == "lora_unet_" + ours


def test_what_cannot_be_extracted_or_baked_is_told(write, sd15, tmp_path, capsys):
    a, b = write("a", sd15(1)), write("b", sd15(2))
    out = tmp_path / "out.safetensors"
    with pytest.raises(MergeError, match="have the same weights"):
        extract_lora(a, a, out, 4)
    with pytest.raises(MergeError, match="rank must be from 1 to 1024"):
        extract_lora(a, b, out, 0)
    other = write(
        "other",
        {
            "lora_unet_other.lora_down.weight": torch.ones(2, 2),
            "lora_unet_other.lora_up.weight": torch.ones(2, 2),
        },
    )
    with pytest.raises(MergeError, match="Nothing in .* fits a.safetensors"):
        bake_lora(a, other, out)
    assert not out.exists()
    assert main(["extract-lora", str(a), str(b), str(out), "--rank", "2"]) == 0
    baked = tmp_path / "baked.safetensors"
    assert main(["bake-lora", str(b), str(out), str(baked), "--strength", "0"]) == 0
    assert "0 match no weight of the checkpoint" in capsys.readouterr().out
    made, before = load_file(baked), load_file(b)
    assert set(made) == set(before) and all(torch.equal(made[k], before[k]) for k in made)
    with pytest.raises(MergeError, match="exists already"):
        bake_lora(b, out, baked)


ATTENTION = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
SHAPE = (32, 768)
PLAIN = {"lora_up.weight": (32, 2), "lora_down.weight": (2, 768), "alpha": ()}
OTHER_KINDS = {
    "DoRA": PLAIN | {"dora_scale": (32, 1)},
    "LoHa": {
        "hada_w1_a": (32, 2),
        "hada_w1_b": (2, 768),
        "hada_w2_a": (32, 2),
        "hada_w2_b": (2, 768),
    },
    "LoKr": {"lokr_w1": (4, 4), "lokr_w2": (8, 192)},
    "LoKr (Kronecker": {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2": (8, 192)},
    "LoCon with a middle": PLAIN | {"lora_mid.weight": (2, 2, 1, 1)},
    "OFT": {"oft_blocks": (4, 8, 8), "alpha": ()},
    "GLoRA": {
        "a1.weight": (2, 768),
        "a2.weight": (768, 2),
        "b1.weight": (32, 2),
        "b2.weight": (2, 768),
    },
    "full differences": {"diff": SHAPE},
    "whole weights": {"set_weight": SHAPE},
    "layout of diffusers": {
        "lora_linear_layer.up.weight": (32, 2),
        "lora_linear_layer.down.weight": (2, 768),
    },
    "layout of PEFT": {"lora_B.weight": (32, 2), "lora_A.weight": (2, 768)},
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_files_of_another_kind_are_told_by_its_name_and_never_baked_in_part(
    write, sd15, tmp_path, kind
):
    a, out = write("a", sd15(1)), tmp_path / "out.safetensors"
    other = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{other}.{ending}": torch.ones(shape) for ending, shape in PLAIN.items()}
    bake_lora(a, write("plain", tensors), tmp_path / "plain-baked.safetensors")
    tensors |= {f"{ATTENTION}.{end}": torch.ones(shape) for end, shape in OTHER_KINDS[kind].items()}
    with pytest.raises(MergeError) as error:
        bake_lora(a, write("other", tensors), out)
    told = str(error.value)
    assert told.startswith("other.safetensors cannot be baked. It contains ") and kind in told
    assert ATTENTION in told and told.endswith("load this one with Load LoRA.")
    assert not out.exists()


def test_keys_of_the_text_encoder_are_read_in_both_spellings_and_others_are_counted(
    write, sd15, tmp_path
):
    name = TEXT + "encoder.layers.3.mlp.fc1.weight"
    a = write("a", sd15(1) | {name: torch.zeros(8, 6, dtype=torch.float16)})
    for prefix, fits in (("lora_te_", True), ("lora_te1_", True), ("lora_te2_", False)):
        key = f"{prefix}text_model_encoder_layers_3_mlp_fc1"
        tensors = {
            f"{key}.lora_up.weight": torch.ones(8, 2),
            f"{key}.lora_down.weight": torch.ones(2, 6),
            f"{key}.alpha": torch.tensor(1.0),
        }
        out, lora = tmp_path / f"{prefix}.safetensors", write("lora" + prefix, tensors)
        if fits:
            assert bake_lora(a, lora, out, 0.5).matched == (key,)
            assert load_file(out)[name].eq(0.5).all()
        else:
            with pytest.raises(MergeError, match="Nothing in .* fits a.safetensors"):
                bake_lora(a, lora, out)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"alpha": torch.ones(2)}, "must be one number, but has 2"),
        ({"alpha": torch.tensor(float("nan"))}, "contain NaN or infinity"),
        ({"lora_up.weight": torch.full((32, 2), float("inf"))}, "contain NaN or infinity"),
        ({"lora_up.weight": torch.ones(32, 3)}, "Nothing in .* fits a.safetensors"),
        (
            {"lora_up.weight": torch.ones(32, 0), "lora_down.weight": torch.ones(0, 768)},
            "Nothing in .* fits a.safetensors",
        ),
        ({"lora_up.weight": torch.ones(32, 2, dtype=torch.int64)}, "which a weight cannot have"),
    ],
)
def test_a_damaged_lora_is_told_and_leaves_no_file(write, sd15, tmp_path, changed, words):
    a, out = write("a", sd15(1)), tmp_path / "out.safetensors"
    tensors = {ending: torch.ones(shape) for ending, shape in PLAIN.items()} | changed
    lora = write("lora", {f"{ATTENTION}.{ending}": value for ending, value in tensors.items()})
    before = a.read_bytes()
    with pytest.raises(MergeError, match=words):
        bake_lora(a, lora, out)
    assert not out.exists() and a.read_bytes() == before and not list(tmp_path.glob(".*"))
