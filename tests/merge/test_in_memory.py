"""A recipe's tensors in memory: those of the file, made again only where something changed, and
safe from the next merge.
"""

from __future__ import annotations

import gc

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cocktail.merge import engine
from cocktail.merge.blocks import block_weights
from cocktail.merge.checkpoint import bind_to_files, default_name, make_checkpoint
from cocktail.merge.errors import MergeError
from cocktail.merge.in_memory import MergeBuffer
from cocktail.merge.recipe import BlockSum, Ingredient, Parts, add_difference, weighted_sum
from cocktail.merge.text import parse

from .conftest import TEXT, UNET

A, B, C = (Ingredient(name) for name in "abc")


@pytest.fixture
def cellar(write, sd15, tmp_path):
    """Files a, b and c, c an inpainting model, and bind(recipe)."""
    for seed, name in enumerate("ab", 1):
        write(name, sd15(seed))
    wide = sd15(3)
    first = UNET + "input_blocks.0.0.weight"
    wide[first] = torch.cat([wide[first], wide[first][:, :1].repeat(1, 5, 1, 1)], 1)
    write("c", wide)
    return lambda recipe: bind_to_files(recipe, lambda name: tmp_path / f"{name}.safetensors")


def blocks(**values):
    numbers = [0.5] * 25
    names = {"M00": 12, "OUT03": 16}
    for name, value in values.items():
        numbers[names[name]] = value
    return BlockSum(A, B, block_weights(numbers, base=0.25))


def copies(merged):
    return {name: tensor.clone() for name, tensor in merged.tensors.items()}


def same(tensors, others):
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        other = others[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        flat, other = (t.contiguous().flatten().view(torch.uint8) for t in (tensor, other))
        assert torch.equal(flat, other), name


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32", "fp8_e4m3fn"])
def test_tensors_and_metadata_are_those_of_the_file(cellar, tmp_path, precision):
    memory = MergeBuffer()
    for number, recipe in enumerate(
        (
            weighted_sum([(A, 60), (B, 40)]),
            blocks(M00=0.9),
            add_difference(A, B, C, 0.5),
            Parts(weighted_sum([(A, 1), (B, 1)]), B, weighted_sum([(A, 1), (C, 1)])),
        )
    ):
        bound = cellar(recipe)
        file = tmp_path / f"{default_name(bound, precision)}.safetensors"
        make_checkpoint(bound, file, precision, threads=number % 2 + 1)
        merged = memory.merge(bound, precision)
        same(merged.tensors, load_file(file))
        with safe_open(file, "pt") as opened:
            assert dict(merged.metadata) == opened.metadata()


def test_only_the_tensors_of_a_changed_block_are_made_again(cellar, monkeypatch):
    memory = MergeBuffer()
    assert len(memory.merge(cellar(blocks())).changed) == len(memory.merge(cellar(A)).tensors)
    memory.merge(cellar(blocks()))
    written = []
    monkeypatch.setattr(
        engine.Evaluator,
        "write",
        lambda self, piece, write=engine.Evaluator.write: (
            written.append(piece.output.name),
            write(self, piece),
        ),
    )
    middle = {
        f"{UNET}middle_block.1.transformer_blocks.0.attn2.{end}"
        for end in ("to_k.weight", "to_out.0.bias")
    }
    merged = memory.merge(cellar(blocks(M00=0.75)))
    assert merged.changed == middle == set(written)
    same(merged.tensors, MergeBuffer().merge(cellar(blocks(M00=0.75))).tensors)
    del merged
    written.clear()
    assert memory.merge(cellar(blocks(M00=0.75))).changed == frozenset() == frozenset(written)


def test_a_recipe_that_gives_the_same_tensors_by_another_tree_makes_nothing_again(cellar):
    memory = MergeBuffer()
    memory.merge(cellar(weighted_sum([(A, 60), (B, 40)])))
    nested = weighted_sum([(weighted_sum([(A, 1), (B, 1)]), 80), (A, 20)])
    assert memory.merge(cellar(nested)).changed == frozenset()


def test_tensors_that_somebody_holds_never_change(cellar):
    memory = MergeBuffer()
    merged = memory.merge(cellar(weighted_sum([(A, 1), (B, 1)])))
    before = copies(merged)
    name = TEXT + "final_layer_norm.bias"
    parameter = torch.nn.Parameter(merged.tensors[name], requires_grad=False)
    address = parameter.data_ptr()
    del merged
    other = memory.merge(cellar(weighted_sum([(A, 1), (B, 3)])))
    assert len(other.changed) == len(other.tensors)
    assert torch.equal(parameter, before[name])
    assert not torch.equal(other.tensors[name], before[name])
    assert parameter.data_ptr() == address != other.tensors[name].data_ptr()


def test_memory_that_nobody_holds_is_used_again_and_can_be_given_back(cellar):
    memory = MergeBuffer()
    address = memory.merge(cellar(blocks())).tensors[UNET + "out.2.bias"].data_ptr()
    gc.collect()
    again = memory.merge(cellar(blocks(M00=1)))
    assert again.tensors[UNET + "out.2.bias"].data_ptr() == address
    assert memory.size_bytes > 0
    memory.forget()
    assert memory.size_bytes == 0
    same(again.tensors, MergeBuffer().merge(cellar(blocks(M00=1))).tensors)


class Stopped(Exception):
    pass


def test_a_merge_that_was_stopped_is_made_anew_by_the_next(cellar):
    memory = MergeBuffer()
    memory.merge(cellar(blocks()))

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        memory.merge(cellar(blocks(M00=0, OUT03=1)), progress=stop)
    merged = memory.merge(cellar(blocks(OUT03=1)))
    same(merged.tensors, MergeBuffer().merge(cellar(blocks(OUT03=1))).tensors)


def test_numbers_that_are_none_are_refused_and_nothing_of_them_stays(cellar, write, sd15):
    memory = MergeBuffer()
    memory.merge(cellar(weighted_sum([(A, 1), (B, 1)])))
    broken = sd15(2)
    broken[UNET + "out.2.bias"][1] = torch.nan
    write("broken", broken)
    with pytest.raises(MergeError, match=r"NaN or infinity: .*out\.2\.bias in broken"):
        memory.merge(cellar(weighted_sum([(A, 1), (Ingredient("broken"), 1)])))
    sound = weighted_sum([(A, 1), (B, 3)])
    same(memory.merge(cellar(sound)).tensors, MergeBuffer().merge(cellar(sound)).tensors)


def test_methods_are_made_as_in_the_file_and_again_when_a_setting_changes(cellar, tmp_path):
    memory = MergeBuffer()
    texts = ("dare(a, b, a; seed 1)", "dare(a, b, a; seed 2)", "0.5 dare(a, b, a; seed 2) + 0.5 b")
    for number, text in enumerate(texts):
        bound = cellar(parse(text))
        merged = memory.merge(bound, "fp16", threads=number + 1)
        file = tmp_path / f"{default_name(bound, 'fp16')}.safetensors"
        make_checkpoint(bound, file)
        same(merged.tensors, load_file(file))
        assert UNET + "out.2.weight" in merged.changed
        del merged
    assert memory.merge(bound).changed == frozenset()
