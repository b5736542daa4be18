"""What the tests of grids share."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from ..comfy import Comfy
from .feeding import TEXT


@pytest.fixture(scope="session")
def extras(comfy: Comfy, lively: str) -> None:
    """A VAE, a LoRA and a picture to begin with, all of which are seen in the pictures."""
    from PIL import Image
    from safetensors.numpy import load_file, save_file

    models = comfy.base / "models"
    for folder in ("vae", "loras"):
        (models / folder).mkdir(exist_ok=True)
    tensors = load_file(models / "checkpoints" / lively)
    prefix = "first_stage_model."
    vae = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    vae["decoder.conv_out.bias"] = vae["decoder.conv_out.bias"] + numpy.float32(0.3).astype(
        vae["decoder.conv_out.bias"].dtype
    )
    save_file(vae, models / "vae" / "bright.safetensors")
    random = numpy.random.default_rng(3)
    lora = {}
    for name, rows, columns in (
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_v", 320, 768),
        ("lora_te_text_model_encoder_layers_3_mlp_fc1", 3072, 768),
    ):
        down, up = random.normal(0, 0.5, (4, columns)), random.normal(0, 0.5, (rows, 4))
        lora[f"{name}.lora_down.weight"] = down.astype(numpy.float32)
        lora[f"{name}.lora_up.weight"] = up.astype(numpy.float32)
    save_file(lora, models / "loras" / "loud.safetensors")
    drawn = random.integers(0, 256, (80, 100, 3), dtype=numpy.uint8)
    Image.fromarray(drawn).save(comfy.base / "input" / "start.png")


@pytest.fixture
def workflow(lively) -> dict[str, Any]:
    """A workflow with a node behind the sampler's picture that no setting of Grid Plan knows."""

    def node(kind: str, title: str = "", **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}

    return {
        "1": node("CheckpointLoaderSimple", "Load", ckpt_name=lively),
        "2": node("CLIPTextEncode", "prompt v1.5", text=TEXT, clip=["1", 1]),
        "3": node("CLIPTextEncode", "negative", text="", clip=["1", 1]),
        "4": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "5": node(
            "KSampler",
            seed=1,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("ImageInvert", image=["6", 0]),
        "8": node(
            "ImageBlend", image1=["6", 0], image2=["7", 0], blend_factor=0.2, blend_mode="normal"
        ),
        "9": node("SaveImage", images=["8", 0], filename_prefix="mine"),
        "10": node("PreviewImage", images=["6", 0]),
    }
