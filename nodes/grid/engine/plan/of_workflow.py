"""Grids over any workflow: an API prompt as template, and axes on inputs of its nodes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .....trainer.files import canonical_json
from ..axes.axis import Axis, Value, check_apart, replacement
from ..cell import node_inputs
from ..cell.any_workflow import (
    UNSEEN,
    WorkflowCell,
    ancestors,
    cell_of,
    check_loops,
    descendants,
    node_of,
    set_input,
)
from ..errors import GridError
from .plan import MOST_CELLS, Plan
from .replacing import Searches
from .resolve import check_count, resolve
from .rules import read_rules

MOST_CELL_NODES = 20_000_000


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
    check_loops(workflow, shown)
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
    _check_size(base, resolved)
    for node in base.values():
        node_inputs.specs(node["class_type"])
    read = read_rules(rules, [axis.target for axis in resolved], resolved)
    maker = _WorkflowMaker(base, shown, _most_costly_first(base, resolved))
    found = resolve(name, resolved, read, maker, node_inputs.content_sha256)
    maker.searches.check()
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


def _check_size(base: Mapping[str, Any], axes: Sequence[Axis]) -> None:
    """Refuse what would be too much to hold: each cell keeps the nodes of its workflow."""
    count = math.prod(len(axis.values) for axis in axes)
    if count * len(base) > MOST_CELL_NODES:
        raise GridError(
            f"{count:,} cells of a workflow of {len(base):,} nodes are too many for one grid. "
            f"Remove values until cells times nodes are {MOST_CELL_NODES:,} at most."
        )


@dataclass(frozen=True)
class _WorkflowMaker:
    """Puts the values of a cell into the template."""

    base: dict[str, Any]
    shown: str
    varied: Sequence[str]
    searches: Searches = field(default_factory=Searches)

    def settings(self, values: Sequence[Value]) -> WorkflowCell:
        changes: dict[str, Any] = {}
        replaces: dict[str, dict[str, str]] = {}
        for value in values:
            for target, one in value.set.items():
                if pair := replacement(target, one):
                    replaces.setdefault(target, {})[pair[0]] = pair[1]
                else:
                    changes[target] = one
        for target, given in replaces.items():
            text = changes.get(target, self._written(target))
            if not isinstance(text, str):
                raise GridError(
                    f"{target} has no text to search in: it is linked. Search in the node that "
                    "it is linked to."
                )
            changes[target] = self.searches.replaced(target, text, given)
        return cell_of(self.base, self.shown, changes, self.varied)

    def _written(self, target: str) -> Any:
        """What the workflow has in an input."""
        id = node_of(self.base, target)
        return self.base[id]["inputs"].get(target[len(id) + 1 :])

    def words(self, settings: WorkflowCell, name: str, value: Value | None) -> list[str]:
        if value is None:
            return []
        pairs = [(replacement(target, one), one) for target, one in value.set.items()]
        return [value.label, *(str(pair[1] if pair else one) for pair, one in pairs)]

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
            typed = _typed(base, id, input, given)
            if len(spread) * len(typed) > MOST_CELLS:
                raise GridError(
                    f"{value.label!r} stands for more than {MOST_CELLS:,} values. Write patterns "
                    "that match fewer."
                )
            key = f"{id}.{input}"
            if any(key in one.set for one in spread):
                raise GridError(f"{value.label!r} sets {target} twice. Keep one of the two.")
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


def _typed(base: node_inputs.Prompt, id: str, input: str, given: Any) -> list[Any]:
    """The values of the input that a value of an axis means."""
    pair = replacement(input, given)
    if pair is None:
        options = node_inputs.matching(base, id, input, given)
        return [node_inputs.read_value(base, id, input, option) for option in options]
    kind = node_inputs.kind_of(base, id, input)
    where = f"{input} of {node_inputs.called(base, id)}"
    if not all(isinstance(word, str) for word in pair) or not pair[0]:
        raise GridError(f"Give the words to search for in {where}, and what replaces them.")
    if kind not in ("STRING", "*"):
        takes = "one of a list" if isinstance(kind, list) else kind
        raise GridError(f"{where} is no text to search in: it takes {takes}. Empty the search box.")
    return [given]
