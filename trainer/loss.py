"""The training loss of every picture, in fp32: what the UNet has to predict, and how its error is
measured and weighted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .noise import TIMESTEPS, add_noise, alphas_cumprod
from .settings.groups import LossSettings

if TYPE_CHECKING:
    import torch


class Schedule:
    """The noise schedule of a run, (1000,) fp32 each: `alphas`, the products of (1 - beta), and
    `snr`, a / (1 - a).
    """

    def __init__(self, settings: LossSettings, device: Any) -> None:
        import torch

        exact = alphas_cumprod(settings.zero_terminal_snr)
        self.alphas = exact.to(device, torch.float32)
        self.snr = (exact / (1.0 - exact)).to(device, torch.float32)


def pair_losses(
    unet: Any,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    settings: LossSettings,
    schedule: Schedule,
    mask: torch.Tensor | None = None,
    places: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of every picture of a batch, shape (batch,).

    latents, noise: (batch, 4, h, w) fp32; timesteps: (batch,) in 0..999; text: (batch, tokens,
    768); mask: (batch, tokens), 0 where there is no token; places: (batch, 1, h, w), how much the
    error counts there, of which the mean is taken over all places. With the default settings, the
    epsilon loss (Ho et al. 2020, eq. 14).
    """
    noisy = add_noise(latents, noise, timesteps, schedule.alphas)
    given = {"encoder_hidden_states": text}
    if mask is not None:
        given["encoder_attention_mask"] = mask
    predicted = unet(noisy, timesteps, **given).sample.float()
    wanted = target(latents, noise, timesteps, settings, schedule)
    elements = element_losses(predicted, wanted, timesteps, settings, schedule)
    errors = (elements if places is None else elements * places).mean(dim=(1, 2, 3))
    weights = snr_weights(timesteps, settings, schedule)
    return errors if weights is None else errors * weights


def target(
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    settings: LossSettings,
    schedule: Schedule,
) -> torch.Tensor:
    """What the UNet has to predict: epsilon = n, or v = sqrt(a) n - sqrt(1 - a) z (Salimans & Ho
    2022).
    """
    if settings.prediction == "epsilon":
        return noise
    a = schedule.alphas[timesteps].view(-1, 1, 1, 1)
    return a.sqrt() * noise - (1.0 - a).sqrt() * latents


def element_losses(
    predicted: torch.Tensor,
    wanted: torch.Tensor,
    timesteps: torch.Tensor,
    settings: LossSettings,
    schedule: Schedule,
) -> torch.Tensor:
    """The error of every element. With d = predicted - wanted and s = t / 1000:

    mse: d^2. huber: d^2 / 2 if |d| < 1, else |d| - 1/2. mse to huber: (1 - s) mse + s huber; huber
    to mse the mirror (EveryDream2). pseudo-huber: 2 c (sqrt(d^2 + c^2) - c) with c by
    `huber_schedule` (kohya's sd-scripts).
    """
    import torch

    difference = predicted - wanted
    squared = difference.square()
    if settings.kind == "mse":
        return squared
    if settings.kind == "pseudo-huber":
        c = huber_c(timesteps, settings, schedule).view(-1, 1, 1, 1)
        return 2 * c * ((squared + c * c).sqrt() - c)
    size = difference.abs()
    huber = torch.where(size < 1, 0.5 * squared, size - 0.5)
    if settings.kind == "huber":
        return huber
    share = (timesteps.float() / TIMESTEPS).view(-1, 1, 1, 1)
    if settings.kind == "huber to mse":
        share = 1 - share
    return (1 - share) * squared + share * huber


def huber_c(timesteps: torch.Tensor, settings: LossSettings, schedule: Schedule) -> torch.Tensor:
    """c of the pseudo-Huber loss at every noise level, (batch,) (kohya's sd-scripts, after Patrascu
    2024).

    constant: c. exponential: exp(ln(c) t / 1000), from 1 at no noise to c. snr: (1 - c) / (1 +
    sigma)^2 + c with sigma = sqrt((1 - a) / a).
    """
    import torch

    c = settings.huber_c
    if settings.huber_schedule == "constant":
        return torch.full_like(timesteps, c, dtype=torch.float32)
    if settings.huber_schedule == "exponential":
        return torch.exp(math.log(c) * timesteps.float() / TIMESTEPS)
    a = schedule.alphas[timesteps]
    sigma = ((1.0 - a) / a.clamp_min(1e-12)).sqrt()
    return (1 - c) / (1 + sigma) ** 2 + c


def snr_weights(
    timesteps: torch.Tensor, settings: LossSettings, schedule: Schedule
) -> torch.Tensor | None:
    """The weight of every picture by its signal-to-noise ratio, (batch,), or None when all are 1.

    min-SNR (Hang et al. 2023): min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v. Debiased (Yu
    et al. 2023): 1 / sqrt(min(SNR, 1000)) for epsilon, 1 / (SNR + 1) for v as in kohya's
    sd-scripts.
    """
    snr = schedule.snr[timesteps]
    plus = 0.0 if settings.prediction == "epsilon" else 1.0
    if settings.min_snr_gamma:
        return snr.clamp_max(settings.min_snr_gamma) / (snr + plus).clamp_min(1e-12)
    if settings.debiased:
        return 1 / (snr + 1) if plus else snr.clamp_max(1000).rsqrt()
    return None
