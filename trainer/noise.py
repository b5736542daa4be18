"""SD1.5's noise schedule, and randomness that depends on what it is for and on nothing else."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TIMESTEPS = 1000


def alphas_cumprod() -> torch.Tensor:
    """The products of (1 - beta) of SD1.5's scaled-linear schedule, fp32 of shape (1000,): 0.99915 ... 0.00466.

    beta_t = (linspace(sqrt(0.00085), sqrt(0.012), 1000))^2, from the configuration of Stable Diffusion 1.
    """
    import torch

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).to(torch.float32)


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """z_t = sqrt(a_t) z + sqrt(1 - a_t) n (Ho et al. 2020, eq. 4), in fp32. Shapes (batch, 4, h, w) and (batch,)."""
    a = alphas[timesteps].view(-1, 1, 1, 1)
    return a.sqrt() * latents + (1.0 - a).sqrt() * noise


def keyed_generator(*key: str | int) -> torch.Generator:
    """A CPU generator whose numbers are a function of the key: resuming needs no saved generator state."""
    import torch

    digest = hashlib.blake2b("/".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
