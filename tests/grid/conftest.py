"""What the tests of grids share."""

from __future__ import annotations

import numpy
import pytest

from ..comfy import Comfy

CHECKPOINT = "lively.safetensors"


@pytest.fixture(scope="session")
def lively(comfy: Comfy) -> str:
    """A checkpoint whose pictures depend on all that a cell sets.

    The untrained miniature predicts no noise and has silent text layers: with it, wrong prompts or clip skips would go
    unnoticed.
    """
    from safetensors.numpy import load_file, save_file

    folder = comfy.base / "models" / "checkpoints"
    tensors = load_file(folder / "miniature_base.safetensors")
    random = numpy.random.default_rng(7)
    for name, tensor in tensors.items():
        if name.endswith(("diffusion_model.out.2.weight", "mlp.fc2.weight")):
            noise = random.normal(0.0, 0.02, tensor.shape)
            tensors[name] = noise.astype(tensor.dtype)
    save_file(tensors, folder / CHECKPOINT)
    return CHECKPOINT
