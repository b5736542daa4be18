"""Grids over any workflow: an API prompt as template, and axes on inputs of its nodes."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .....trainer.files import canonical_json
from ..axes.axis import Axis, Value
from ..cell import node_inputs
from ..cell.any_workflow import UNSEEN, ancestors, cell_of, descendants, node_of, set_input
from ..errors import GridError
from .plan import MOST_CELLS, Cell, Plan, without_effect
from .rules import Rule, read_rules


def workflow_plan(
    name: str,
    workflow: Any,
    axes: Sequence[Axis],
    fixed: Mapping[str, Any],
    rules: str = "",
    output: str = "",
) -> Plan:
    """Resolve a grid over an API prompt.

    `fixed` sets inputs for all cells. `output` is the node that shows the picture, by id, title or
    class; it need not be said if there is one that shows pictures. Raises GridError for whatever
    could not work.
    """
    node_inputs.check_prompt(workflow)
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS:
        raise GridError(
            f"The grid {name} would have {count:,} cells; {MOST_CELLS:,} is the most. Take values off its axes."
        )
    shown = _output(workflow, output)
    used = ancestors(workflow, shown)
    kept = {}
    for target, value in fixed.items():
        id, input = node_inputs.find_input(workflow, target)
        kept[f"{id}.{input}"] = node_inputs.read_value(workflow, id, input, value)
    base = {id: copy.deepcopy(workflow[id]) for id in used}
    for target, value in kept.items():
        set_input(base, target, value, shown)
    resolved = []
    for number, axis in enumerate(axes, start=1):
        try:
            resolved.append(_resolved(base, workflow, axis, shown))
        except GridError as error:
            raise GridError(f"Axis {number}: {error}") from None
    _check_apart(resolved)
    count = math.prod(len(axis.values) for axis in resolved)
    if count > MOST_CELLS:
        raise GridError(f"The grid {name} would have {count:,} cells; {MOST_CELLS:,} is the most.")
    for id in base:
        node_inputs.specs(base[id]["class_type"])
    depth = descendants(base)
    varied = sorted(
        {target for axis in resolved for target in axis.settings},
        key=lambda t: (-depth[node_of(base, t)], t),
    )
    read = read_rules(rules, [axis.target for axis in resolved]) if rules.strip() else ()
    contents: dict[str, dict[str, str]] = {}

    def content(folder: str, file: str) -> str:
        known = contents.setdefault(folder, {})
        if file not in known:
            known[file] = node_inputs.content_sha256(folder, file)
        return known[file]

    cells, active = [], set()
    for position in itertools.product(*(range(len(axis.values)) for axis in resolved)):
        chosen = [axis.values[at] for axis, at in zip(resolved, position, strict=True)]
        names = {axis.target: value for axis, value in zip(resolved, chosen, strict=True)}
        leaving = [
            rule for rule in read if rule.leaves_out(lambda n, names=names: _called(names[n]))
        ]
        if leaving:
            active.update(leaving)
            continue
        changes = {target: value for one in chosen for target, value in one.set.items()}
        settings = cell_of(base, shown, changes, varied)
        cells.append(Cell(position, settings, settings.key(content)))
    if not cells:
        raise GridError(f"The rules of the grid {name} leave no cell. Take one away.")
    notes = _notes(read, active) + without_effect(resolved, cells)
    return Plan(
        name,
        kept,
        tuple(resolved),
        tuple(cells),
        contents,
        tuple(read),
        tuple(notes),
        workflow=base,
        output=shown,
    )


def _notes(rules: Sequence[Rule], active: set[Rule]) -> list[str]:
    return [f'The rule "{rule.text}" leaves nothing out.' for rule in rules if rule not in active]


def _called(value: Value) -> list[str]:
    return [value.label, *(str(one) for one in value.set.values())]


def _output(prompt: node_inputs.Prompt, wanted: str) -> str:
    if wanted:
        id = node_inputs.find_node(prompt, wanted)
        if not node_inputs.is_output(prompt[id]["class_type"]):
            raise GridError(
                f"{node_inputs.called(prompt, id)} is no output node. Name the node that saves or previews the picture."
            )
        return id
    found = [
        id
        for id, node in prompt.items()
        if node_inputs.is_output(node["class_type"]) and "images" in node["inputs"]
    ]
    if not found:
        raise GridError(
            "The workflow has no node that saves or previews a picture. Add Save Image, and export it again."
        )
    if len(found) > 1:
        there = ", ".join(node_inputs.called(prompt, id) for id in found)
        raise GridError(
            f'The workflow shows pictures in {len(found)} places: {there}. Say which by "output".'
        )
    return found[0]


def _resolved(
    base: node_inputs.Prompt, workflow: node_inputs.Prompt, axis: Axis, output: str
) -> Axis:
    """The axis with ids in place of titles, typed values, and patterns as all that they match."""
    found: list[Value] = []
    for value in axis.values:
        spread: list[Value] = [Value(value.label, {})]
        for target, given in value.set.items():
            if "." not in target:
                raise GridError(
                    f"{target!r} belongs to grids without a workflow. Write NODE.INPUT, such as KSampler.seed."
                )
            id, input = node_inputs.find_input(workflow, target)
            if id not in base:
                raise GridError(
                    f"{node_inputs.called(workflow, id)} does not come before {node_inputs.called(workflow, output)}: it changes no picture."
                )
            if id == output and input in UNSEEN:
                raise GridError(
                    f"{input} of {node_inputs.called(workflow, id)} changes no picture."
                )
            options = node_inputs.matching(base, id, input, given)
            typed = [node_inputs.read_value(base, id, input, option) for option in options]
            key = f"{id}.{input}"
            spread = [
                replace(
                    one, label=one.label if len(typed) == 1 else str(new), set={**one.set, key: new}
                )
                for one in spread
                for new in typed
            ]
        found += spread
    seen: set[str] = set()
    for value in found:
        if (same := canonical_json(value.set)) in seen:
            raise GridError(f"{value.label!r} is there twice. Delete one of the lines.")
        seen.add(same)
    return replace(axis, values=tuple(found))


def _check_apart(axes: Sequence[Axis]) -> None:
    for later, axis in enumerate(axes):
        for earlier, before in enumerate(axes[:later]):
            if shared := sorted(before.settings & axis.settings):
                raise GridError(
                    f"Axis {earlier + 1} and axis {later + 1} both vary {shared[0]}. Put all its values on one axis."
                )
