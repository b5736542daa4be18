"""The settings of one picture: what every kind of cell offers, the limits, and the words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ..errors import GridError


class CellSettings(Protocol):
    """All that decides one picture. `StockCell` is made by ComfyUI's stock nodes, `WorkflowCell` by
    the workflow of a person. Both are dataclasses.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def rendered_here(self) -> bool:
        """Whether Render Grid makes it in this process. Every cell can go through a queue."""
        ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def batch_size(self) -> int:
        """How many cells may be sampled in one pass; 1 is exact."""
        ...

    @property
    def recipe(self) -> str:
        """The JSON of the mix that is merged in memory for it, or ""."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """What must be in memory for it. Cells that need the same are rendered together."""
        ...

    @property
    def files(self) -> Sequence[tuple[str, str]]:
        """The kind and name of every file that decides it, as a plan's `contents` knows them."""
        ...

    @property
    def comfy_files(self) -> Sequence[tuple[str, str]]:
        """The same files by ComfyUI's folder."""
        ...

    @property
    def render_order(self) -> tuple[Any, ...]:
        """What cells are sorted by for rendering, the most costly change first."""
        ...

    @property
    def output(self) -> str:
        """The id of the node in its prompt that shows the picture."""
        ...

    def key(self, sha256_of: Callable[[str, str], str]) -> str:
        """Hex SHA-256 of all that decides it, with `sha256_of(kind, name)` for each file."""
        ...

    def check_files(self, contents: Mapping[str, Mapping[str, str]]) -> None:
        """Raise GridError if a file no longer has the content that `contents` has for its kind and
        name.
        """
        ...

    def api_prompt(self, prefix: str) -> dict[str, Any]:
        """What `POST /prompt` takes. Names of files that the output node writes begin with
        `prefix`.
        """
        ...

    def graphs(self, prefix: str) -> dict[str, Any]:
        """What its file carries so that ComfyUI can open it: "prompt", and "workflow" if there is
        one.
        """
        ...

    def to_json(self) -> dict[str, Any]: ...


SIDE_STEP = 8
EVEN_STEP = 64
"""Sides divisible by this are halved evenly all the way down Stable Diffusion's UNet. Models are
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
"""Targets that change a text which is set elsewhere, and the settings that say how, as [search,
replacement].
"""


def check_limits(values: dict[str, Any]) -> None:
    """Raise GridError for the first of these settings that is outside its limits."""
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


def lora_words(lora: Lora) -> str:
    """A LoRA as people write it on an axis: its file and strengths."""
    name, on_model, on_clip = lora
    return f"{name}:{on_model:g}" + (f":{on_clip:g}" if on_clip != on_model else "")
