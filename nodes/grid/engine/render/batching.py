"""Sampling several cells in one pass: each with its own noise, and only where no cell can change
another (`samplers.keeps_apart`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cell.samplers import WITH_NOISE_PER_SEED
from ..cell.settings import CellSettings
from ..cell.stock import StockCell, stock


def traits(settings: CellSettings) -> tuple[Any, ...]:
    """What cells must have in common to be sampled together, besides texts of equal length."""
    cell = stock(settings)
    return (
        cell.models,
        cell.width,
        cell.height,
        cell.steps,
        cell.cfg,
        cell.sampler,
        cell.scheduler,
        cell.denoise,
        cell.batch_size,
    )


def shape(positive: Any, negative: Any, latent: Any) -> tuple[Any, ...] | None:
    """What the inputs of two cells must have in common to be batched; None for inputs that cannot
    be.

    `positive` and `negative` are CONDITIONING, `latent` is LATENT.
    """
    shapes = []
    for conditioning in (positive, negative):
        if len(conditioning) != 1 or set(conditioning[0][1]) != {"pooled_output"}:
            return None
        tensor, others = conditioning[0]
        pooled = others["pooled_output"]
        shapes += [tuple(tensor.shape), None if pooled is None else tuple(pooled.shape)]
    if set(latent) - {"samples", "downscale_ratio_spacial"} or latent["samples"].shape[0] != 1:
        return None
    return (*shapes, tuple(latent["samples"].shape))


def sample(
    model: Any,
    cells: Sequence[StockCell],
    positives: Sequence[Any],
    negatives: Sequence[Any],
    latents: Sequence[Any],
) -> list[Any]:
    """The LATENT of every cell, sampled in one pass as KSampler would sample each alone. All must
    have the same `shape`.
    """
    import comfy.sample
    import comfy.utils
    import latent_preview
    import torch

    first = cells[0]
    starts: list[Any] = [
        comfy.sample.fix_empty_latent_channels(model, latent["samples"]) for latent in latents
    ]
    noises: list[Any] = [
        comfy.sample.prepare_noise(start, cell.seed)
        for start, cell in zip(starts, cells, strict=True)
    ]
    seeds = [cell.seed for cell in cells]
    sampled = comfy.sample.sample(
        model,
        torch.cat(noises),
        first.steps,
        first.cfg,
        first.sampler,
        first.scheduler,
        _joined(positives),
        _joined(negatives),
        torch.cat(starts),
        denoise=first.denoise,
        callback=latent_preview.prepare_callback(model, first.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seeds if first.sampler in WITH_NOISE_PER_SEED else first.seed,
    )
    return [{"samples": sampled[number : number + 1]} for number in range(len(cells))]


def _joined(conditionings: Sequence[Any]) -> list[Any]:
    import torch

    tensors = [conditioning[0][0] for conditioning in conditionings]
    pooled = [conditioning[0][1]["pooled_output"] for conditioning in conditionings]
    joined = None if any(one is None for one in pooled) else torch.cat(pooled)
    return [[torch.cat(tensors), {"pooled_output": joined}]]
