"""Grids over any workflow: an API prompt as template, and axes on inputs of its nodes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .....trainer.files import canonical_json
from ..axes.axis import Axis, Value, check_apart
from ..cell import node_inputs
from ..cell.any_workflow import (
    UNSEEN,
    WorkflowCell,
    ancestors,
    cell_of,
    descendants,
    node_of,
    set_input,
)
from ..errors import GridError
from .plan import Plan
from .resolve import check_count, resolve
from .rules import read_rules


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
    class; it need not be given if only one node shows pictures. Raises GridError for whatever could
    not work.
    """
    node_inputs.check_prompt(workflow)
    check_count(name, axes)
    shown = _output(workflow, output)
    kept = {}
    for target, value in fixed.items():
        id, input = node_inputs.find_input(workflow, target)
        kept[f"{id}.{input}"] = node_inputs.read_value(workflow, id, input, value)
    base = {id: copy.deepcopy(workflow[id]) for id in ancestors(workflow, shown)}
    for target, value in kept.items():
        set_input(base, target, value, shown)
    resolved = []
    for number, axis in enumerate(axes, start=1):
        try:
            resolved.append(_resolved(base, workflow, axis, shown))
        except GridError as error:
            raise GridError(f"Axis {number}: {error}") from None
    check_apart(resolved)
    check_count(name, resolved)
    for node in base.values():
        node_inputs.specs(node["class_type"])
    read = read_rules(rules, [axis.target for axis in resolved])
    maker = _WorkflowMaker(base, shown, _most_costly_first(base, resolved))
    found = resolve(name, resolved, read, maker, node_inputs.content_sha256)
    return Plan(
        name,
        kept,
        tuple(resolved),
        found.cells,
        found.contents,
        read,
        tuple(found.notes),
        workflow=base,
        output=shown,
    )


@dataclass(frozen=True)
class _WorkflowMaker:
    """Puts the values of a cell into the template."""

    base: dict[str, Any]
    shown: str
    varied: Sequence[str]

    def settings(self, values: Sequence[Value]) -> WorkflowCell:
        changes = {target: one for value in values for target, one in value.set.items()}
        return cell_of(self.base, self.shown, changes, self.varied)

    def words(self, settings: WorkflowCell, name: str, value: Value | None) -> list[str]:
        return [] if value is None else [value.label, *(str(one) for one in value.set.values())]

    def check(self, settings: WorkflowCell) -> None:
        """Each axis has been checked already."""


def _most_costly_first(base: Mapping[str, Any], axes: Sequence[Axis]) -> list[str]:
    """The inputs that axes vary, first those on which the most nodes depend."""
    depth = descendants(base)
    varied = {target for axis in axes for target in axis.settings}
    return sorted(varied, key=lambda target: (-depth[node_of(base, target)], target))


def _output(prompt: node_inputs.Prompt, wanted: str) -> str:
    if wanted:
        id = node_inputs.find_node(prompt, wanted)
        if not node_inputs.is_output(prompt[id]["class_type"]):
            raise GridError(
                f"{node_inputs.called(prompt, id)} is not an output node. Name the node that saves "
                "or previews the picture."
            )
        return id
    found = [
        id
        for id, node in prompt.items()
        if node_inputs.is_output(node["class_type"]) and "images" in node["inputs"]
    ]
    if not found:
        raise GridError(
            "The workflow has no node that saves or previews a picture. Add Save Image and export "
            "it again."
        )
    if len(found) > 1:
        there = ", ".join(node_inputs.called(prompt, id) for id in found)
        raise GridError(
            f"The workflow shows pictures in {len(found)} places: {there}. Name one of them in "
            '"output".'
        )
    return found[0]


def _resolved(
    base: node_inputs.Prompt, workflow: node_inputs.Prompt, axis: Axis, output: str
) -> Axis:
    """The axis with ids in place of titles, typed values, and patterns as their matches."""
    found: list[Value] = []
    for value in axis.values:
        spread: list[Value] = [Value(value.label, {})]
        for target, given in value.set.items():
            if "." not in target:
                raise GridError(
                    f"{target!r} is a setting of grids without a workflow. Write NODE.INPUT, such "
                    "as KSampler.seed."
                )
            id, input = node_inputs.find_input(workflow, target)
            if id not in base:
                raise GridError(
                    f"{node_inputs.called(workflow, id)} does not lead to "
                    f"{node_inputs.called(workflow, output)}, so it changes no picture."
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
            raise GridError(f"{value.label!r} appears twice. Delete one of the lines.")
        seen.add(same)
    return replace(axis, values=tuple(found))
