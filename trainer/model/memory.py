"""How much memory a run needs, estimated before it starts, and what to change if it is too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from ..optim.optimizers import optimizer_settings
from ..runs import Run
from ..settings.run_settings import RunSettings
from .single_file import UNET, read_shapes

STATE_BYTES = {
    "adamw": 8.0,
    "adamw 8 bit": 2.1,
    "lion": 4.0,
    "adafactor": 2.2,
    "d-adapt adam": 12.0,
    "d-adapt adan": 20.0,
    "d-adapt lion": 8.0,
    "d-adapt sgd": 12.0,
    "prodigy": 16.0,
    "schedule-free adamw": 8.0,
}
"""Bytes of optimizer state for each trained parameter, counted in the optimizers' states. Adafactor
keeps next to nothing for a matrix, but for a 3x3 convolution 2/3 and for a 1x1 twice its weights:
2.13 in SD1.5's UNet.
"""
PLACE_BYTES = {"fp32": 457_000, "bf16": 230_000, "fp16": 230_000}
"""Bytes that SD1.5's UNet keeps for the backward pass for each place of the latent, counted in the
tensors that autograd saves at 512 and 768 px and batches of 1 and 4.
"""
CAPTION_BYTES = {"fp32": 57_000_000, "bf16": 34_000_000, "fp16": 34_000_000}
"""The same for the text encoder, for each caption of 77 tokens."""
CHECKPOINTED = 0.27
"""Share of that with gradient checkpointing: 0.165 is kept, and the largest block (about 0.1) is
computed again.
"""
SD15_UNET = 859_520_964
SMALLER = 0.2
"""What a smaller UNet keeps is proportional to this power of its size, measured on the miniatures
of 26 to 111 M weights.
"""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that each part takes at a run's peak, when the VAE is no longer in memory."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.ema + self.activations

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "EMA": self.ema,
            "activations (about)": self.activations,
        }
        listed = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size)
        return f"{self.total / 1e9:.1f} GB: {listed}"


def trained_counts(shapes: Mapping[str, tuple[int, ...]], settings: RunSettings) -> dict[str, int]:
    """Trained parameters by part; frozen layers of a part that is trained are counted too."""
    prefixes = {"unet": UNET, "text_encoder": "cond_stage_model."}
    wanted = {"unet": settings.layers.train_unet, "text_encoder": settings.train_text_encoder}
    return {
        part: sum(prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
        for part, prefix in prefixes.items()
        if wanted[part]
    }


def state_bytes(counts: Mapping[str, int], settings: RunSettings) -> int:
    """Bytes of the optimizers' state for trained parameters by part."""
    return int(
        sum(
            count * STATE_BYTES[optimizer_settings(part, settings).optimizer]
            for part, count in counts.items()
        )
    )


def estimate(shapes: Mapping[str, tuple[int, ...]], settings: RunSettings) -> MemoryUse:
    """The memory of a run on a base with these tensor shapes.

    Weights, gradients and moments are counted; what the backward pass needs grows with the
    pictures' area and the batch, and was counted for SD1.5. In half precision it includes a copy
    of the weights. What an operation needs only while it runs is left out.
    """
    counts = trained_counts(shapes, settings)
    trained = sum(counts.values())
    total = sum(prod(s) for n, s in shapes.items() if n.startswith((UNET, "cond_stage_model.")))
    unet = sum(prod(shape) for name, shape in shapes.items() if name.startswith(UNET))
    places = (settings.resolution // 8) ** 2 * settings.batch_size
    size = min(1.0, (unet / SD15_UNET) ** SMALLER)
    activations = places * PLACE_BYTES[settings.precision] * size
    if settings.train_text_encoder:
        captions = settings.batch_size * settings.data.text_chunks
        activations += captions * CAPTION_BYTES[settings.precision]
    if settings.compute.gradient_checkpointing:
        activations *= CHECKPOINTED
    elif settings.precision != "fp32":
        activations += 2 * (total if settings.train_text_encoder else unet)
    return MemoryUse(
        weights=4 * total,
        gradients=4 * trained,
        optimizer=state_bytes(counts, settings),
        ema=4 * trained if settings.ema.decay else 0,
        activations=int(activations),
    )


def lighter(settings: RunSettings) -> list[tuple[str, RunSettings]]:
    """Settings that need less and less memory, the least painful first, each with what changed."""
    found: list[tuple[str, RunSettings]] = []
    changed: list[str] = []

    def change(words: str, now: RunSettings) -> RunSettings:
        changed.append(words)
        found.append((", ".join(changed), now))
        return now

    if not settings.compute.gradient_checkpointing:
        compute = replace(settings.compute, gradient_checkpointing=True)
        settings = change("gradient checkpointing on", replace(settings, compute=compute))
    while settings.batch_size > 1:
        batch, times = settings.batch_size // 2, settings.data.accumulate * 2
        data = replace(settings.data, accumulate=times)
        if changed and changed[-1].startswith("batch size"):
            changed.pop()
        settings = change(
            f"batch size {batch} with {times} accumulated",
            replace(settings, batch_size=batch, data=data),
        )
    if settings.train_text_encoder and settings.layers.train_unet:
        settings = change("text encoder not trained", replace(settings, train_text_encoder=False))
    return found


def out_of_memory_advice(run: Run) -> str:
    """What to say when a run has run out of memory: its needs, and settings that would fit."""
    shapes = read_shapes(Path(run.base.path))
    needed = estimate(shapes, run.settings)
    available = _available_bytes()
    for words, settings in lighter(run.settings):
        if estimate(shapes, settings).total <= 0.9 * available:
            advice = f"These settings should fit: {words}."
            break
    else:
        advice = (
            "Choose an optimizer with less state (adamw 8 bit, lion), a smaller resolution, "
            "or a machine with more memory."
        )
    return (
        f"Out of memory. The run needs about {needed}; this machine has {available / 1e9:.1f} GB. "
        f"{advice}"
    )


def _available_bytes() -> int:
    """Memory of the GPU, or of the machine if it has none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    import psutil

    return psutil.virtual_memory().total
