"""What the tests of grids share."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy
import pytest

from ..comfy import Comfy

if "cocktail.nodes" not in sys.modules:
    # nodes/__init__.py needs ComfyUI, the modules of the grid do not: they are imported around it.
    nodes = types.ModuleType("cocktail.nodes")
    nodes.__path__ = [str(Path(__file__).resolve().parents[2] / "nodes")]
    sys.modules["cocktail.nodes"] = nodes

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
