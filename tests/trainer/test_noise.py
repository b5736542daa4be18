"""The noise schedule, the draws and the loss, against independent float64 arithmetic."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy
import pytest
import torch

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.loss import Schedule, pair_losses
from cocktail.trainer.noise import (
    add_noise,
    alphas_cumprod,
    draw_noise,
    draw_timestep,
    keyed_generator,
)
from cocktail.trainer.settings.groups import LossSettings

BETAS = numpy.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=numpy.float64) ** 2
ALPHAS = numpy.cumprod(1 - BETAS)
TIMESTEPS = [0, 20, 147, 500, 998]


def test_the_schedule_is_sd15s():
    assert numpy.abs(alphas_cumprod().numpy() - ALPHAS).max() < 1e-7
    assert abs(ALPHAS[0] - 0.99915) < 1e-5 and abs(ALPHAS[999] - 0.004660) < 1e-6


def test_zero_terminal_snr_ends_in_pure_noise_and_begins_as_before():
    alphas = alphas_cumprod(zero_terminal=True).numpy()
    root = numpy.sqrt(ALPHAS)
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    assert numpy.abs(alphas - expected).max() < 1e-7
    assert alphas[-1] == 0 and abs(alphas[0] - ALPHAS[0]) < 1e-7


def test_noise_is_added_in_fp32():
    latents, noise = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5)
    timesteps = torch.tensor([0, 500, 999])
    alphas = Schedule(LossSettings(), "cpu").alphas
    noisy = add_noise(latents, noise, timesteps, alphas)
    assert noisy.dtype == torch.float32
    a = alphas.double()[timesteps].view(-1, 1, 1, 1)
    expected = a.sqrt() * latents.double() + (1 - a).sqrt() * noise.double()
    assert (noisy.double() - expected).abs().max() < 1e-6


def reference_loss(z, n, y, t: int, s: dict) -> float:
    """The loss of one picture in float64; z latents, n noise, y the network's answer."""
    alphas = ALPHAS
    if s.get("zero_terminal_snr"):
        root = numpy.sqrt(ALPHAS)
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    a = alphas[t]
    velocity = s.get("prediction") == "v-prediction"
    wanted = math.sqrt(a) * n - math.sqrt(1 - a) * z if velocity else n
    d = y - wanted
    mse = d**2
    huber = numpy.where(numpy.abs(d) < 1, d**2 / 2, numpy.abs(d) - 0.5)
    kind = s.get("kind", "mse")
    if kind == "pseudo-huber":
        c0 = s.get("huber_c", 0.1)
        c = {
            "constant": c0,
            "exponential": c0 ** (t / 1000),
            "snr": (1 - c0) / (1 + math.sqrt((1 - a) / a)) ** 2 + c0,
        }[s.get("huber_schedule", "snr")]
        loss = 2 * c * (numpy.sqrt(d**2 + c**2) - c)
    else:
        share = t / 1000
        loss = {
            "mse": mse,
            "huber": huber,
            "mse to huber": (1 - share) * mse + share * huber,
            "huber to mse": share * mse + (1 - share) * huber,
        }[kind]
    snr = a / (1 - a)
    weight = 1.0
    if gamma := s.get("min_snr_gamma"):
        weight = min(snr, gamma) / (snr + velocity)
    elif s.get("debiased"):
        weight = 1 / (snr + 1) if velocity else 1 / math.sqrt(min(snr, 1000))
    return float(weight * loss.mean())


