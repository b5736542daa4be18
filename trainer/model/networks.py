"""A checkpoint as modules: diffusers' UNet and VAE, transformers' text encoder, built from the
shapes found in one file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TrainerError
from .layout import check_sd15
from .single_file import (
    TEXT_ENCODER,
    UNET,
    VAE,
    Level,
    Shapes,
    open_weights,
    single_file_name,
    text_encoder_name,
    unet_levels,
    unet_name,
    vae_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

LATENT_SCALE = 0.18215
"""SD1.5's factor between the VAE's output and the latents that the UNet sees."""


@dataclass
class Model:
    """The parts of a checkpoint that can learn: diffusers' UNet2DConditionModel and transformers'
    CLIPTextModel, in fp32 on the CPU, in evaluation mode and without gradients.
    """

    unet: Any
    text_encoder: Any
    levels: tuple[Level, ...]


def load_model(path: Path) -> Model:
    """Load an SD1.5 single file without any hub access. Raises TrainerError when it is not one, or
    not whole, or holds NaN or an infinity.
    """
    check_sd15(path)
    with open_weights(path) as file:
        state = {name: file[name] for name in file.tensors if name.startswith(UNET)}
        for name in file.tensors:
            if name.startswith("cond_stage_model.transformer.") and "position_ids" not in name:
                state[single_file_name(name)] = file[name]
    _check_finite(path, state)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    levels = unet_levels(shapes)
    unet = unet_on_meta(levels)
    text_encoder = text_encoder_on_meta(text_encoder_layers(shapes))
    _fill(unet, {name: state[UNET + unet_name(name, levels)] for name in unet.state_dict()})
    _fill(
        text_encoder,
        {n: state[TEXT_ENCODER + text_encoder_name(n)] for n in text_encoder.state_dict()},
    )
    return Model(unet, text_encoder, levels)


def load_vae(path: Path) -> Any:
    """The VAE of an SD1.5 single file, in fp32 on the CPU. Raises TrainerError like load_model."""
    check_sd15(path)
    with open_weights(path) as file:
        state = {name: file[name] for name in file.tensors if name.startswith(VAE)}
    _check_finite(path, state)
    vae = vae_on_meta(vae_widths({name: tuple(tensor.shape) for name, tensor in state.items()}))
    depth = len(vae.config["block_out_channels"])
    _fill(vae, {name: state[VAE + vae_name(name, depth)] for name in vae.state_dict()})
    return vae


def unet_on_meta(levels: tuple[Level, ...]) -> UNet2DConditionModel:
    """SD1.5's UNet with the given levels, without memory for its weights."""
    return _on_meta(build_unet, levels)


def build_unet(levels: tuple[Level, ...]) -> UNet2DConditionModel:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(level.channels for level in levels),
        layers_per_block=levels[0].blocks,
        down_block_types=tuple(
            "CrossAttnDownBlock2D" if level.attention else "DownBlock2D" for level in levels
        ),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if level.attention else "UpBlock2D" for level in reversed(levels)
        ),
        cross_attention_dim=768,
        attention_head_dim=8,
    )


def sd15_shapes() -> dict[str, tuple[int, ...]]:
    """The tensor shapes of full-size SD1.5 by their names in a single file; takes no memory."""
    levels = (*(Level(width, 2, True) for width in (320, 640, 1280)), Level(1280, 2, False))
    vae = vae_on_meta((128, 256, 512, 512))
    named = {UNET + unet_name(n, levels): t for n, t in unet_on_meta(levels).state_dict().items()}
    for name, tensor in text_encoder_on_meta(12).state_dict().items():
        named[TEXT_ENCODER + text_encoder_name(name)] = tensor
    named |= {VAE + vae_name(name, 4): tensor for name, tensor in vae.state_dict().items()}
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def vae_on_meta(widths: tuple[int, ...]) -> AutoencoderKL:
    return _on_meta(build_vae, widths)


def build_vae(widths: tuple[int, ...]) -> AutoencoderKL:
    """SD1.5's autoencoder with one level for each width."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    blocks: dict[str, Any] = {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }
    return AutoencoderKL(
        **blocks, layers_per_block=2, latent_channels=4, scaling_factor=LATENT_SCALE
    )


def text_encoder_on_meta(layers: int) -> CLIPTextModel:
    return _on_meta(build_text_encoder, layers)


def build_text_encoder(layers: int = 12) -> CLIPTextModel:
    """The text half of CLIP ViT-L/14 with that many layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            projection_dim=768,
            num_hidden_layers=layers,
            num_attention_heads=12,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )


def vae_widths(shapes: Shapes) -> tuple[int, ...]:
    widths = []
    while (name := f"{VAE}encoder.down.{len(widths)}.block.0.conv1.weight") in shapes:
        widths.append(shapes[name][0])
    return tuple(widths)


def text_encoder_layers(shapes: Shapes) -> int:
    layers = 0
    while f"{TEXT_ENCODER}encoder.layers.{layers}.mlp.fc1.weight" in shapes:
        layers += 1
    return layers


def _check_finite(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Raise TrainerError when a weight of a file is NaN or infinite: nothing could be learned."""
    bad = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if bad:
        also = f" and {len(bad) - 1} more" if bad[1:] else ""
        raise TrainerError(
            f"{path.name} is damaged: {bad[0]}{also} holds NaN or infinity. The base itself is at "
            "fault, not the settings: choose another checkpoint, or a better copy of this one."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite, as fp32. The extremes tell: NaN is one of them wherever
    it stands, and finding them takes a tenth of the time of asking for each number.
    """
    import torch

    has_extremes = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32)
    numbers = tensor if has_extremes else tensor.float()
    return not numbers.numel() or bool(torch.stack(numbers.aminmax()).isfinite().all())


def _fill(module: Any, state: dict[str, torch.Tensor]) -> None:
    """Give a module on the meta device its weights, in fp32."""
    import torch

    wanted = module.state_dict()
    state = {
        name: tensor.to(torch.float32).reshape(wanted[name].shape) for name, tensor in state.items()
    }
    module.load_state_dict(state, strict=True, assign=True)
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":
                owner.register_buffer(
                    name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False
                )
    module.requires_grad_(False).eval()


def _on_meta(build: Callable[[Any], Any], shape: Any) -> Any:
    """What `build` makes of a shape, without memory for its weights."""
    # These packages import more of PyTorch, which before 2.8 fails while a default device is set.
    import diffusers.models.modeling_utils
    import torch
    import transformers

    _ = diffusers.models.modeling_utils.ModelMixin, transformers.PreTrainedModel
    with torch.device("meta"):
        return build(shape)
