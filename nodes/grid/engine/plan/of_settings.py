"""Grids of stock nodes: fixed settings and axes of settings become a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ..axes.axis import Axis, Value, check_apart, replacement
from ..cell.samplers import keeps_apart
from ..cell.settings import EVEN_STEP, check_limits, lora_words
from ..cell.stock import StockCell
from ..errors import GridError
from .plan import Plan
from .replacing import Searches
from .resolve import check_count, resolve
from .rules import read_rules

NAMES: dict[str, Callable[[StockCell], list[str]]] = {
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
    missing. `rules` holds one rule per line (`rules.read_rules`). Raises GridError for axes that
    set the same thing, too many cells, settings out of limits, no checkpoint, a text to replace
    that no prompt has, or rules that leave nothing.
    """
    check_apart(axes)
    check_count(name, axes)
    _check_settings(axes)
    kept = _kept(fixed, axes)
    check_limits(kept)
    for axis in axes:
        for value in axis.values:
            check_limits(value.set)
    read = read_rules(rules, dict.fromkeys([*NAMES, *(axis.target for axis in axes)]), axes)
    maker = _StockMaker(name, kept)
    found = resolve(name, axes, read, maker, sha256_of)
    maker.searches.check()
    notes = found.notes + _alone(kept, found.settings) + _uneven(found.settings)
    return Plan(name, kept, tuple(axes), found.cells, found.contents, read, tuple(notes))


@dataclass(frozen=True)
class _StockMaker:
    """Turns what the values of a cell set into its settings."""

    name: str
    kept: dict[str, Any]
    searches: Searches = field(default_factory=Searches)

    def settings(self, values: Sequence[Value]) -> StockCell:
        settings: dict[str, Any] = dict(self.kept)
        replaces: dict[str, dict[str, str]] = {}
        for value in values:
            for name, one in value.set.items():
                if pair := replacement(name, one):
                    replaces.setdefault(name.removeprefix("replace_in_"), {})[pair[0]] = pair[1]
                else:
                    settings[name] = one
        for text, given in replaces.items():
            settings[text] = self.searches.replaced(text, settings[text], given)
        strength = settings.pop("lora_strength", None)
        if strength is not None:
            if not settings.get("loras") and not any("loras" in value.set for value in values):
                raise GridError(
                    "An axis varies the strength of a LoRA, but there is no LoRA. Choose one on"
                    " Grid Plan."
                )
            settings["loras"] = tuple((name, strength, strength) for name, *_ in settings["loras"])
        if settings.get("recipe"):
            settings["checkpoint"] = ""
        if settings.get("batch_size", 1) > 1 and not keeps_apart(settings["sampler"]):
            del settings["batch_size"]
        return StockCell(**settings)

    def words(self, settings: StockCell, name: str, value: Value | None) -> list[str]:
        words = NAMES[name](settings) if name in NAMES else []
        return words if value is None else [*words, value.label]

    def check(self, settings: StockCell) -> None:
        if not settings.checkpoint and not settings.recipe:
            raise GridError(
                f"The grid {self.name} has no checkpoint. Choose one on Grid Plan, or link an axis"
                " of checkpoints to it."
            )
        if settings.denoise != 1.0 and not settings.image:
            raise GridError(
                f"denoise {settings.denoise:g} needs an image to start from. Choose one on Grid"
                " Plan, or leave denoise at 1."
            )


def _check_settings(axes: Sequence[Axis]) -> None:
    """Refuse axes of inputs of nodes, which only a plan over a workflow has."""
    for axis in axes:
        for name in sorted(axis.settings):
            if "." in name:
                raise GridError(
                    f"{name} is an input of a node, but this grid has no workflow. Use Grid Plan "
                    'of This Workflow, or give the plan a "workflow".'
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
    for setting in fields(StockCell):
        if setting.name in varied:
            continue
        if setting.name in fixed:
            kept[setting.name] = fixed[setting.name]
        elif setting.default is MISSING:
            raise GridError(
                f"The plan sets no {setting.name.replace('_', ' ')}. Add it to the fixed settings."
            )
        if setting.default is not MISSING and kept.get(setting.name) == setting.default:
            del kept[setting.name]
    return kept


def _alone(kept: Mapping[str, Any], settings: Sequence[StockCell]) -> list[str]:
    """A sentence about samplers whose cells are sampled one by one although batches were asked
    for.
    """
    alone = sorted({one.sampler for one in settings if not keeps_apart(one.sampler)})
    if kept.get("batch_size", 1) == 1 or not alone:
        return []
    return [f"Cells of {', '.join(alone)} are exact: in a batch they would change each other."]


def _uneven(settings: Sequence[StockCell]) -> list[str]:
    """A sentence about sizes that the UNet cannot halve evenly."""
    sizes = sorted({(one.width, one.height) for one in settings})
    uneven = [f"{w} x {h}" for w, h in sizes if w % EVEN_STEP or h % EVEN_STEP]
    if not uneven:
        return []
    return [
        f"Models are trained on sides that are multiples of {EVEN_STEP}; these sizes are not:"
        f" {', '.join(uneven)}."
    ]
