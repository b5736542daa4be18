"""The miniature checkpoint: SD1.5's layout, deterministic, with a VAE that keeps 8x8 squares."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.model.miniature import CONTRAST, make_miniature
from cocktail.trainer.model.networks import LATENT_SCALE, load_model, load_vae
from cocktail.trainer.model.single_file import UNET, family_of, read_shapes


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    path = tmp_path_factory.mktemp("miniature") / "a.safetensors"
    make_miniature(path, seed=7)
    return path


def test_it_is_recognised_as_sd15(miniature):
    assert family_of(read_shapes(miniature)).name == "SD1.5"


def test_the_same_seed_gives_the_same_tensors_and_another_seed_others(miniature, tmp_path):
    make_miniature(tmp_path / "same.safetensors", seed=7)
    make_miniature(tmp_path / "other.safetensors", seed=8)
    first = load_file(miniature)
    same, other = (
        load_file(tmp_path / "same.safetensors"),
        load_file(tmp_path / "other.safetensors"),
    )
    assert first.keys() == same.keys() == other.keys()
    assert all(torch.equal(first[name], same[name]) for name in first)
    name = UNET + "input_blocks.0.0.weight"
    assert not torch.equal(first[name], other[name])


def test_drift_moves_the_unet_a_little_and_nothing_else(miniature, tmp_path):
    make_miniature(tmp_path / "drifted.safetensors", seed=7, drift=0.05, drift_seed=3)
    first, drifted = load_file(miniature), load_file(tmp_path / "drifted.safetensors")
    changed = {name for name in first if not torch.equal(first[name], drifted[name])}
    assert changed and all(name.startswith(UNET) for name in changed)
    name = UNET + "middle_block.0.in_layers.2.weight"
    moved = (drifted[name].float() - first[name].float()).std() / first[name].float().std()
    assert 0.04 < moved < 0.06


def test_the_vae_keeps_a_picture_of_8x8_squares(miniature):
    vae = load_vae(miniature)
    squares = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = squares.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    with torch.no_grad():
        latents = vae.encode(picture).latent_dist.mean
        again = vae.decode(latents).sample
    assert (latents[:, :3] * LATENT_SCALE / CONTRAST - squares).abs().max() < 0.02
    assert (again - picture).abs().max() < 0.06


def test_an_existing_file_is_left_alone(miniature):
    before = miniature.stat().st_mtime_ns
    with pytest.raises(TrainerError, match="already exists"):
        make_miniature(miniature, seed=9)
    assert miniature.stat().st_mtime_ns == before


def test_the_block_size_has_the_twelve_middle_and_twelve_blocks_of_sd15(tmp_path):
    make_miniature(tmp_path / "blocks.safetensors", size="blocks")
    shapes = read_shapes(tmp_path / "blocks.safetensors")
    for side in ("input_blocks", "output_blocks"):
        blocks = {name.split(".")[3] for name in shapes if name.startswith(f"{UNET}{side}.")}
        assert blocks == {str(index) for index in range(12)}
    assert any(name.startswith(UNET + "middle_block.1.") for name in shapes)
    load_model(tmp_path / "blocks.safetensors")
