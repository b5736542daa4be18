"""The family of a checkpoint, recognised by the names and shapes of its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from .key_names import UNET, VAE
from .lora_kinds import is_lora
from .safetensors_file import Header

FIRST = UNET + "input_blocks.0.0.weight"
"""The first convolution. Inpainting and instruct-pix2pix models differ from others only in its
input channels.
"""


@dataclass(frozen=True)
class Family:
    """A name for people, and ModelSpec's name of the architecture and the native resolution in
    pixels if they are known.

    Families of one `kind` can be mixed with each other: they differ in the input channels of the
    first convolution.
    """

    name: str
    architecture: str | None = None
    resolution: int | None = None
    base: str | None = None

    @property
    def kind(self) -> str:
        return self.base or self.name


SD15 = Family("SD1.5", "stable-diffusion-v1", 512)
SD15_INPAINTING = Family("SD1.5 inpainting", "stable-diffusion-v1-inpainting", 512, "SD1.5")
SD15_PIX2PIX = Family(
    "SD1.5 instruct-pix2pix", "stable-diffusion-v1-instruct-pix2pix", 512, "SD1.5"
)
SD2 = Family("Stable Diffusion 2", "stable-diffusion-v2", 768)
SD2_INPAINTING = Family(
    "Stable Diffusion 2 inpainting", "stable-diffusion-v2-inpainting", 512, SD2.name
)
SD2_DEPTH = Family("Stable Diffusion 2 depth", "stable-diffusion-v2-depth", 512)
SDXL = Family("SDXL", "stable-diffusion-xl-v1-base", 1024)
SDXL_INPAINTING = Family("SDXL inpainting", "stable-diffusion-xl-v1-inpainting", 1024, "SDXL")
SDXL_PIX2PIX = Family("SDXL instruct-pix2pix", "stable-diffusion-xl-v1-edit", 1024, "SDXL")
SDXL_REFINER = Family("SDXL refiner", "stable-diffusion-xl-v1-refiner", 1024)
VAE_ONLY = Family("a VAE")
LORA = Family("a LoRA")
BY_WIDTH_AND_CHANNELS = {
    (768, 4): SD15, (768, 9): SD15_INPAINTING, (768, 8): SD15_PIX2PIX,
    (1024, 4): SD2, (1024, 9): SD2_INPAINTING, (1024, 5): SD2_DEPTH,
    (2048, 4): SDXL, (2048, 9): SDXL_INPAINTING, (2048, 8): SDXL_PIX2PIX,
    (1280, 4): SDXL_REFINER,
}  # fmt: skip
"""By the width of the UNet's text input and its number of input channels."""
OTHERS = {
    "double_blocks.": "Flux",
    "joint_blocks.": "Stable Diffusion 3",
    "layers.0.adaLN_modulation": "Lumina",
    "transformer_blocks.0.attn.add_q_proj": "a diffusers transformer",
}
"""Kinds of models, mixed key by key, by a part of a tensor's name."""


def family_of(header: Header) -> Family:
    """The family that ComfyUI would recognise by the same shapes. Names are the usual ones
    (`key_names.with_usual_names`).
    """
    tensors = header.tensors
    if is_lora(tensors):
        return LORA
    for part, name in OTHERS.items():
        if any(part in tensor for tensor in tensors):
            return Family(name)
    first = tensors.get(FIRST)
    if first is None:
        if tensors and all(name.startswith(VAE) for name in tensors):
            return VAE_ONLY
        return Family("a file without a Stable Diffusion UNet")
    widths = {
        tensor.shape[-1]
        for name, tensor in tensors.items()
        if name.startswith(UNET) and name.endswith("attn2.to_k.weight") and tensor.shape
    }
    channels = input_channels(first.shape)
    if len(widths) == 1 and (known := BY_WIDTH_AND_CHANNELS.get((min(widths), channels))):
        return known
    return Family(
        f"a UNet with {channels} input channels and text width {sorted(widths) or 'unknown'}"
    )


def input_channels(shape: tuple[int, ...]) -> int:
    """How many input channels a convolution's weight has; 0 for any other tensor."""
    return shape[1] if len(shape) == 4 else 0
