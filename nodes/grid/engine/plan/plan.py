"""A plan: fixed settings, axes and rules, resolved to cells before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any

from ..axes.typed import REPLACES, Axis, Choices, axis_from_json, check_apart, checked, text_of
from ..cell.settings import EVEN_STEP, CellSettings, check_limits, lora_words
from ..errors import GridError
from ..render import batching
from .rules import Rule, read_rules

FORMAT = 1
MOST_CELLS = 20_000

RENDER_ORDER = (
    ("checkpoint", "recipe"),
    ("loras",),
    ("prompt",),
    ("negative_prompt",),
    ("clip_skip",),
    ("width", "height", "image"),
    ("steps", "cfg", "sampler", "scheduler", "denoise"),
    ("seed",),
    ("vae",),
)
"""What cells are ordered by when they are rendered, the dearest change first. A VAE only decodes
the same latent again.
"""

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


@dataclass(frozen=True)
class Cell:
    """One picture of a grid. `position` holds its value's number on every axis, counted from 0."""

    position: tuple[int, ...]
    settings: CellSettings
    key: str


@dataclass(frozen=True)
class Plan:
    """A resolved grid. `cells` are in display order: the last axis changes fastest."""

    name: str
    fixed: dict[str, Any]
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    contents: dict[str, dict[str, str]]
    """SHA-256 of files by kind and name, as they were when the plan was made."""
    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()
    """What the person should know: values that change nothing, rules that leave nothing out."""
    workflow: dict[str, Any] | None = None
    """Of a grid over any workflow: its API prompt. Its cells have `template.WorkflowCell` as
    settings.
    """
    output: str = ""
    """The node of that workflow whose pictures the cells are."""

    @cached_property
    def render_order(self) -> tuple[Cell, ...]:
        """Every different picture once, in the order with the fewest loads and the fewest changes
        of text.

        All of a checkpoint stand together, in these all of a prompt, in these all of a clip skip
        and so on, seeds last.
        """
        pictures: dict[str, Cell] = {}
        for cell in self.cells:
            pictures.setdefault(cell.key, cell)
        cells = list(pictures.values())
        ranks: list[dict[Any, int]] = [{} for _ in _traits(cells[0])]
        for cell in cells:
            for seen, traits in zip(ranks, _traits(cell), strict=True):
                seen.setdefault(traits, len(seen))

        def rank(cell: Cell) -> list[int]:
            return [seen[traits] for traits, seen in zip(_traits(cell), ranks, strict=True)]

        return tuple(sorted(cells, key=rank))

    @property
    def repeats(self) -> int:
        """How many cells show a picture that another cell shows too, such as those of checkpoints
        with the same content.
        """
        return len(self.cells) - len(self.render_order)

    @property
    def left_out(self) -> int:
        """How many cells the rules leave out."""
        return math.prod(len(axis.values) for axis in self.axes) - len(self.cells)

    def size_words(self) -> str:
        """The number of cells, and how it comes about: "12 cells (3 x checkpoint, 4 x seed)"."""
        parts = ", ".join(f"{len(axis.values)} x {axis.target}" for axis in self.axes)
        less = f", {self.left_out} left out" if self.left_out else ""
        return f"{len(self.cells)} cells ({parts}{less})"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "fixed": self.fixed,
            "axes": [axis.to_json() for axis in self.axes],
            "rules": [rule.text for rule in self.rules],
            "contents": self.contents,
            **({"workflow": self.workflow, "output": self.output} if self.workflow else {}),
            "cells": [
                {"position": cell.position, "key": cell.key, "settings": cell.settings.to_json()}
                for cell in self.cells
            ],
        }


