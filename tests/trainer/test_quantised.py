"""Quantised bases: read as the weights they mean, trained and saved in full."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cocktail.merge.errors import MergeError
from cocktail.merge.quantised import is_quantised
from cocktail.merge.reading import open_checkpoint, read_values
from cocktail.trainer.command_line import main
from cocktail.trainer.disk import check_disk
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.model.decoding import Quantised
from cocktail.trainer.model.layout import check_sd15
from cocktail.trainer.model.networks import load_model, load_vae
from cocktail.trainer.model.single_file import TEXT_ENCODER, UNET, VAE, open_weights, read_shapes
from cocktail.trainer.shapes import draw_shapes

from ..merge.test_quantised import KINDS, LAYER, NOT_KNOWN, WEIGHT, weight
from ..nodes.run_folders import pretend_comfyui

TOLD = "It is read as the weights that are meant; a run trains and saves them in full."


def quantised(kind, name, value):
    """The tensors of a weight of this name, and the weight that they mean."""
    made, meant = KINDS[kind](value.float())
    layer = name.removesuffix(".weight")
    return {key.replace(LAYER, layer): tensor for key, tensor in made.items()}, meant


def read_by_both(path):
    """The weights of a file as the trainer reads them, equal to those that the merge engine reads;
    and which of them are quantised, and how.
    """
    header = open_checkpoint(path)
    with open_weights(path) as file:
        weights = {name: file[name] for name in file.tensors}
        kinds = {n: t.kind for n, t in file.tensors.items() if isinstance(t, Quantised)}
    assert weights.keys() == header.tensors.keys()
    assert kinds.keys() == {name for name, t in header.tensors.items() if is_quantised(t)}
    for name, value in weights.items():
        theirs = read_values(header, name)
        assert value.shape == theirs.shape and torch.equal(value.float(), theirs), name
    assert read_shapes(path) == {name: tuple(value.shape) for name, value in weights.items()}
    told = f"{len(kinds)} quantised tensors ({', '.join(sorted({*kinds.values()}))}) were read"
    assert not kinds or told in header.notes[0]
    return weights, kinds


@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
@given(rows=st.integers(1, 261), blocks=st.integers(1, 9), seed=st.integers(0, 99))
def test_trainer_and_merge_engine_read_the_same_weights(tmp_path_factory, kind, rows, blocks, seed):
    made, _ = KINDS[kind](weight(seed, (rows, 32 * blocks)))
    path = tmp_path_factory.mktemp("kinds") / "a.safetensors"
    save_file(made | {"plain": torch.ones(2)}, path)
    _, kinds = read_by_both(path)
    assert [*kinds] == [WEIGHT]


@pytest.mark.parametrize("by", ["one", "groups", "rows of a convolution"])
def test_trainer_and_merge_engine_read_the_same_scales(tmp_path, by):
    shape = {"one": (1,), "groups": (6, 4), "rows of a convolution": (6, 1, 1, 1)}[by]
    stored = weight(1, (6, 8, 3, 3) if "conv" in by else (6, 32)).to(torch.float8_e4m3fn)
    scale = weight(2, shape).bfloat16()
    save_file({WEIGHT: stored, LAYER + ".weight_scale": scale}, tmp_path / "a.safetensors")
    read_by_both(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", ["U8", "F8_E8M0"])
def test_scales_of_powers_of_two_are_read_in_either_type(tmp_path, dtype):
    made, meant = KINDS["mxfp8"](weight(1))
    made[LAYER + ".weight_scale"].view(-1)[0] = 255
    path = tmp_path / "a.safetensors"
    save_file(made, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    head[LAYER + ".weight_scale"]["dtype"] = dtype
    head = json.dumps(head).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])
    with open_weights(path) as file:
        found = file[WEIGHT]
    assert torch.equal(found[:, 32:], meant[:, 32:]) and found[0, :32].isnan().all()


@pytest.mark.parametrize("more", NOT_KNOWN)
def test_what_is_not_known_is_refused_by_both(tmp_path, more):
    path = tmp_path / "a.safetensors"
    save_file(KINDS["comfy"](weight(1))[0] | more, path)
    words = "quantised in a way that cannot be read: (.*)"
    with pytest.raises(MergeError, match=words) as theirs:
        open_checkpoint(path)
    with pytest.raises(TrainerError, match=words) as ours:
        check_sd15(path)
    shared = str(theirs.value).rpartition(". ")[0]
    assert str(ours.value) == f"{shared}. Choose the checkpoint before it was quantised."


@pytest.mark.parametrize(
    "kind", ["comfy", "nf4 nested", "int4 with zero points", "nvfp4 of compressed-tensors"]
)
def test_a_quantised_base_is_told_and_read(tiny_base, tmp_path, kind):
    """A kind for each way in which its tensors are named."""
    tensors = load_file(tiny_base)
    made, meant = KINDS[kind](tensors.pop(WEIGHT).float())
    path = tmp_path / "base.safetensors"
    save_file(tensors | made, path)
    assert check_sd15(path).startswith("base.safetensors is quantised (1 weight: ")
    assert check_sd15(path).endswith(TOLD)
    assert check_sd15(tiny_base) == ""
    with open_weights(path) as file:
        assert file.tensors.keys() == load_file(tiny_base).keys()
        torch.testing.assert_close(file[WEIGHT], meant, rtol=1e-6, atol=0)


def test_a_nan_in_a_scale_is_the_bases_fault(tiny_base, tmp_path):
    tensors = load_file(tiny_base)
    made, _ = KINDS["comfy"](tensors.pop(WEIGHT).float())
    made[LAYER + ".weight_scale"].fill_(float("nan"))
    save_file(tensors | made, tmp_path / "base.safetensors")
    with pytest.raises(TrainerError, match=f"base.safetensors is damaged: {WEIGHT} holds NaN"):
        load_model(tmp_path / "base.safetensors")


@pytest.fixture(scope="module")
def two_bases(tiny_base, tmp_path_factory):
    """A base of which all parts are quantised, each in a way of its own, and the same weights
    plain.
    """
    kept, plain = {}, {}
    for name, value in load_file(tiny_base).items():
        part = next((p for p in (UNET, TEXT_ENCODER, VAE) if name.startswith(p)), "")
        kind = {UNET: "comfy", TEXT_ENCODER: "int8 by rows", VAE: "nf4"}.get(part)
        is_matrix = name.endswith(".weight") and value.ndim == 2
        if kind and (is_matrix or (part == VAE and value.ndim == 4)):
            made, meant = quantised(kind, name, value)
            kept |= {key: tensor.clone() for key, tensor in made.items()}
            plain[name] = meant
        else:
            kept[name] = plain[name] = value
    folder = tmp_path_factory.mktemp("quantised")
    told = {"_quantization_metadata": json.dumps({"layers": {}})}
    save_file(kept, folder / "quantised.safetensors", told)
    save_file(plain, folder / "plain.safetensors")
    return folder / "quantised.safetensors", folder / "plain.safetensors"


def test_a_run_of_a_quantised_base_starts_at_its_weights_and_saves_plain_checkpoints(
    two_bases, make_tiny_run, fork_training
):
    path, plain = two_bases
    assert read_shapes(path) == read_shapes(plain)
    for part in ("unet", "text_encoder"):
        started, meant = (getattr(load_model(base), part).state_dict() for base in two_bases)
        assert all(torch.equal(started[name], meant[name]) for name in meant)
    started, meant = (load_vae(base).state_dict() for base in two_bases)
    assert all(torch.equal(started[name], meant[name]) for name in meant)

    run = make_tiny_run("quantised", base=path, epochs=1, save_precision="bf16")
    process = fork_training(run)
    process.join(600)
    assert process.exitcode == 0, run.log_tail()
    given, saved = load_file(plain), run.checkpoints()[-1].file
    made = load_file(saved)
    assert made.keys() == given.keys()
    with safe_open(saved, framework="pt") as file:
        assert "_quantization_metadata" not in file.metadata()
    for name, value in given.items():
        is_copied_as_it_is = value.dtype == torch.float16 and not name.startswith(UNET)
        assert made[name].dtype == (torch.float16 if is_copied_as_it_is else torch.bfloat16), name
        assert made[name].shape == value.shape
    moved = [name for name, value in made.items() if not torch.equal(value, given[name].to(value))]
    assert moved and all(name.startswith(UNET) and "attn2" in name for name in moved)


def test_new_prints_that_the_base_is_quantised(two_bases, tmp_path, tokenizer, capsys):
    draw_shapes(tmp_path / "pictures", 4, 1)
    for base, lines in zip(two_bases, (1, 0), strict=True):
        given = ["--base", str(base), "--dataset", str(tmp_path / "pictures")]
        given += ["--tokenizer", str(tokenizer), "--validation-share", "0.5"]
        assert main(["new", str(tmp_path / "runs"), base.stem, *given]) == 0
        told = [line for line in capsys.readouterr().out.splitlines() if "is quantised" in line]
        assert len(told) == lines
        for line in told:
            assert line.startswith("quantised.safetensors is quantised (") and line.endswith(TOLD)
            assert all(kind in line for kind in ("scaled fp8", "int8", "4 bits"))


def test_the_base_node_shows_that_its_checkpoint_is_quantised(two_bases, tmp_path, monkeypatch):
    pretend_comfyui(tmp_path, monkeypatch)
    from cocktail.nodes.finetune import run as nodes

    shown: list[str] = []
    monkeypatch.setattr(nodes, "show_text", shown.append)
    monkeypatch.setattr(nodes.io, "NodeOutput", lambda *values, **more: (values, more))
    for base in two_bases:
        (tmp_path / "models" / "checkpoints" / base.name).symlink_to(base)
        assert nodes.CocktailBase.validate_inputs(checkpoint=base.name) is True
    made = nodes.CocktailBase.execute("quantised.safetensors")
    (told,) = shown
    assert told.startswith("quantised.safetensors is quantised (") and told.endswith(TOLD)
    assert made == (("quantised.safetensors",), {"ui": {"text": [told]}})
    assert nodes.CocktailBase.execute("plain.safetensors") == (("plain.safetensors",), {})
    assert shown == [told]


def test_the_disk_has_room_for_weights_in_full(two_bases, make_tiny_run, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "cocktail.trainer.disk.checkpoint_bytes",
        lambda shapes, size, settings: (seen.setdefault(len(seen), size), 1),
    )
    for number, base in enumerate(two_bases):
        check_disk(make_tiny_run(f"room-{number}", base=base, save_precision="fp32"))
    small, plain = seen.values()
    assert plain <= small <= plain + two_bases[0].stat().st_size
