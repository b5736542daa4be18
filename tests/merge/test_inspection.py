"""Inspect, compare and convert: what a checkpoint is, how far two are apart, and a new file in
another precision.
"""

from __future__ import annotations

import hashlib
import io
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cocktail.merge.blocks import block_weights
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.command_line import main
from cocktail.merge.comparison import compare
from cocktail.merge.comparison import report as comparison_report
from cocktail.merge.conversion import convert
from cocktail.merge.errors import MergeError
from cocktail.merge.inspection import Branch, inspect_file, report, tree, tree_text
from cocktail.merge.key_names import with_usual_names
from cocktail.merge.picture import draw_differences, draw_tree
from cocktail.merge.recipe import BlockSum, Ingredient, Parts, add_difference, weighted_sum
from cocktail.merge.safetensors_file import read_header

from .conftest import TEXT, UNET

A, B, C = (Ingredient(f"{name}.safetensors") for name in "abc")
VAE = "first_stage_model."


@pytest.fixture
def folder(tmp_path, write, sd15):
    for seed, name in enumerate("abc", 1):
        write(name, sd15(seed))
    return tmp_path


def make(folder, recipe, name, **options):
    path = folder / f"{name}.safetensors"
    make_checkpoint(bind_to_files(recipe, folder.joinpath), path, **options)
    return path


def test_a_checkpoint_says_what_it_is(folder):
    found = inspect_file(folder / "a.safetensors")
    data = (folder / "a.safetensors").read_bytes()
    assert (found.family, found.resolution, found.recipe) == ("SD1.5", 512, None)
    tensors = load_file(folder / "a.safetensors")
    parts = {part.name: part for part in found.parts}
    assert sum(part.tensors for part in found.parts) == len(tensors)
    assert parts["VAE"].dtypes == {"F16": 2} and parts["averaged copies"].tensors == 2
    assert parts["VAE"].elements == 3 * 128 * 9 + 3
    assert parts["text encoder"].dtypes == {"F16": 2, "I64": 1}
    text = report(found)
    assert hashlib.sha256(data).hexdigest() in text and "VAE: 2 tensors (2 F16)" in text
    assert f"AutoV1: {hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]}" in text


def test_the_tree_goes_back_to_what_the_ingredients_were_made_of(folder):
    first = make(folder, weighted_sum([(A, 3), (B, 1)]), "first")
    blocks = BlockSum(Ingredient("first.safetensors"), C, block_weights([0.5] * 25))
    path = make(folder, Parts(add_difference(blocks, B, A, 0.5), vae=C), "second")
    found = inspect_file(path)
    sha256 = {
        n: hashlib.sha256((folder / f"{n}.safetensors").read_bytes()).hexdigest()[:10]
        for n in ("a", "b", "c", "first")
    }
    assert tree_text(tree(found)) == [
        "second",
        "   parts",
        "      add difference, x 0.5",
        "         A  mix by blocks",
        f"            A  first  {sha256['first']}",
        f"               made of a  {sha256['a']}",
        f"               made of b  {sha256['b']}",
        f"            B  c  {sha256['c']}",
        f"         + B  b  {sha256['b']}",
        f"         - C  a  {sha256['a']}",
        f"      VAE  c  {sha256['c']}",
    ]
    assert "   weighted sum\n      75 %  a" in report(inspect_file(first))
    assert tree(inspect_file(folder / "a.safetensors")) == [Branch(0, "a: no recipe")]


def test_pictures_are_drawn_whatever_the_names_are(folder):
    branches = [Branch(n % 7, f"Ω $x_{n}$ 日本") for n in range(300)]
    size = Image.open(io.BytesIO(draw_tree(branches))).size
    assert size[0] >= 400 and size[1] > 200 * 20
    found = compare(*(read_header(folder / f"{n}.safetensors") for n in "ab"))
    drawn = Image.open(io.BytesIO(draw_differences(found.differences, "a $", "b_{")))
    assert drawn.size == (1200, 480)
    blank = Image.open(io.BytesIO(draw_differences([], "a", "b")))
    assert drawn.convert("L").getcolors() != blank.convert("L").getcolors()


