"""What holds for every linear recipe, on real files: made in one pass it is what the tree says,
whatever the threads and pieces.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

from cocktail.merge.blocks import block_weights
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.engine import write_file
from cocktail.merge.errors import MergeError
from cocktail.merge.plan import make_plan
from cocktail.merge.recipe import (
    BlockSum,
    Ingredient,
    Parts,
    WeightedSum,
    add_difference,
    flatten,
    weighted_sum,
)

from .conftest import TEXT, UNET, sd15_tensors

SIDES = [Ingredient(f"{name}.safetensors") for name in "abc"]
SHARES = st.integers(1, 100)
MULTIPLIERS = st.integers(-40, 40).map(lambda number: number / 20)


def drawn_blocks(seed: int):
    """25 numbers from one seed, which is far quicker than drawing every one."""
    numbers = [number / 20 for number in Random(seed).choices(range(21), k=25)]
    return block_weights(numbers, base=numbers[0])


BLOCKS = st.builds(drawn_blocks, st.integers(0, 999))


def grown(recipes):
    sums = st.lists(st.tuples(recipes, SHARES), min_size=2, max_size=3).map(weighted_sum)
    differences = st.builds(add_difference, recipes, recipes, recipes, MULTIPLIERS | BLOCKS)
    return sums | differences | st.builds(BlockSum, recipes, recipes, BLOCKS)


RECIPES = st.recursive(st.sampled_from(SIDES), grown, max_leaves=6)


@pytest.fixture(scope="module")
def cellar(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("properties")
    for seed, side in enumerate(SIDES, 1):
        tensors = sd15_tensors(seed)
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / side.name)
    return folder


def step_by_step(recipe, tensors: dict[Ingredient, np.ndarray], name: str) -> np.ndarray:
    """The tree from its leaves up, every sum a float64 tensor of its own."""
    if isinstance(recipe, Ingredient):
        return tensors[recipe]
    if isinstance(recipe, WeightedSum):
        parts = [float(p.weight) * step_by_step(p.recipe, tensors, name) for p in recipe.parts]
        return np.sum(parts, axis=0)
    a, b = (step_by_step(side, tensors, name) for side in (recipe.a, recipe.b))
    if isinstance(recipe, BlockSum):
        share = float(recipe.share_of_b.of(name))
        return (1 - share) * a + share * b
    weight = recipe.multiplier
    number = float(weight if not hasattr(weight, "of") else weight.of(name))
    return a + number * (b - step_by_step(recipe.c, tensors, name))


def write(recipe, cellar: Path, out: Path, threads: int, elements: int) -> bytes:
    bound = bind_to_files(recipe, cellar.joinpath, cellar / "hashes.json")
    out.unlink(missing_ok=True)
    write_file(make_plan(bound.recipe, bound.headers, "fp16"), out, {}, threads, elements)
    return out.read_bytes()


@settings(max_examples=40, deadline=None)
@given(RECIPES, st.integers(1, 5), st.integers(700, 40_000))
def test_one_pass_is_the_tree_step_by_step_whatever_the_threads_and_pieces(
    cellar, recipe, threads, elements
):
    """In the bound of float64: one rounding, to the nearer of the fp16 numbers around the exact
    result.
    """
    out = cellar / "out" / "made.safetensors"
    made_of = {side: load_file(cellar / side.name) for side in SIDES}
    try:
        whole = write(recipe, cellar, out, 1, 1 << 18)
    except MergeError as error:
        assert "become too large" in str(error)
        return
    made = load_file(out)
    for name, value in made.items():
        if not name.startswith((UNET, TEXT)) or value.dtype != torch.float16:
            continue
        tensors = {side: made_of[side][name].double().numpy() for side in SIDES}
        exact = step_by_step(recipe, tensors, name)
        nearest = exact.astype(np.float16).astype(np.float64)
        size = sum(abs(float(w)) * np.abs(tensors[i]).max() for i, w in flatten(recipe, name))
        error = np.abs(value.double().numpy() - exact)
        assert (error <= np.abs(nearest - exact) + 1e-12 * size).all(), name
    assert write(recipe, cellar, out, threads, elements) == whole


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SIDES), RECIPES, BLOCKS)
def test_shares_of_all_of_one_give_that_one_bit_for_bit(cellar, side, other, blocks):
    """By every way that a recipe has to say so; its VAE too."""
    zero, one = block_weights([0] * 25, base=0), block_weights([1] * 25, base=1)
    recipes = [
        side,
        weighted_sum([(side, 1), (other, 0)]),
        weighted_sum([(side, 3), (side, 5)]),
        add_difference(side, other, other, 1.5),
        add_difference(side, other, other, blocks),
        BlockSum(side, other, zero),
        BlockSum(side, side, blocks),
        Parts(BlockSum(other, side, one), text_encoder=side, vae=side),
    ]
    original = load_file(cellar / side.name)
    out = cellar / "out" / "same.safetensors"
    for recipe in recipes:
        write(recipe, cellar, out, 2, 5000)
        made = load_file(out)
        assert made.keys() == {n for n in original if not n.startswith("model_ema.")} or isinstance(
            recipe, Parts
        )
        for name, value in made.items():
            if "." in name:
                assert torch.equal(value, original[name]), (recipe, name)


def test_60_20_20_is_60_20_20_in_every_weight_and_not_64_16_20(cellar, tmp_path):
    recipe = weighted_sum(list(zip(SIDES, (60, 20, 20), strict=True)))
    make_checkpoint(bind_to_files(recipe, cellar.joinpath), tmp_path / "out.safetensors", "fp32")
    made = load_file(tmp_path / "out.safetensors")
    name = UNET + "input_blocks.0.0.weight"
    a, b, c = (load_file(cellar / side.name)[name].double() for side in SIDES)
    assert torch.allclose(made[name].double(), 0.6 * a + 0.2 * b + 0.2 * c, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(made[name].double(), 0.64 * a + 0.16 * b + 0.2 * c, rtol=1e-3)
