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
from .test_lora import OTHER_KINDS
from .test_quantised import scaled

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


def test_a_rank_for_checkpoints_is_refused(write, sd15, tmp_path, capsys):
    for number, name in enumerate("ab"):
        write(name, sd15(number))
    out = tmp_path / "out.safetensors"
    assert main(["run", "0.5 a + 0.5 b", str(out), "--models", str(tmp_path), "--rank", "4"]) == 1
    assert "--rank is for mixes of LoRA files" in capsys.readouterr().err and not out.exists()


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


MORE_KINDS = OTHER_KINDS | {
    "LoKr (Kronecker products)": {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 192)},
    "OFT (rotations)": {"oft_diag": (4, 8, 8)},
    "IA3": {"weight": (32,), "on_input": ()},
    "full differences of norms": {"w_norm": (32,), "b_norm": (32,)},
    "in the layout of diffusers": {"lora.up.weight": (32, 2), "lora.down.weight": (2, 768)},
    "LoRA in the layout of mochi": {"lora_B": (32, 2), "lora_A": (2, 768)},
    "in the layout of PEFT": {
        "lora_B.default.weight": (32, 2),
        "lora_A.default.weight": (2, 768),
    },
    "an unknown kind of layer": {"new_factor": (32, 2)},
}


@pytest.mark.parametrize("text", ["0.5 ha + 0.5 hb", "slerp(ha, hb)", "0.5 ha + 0.5 la"])
@pytest.mark.parametrize("kind", MORE_KINDS)
def test_files_of_other_kinds_are_not_mixed_as_checkpoints(write, tmp_path, capsys, kind, text):
    for seed, name in enumerate(("ha", "hb")):
        random = torch.Generator().manual_seed(seed)
        made = {e: torch.randn(shape, generator=random) for e, shape in MORE_KINDS[kind].items()}
        write(name, {f"{LAYERS[0]}.{ending}": tensor for ending, tensor in made.items()})
    write("la", lora(1, 2))
    out = tmp_path / "made" / "out.safetensors"
    assert main(["run", text, str(out), "--models", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    if "slerp" in text:
        assert "LoRA files can only be added" in told
    else:
        assert "ha.safetensors cannot be mixed. It contains " in told
        assert kind.removesuffix(" of norms") in told and LAYERS[0] in told
    assert not out.exists()


def test_tensors_that_are_no_matrices_of_a_lora_are_named(write, tmp_path, capsys):
    write("la", lora(1, 2) | {"bundle_emb.word.string_to_param.*": torch.ones(1, 768)})
    write("lb", lora(2, 2))
    out = tmp_path / "made" / "out.safetensors"
    assert main(["run", "0.5 la + 0.5 lb", str(out), "--models", str(tmp_path)]) == 1
    assert "bundle_emb.word" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("ending", [".weight_scale", ".scale_weight"])
def test_quantised_matrices_are_baked_and_mixed_as_the_weights_they_mean(
    write, tmp_path, capsys, ending
):
    plain, name = lora(1, 4), LAYERS[0]
    up = f"{name}.lora_up.weight"
    made, meant = scaled(plain[up].float(), ending)
    stored = {f"{name}.lora_up{k[k.rindex(ending) :]}" for k in made if k.endswith(ending)}
    assert len(stored) == 1
    made = {stored.pop() if k.endswith(ending) else up: v for k, v in made.items()}
    if ending == ".scale_weight":
        made["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    base = sd15_tensors(1)
    files = [write("base", base), write("la", plain | made), tmp_path / "baked.safetensors"]
    assert main(["bake-lora", *map(str, files)]) == 0
    weight = next(iter(NAMES))
    expected = base[weight].double() + product(plain | {up: meant}, name)
    baked = load_file(files[2])[weight].double()
    torch.testing.assert_close(baked, expected, rtol=2e-3, atol=2e-3)
    write("lb", lora(2, 3))
    out = tmp_path / "made" / "out.safetensors"
    assert main(["run", "0.5 la + 0.5 lb", str(out), "--models", str(tmp_path)]) == 0
    mean = (product(plain | {up: meant}, name) + product(lora(2, 3), name)) / 2
    torch.testing.assert_close(product(load_file(out), name), mean, rtol=1e-5, atol=1e-5)


def test_scales_without_what_tells_their_meaning_are_refused(write, tmp_path, capsys):
    plain, up = lora(1, 4), f"{LAYERS[0]}.lora_up.weight"
    made = {up: plain[up].to(torch.float8_e4m3fn), f"{up}_scale_inv": torch.tensor(0.01)}
    write("la", plain | made)
    files = [
        write("base", sd15_tensors(1)),
        tmp_path / "la.safetensors",
        tmp_path / "o.safetensors",
    ]
    assert main(["bake-lora", *map(str, files)]) == 1
    assert f"{up}_scale_inv" in capsys.readouterr().err


def test_a_lora_is_not_extracted_from_loras(write, tmp_path, capsys):
    files = [write("la", lora(1, 2)), write("lb", lora(2, 2)), tmp_path / "o.safetensors"]
    assert main(["extract-lora", *map(str, files)]) == 1
    assert "is extracted from two checkpoints" in capsys.readouterr().err


def test_a_merge_of_checkpoints_refuses_lora_files(write, tmp_path):
    write("la", lora(1, 2))
    write("lb", lora(2, 2))
    write("c", sd15_tensors(1))
    write("ha", {f"{LAYERS[0]}.hada_w1_a": torch.ones(32, 2)})
    for text, words in (
        ("0.5 la + 0.5 lb", r"la, lb: LoRA files. .* merge run"),
        ("0.5 la + 0.5 c", "la: a LoRA file. .* Bake it into a checkpoint first"),
        ("0.5 ha + 0.5 c", r"ha: a LoRA file \(LoHa"),
    ):
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