def test_the_difference_of_every_block_is_that_of_its_numbers(folder, write, sd15):
    a = sd15(1)
    b = {name: tensor.clone() for name, tensor in a.items()}
    b[UNET + "out.2.weight"] = (a[UNET + "out.2.weight"].float() * 1.5).half()
    b[TEXT + "final_layer_norm.bias"] = -a[TEXT + "final_layer_norm.bias"]
    b[VAE + "decoder.conv_out.bias"] = torch.zeros(3, dtype=torch.float16)
    path = write("changed", b)
    found = compare(read_header(folder / "a.safetensors"), read_header(path), threads=3)
    blocks = {block.slot: block for block in found.differences}
    assert list(blocks) == [
        "text encoder",
        "TIME",
        "IN00",
        "IN01",
        "M00",
        "OUT03",
        "OUT11",
        "other",
        "VAE",
    ]
    for slot, names in {
        "OUT11": [UNET + "out.2.weight", UNET + "out.2.bias"],
        "text encoder": [
            TEXT + "embeddings.token_embedding.weight",
            TEXT + "final_layer_norm.bias",
        ],
        "VAE": [VAE + "decoder.conv_out.weight", VAE + "decoder.conv_out.bias"],
    }.items():
        x, y = (torch.cat([t[n].double().flatten() for n in names]) for t in (a, b))
        assert blocks[slot].relative == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-12)
        assert blocks[slot].cosine == pytest.approx(float(x @ y / x.norm() / y.norm()), rel=1e-12)
        assert blocks[slot].largest == float((y - x).abs().max())
        assert (blocks[slot].tensors, blocks[slot].equal) == (2, 1)
    assert blocks["IN00"].relative == 0 and blocks["IN00"].equal == 1
    assert not found.is_equal
    same = read_header(folder / "a.safetensors")
    assert compare(same, same).is_equal
    assert "All tensors are equal." in comparison_report(compare(same, same), "a", "a")


def test_what_cannot_be_compared_is_listed(folder, write, sd15):
    other = sd15(2) | {"more.weight": torch.zeros(2), UNET + "out.2.bias": torch.zeros(9)}
    del other[UNET + "time_embed.0.weight"]
    found = compare(read_header(folder / "a.safetensors"), read_header(write("other", other)))
    assert found.only_in_a == (UNET + "time_embed.0.weight",)
    assert found.only_in_b == ("more.weight",) and found.other_shape == (UNET + "out.2.bias",)
    with pytest.raises(MergeError, match=r"\(Flux\) have no tensors in common"):
        compare(
            read_header(folder / "a.safetensors"),
            read_header(write("flux", {"double_blocks.0.x": torch.zeros(2)})),
        )


def test_a_comparison_can_be_stopped(folder):
    def stop(*_):
        raise KeyboardInterrupt

    a, b = (read_header(folder / f"{name}.safetensors") for name in "ab")
    with pytest.raises(KeyboardInterrupt):
        compare(a, b, progress=stop)


def ema_name(name):
    return "model_ema." + name.removeprefix("model.").replace(".", "")


@pytest.fixture
def training(write, sd15, tmp_path):
    """A checkpoint as training tools leave it, in fp32, with averaged copies and an optimizer's
    state.
    """
    tensors = {n: t for n, t in sd15(1, torch.float32).items() if not n.startswith("model_ema.")}
    averages = {ema_name(n): t + 1 for n, t in tensors.items() if n.startswith(UNET)}
    left = {"optimizer_states.0.exp_avg": torch.ones(5), "model_ema.num_updates": torch.tensor(7)}
    write(
        "training", tensors | averages | left, {"modelspec.license": "mit", "cocktail.recipe": "{}"}
    )
    return tensors, averages


