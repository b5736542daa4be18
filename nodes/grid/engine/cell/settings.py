"""The settings of one picture, what limits them, and the key under which the picture is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from .....merge.recipe import ingredients, to_text
from .....trainer.files import canonical_json, sha256_text
from ..errors import GridError

FORMAT = 1
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


@dataclass(frozen=True)
class CellSettings:
    """All that decides one picture. `clip_skip` counts from the end: 1 is the last layer, ComfyUI's
    -1.

    `vae` is the file of a VAE, "" for the checkpoint's own. With `image`, a file of the input
    folder, sampling begins at that picture, scaled and cut to the size, and goes back by `denoise`.
    With a `batch_size` above 1 so many cells may be sampled in one pass: that can move the last
    bits of a picture, so such a cell is another one than the exact cell. With a `recipe`, the JSON
    of a mix, `checkpoint` is "".
    """

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
    vae: str = ""
    loras: tuple[Lora, ...] = ()
    image: str = ""
    denoise: float = 1.0
    batch_size: int = 1
    recipe: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        """What must be in memory for this picture: cells that need the same stand together."""
        return (self.recipe or self.checkpoint, *(lora_words(lora) for lora in self.loras))

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The checkpoint, or the ingredients of the recipe."""
        if not self.recipe:
            return (self.checkpoint,)
        from ..axes.mixes import read

        return tuple(dict.fromkeys(i.name for i in ingredients(read(self.recipe))))

    @property
    def model_words(self) -> str:
        """What the model is, in words: the checkpoint's name, or the recipe as text."""
        if not self.recipe:
            return self.checkpoint
        from ..axes.mixes import read

        return to_text(read(self.recipe))

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The kind and name of every file that decides the picture."""
        found = [("checkpoint", name) for name in self.checkpoints]
        found += [("vae", self.vae)] if self.vae else []
        found += [("lora", name) for name, on_model, on_clip in self.loras if on_model or on_clip]
        found += [("image", self.image)] if self.image else []
        return tuple(found)

    def key(self, sha256_of: Callable[[str, str], str]) -> str:
        """Hex SHA-256 of the settings, with the content of files in place of their names.

        `sha256_of(kind, name)` is the hash of a file. Settings that came later count only where
        they are set.
        """
        identity: dict[str, Any] = {"format": FORMAT}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in LATER or value != field.default:
                identity[field.name] = value
        identity["cfg"] = float(self.cfg)
        if self.recipe:
            from ..axes.mixes import content

            hashes = {name: sha256_of("checkpoint", name) for name in self.checkpoints}
            identity["recipe"] = content(self.recipe, hashes)
        for kind in ("checkpoint", "vae", "image"):
            if identity.get(kind):
                identity[kind] = sha256_of(kind, identity[kind])
        loras = [
            [sha256_of("lora", name), float(on_model), float(on_clip)]
            for name, on_model, on_clip in self.loras
            if on_model or on_clip
        ]
        identity.pop("loras", None)
        if identity.pop("batch_size", 1) > 1:
            identity["batched"] = True
        if loras:
            identity["loras"] = loras
        return sha256_text(canonical_json(identity))

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> CellSettings:
        """What `to_json` has given."""
        loras = tuple((name, *strengths) for name, *strengths in settings.get("loras", ()))
        return cls(**{**settings, "loras": loras})

    def to_json(self) -> dict[str, Any]:
        """The settings, of the later ones those that are set."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in LATER or value != DEFAULTS[name]
        }


LATER = ("vae", "loras", "image", "denoise", "batch_size", "recipe")
"""Settings that cells of older grids do not know."""

DEFAULTS = {field.name: field.default for field in fields(CellSettings) if field.name in LATER}


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
