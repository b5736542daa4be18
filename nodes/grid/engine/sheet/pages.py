"""What one sheet shows: the pages of a plan, with the first axis as columns, the second as rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .....trainer.settings.text import clip_skip_words
from ..axes.axis import Axis
from ..cell.settings import lora_words
from ..plan.plan import Cell, Plan


@dataclass(frozen=True)
class Page:
    """What one sheet shows: `cells[row][column]`, and the settings that all of them share."""

    title: str
    subtitle: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    """None where a rule leaves the cell out."""
    marked: frozenset[str] = frozenset()
    """Keys of the cells that get a star: they were made with other numerics than most."""


def make_pages(plan: Plan) -> list[Page]:
    """The pages of a plan, in the order of the third and further axes."""
    columns = _labels(plan.axes, 0)
    rows = _labels(plan.axes, 1)
    further = plan.axes[2:]
    at = {cell.position: cell for cell in plan.cells}
    fixed = fixed_words(plan.fixed)
    pages = []
    for place in itertools.product(*(range(len(axis.values)) for axis in further)):
        words = [axis.values[number].label for axis, number in zip(further, place, strict=True)]
        cells = tuple(
            tuple(at.get((column, row, *place)[: len(plan.axes)]) for column in range(len(columns)))
            for row in range(len(rows))
        )
        if any(cell is not None for row in cells for cell in row):
            pages.append(Page(" · ".join([plan.name, *words]), fixed, columns, rows, cells))
    return pages


def fixed_words(fixed: dict[str, Any]) -> str:
    """The settings that all cells share, as one line."""
    words = []
    if fixed.get("checkpoint"):
        words.append(fixed["checkpoint"])
    if fixed.get("prompt"):
        words.append(fixed["prompt"])
    if fixed.get("negative_prompt"):
        words.append(f"negative: {fixed['negative_prompt']}")
    if "seed" in fixed:
        words.append(f"seed {fixed['seed']}")
    if "width" in fixed:
        words.append(f"{fixed['width']} x {fixed['height']}")
    if "steps" in fixed:
        words.append(f"{fixed['steps']} steps")
    if "cfg" in fixed:
        words.append(f"cfg {fixed['cfg']:g}")
    words += [fixed[name] for name in ("sampler", "scheduler") if name in fixed]
    if fixed.get("batch_size", 1) > 1:
        words.append(f"batches of {fixed['batch_size']}")
    if "clip_skip" in fixed:
        words.append(clip_skip_words(fixed["clip_skip"]))
    words += [fixed["vae"]] if "vae" in fixed else []
    words += [lora_words(lora) for lora in fixed.get("loras", ())]
    words += [f"from {fixed['image']}"] if "image" in fixed else []
    words += [f"denoise {fixed['denoise']:g}"] if "denoise" in fixed else []
    words += [f"{name} {value}" for name, value in fixed.items() if "." in name]
    return " · ".join(words)


def _labels(axes: Sequence[Axis], number: int) -> tuple[str, ...]:
    return tuple(value.label for value in axes[number].values) if number < len(axes) else ("",)