def test_a_checkpoint_is_pruned_and_converted(training, tmp_path):
    tensors, averages = training
    source, out = tmp_path / "training.safetensors", tmp_path / "small.safetensors"
    before = source.read_bytes()
    done = convert(source, out, "fp16")
    made = load_file(out)
    assert made.keys() == tensors.keys() and source.read_bytes() == before
    for name, tensor in tensors.items():
        if name.startswith((UNET, TEXT)) and "position" not in name:
            assert torch.equal(made[name], tensor.half())
        else:
            assert torch.equal(made[name], tensor) and made[name].dtype == tensor.dtype
    assert (done.averaged, done.left_over) == (len(averages) + 1, 1)
    metadata = read_header(out).metadata
    assert metadata["modelspec.license"] == "mit" and "cocktail.recipe" not in metadata
    entry = json.loads(metadata["cocktail.ingredients"])[0]
    assert entry["sha256"] == hashlib.sha256(before).hexdigest()
    with pytest.raises(MergeError, match="never overwritten"):
        convert(source, out, "bf16")
    with pytest.raises(MergeError, match="never overwritten"):
        convert(source, source)


@pytest.mark.parametrize("precision", ["as it is", "bf16", "fp8_e4m3fn", "fp32"])
def test_every_precision_can_be_chosen(training, tmp_path, precision):
    tensors, _ = training
    convert(tmp_path / "training.safetensors", tmp_path / "out.safetensors", precision, vae=True)
    made = load_file(tmp_path / "out.safetensors")
    expected = {"bf16": torch.bfloat16, "fp8_e4m3fn": torch.float8_e4m3fn}.get(
        precision, torch.float32
    )
    name, text = UNET + "out.2.weight", TEXT + "final_layer_norm.bias"
    assert torch.equal(made[name].float(), tensors[name].to(expected).float())
    assert made[text].dtype == (torch.float16 if "fp8" in precision else expected)
    assert made[VAE + "decoder.conv_out.bias"].dtype == made[text].dtype


def test_averaged_copies_can_take_the_place_of_the_weights_or_stay(training, folder):
    tensors, averages = training
    convert(folder / "training.safetensors", folder / "use.safetensors", ema="use")
    used = load_file(folder / "use.safetensors")
    assert used.keys() == tensors.keys()
    for name in tensors:
        expected = averages[ema_name(name)] if name.startswith(UNET) else tensors[name]
        assert torch.equal(used[name], expected), name
    convert(folder / "training.safetensors", folder / "keep.safetensors", ema="keep")
    assert averages.keys() <= load_file(folder / "keep.safetensors").keys()
    with pytest.raises(MergeError, match="Averaged copies are missing"):
        convert(folder / "a.safetensors", folder / "b2.safetensors", ema="use")
    for wrong, said in (
        ({"precision": "int4"}, "no precision .int4."),
        ({"ema": "eat"}, "is not a choice for averaged"),
    ):
        with pytest.raises(MergeError, match=said):
            convert(folder / "a.safetensors", folder / "b2.safetensors", **wrong)


def test_a_pickle_is_converted_too(sd15, tmp_path):
    torch.save({"state_dict": sd15(1)}, tmp_path / "old.ckpt")
    out = tmp_path / "new.safetensors"
    convert(tmp_path / "old.ckpt", out, converted=tmp_path / "converted")
    made = load_file(out)
    assert torch.equal(made[UNET + "out.2.weight"], sd15(1)[UNET + "out.2.weight"])
    assert inspect_file(out).family == "SD1.5"
    assert with_usual_names(read_header(out)).notes == ()


def test_the_commands_say_the_same(folder, training, capsys):
    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    a, b, bars = folder / "a.safetensors", folder / "b.safetensors", folder / "bars.png"
    assert run("inspect", a, "--picture", folder / "tree.png") == (
        0,
        report(inspect_file(a)) + "\n",
        "",
    )
    assert Image.open(folder / "tree.png").format == "PNG"
    status, told, _ = run("compare", a, b, "--picture", bars)
    assert status == 0 and "OUT11" in told and Image.open(bars).size == (1200, 480)
    status, _, error = run("compare", a, a, "--picture", bars)
    assert status == 1 and "exists already" in error
    prune = (
        "prune",
        folder / "training.safetensors",
        folder / "p.safetensors",
        "--converted",
        folder,
    )
    status, told, _ = run(*prune, "--precision", "fp16")
    assert status == 0 and "1 leftovers of training" in told
    status, _, error = run(*prune)
    assert status == 1 and "never overwritten" in error