def make_plan(
    name: str,
    fixed: Mapping[str, Any],
    axes: Sequence[Axis],
    sha256_of: Callable[[str, str], str],
    rules: str = "",
) -> Plan:
    """Resolve a grid. `fixed` holds the fields of `CellSettings`; what an axis sets takes their
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


def plan_from_json(described: Any, choices: Choices, sha256_of: Callable[[str, str], str]) -> Plan:
    """The plan of a JSON object: "name", "fixed", "axes", and if wanted "rules" (a list or a text
    with one a line).

    What `Plan.to_json` gives is such an object; its cells are resolved anew. Raises GridError.
    """
    if not isinstance(described, dict):
        raise GridError('A plan is an object with "name", "fixed" and "axes".')
    if described.get("format", FORMAT) != FORMAT:
        raise GridError(
            f"This plan has format {described['format']}; this version of the pack reads {FORMAT}. Update the pack."
        )
    unknown = set(described) - {
        "format",
        "name",
        "fixed",
        "axes",
        "rules",
        "contents",
        "cells",
        "workflow",
        "output",
    }
    if unknown:
        raise GridError(f"A plan has no {', '.join(sorted(unknown))}.")
    if "workflow" in described:
        return _workflow_plan(described, choices)
    axes, fixed, rules = (described.get(part) for part in ("axes", "fixed", "rules"))
    if not isinstance(axes, list) or not axes:
        raise GridError('A plan needs "axes", a list with at least one.')
    if not isinstance(fixed, dict):
        raise GridError('A plan needs "fixed", an object with the settings of all cells.')
    found = [axis_from_json(axis, number, choices) for number, axis in enumerate(axes, start=1)]
    try:
        settings = checked(fixed)
    except GridError as error:
        raise GridError(f"Fixed settings: {error}") from None
    for target in ("sampler", "scheduler"):
        for value in [settings.get(target), *(v.set.get(target) for a in found for v in a.values)]:
            if value is not None and choices.get(target) and value not in choices[target]:
                raise GridError(
                    f"There is no {target} {value!r}. There are: {', '.join(choices[target])}."
                )
    return make_plan(
        str(described.get("name", "")), settings, found, sha256_of, text_of(rules, "rules")
    )


def _workflow_plan(described: dict[str, Any], choices: Choices) -> Plan:
    from .of_workflow import workflow_plan

    axes, fixed, rules = (described.get(part) for part in ("axes", "fixed", "rules"))
    if not isinstance(axes, list) or not axes:
        raise GridError('A plan needs "axes", a list with at least one.')
    if not isinstance(fixed or {}, dict):
        raise GridError('"fixed" must be an object with a value for each NODE.INPUT that it sets.')
    return workflow_plan(
        str(described.get("name", "")),
        described["workflow"],
        [axis_from_json(axis, number, choices) for number, axis in enumerate(axes, start=1)],
        fixed or {},
        text_of(rules, "rules"),
        str(described.get("output") or ""),
    )


class _Resolver:
    """Turns what the values of a cell set into its settings, and notes which search words were
    found.
    """

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept
        self.found: dict[tuple[str, str], bool] = {}

    def settings(self, sets: Iterable[dict[str, Any]]) -> CellSettings:
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
        if settings.get("batch_size", 1) > 1 and not batching.keeps_apart(settings["sampler"]):
            del settings["batch_size"]
        return CellSettings(**settings)

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
    for field in fields(CellSettings):
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


def _called(settings: CellSettings, labels: dict[str, str]) -> Callable[[str], list[str]]:
    def called(name: str) -> list[str]:
        words = NAMES[name](settings) if name in NAMES else []
        return [*words, labels[name]] if name in labels else words

    return called


def without_effect(axes: Sequence[Axis], cells: Sequence[Cell]) -> list[str]:
    """Sentences about values of one axis that give the same pictures, whatever the other axes say."""
    found = []
    for number, axis in enumerate(axes):
        columns: dict[int, list[tuple[tuple[int, ...], str]]] = {}
        for cell in cells:
            rest = cell.position[:number] + cell.position[number + 1 :]
            columns.setdefault(cell.position[number], []).append((rest, cell.key))
        alike: dict[tuple[Any, ...], list[str]] = {}
        for value, column in columns.items():
            alike.setdefault(tuple(sorted(column)), []).append(axis.values[value].label)
        for labels in alike.values():
            if len(labels) > 1:
                found.append(
                    f"{', '.join(labels)} of the {axis.target} axis give the same pictures."
                )
    return found


def _alone(kept: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    """A sentence about samplers whose cells are sampled one by one although batches were asked for."""
    if kept.get("batch_size", 1) == 1:
        return []
    alone = sorted(
        {c.settings.sampler for c in cells if not batching.keeps_apart(c.settings.sampler)}
    )
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


def _traits(cell: Cell) -> tuple[Any, ...]:
    """What a cell is ordered by."""
    own = getattr(cell.settings, "render_order", None)
    if own is not None:
        return own
    return tuple(tuple(getattr(cell.settings, n) for n in names) for names in RENDER_ORDER)
