"""The family of a checkpoint, told from the names and shapes of its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from .safetensors_file import Header

UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Family:
    """A name for people; ModelSpec's name of the architecture and the native resolution in pixels, where they are known."""

    name: str
    architecture: str | None = None
    resolution: int | None = None


SD15 = Family("SD1.5", "stable-diffusion-v1", 512)
SD15_INPAINTING = Family("SD1.5 inpainting", "stable-diffusion-v1-inpainting", 512)
SD2 = Family("Stable Diffusion 2", "stable-diffusion-v2", 768)
SDXL = Family("SDXL", "stable-diffusion-xl-v1-base", 1024)


def family_of(header: Header) -> Family:
    """The family that ComfyUI would recognise by the same shapes."""
    tensors = header.tensors
    if any(".lora_down." in name or ".lora_A." in name for name in tensors):
        return Family("a LoRA")
    if any("double_blocks." in name for name in tensors):
        return Family("Flux")
    if any("joint_blocks." in name for name in tensors):
        return Family("Stable Diffusion 3")
    first = tensors.get(UNET + "input_blocks.0.0.weight")
    if first is None:
        return Family("a file without a Stable Diffusion UNet")
    if UNET + "label_emb.0.0.weight" in tensors:
        return SDXL
    widths = {
        tensor.shape[-1]
        for name, tensor in tensors.items()
        if name.startswith(UNET) and name.endswith("attn2.to_k.weight") and tensor.shape
    }
    channels = first.shape[1] if len(first.shape) == 4 else 0
    if widths == {768} and channels in (4, 9):
        return SD15 if channels == 4 else SD15_INPAINTING
    if widths == {1024} and channels == 4:
        return SD2
    return Family(
        f"a UNet with {channels} input channels and text width {sorted(widths) or 'unknown'}"
    )