OPTIONS = [
    {},
    {"prediction": "v-prediction"},
    {"prediction": "v-prediction", "zero_terminal_snr": True},
    {"kind": "huber"},
    {"kind": "mse to huber"},
    {"kind": "huber to mse"},
    *({"kind": "pseudo-huber", "huber_schedule": s} for s in ("constant", "exponential", "snr")),
    {"kind": "pseudo-huber", "huber_c": 0.5},
    {"min_snr_gamma": 5.0},
    {"min_snr_gamma": 1.0, "prediction": "v-prediction"},
    {"debiased": True},
    {"debiased": True, "prediction": "v-prediction"},
    {"kind": "huber", "min_snr_gamma": 5.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_loss_is_its_formula(options):
    torch.manual_seed(3)
    shape = (len(TIMESTEPS), 4, 3, 5)
    latents, noise, answer = torch.randn(shape), torch.randn(shape), 2 * torch.randn(shape)
    settings = LossSettings(**options)
    seen = {}

    def unet(noisy, timesteps, **given):
        seen["noisy"] = noisy
        return SimpleNamespace(sample=answer)

    losses = pair_losses(
        unet,
        latents,
        noise,
        torch.tensor(TIMESTEPS),
        torch.zeros(len(TIMESTEPS), 77, 768),
        settings,
        Schedule(settings, "cpu"),
    )
    expected = [
        reference_loss(z.numpy().astype(float), n.numpy(), y.numpy(), t, options)
        for z, n, y, t in zip(latents, noise, answer, TIMESTEPS, strict=True)
    ]
    assert losses.dtype == torch.float32
    assert numpy.allclose(losses.numpy(), expected, rtol=2e-5)
    assert seen["noisy"].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"zero_terminal_snr": True}, "needs loss.prediction v-prediction"),
        ({"debiased": True, "min_snr_gamma": 5.0}, "not both"),
        ({"timestep_start": 500, "timestep_end": 500}, "must be above loss.timestep_start"),
    ],
)
def test_losses_that_make_no_sense_are_refused(options, words):
    with pytest.raises(TrainerError, match=words):
        LossSettings(**options)


def draws(settings: LossSettings, count: int = 4000) -> numpy.ndarray:
    return numpy.array(
        [
            draw_timestep(keyed_generator(1, "t", n), settings, 1, n // 8, n % 8, 8)
            for n in range(count)
        ]
    )


def test_noise_levels_stay_in_their_range_and_spread_as_asked():
    uniform = draws(LossSettings(timestep_start=100, timestep_end=300))
    assert uniform.min() >= 100 and uniform.max() < 300 and abs(uniform.mean() - 199.5) < 5
    middle = draws(LossSettings(timestep_sampling="logit-normal"))
    assert numpy.mean((middle > 250) & (middle < 750)) > 0.7
    stratified = draws(LossSettings(timestep_sampling="stratified")).reshape(-1, 8)
    assert all(sorted(step // 125) == list(range(8)) for step in stratified)


def test_extra_noise_has_the_size_that_its_formula_gives():
    def noise(settings: LossSettings) -> torch.Tensor:
        return torch.stack(
            [draw_noise(keyed_generator(2, "n", n), (4, 32, 32), settings) for n in range(200)]
        )

    white, offset = noise(LossSettings()), noise(LossSettings(offset_noise=0.5))
    means = offset.mean(dim=(2, 3))
    assert means.var() == pytest.approx(0.25 + 1 / 1024, rel=0.15)
    assert offset.var() == pytest.approx(1.25, rel=0.05)
    assert torch.equal(white[0], torch.randn(4, 32, 32, generator=keyed_generator(2, "n", 0)))
    pyramid = noise(LossSettings(pyramid_noise=0.8))
    assert torch.allclose(pyramid.std(dim=(1, 2, 3)), torch.ones(200), atol=1e-4)
    coarse = torch.nn.functional.avg_pool2d(pyramid, 8).std()
    assert coarse > 2 * torch.nn.functional.avg_pool2d(white, 8).std()


def test_keyed_numbers_depend_on_the_key_alone():
    first = torch.rand(4, generator=keyed_generator(1, "step", 20, "pair"))
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=keyed_generator(1, "step", 20, "pair")))
    assert not torch.equal(first, torch.rand(4, generator=keyed_generator(1, "step", 21, "pair")))
