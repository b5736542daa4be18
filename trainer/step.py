"""One optimizer step: what its showings look like, their loss, and the move of the weights."""

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
from .optimizers import effective_rate
from .schedules import rate_factor

if TYPE_CHECKING:
    import torch

    from .training import Training


@dataclass(frozen=True)
class Choices:
    """How one showing looks: what is drawn before the picture is known."""

    caption: str
    mirrored: bool
    variant: int
    dropped: bool


@dataclass(frozen=True)
class Batch:
    """This process' part of one batch, ready for the networks.

    `count` is the number of pairs in the whole step, `counts` whether this batch is more than a stand-in.
    """

    pairs: tuple[Pair, ...]
    choices: tuple[Choices, ...]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    scales: torch.Tensor
    count: int
    counts: bool


@dataclass
class StepResult:
    """What a step came to. Losses are means over pairs, None where there was no such pair; the rest is by part."""

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
    """Dropout, caption, mirroring and crop as a function of (seed, step, showing)."""
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
    """This process' part of the batches of one step, a function of (seed, step, window); skipped pairs are left out.

    A process that gets no pair of a batch shows its first one for nothing, so that all take the same passes.
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
        latents,
        torch.stack(noise),
        torch.tensor(timesteps),
        torch.tensor(scales),
        len(places),
        counts,
    )


def take_step(training: Training, batches: Sequence[Batch], step: int) -> StepResult:
    """Forward, backward and one move of the weights.

    Raises TrainerError before a loss or a gradient that is not finite touches the weights.
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
    embeddings, mask = training.text.embed([choice.caption for choice in batch.choices], device)
    return pair_losses(
        training.unet,
        batch.latents.to(device),
        batch.noise.to(device),
        batch.timesteps.to(device),
        embeddings,
        training.run.settings.loss,
        training.schedule,
        mask,
    )


def _check(training: Training, batch: Batch, losses: Sequence[float], step: int) -> None:
    wrong = [
        f"{pair.image} ({loss})"
        for pair, loss in zip(batch.pairs, losses, strict=True)
        if not math.isfinite(loss)
    ]
    if wrong := training.workers.gather(wrong):
        raise TrainerError(
            f"The loss of step {step + 1} is not finite; the weights are as they were before it. Lower the learning rate, "
            f"or look at these pairs: {', '.join(wrong[:10])}."
        )


def _move(training: Training, step: int, result: StepResult) -> None:
    """Clip the gradients of each part and let its optimizer move its weights."""
    settings, accelerator = training.run.settings, training.workers.accelerator
    scaler = accelerator.scaler
    for name in training.parts:
        parameters = training.trained[name]
        limit = settings.gradient_clip or math.inf
        norm = float(accelerator.clip_grad_norm_(parameters.values(), limit))
        if not math.isfinite(norm) and scaler is None:
            raise TrainerError(
                f"The gradient of the {name.replace('_', ' ')} in step {step + 1} is not finite; the weights are as they were "
                "before it. Lower the learning rate."
            )
        result.gradient_norms[name] = norm
        optimizer = training.optimizers[name]
        factor = rate_factor(training.optimizer_settings(name), step, training.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = training.base_rate(name) * factor
        measured = settings.logging.norms_every_steps
        before = (
            {key: value.detach().clone() for key, value in parameters.items()}
            if measured and (step + 1) % measured == 0
            else None
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        result.rates[name] = training.base_rate(name) * factor
        effective = effective_rate(bare(optimizer))
        if effective is not None:
            result.effective_rates[name] = effective
        if before is not None:
            result.update_ratios[name] = _ratio(before, parameters)
        result.skipped = result.skipped or accelerator.optimizer_step_was_skipped
    if training.ema is not None and not result.skipped:
        training.ema.update(step)


def bare(optimizer: Any) -> Any:
    """The optimizer that accelerate has wrapped."""
    return getattr(optimizer, "optimizer", optimizer)


def _ratio(before: dict[str, Any], after: dict[str, Any]) -> float:
    """The L2 norm of an update against that of the weights."""
    moved = sum(
        (after[name].detach() - value).square().sum().item() for name, value in before.items()
    )
    size = sum(value.square().sum().item() for value in before.values())
    return math.sqrt(moved / size) if size else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
