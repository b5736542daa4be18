"""LoRA files are mixed as the weights they mean, and baked block by block."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.command_line import main
from cocktail.merge.errors import MergeError
from cocktail.merge.text import parse

from .conftest import UNET, sd15_tensors

BLOCKS = ("input_blocks.1.1", "middle_block.1", "output_blocks.3.1")
NAMES = {
    f"{UNET}{block}.transformer_blocks.0.attn2.to_k.weight": "lora_unet_"
    f"{block.replace('.', '_')}_transformer_blocks_0_attn2_to_k"
    for block in BLOCKS
}
LAYERS = tuple(NAMES.values())


def lora(seed, rank, alpha=None, names=LAYERS):
    random = torch.Generator().manual_seed(seed)
    made = {}
    for name in names:
        made[f"{name}.lora_up.weight"] = torch.randn((32, rank), generator=random).half()
        made[f"{name}.lora_down.weight"] = torch.randn((rank, 768), generator=random).half()
        if alpha is not None:
            made[f"{name}.alpha"] = torch.tensor(float(alpha))
    return made


def product(tensors, name):
    up, down = (tensors[f"{name}.lora_{side}.weight"].double() for side in ("up", "down"))
    alpha = float(tensors.get(f"{name}.alpha", torch.tensor(float(len(down)))))
    return alpha / len(down) * up.flatten(1) @ down.flatten(1)


def test_a_mix_means_the_mix_of_the_weights(write, tmp_path, capsys):
    a, b = lora(1, 4, alpha=2), lora(2, 3)
    write("la", a)
    write("lb", b)
    out = tmp_path / "made" / "out.safetensors"
    assert main(["run", "0.7 la + 0.3 lb", str(out), "--models", str(tmp_path)]) == 0
    made = load_file(out)
    for name in NAMES.values():
        expected = 0.7 * product(a, name) + 0.3 * product(b, name)
        torch.testing.assert_close(product(made, name), expected, rtol=1e-5, atol=1e-5)
        assert made[f"{name}.lora_down.weight"].shape[0] == 7
    assert "rank 7" in capsys.readouterr().out


def test_a_smaller_rank_tells_its_error(write, tmp_path, capsys):
    a, b = lora(1, 4), lora(2, 3)
    write("la", a)
    write("lb", b)
    out = tmp_path / "made" / "out.safetensors"
    command = ["run", "0.5 la + 0.5 lb", str(out), "--models", str(tmp_path), "--rank", "5"]
    assert main(command) == 0
    made = load_file(out)
    lost = whole = 0.0
    for name in NAMES.values():
        expected = (product(a, name) + product(b, name)) / 2
        lost += float((product(made, name) - expected).square().sum())
        whole += float(expected.square().sum())
        values = torch.linalg.svdvals(expected)
        best = float(values[5:].square().sum())
        assert float((product(made, name) - expected).square().sum()) < 1.001 * best + 1e-6
    told = float(capsys.readouterr().out.rsplit("rank 5, ")[1].split(" %")[0])
    assert told == pytest.approx(100 * (lost / whole) ** 0.5, rel=0.01)


def test_layers_of_one_file_alone_are_kept(write, tmp_path):
    names = LAYERS
    a, b = lora(1, 2, names=names[:2]), lora(2, 2, names=names[1:])
    write("la", a)
    write("lb", b)
    out = tmp_path / "made" / "out.safetensors"
    assert main(["run", "0.5 la + 0.5 lb", str(out), "--models", str(tmp_path)]) == 0
    made = load_file(out)
    torch.testing.assert_close(product(made, names[0]), product(a, names[0]) / 2)
    torch.testing.assert_close(product(made, names[2]), product(b, names[2]) / 2)


@pytest.mark.parametrize("text", ["slerp(la, lb)", "mix(la, lb, [GRAD_V])"])
def test_methods_and_block_weights_are_refused(write, tmp_path, capsys, text):
    write("la", lora(1, 2))
    write("lb", lora(2, 2))
    out = tmp_path / "made" / "out.safetensors"
    assert main(["run", text, str(out), "--models", str(tmp_path)]) == 1
    assert "LoRA files can only be added" in capsys.readouterr().err and not out.exists()


def test_a_merge_of_checkpoints_refuses_lora_files(write, tmp_path):
    write("la", lora(1, 2))
    write("lb", lora(2, 2))
    write("c", sd15_tensors(1))
    for text, words in (("0.5 la + 0.5 lb", "are LoRA files"), ("0.5 la + 0.5 c", "LoRA")):
        bound = bind_to_files(parse(text), lambda name: tmp_path / f"{name}.safetensors")
        with pytest.raises(MergeError, match=words):
            make_checkpoint(bound, tmp_path / "out.safetensors")


def test_baking_has_a_strength_for_each_block(write, tmp_path):
    base, patch = sd15_tensors(1), lora(2, 2)
    weights = ["0"] * 25
    weights[1], weights[12] = "1", "0.5"
    arguments = [str(write("base", base)), str(write("la", patch)), str(tmp_path / "o.safetensors")]
    blocks = ["--strength", "0.8", "--blocks", ", ".join(weights)]
    assert main(["bake-lora", *arguments, *blocks]) == 0
    made = load_file(tmp_path / "o.safetensors")
    for (weight, name), share in zip(NAMES.items(), (0.8, 0.4, 0.0), strict=True):
        expected = base[weight].double() + share * product(patch, name)
        torch.testing.assert_close(made[weight].double(), expected, rtol=2e-3, atol=2e-3)
