"""A checkpoint in SD1.5's exact single-file layout, made from a seed in seconds, small enough to
train on a CPU.

Its text encoder passes the words through and its VAE is an 8x8-average codec set by hand, so that
training learns to draw from the first steps; only the UNet starts random. It has every part of the
full model, and stock ComfyUI loads it as SD1.5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TrainerError
from .networks import LATENT_SCALE, build_text_encoder, build_unet, build_vae
from .single_file import (
    TEXT_ENCODER,
    UNET,
    VAE,
    Level,
    text_encoder_name,
    unet_name,
    vae_name,
    write_single_file,
)

if TYPE_CHECKING:
    import torch

SIZES: dict[str, tuple[Level, ...]] = {
    "small": (Level(320, 1, True),),
    "medium": (Level(320, 1, True), Level(640, 1, True)),
    "blocks": (*[Level(320, 2, True)] * 3, Level(320, 2, False)),
}
"""UNets by name: 26 M and 80 M parameters, and SD1.5's twelve + middle + twelve blocks at width
320.
"""

VAE_WIDTHS = (128, 256, 512, 512)
SIGNALS = 4
LARGE = 64.0
"""Value of the constant channels that fix the VAE's normalisations."""
CONTRAST = 0.7
"""Size of a latent, as the model sees it, for a colour at full strength: with 0.7 the miniature
learns colours in fewer steps than with 1.
"""
SHIFT = 8.0
"""Where the last SiLU of encoder and decoder is used: far enough right to be close to linear."""


def make_miniature(
    path: Path, size: str = "small", seed: int = 1, drift: float = 0.0, drift_seed: int = 0
) -> None:
    """Write a miniature checkpoint in fp16; the same arguments give the same tensors.

    `drift` moves every UNet tensor by that share of its own standard deviation, in a direction
    given by `drift_seed`: two checkpoints that differ only in their drift stand for two versions of
    one model. Raises TrainerError when the file exists or the size is unknown.
    """
    import torch

    if size not in SIZES:
        raise TrainerError(f"Unknown miniature size {size!r}; choose one of {', '.join(SIZES)}.")
    if path.exists():
        raise TrainerError(f"{path} already exists. Choose another name, or delete it first.")
    with _seeded(seed), torch.no_grad():
        levels = SIZES[size]
        unet = build_unet(levels)
        for parameter in unet.conv_out.parameters():
            parameter.zero_()
        text_encoder = build_text_encoder()
        _let_words_through(text_encoder)
        vae = build_vae(VAE_WIDTHS)
        _make_average_codec(vae)
    tensors = {UNET + unet_name(name, levels): t for name, t in unet.state_dict().items()}
    if drift:
        with _seeded(drift_seed):
            tensors = {
                name: tensor + drift * tensor.std(correction=0) * torch.randn_like(tensor)
                for name, tensor in tensors.items()
            }
    for name, tensor in text_encoder.state_dict().items():
        tensors[TEXT_ENCODER + text_encoder_name(name)] = tensor
    for name, tensor in vae.state_dict().items():
        tensors[VAE + vae_name(name, len(VAE_WIDTHS))] = _ldm_shape(name, tensor)
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
    write_single_file(path, tensors, {"format": "pt"})


def _ldm_shape(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """LDM keeps the VAE's attention projections as 1x1 convolutions."""
    if ".attentions." in name and tensor.ndim == 2:
        return tensor[:, :, None, None]
    return tensor


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _let_words_through(text_encoder: Any) -> None:
    """Silence every residual branch: the output is the normalised sum of token and position
    embeddings.
    """
    core = getattr(text_encoder, "text_model", text_encoder)
    core.embeddings.token_embedding.weight.normal_(0.0, 1.0)
    core.embeddings.position_embedding.weight.normal_(0.0, 0.3)
    for layer in core.encoder.layers:
        for silent in (layer.self_attn.out_proj, layer.mlp.fc2):
            silent.weight.zero_()
            silent.bias.zero_()


def _make_average_codec(vae: Any) -> None:
    """Set the weights so that a latent is CONTRAST x the mean of an 8x8 square: red, green, blue
    and grey.

    Each signal travels with its negative and with constants +LARGE and -LARGE in the same
    normalisation group: the group's mean is then 0 and its deviation constant, so that the
    normalisation is a known scale.
    """
    for module in vae.modules():
        for parameter in module.parameters(recurse=False):
            parameter.zero_()
    encoder, decoder = vae.encoder, vae.decoder
    for module in [*encoder.modules(), *decoder.modules()]:
        kind = type(module).__name__
        if kind == "ResnetBlock2D" and module.conv_shortcut is not None:
            _pass_on(module.conv_shortcut)
        elif kind == "Upsample2D":
            _pass_on(module.conv)
        elif kind == "Downsample2D":
            for channel in range(module.conv.out_channels):
                module.conv.weight[channel, channel, :2, :2] = 0.25
    colours = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1 / 3, 1 / 3, 1 / 3))
    _spread(encoder.conv_in, colours, per_group=16)
    _read(encoder.conv_norm_out, encoder.conv_out, SIGNALS, per_group=16)
    vae.quant_conv.weight[:SIGNALS, :SIGNALS, 0, 0] = _diagonal(SIGNALS, CONTRAST / LATENT_SCALE)
    vae.quant_conv.bias[SIGNALS:] = -30.0
    vae.post_quant_conv.weight[:, :, 0, 0] = _diagonal(SIGNALS, LATENT_SCALE / CONTRAST)
    _spread(decoder.conv_in, ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)), per_group=4)
    _read(decoder.conv_norm_out, decoder.conv_out, 3, per_group=4)


def _diagonal(size: int, value: float) -> torch.Tensor:
    import torch

    return torch.eye(size) * value


def _pass_on(convolution: Any) -> None:
    """Copy channel i to channel i; more outputs than inputs start again from channel 0."""
    centre = convolution.weight.shape[-1] // 2
    for channel in range(convolution.out_channels):
        convolution.weight[channel, channel % convolution.in_channels, centre, centre] = 1.0


def _spread(convolution: Any, signals: tuple[tuple[float, ...], ...], per_group: int) -> None:
    """Give each signal, its negative and the constants a group of `per_group` channels."""
    convolution.bias[0::2] = LARGE
    convolution.bias[1::2] = -LARGE
    for index, weights in enumerate(signals):
        plus, minus = index * per_group, index * per_group + 1
        for channel, weight in enumerate(weights):
            convolution.weight[plus, channel, 1, 1] = weight
            convolution.weight[minus, channel, 1, 1] = -weight
        convolution.bias[plus] = convolution.bias[minus] = 0.0


def _read(norm: Any, convolution: Any, signals: int, per_group: int) -> None:
    """Undo normalisation and SiLU: half the difference between a signal and its negative."""
    deviation = LARGE * ((per_group - 2) / per_group) ** 0.5
    norm.weight.fill_(deviation)
    norm.bias.fill_(SHIFT)
    for index in range(signals):
        plus = index * per_group
        convolution.weight[index, plus, 1, 1] = 0.5
        convolution.weight[index, plus + 1, 1, 1] = -0.5
