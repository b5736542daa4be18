"""Checkpoints small enough to make in a moment, in real safetensors files written by the
safetensors library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
Tensors = dict[str, torch.Tensor]


def random_tensor(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of very different sizes, as weights are."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape) * 10.0 ** random.integers(-7, 2, shape)
    return torch.from_numpy(values).to(dtype)


def sd15_tensors(seed: int, dtype: torch.dtype = torch.float16) -> Tensors:
    """A checkpoint with the names of SD1.5 in all its parts and the shapes that identify it,
    otherwise tiny.
    """
    shapes = {
        UNET + "input_blocks.0.0.weight": (320, 4, 3, 3),
        UNET + "time_embed.0.weight": (16, 320),
        UNET + "out.2.weight": (4, 320, 3, 3),
        UNET + "out.2.bias": (4,),
        TEXT + "embeddings.token_embedding.weight": (99, 768),
        TEXT + "final_layer_norm.bias": (768,),
        "first_stage_model.decoder.conv_out.weight": (3, 128, 3, 3),
        "first_stage_model.decoder.conv_out.bias": (3,),
    }
    for block in ("input_blocks.1.1", "middle_block.1", "output_blocks.3.1"):
        attention = UNET + block + ".transformer_blocks.0.attn2."
        shapes |= {attention + "to_k.weight": (32, 768), attention + "to_out.0.bias": (33,)}
    tensors = {
        name: random_tensor(shape, seed * 1000 + number, dtype)
        for number, (name, shape) in enumerate(shapes.items())
    }
    tensors |= {
        TEXT + "embeddings.position_ids": torch.arange(77).reshape(1, 77),
        "betas": random_tensor((1000,), seed, torch.float32),
        "model_ema.diffusion_modelout2bias": random_tensor((4,), seed, torch.float32),
        "model_ema.num_updates": torch.tensor(seed),
    }
    return tensors


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(name, tensors, metadata=None) makes NAME.safetensors in the test's folder."""

    def write_file(name: str, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
        return path

    return write_file


@pytest.fixture
def sd15() -> Callable[..., Tensors]:
    return sd15_tensors


@pytest.fixture
def numbers() -> Callable[..., torch.Tensor]:
    return random_tensor
