"""Grids of stock nodes: fixed settings and axes of settings become cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from ..axes.axis import Axis, check_apart
from ..cell.samplers import keeps_apart
from ..cell.settings import EVEN_STEP, REPLACES, check_limits, lora_words
from ..cell.stock import StockCell
from ..errors import GridError
from .plan import MOST_CELLS, Cell, Plan, without_effect
from .rules import Rule, read_rules

NAMES = {
    "checkpoint": lambda cell: [cell.model_words],
    "prompt": lambda cell: [cell.prompt],
    "negative prompt": lambda cell: [cell.negative_prompt],
    "seed": lambda cell: [str(cell.seed)],
    "size": lambda cell: [f"{cell.width}x{cell.height}"],
    "width": lambda cell: [str(cell.width)],
    "height": lambda cell: [str(cell.height)],
    "clip skip": lambda cell: [str(cell.clip_skip)],
    "cfg": lambda cell: [f"{cell.cfg:g}"],
    "steps": lambda cell: [str(cell.steps)],
    "sampler": lambda cell: [cell.sampler],
    "scheduler": lambda cell: [cell.scheduler],
    "VAE": lambda cell: [cell.vae or "none"],
    "LoRA": lambda cell: [lora_words(lora) for lora in cell.loras] or ["none"],
    "denoise": lambda cell: [f"{cell.denoise:g}"],
}
"""What rules can ask a cell for, beside the labels of its values under the targets of the axes."""


def make_plan(
    name: str,
    fixed: Mapping[str, Any],
    axes: Sequence[Axis],
    sha256_of: Callable[[str, str], str],
    rules: str = "",
) -> Plan:
    """Resolve a grid. `fixed` holds the fields of `StockCell`; what an axis sets takes their
    place.

    `sha256_of(kind, name)` is asked once for every file, and raises GridError for one that is
    missing. `rules` holds a rule a line (`rules.read_rules`). Raises GridError for axes that set
    the same thing, too many cells, settings out of limits, no checkpoint, a text to replace that no
    prompt has, or rules that leave nothing.
    """
    check_apart(axes)
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS:
        raise GridError(
            f"The grid {name} would have {count:,} cells; {MOST_CELLS:,} is the most. Take values off its axes."
        )
    kept = _kept(fixed, axes)
    check_limits(kept)
    for axis in axes:
        for value in axis.values:
            check_limits(value.set)
    targets = [axis.target for axis in axes]
    read = read_rules(rules, dict.fromkeys([*NAMES, *targets]))
    contents: dict[str, dict[str, str]] = {}

    def content(kind: str, file: str) -> str:
        known = contents.setdefault(kind, {})
        if file not in known:
            known[file] = sha256_of(kind, file)
        return known[file]

    resolver = _Resolver(kept)
    used: set[Rule] = set()
    cells = []
    for position in itertools.product(*(range(len(axis.values)) for axis in axes)):
        values = [axis.values[number] for axis, number in zip(axes, position, strict=True)]
        settings = resolver.settings([value.set for value in values])
        labels = {axis.target: value.label for axis, value in zip(axes, values, strict=True)}
        leaving = [rule for rule in read if rule.leaves_out(_called(settings, labels))]
        if leaving:
            used.update(leaving)
            continue
        if not settings.checkpoint and not settings.recipe:
            raise GridError(
                f"The grid {name} has no checkpoint. Choose one on Grid Plan, or link an axis of checkpoints to it."
            )
        if settings.denoise != 1.0 and not settings.image:
            raise GridError(
                f"denoise {settings.denoise:g} needs an image to begin with. Choose one on Grid Plan, or leave denoise at 1."
            )
        cells.append(Cell(position, settings, settings.key(content)))
    if not cells:
        raise GridError(f"The rules of the grid {name} leave no cell. Take one away.")
    resolver.check_found()
    notes = [f'The rule "{rule.text}" leaves nothing out.' for rule in read if rule not in used]
    notes += without_effect(axes, cells)
    notes += _alone(kept, cells) + _uneven(cells)
    return Plan(name, kept, tuple(axes), tuple(cells), contents, read, tuple(notes))


class _Resolver:
    """Turns what the values of a cell set into its settings, and notes which search words were
    found.
    """

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept
        self.found: dict[tuple[str, str], bool] = {}

    def settings(self, sets: Iterable[dict[str, Any]]) -> StockCell:
        settings, replaces = dict(self.kept), []
        for setting in sets:
            for name, value in setting.items():
                if name in REPLACES.values():
                    replaces.append((name.removeprefix("replace_in_"), *value))
                else:
                    settings[name] = value
        for text, search, replacement in replaces:
            there = search in settings[text]
            self.found[text, search] = there or self.found.get((text, search), False)
            settings[text] = settings[text].replace(search, replacement)
        strength = settings.pop("lora_strength", None)
        if strength is not None:
            if not settings.get("loras"):
                raise GridError(
                    "An axis varies the strength of a LoRA, and there is none. Choose one on Grid Plan."
                )
            settings["loras"] = tuple((name, strength, strength) for name, *_ in settings["loras"])
        if settings.get("recipe"):
            settings["checkpoint"] = ""
        if settings.get("batch_size", 1) > 1 and not keeps_apart(settings["sampler"]):
            del settings["batch_size"]
        return StockCell(**settings)

    def check_found(self) -> None:
        for (text, search), there in self.found.items():
            if not there:
                raise GridError(
                    f"The search box says {search!r}, and no {text.replace('_', ' ')} has that. Write it as it stands there."
                )


def _kept(fixed: Mapping[str, Any], axes: Sequence[Axis]) -> dict[str, Any]:
    """The fixed settings that no axis sets for all its values, defaults included."""
    varied = {
        name
        for axis in axes
        for name in axis.values[0].set
        if all(name in value.set for value in axis.values)
    }
    kept = {}
    for field in fields(StockCell):
        if field.name in varied:
            continue
        if field.name in fixed:
            kept[field.name] = fixed[field.name]
        elif field.default is MISSING:
            raise GridError(
                f"The plan sets no {field.name.replace('_', ' ')}. Add it to the fixed settings."
            )
        if field.default is not MISSING and kept.get(field.name) == field.default:
            del kept[field.name]
    return kept


def _called(settings: StockCell, labels: dict[str, str]) -> Callable[[str], list[str]]:
    def called(name: str) -> list[str]:
        words = NAMES[name](settings) if name in NAMES else []
        return [*words, labels[name]] if name in labels else words

    return called


def _alone(kept: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    """A sentence about samplers whose cells are sampled one by one although batches were asked for."""
    if kept.get("batch_size", 1) == 1:
        return []
    alone = sorted({c.settings.sampler for c in cells if not keeps_apart(c.settings.sampler)})
    return (
        [f"Cells of {', '.join(alone)} are exact: in a batch they would change each other."]
        if alone
        else []
    )


def _uneven(cells: Sequence[Cell]) -> list[str]:
    """A sentence about sizes that the UNet cannot halve evenly."""
    sizes = sorted({(cell.settings.width, cell.settings.height) for cell in cells})
    uneven = [f"{w} x {h}" for w, h in sizes if w % EVEN_STEP or h % EVEN_STEP]
    if not uneven:
        return []
    return [
        f"Models are trained on sides that are multiples of {EVEN_STEP}, which these sizes have not: {', '.join(uneven)}."
    ]
