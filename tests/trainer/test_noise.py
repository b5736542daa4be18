"""The noise schedule and the loss, against independent float64 arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy
import torch

from cocktail.trainer.loss import noise_losses
from cocktail.trainer.noise import add_noise, alphas_cumprod, keyed_generator


def test_the_schedule_is_sd15s():
    betas = numpy.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=numpy.float64) ** 2
    expected = numpy.cumprod(1 - betas)
    assert numpy.abs(alphas_cumprod().numpy() - expected).max() < 1e-7
    assert abs(expected[0] - 0.99915) < 1e-5 and abs(expected[999] - 0.004660) < 1e-6


def test_noise_is_added_in_fp32():
    latents, noise = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5)
    timesteps = torch.tensor([0, 500, 999])
    alphas = alphas_cumprod()
    noisy = add_noise(latents, noise, timesteps, alphas)
    assert noisy.dtype == torch.float32
    a = alphas.double()[timesteps].view(-1, 1, 1, 1)
    expected = a.sqrt() * latents.double() + (1 - a).sqrt() * noise.double()
    assert (noisy.double() - expected).abs().max() < 1e-6


def test_the_loss_of_a_picture_is_its_mean_squared_error():
    noise = torch.randn(2, 4, 3, 3)
    predicted = torch.randn(2, 4, 3, 3)
    losses = noise_losses(
        lambda *_, **__: SimpleNamespace(sample=predicted),
        torch.zeros_like(noise),
        noise,
        torch.tensor([3, 700]),
        torch.zeros(2, 77, 768),
        alphas_cumprod(),
    )
    expected = ((predicted.numpy().astype(float) - noise.numpy()) ** 2).mean(axis=(1, 2, 3))
    assert numpy.allclose(losses.numpy(), expected, rtol=1e-6)


def test_keyed_numbers_depend_on_the_key_alone():
    first = torch.rand(4, generator=keyed_generator(1, "step", 20, "pair"))
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=keyed_generator(1, "step", 20, "pair")))
    assert not torch.equal(first, torch.rand(4, generator=keyed_generator(1, "step", 21, "pair")))
