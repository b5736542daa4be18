"""The result equals sd-mecha's, an independent engine, within one unit in the last place of fp16
for the methods that both have.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import sd_mecha
import torch
from safetensors.torch import load_file, save_file
from sd_mecha.extensions import model_configs
from sd_mecha.extensions.builtin.merge_methods.linear import add_difference as add_delta

from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.recipe import Ingredient, add_difference, method, weighted_sum

A, B, C = (Ingredient(f"{name}.safetensors") for name in "abc")
POSITION_IDS = "position_ids"
"""sd-mecha stores these whole numbers as fp16."""


@pytest.fixture(scope="module")
def cellar(tmp_path_factory) -> Path:
    """a, b and c: every tensor that sd-mecha knows of SD1.5, with at most 4 elements along a
    dimension.
    """
    folder = tmp_path_factory.mktemp("mecha")
    known = model_configs.resolve("sd1-ldm").keys()
    common = torch.Generator().manual_seed(99)
    shapes = {name: _small(name, key.shape) for name, key in known.items() if not key.optional}
    base = {name: torch.randn(shape, generator=common) for name, shape in shapes.items()}
    for seed, file in enumerate("abc"):
        own = torch.Generator().manual_seed(seed)
        tensors = {
            name: (0.1 * value + 0.02 * torch.randn(value.shape, generator=own)).half()
            for name, value in base.items()
        }
        save_file(tensors, folder / f"{file}.safetensors")
    return folder


def _small(name: str, shape: torch.Size) -> list[int]:
    """The shapes by which a file is told to be SD1.5 stay."""
    if name.endswith("input_blocks.0.0.weight"):
        return list(shape)
    if name.endswith("attn2.to_k.weight"):
        return [4, shape[1]]
    if name.endswith("token_embedding.weight"):
        return [4, shape[1]]
    if name.startswith("first_stage_model."):
        return [size if size in (4, 8) else min(size, 4) for size in shape]
    return [min(size, 4) for size in shape]


def theirs(folder: Path, formula, dtype=torch.float32) -> dict[str, torch.Tensor]:
    sides = [sd_mecha.model(str(folder / f"{name}.safetensors")) for name in "abc"]
    return sd_mecha.merge(
        formula(*sides),
        merge_device="cpu",
        merge_dtype=dtype,
        output_device="cpu",
        output_dtype=torch.float16,
        threads=0,
        tqdm=Silent,
    )


class Silent(sd_mecha.merging.tqdm_original):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"disable": True})


def units_apart(ours: torch.Tensor, other: torch.Tensor) -> int:
    """The largest number of fp16 steps between two tensors."""

    def places(tensor):
        bits = tensor.view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return int((places(ours) - places(other)).abs().max())


BOTH_HAVE = {
    "weighted sum": (
        weighted_sum([(A, 0.6), (B, 0.4)]),
        lambda a, b, c: sd_mecha.weighted_sum(a, b, alpha=0.4),
    ),
    "60/20/20": (
        weighted_sum([(A, 60), (B, 20), (C, 20)]),
        lambda a, b, c: sd_mecha.weighted_sum(
            sd_mecha.weighted_sum(a, b, alpha=0.25), c, alpha=0.2
        ),
    ),
    "average": (
        weighted_sum([(A, 1), (B, 1), (C, 1)]),
        lambda a, b, c: sd_mecha.n_average(a, b, c),
    ),
    "add difference": (
        add_difference(A, B, C, 0.5),
        lambda a, b, c: sd_mecha.add_difference(a, b, c, alpha=0.5),
    ),
    "train difference": (
        method("train_difference", [A, B, C], {"strength": 0.5}),
        lambda a, b, c: sd_mecha.add_difference(
            a, b, c, alpha=sd_mecha.train_difference_mask(a, b, c, alpha=0.5)
        ),
    ),
    "slerp": (
        method("slerp", [A, B], {"share_of_b": 0.3}),
        lambda a, b, c: sd_mecha.slerp(a, b, alpha=0.3),
    ),
    "geometric": (
        method("geometric", [A, B], {"share_of_b": 0.3}),
        lambda a, b, c: sd_mecha.geometric_sum(a, b, alpha=0.3),
    ),
    "TIES": (
        method("ties", [A, B, C], {"keep": 1, "strength": 0.5}),
        lambda a, b, c: add_delta(
            a,
            sd_mecha.ties_sum(
                sd_mecha.subtract(b, a), sd_mecha.subtract(c, a), k=1.0, vote_sgn=True
            ),
            alpha=0.5,
        ),
    ),
}


def blended(ours: dict[str, torch.Tensor]) -> list[str]:
    """The VAE is not blended here, and it is there."""
    return [
        key
        for key in ours
        if not key.startswith("first_stage_model.") and not key.endswith(POSITION_IDS)
    ]


@pytest.mark.parametrize("name", BOTH_HAVE)
def test_the_result_is_that_of_sd_mecha(cellar, tmp_path, name):
    recipe, formula = BOTH_HAVE[name]
    make_checkpoint(bind_to_files(recipe, cellar.joinpath), tmp_path / "out.safetensors")
    ours, other = load_file(tmp_path / "out.safetensors"), theirs(cellar, formula)
    names = blended(ours)
    assert len(names) == 882
    apart = {key: units_apart(ours[key], other[key]) for key in names}
    assert {key: steps for key, steps in apart.items() if steps > 1} == {}
    changed = load_file(cellar / "a.safetensors")
    assert any(not torch.equal(ours[key], changed[key]) for key in names)


def test_the_geometric_median_is_that_of_sd_mecha_or_nearer(cellar, tmp_path):
    """sd-mecha ends after 100 steps, which is too soon where a model is nearly the median itself:
    among few elements.
    """
    recipe = method("geometric_median", [A, B, C])
    make_checkpoint(bind_to_files(recipe, cellar.joinpath), tmp_path / "out.safetensors")
    ours = load_file(tmp_path / "out.safetensors")
    # In float32 its sum of distances stops falling too soon as well.
    other = theirs(cellar, lambda a, b, c: sd_mecha.geometric_median(a, b, c), torch.float64)
    models = [load_file(cellar / f"{name}.safetensors") for name in "abc"]

    def distances(key: str, point: torch.Tensor) -> float:
        return sum(float(torch.dist(point.double(), model[key].double())) for model in models)

    large = [key for key in blended(ours) if ours[key].numel() >= 16]
    assert len(large) == 356
    assert {key for key in large if units_apart(ours[key], other[key]) > 1} == set()
    for key in blended(ours):
        rounding = torch.finfo(torch.float16).eps / 2 * float(ours[key].double().norm())
        farthest = distances(key, other[key]) + len(models) * rounding
        assert distances(key, ours[key]) <= farthest
