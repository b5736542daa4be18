"""SD1.5's noise schedule, the noise of a showing, and random numbers that depend on a key alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .settings.groups import LossSettings

if TYPE_CHECKING:
    import torch

TIMESTEPS = 1000


def alphas_cumprod(zero_terminal: bool = False) -> torch.Tensor:
    """The products of (1 - beta) of SD1.5's scaled-linear schedule, fp64 of shape (1000,): 0.99915
    ... 0.00466.

    beta_t = (linspace(sqrt(0.00085), sqrt(0.012), 1000))^2, from the configuration of Stable
    Diffusion 1. Zero terminal SNR makes its last level pure noise (Lin et al. 2024, algorithm 1):
    sqrt(a) is shifted and scaled so that its first value stays and its last becomes 0.
    """
    import torch

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1.0 - betas, dim=0)
    if not zero_terminal:
        return alphas
    root = alphas.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """z_t = sqrt(a_t) z + sqrt(1 - a_t) n (Ho et al. 2020, eq. 4), in fp32. Shapes (batch, 4, h, w)
    and (batch,).
    """
    a = alphas[timesteps].view(-1, 1, 1, 1)
    return a.sqrt() * latents + (1.0 - a).sqrt() * noise


def keyed_generator(*key: str | int) -> torch.Generator:
    """A CPU generator whose numbers are a function of the key, so that resuming needs no generator
    state.
    """
    import torch

    digest = hashlib.blake2b("/".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_noise(
    generator: torch.Generator, shape: Sequence[int], settings: LossSettings
) -> torch.Tensor:
    """The noise of one showing, (4, h, w): white, then pyramid and offset noise if switched on.

    Pyramid (Whitaker 2023): for i = 0..9 add discount^i times white noise of a side divided by r^i,
    r drawn from 2..4, scaled up, until a side is 1; then divide by the standard deviation, here of
    this picture alone, so that pictures of one batch do not depend on each other. Offset
    (Guttenberg 2023): add the strength times one random number for each channel.
    """
    import torch

    noise = torch.randn(tuple(shape), generator=generator)
    if settings.pyramid_noise:
        noise = _pyramid(noise, generator, settings.pyramid_noise)
    if settings.offset_noise:
        noise = noise + settings.offset_noise * torch.randn(shape[0], 1, 1, generator=generator)
    return noise


def _pyramid(noise: torch.Tensor, generator: torch.Generator, discount: float) -> torch.Tensor:
    import torch

    channels, height, width = noise.shape
    h, w = float(height), float(width)
    for level in range(10):
        ratio = 2 + 2 * torch.rand(1, generator=generator).item()
        h, w = max(1.0, h / ratio**level), max(1.0, w / ratio**level)
        coarse = torch.randn(1, channels, int(h), int(w), generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        noise = noise + discount**level * fine[0]
        if int(h) == 1 or int(w) == 1:
            break
    return noise / noise.std()


def draw_timestep(
    generator: torch.Generator,
    settings: LossSettings,
    seed: int,
    step: int,
    place: int,
    count: int,
) -> int:
    """The noise level of the showing at `place` of the `count` showings of a step, in start..end-1.

    uniform: every level is as likely. stratified: the range is cut into as many equal stretches as
    the step has showings, and each showing gets a stretch of its own at random. logit-normal: the
    sigmoid of a normal number (Esser et al. 2024).
    """
    import torch

    start, end = settings.timestep_start, settings.timestep_end
    if settings.timestep_sampling == "uniform":
        return int(torch.randint(start, end, (1,), generator=generator))
    if settings.timestep_sampling == "stratified":
        order = torch.randperm(count, generator=keyed_generator(seed, "stretches", step))
        share = (order[place].item() + torch.rand(1, generator=generator).item()) / count
    else:
        share = torch.randn(1, generator=generator).sigmoid().item()
    return min(end - 1, start + int(share * (end - start)))
