"""The settings of one picture, what limits them, and the key under which the picture is kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...trainer.files import canonical_json, sha256_text
from .errors import GridError

FORMAT = 1
SIDE_STEP = 8
LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**64 - 1),
    "steps": (1, 10_000),
    "cfg": (0.0, 100.0),
    "width": (16, 16_384),
    "height": (16, 16_384),
    "clip_skip": (1, 12),
}
"""Smallest and largest value: those of ComfyUI's stock nodes, and the twelve layers of SD1.5's text encoder."""


@dataclass(frozen=True)
class CellSettings:
    """All that decides one picture. `clip_skip` counts from the end: 1 is the last layer, ComfyUI's -1."""

    checkpoint: str
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    width: int
    height: int
    clip_skip: int

    @property
    def models(self) -> list[str]:
        """The model files that must be in memory for this picture: cells that need the same ones stand together."""
        return [self.checkpoint]

    def key(self, checkpoint_sha256: str) -> str:
        """Hex SHA-256 of the settings, with the checkpoint's content in place of its name."""
        identity = {"format": FORMAT, **asdict(self), "cfg": float(self.cfg)}
        identity["checkpoint"] = checkpoint_sha256
        return sha256_text(canonical_json(identity))


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
    """Clip skip in our count, with ComfyUI's number behind it."""
    return f"clip skip {clip_skip} (-{clip_skip})"
