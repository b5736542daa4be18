"""The training loss: mean squared error of the predicted noise, for each picture, in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .noise import add_noise

if TYPE_CHECKING:
    import torch


def noise_losses(
    unet: Any,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    alphas: torch.Tensor,
) -> torch.Tensor:
    """The epsilon loss of every picture of a batch, shape (batch,) (Ho et al. 2020, eq. 14).

    latents, noise: (batch, 4, h, w) fp32; timesteps: (batch,) in 0..999; text: (batch, 77, 768).
    """
    noisy = add_noise(latents, noise, timesteps, alphas)
    predicted = unet(noisy, timesteps, encoder_hidden_states=text).sample
    return (predicted.float() - noise).square().mean(dim=(1, 2, 3))
