"""One optimizer step: how its pairs are shown, their loss, and the update of the weights."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .data.buckets import Showing
from .data.captions import vary
from .data.manifest import Pair
from .errors import TrainerError
from .latents import Picture
from .loss import pair_losses
from .noise import draw_noise, draw_timestep, keyed_generator
from .optim.optimizers import base_rate, effective_rate, optimizer_settings
from .optim.schedules import range_factor, rate_factor

if TYPE_CHECKING:
    import torch

    from .training import Training


MEASURED = 4096
"""The size of an update is measured on about this many elements of a tensor."""


class NotFinite(TrainerError):
    """A loss or gradient is not finite."""


@dataclass(frozen=True)
class Choices:
    """What chance decides about one showing of a pair."""

    caption: str
    mirrored: bool
    variant: int
    dropped: bool


@dataclass(frozen=True)
class Batch:
    """This process' part of one batch, ready for the networks.

    `known` are the embeddings of its captions that were on disk, `count` is the number of pairs in
    the whole step, `places` says how much each place of the latents counts, None when all count
    whole. A batch that does not count (`counts`) stands in for one without pairs.
    """

    pairs: tuple[Pair, ...]
    choices: tuple[Choices, ...]
    known: dict[str, torch.Tensor]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    scales: torch.Tensor
    places: torch.Tensor | None
    count: int
    counts: bool


@dataclass
class StepResult:
    """The figures of a step. Losses are means over pairs, None where there was no such pair; the
    others are by part.
    """

    loss: float
    conditional: float | None
    unconditional: float | None
    pairs: int
    gradient_norms: dict[str, float] = field(default_factory=dict)
    update_ratios: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    effective_rates: dict[str, float] = field(default_factory=dict)
    skipped: bool = False


def choose(training: Training, showing: Showing, step: int) -> Choices:
    """Dropout, caption, mirroring and crop, a function of (seed, step, showing)."""
    settings, pair = training.run.settings, training.pairs[showing.pair]
    key = f"{settings.seed}/{step}/{showing.key}"
    draw = random.Random(f"{key}/choices")
    dropout = pair.conditional_dropout
    dropped = draw.random() < (settings.conditional_dropout if dropout is None else dropout)
    mirrored = draw.random() < pair.flip
    variant = draw.randrange(settings.data.crop_variants)
    caption = "" if dropped else vary(pair, training.caption_mix, f"{key}/caption")
    return Choices(caption, mirrored, variant, dropped)


def make_batches(training: Training, window: Sequence[Sequence[Showing]], step: int) -> list[Batch]:
    """This process' part of the batches of one step, a function of (seed, step, window); skipped
    pairs are left out.

    A process that gets no pair of a batch shows the batch's first one with weight 0, so that all
    processes make the same passes.
    """
    shown = [
        [showing for showing in batch if showing.pair not in training.skipped] for batch in window
    ]
    places = {
        showing: place
        for place, showing in enumerate(showing for batch in shown for showing in batch)
    }
    found = []
    for batch in shown:
        if own := training.workers.share(batch):
            found.append(_batch(training, own, step, places, counts=True))
        elif batch:
            found.append(_batch(training, batch[:1], step, places, counts=False))
    return found


def _batch(
    training: Training,
    showings: Sequence[Showing],
    step: int,
    places: dict[Showing, int],
    counts: bool,
) -> Batch:
    import torch

    settings = training.run.settings
    pairs = [training.pairs[showing.pair] for showing in showings]
    choices = [choose(training, showing, step) for showing in showings]
    pictures = [Picture(p, c.mirrored, c.variant) for p, c in zip(pairs, choices, strict=True)]
    latents = training.latents.load(pictures)
    noise, timesteps = [], []
    for showing in showings:
        generator = keyed_generator(settings.seed, "step", step, showing.key)
        place = (places[showing], len(places))
        timesteps.append(draw_timestep(generator, settings.loss, settings.seed, step, *place))
        noise.append(draw_noise(generator, tuple(latents.shape[1:]), settings.loss))
    scales = [pair.loss_scale if counts else 0.0 for pair in pairs]
    return Batch(
        tuple(pairs),
        tuple(choices),
        training.text.known([choice.caption for choice in choices]),
        latents,
        torch.stack(noise),
        torch.tensor(timesteps),
        torch.tensor(scales),
        training.masks.load(pictures) if training.masks else None,
        len(places),
        counts,
    )


def take_step(training: Training, batches: Sequence[Batch], step: int) -> StepResult:
    """Forward, backward and one update of the weights.

    Raises NotFinite when a loss or gradient is not finite, before it touches the weights.
    """
    workers = training.workers
    shown: list[tuple[float, bool]] = []
    for number, batch in enumerate(batches, start=1):
        with workers.apart(list(training.parts.values()), number == len(batches)):
            losses = _losses(training, batch)
            weighed = losses * batch.scales.to(losses.device)
            _check(training, batch, weighed.tolist(), step)
            workers.accelerator.backward(weighed.sum() * (workers.count / batch.count))
        if batch.counts:
            dropped = [choice.dropped for choice in batch.choices]
            shown += list(zip(weighed.tolist(), dropped, strict=True))
    shown = workers.gather(shown)
    result = StepResult(
        loss=_mean([loss for loss, _ in shown]) or 0.0,
        conditional=_mean([loss for loss, dropped in shown if not dropped]),
        unconditional=_mean([loss for loss, dropped in shown if dropped]),
        pairs=len(shown),
    )
    _move(training, step, result)
    return result


def _losses(training: Training, batch: Batch) -> torch.Tensor:
    """The loss of every pair of a batch, (batch,)."""
    device = training.workers.device
    captions = [choice.caption for choice in batch.choices]
    embeddings, mask = training.text.embed(captions, device, batch.known)
    return pair_losses(
        training.unet,
        batch.latents.to(device),
        batch.noise.to(device),
        batch.timesteps.to(device),
        embeddings,
        training.run.settings.loss,
        training.schedule,
        mask,
        None if batch.places is None else batch.places.to(device),
    )


def _check(training: Training, batch: Batch, losses: Sequence[float], step: int) -> None:
    wrong = [
        f"{pair.image} ({loss})"
        for pair, loss in zip(batch.pairs, losses, strict=True)
        if not math.isfinite(loss)
    ]
    if wrong := training.workers.gather(wrong):
        raise NotFinite(
            f"The loss of step {step + 1} is not finite; the weights are those from before it. "
            f"Lower the learning rate, or check these pairs: {', '.join(wrong[:10])}."
        )


def _move(training: Training, step: int, result: StepResult) -> None:
    """Clip the gradients of each part and let its optimizer update its weights.

    With fp16, gradients that overflow change nothing but the scale, which is lowered for the next
    step.
    """
    settings, scaler = training.run.settings, training.workers.accelerator.scaler
    if scaler is not None:
        for optimizer in training.optimizers.values():
            scaler.unscale_(optimizer)
    for name, parameters in training.trained.items():
        norm = _clip(parameters, settings.gradient_clip)
        if not math.isfinite(norm) and scaler is None:
            raise NotFinite(
                f"The gradient of the {name.replace('_', ' ')} in step {step + 1} is not finite; "
                "the weights are those from before it. Lower the learning rate."
            )
        result.gradient_norms[name] = norm
    result.skipped = not all(math.isfinite(norm) for norm in result.gradient_norms.values())
    measured = settings.logging.norms_every_steps
    for name, parameters in training.trained.items():
        optimizer = training.optimizers[name]
        schedule = optimizer_settings(name, settings)
        factor = (
            range_factor(settings.range_test, step)
            if settings.range_test.steps
            else rate_factor(schedule, step, training.total_steps)
        )
        rate = base_rate(name, settings) * factor
        for group in optimizer.param_groups:
            group["lr"] = rate
        result.rates[name] = rate
        before = _sampled(parameters) if measured and (step + 1) % measured == 0 else None
        if not result.skipped:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        effective = effective_rate(optimizer)
        if effective is not None:
            result.effective_rates[name] = effective
        if before is not None:
            result.update_ratios[name] = _ratio(before, _sampled(parameters))
    if scaler is not None:
        scaler.update()
    if training.ema is not None and not result.skipped:
        training.ema.update(step)


def _clip(parameters: dict[str, Any], limit: float) -> float:
    """The L2 norm of the gradients of a part, which are scaled down to the limit (0 = none) when it
    is larger.
    """
    import torch

    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit and norm > limit:
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), limit, norm)
    return float(norm)


def _sampled(parameters: dict[str, Any]) -> list[tuple[int, Any]]:
    """Evenly spread elements of every tensor, and how many each stands for: a copy of all weights
    would take a quarter more memory.
    """
    found = []
    for parameter in parameters.values():
        apart = max(1, parameter.numel() // MEASURED) | 1
        found.append((apart, parameter.detach().flatten()[::apart].clone()))
    return found


def _ratio(before: list[tuple[int, Any]], after: list[tuple[int, Any]]) -> float:
    """The L2 norm of an update divided by that of the weights, estimated from sampled elements."""
    moved = size = 0.0
    for (apart, old), (_, new) in zip(before, after, strict=True):
        moved += apart * (new - old).square().sum().item()
        size += apart * old.square().sum().item()
    return math.sqrt(moved / size) if size else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
