"""The real ComfyUI loads every kind of result, and has the weights of the file in its model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail.merge.blocks import block_weights
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.conversion import convert
from cocktail.merge.key_names import TEXT
from cocktail.merge.lora import bake_lora, extract_lora
from cocktail.merge.methods import METHODS
from cocktail.merge.plan import PRECISIONS
from cocktail.merge.recipe import (
    BlockSum,
    Ingredient,
    Parts,
    add_difference,
    method,
    sum_twice,
    triple_sum,
    weighted_sum,
)

from .conftest import UNET

BASE, V1, V3 = SIDES = [Ingredient(f"{name}.safetensors") for name in ("base", "v1", "v3")]
LAYER = f"{TEXT}text_model.encoder.layers"
IN_COMFYUI = """
import sys
from pathlib import Path
comfyui, folder = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.enable_args_parsing()
import comfy.sd, comfy.utils, torch
for file in sorted(Path(folder).glob("*.safetensors")):
    model = comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False, output_clip=False)[0]
    assert type(model.model).__name__ == "BaseModel"
    assert model.model.model_config.unet_config["context_dim"] == 768
    loaded = model.model.diffusion_model.state_dict()
    told = comfy.utils.load_torch_file(str(file), safe_load=True)
    unet = "model.diffusion_model."
    told = {k.removeprefix(unet): v for k, v in told.items() if k.startswith(unet)}
    assert loaded.keys() == told.keys(), file
    for name, value in told.items():
        assert torch.equal(loaded[name].float(), value.float()), (file, name)
    print(file.name)
"""


@pytest.fixture
def cellar(miniatures, tmp_path):
    """The UNets of the miniatures, moved apart; only the last has a layer of a text encoder too."""
    folder = tmp_path / "ingredients"
    folder.mkdir()
    for seed, side in enumerate(SIDES):
        random = torch.Generator().manual_seed(seed)
        tensors = load_file(miniatures / f"miniature_{side.name}")
        unet = {name: value for name, value in tensors.items() if name.startswith(UNET)}
        for name, value in unet.items():
            step = 0.01 * torch.randn(value.shape, generator=random)
            unet[name] = (value.float() + step).to(value.dtype)
        text = {name: value for name, value in tensors.items() if name.startswith(f"{LAYER}.0.")}
        save_file(unet | (text if side == V3 else {}), folder / side.name)
    return folder


def recipes():
    shares = block_weights([number / 24 for number in range(25)], base=0.5)
    yield "weighted-sum", weighted_sum(list(zip(SIDES, (60, 20, 20), strict=True)))
    yield "add-difference", add_difference(BASE, V3, V1, 0.5)
    yield "block-weights", BlockSum(V1, V3, shares)
    yield "blocks-of-difference", add_difference(BASE, V3, V1, shares)
    yield "sum-twice", sum_twice(BASE, V1, V3, 0.3, 0.4)
    yield "triple-sum", triple_sum(BASE, V1, V3, 0.3, 0.4)
    yield "parts", Parts(weighted_sum([(V1, 1), (V3, 1)]), text_encoder=V3)
    for name, found in METHODS.items():
        # Its filters need minutes for a UNet, and its result has the layout of train_difference.
        if name == "smooth_add":
            continue
        sides = SIDES[: max(len(found.operands), 3 if found.more else 2)]
        yield name, method(name, sides, {})


def test_the_real_comfyui_loads_every_result_with_its_weights(comfyui, cellar, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    mix = weighted_sum([(V1, 1), (V3, 2)])
    for name, recipe in recipes():
        make_checkpoint(bind_to_files(recipe, cellar.joinpath), folder / f"{name}.safetensors")
    for precision in PRECISIONS:
        bound = bind_to_files(mix, cellar.joinpath)
        make_checkpoint(bound, folder / f"as-{precision}.safetensors", precision)
        convert(cellar / V1.name, folder / f"converted-{precision}.safetensors", precision)
    lora = tmp_path / "lora.safetensors"
    extract_lora(cellar / V3.name, cellar / V1.name, lora, 2)
    bake_lora(cellar / BASE.name, lora, folder / "baked.safetensors", 0.5)
    made = sorted(file.name for file in folder.iterdir())
    assert len(made) == 7 + len(METHODS) - 1 + 2 * len(PRECISIONS) + 1
    done = subprocess.run(
        [sys.executable, "-c", IN_COMFYUI, str(comfyui), str(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == made
