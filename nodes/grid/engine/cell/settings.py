"""The settings of one picture: their limits, and what they are called."""

from __future__ import annotations

from typing import Any

from ..errors import GridError

SIDE_STEP = 8
EVEN_STEP = 64
"""A side that this divides is halved evenly all the way down Stable Diffusion's UNet; models are
trained on such sizes.
"""
LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**64 - 1),
    "steps": (1, 10_000),
    "cfg": (0.0, 100.0),
    "width": (16, 16_384),
    "height": (16, 16_384),
    "clip_skip": (1, 12),
    "denoise": (0.01, 1.0),
    "batch_size": (1, 64),
}
"""Smallest and largest value: those of ComfyUI's stock nodes, and the twelve layers of SD1.5's text
encoder.
"""

STRONGEST = 100.0
"""The limit of LoraLoader, either way."""

Lora = tuple[str, float, float]
"""The file of a LoRA, and its strengths on the model and on the text encoder."""


REPLACES = {
    "prompt search and replace": "replace_in_prompt",
    "negative prompt search and replace": "replace_in_negative_prompt",
}
"""Targets that change a text that is set elsewhere, and the settings that say how: a list of
[search, replacement].
"""


def check_limits(values: dict[str, Any]) -> None:
    """Raise GridError for the first of these settings that is out of its limits."""
    for name, value in values.items():
        if name not in LIMITS:
            continue
        smallest, largest = LIMITS[name]
        words = name.replace("_", " ")
        if not smallest <= value <= largest:
            raise GridError(
                f"{words} {value} is out of range: give a number from {smallest} to {largest}."
            )
        if name in ("width", "height") and value % SIDE_STEP:
            near = max(int(smallest), round(value / SIDE_STEP) * SIDE_STEP)
            raise GridError(
                f"{words} {value} is not a multiple of {SIDE_STEP} pixels. The nearest is {near}."
            )


def clip_skip_label(clip_skip: int) -> str:
    """Clip skip in our count, which is A1111's, with ComfyUI's number and EveryDream2's behind it."""
    everydream = "0 or 1" if clip_skip == 1 else str(clip_skip)
    return f"clip skip {clip_skip} (ComfyUI -{clip_skip}, EveryDream2 {everydream})"


def lora_words(lora: Lora) -> str:
    """A LoRA as it is written on an axis: its file and strengths."""
    name, on_model, on_clip = lora
    return f"{name}:{on_model:g}" + (f":{on_clip:g}" if on_clip != on_model else "")
