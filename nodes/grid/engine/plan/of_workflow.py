"""Grids over any workflow: an API prompt as template, and axes on inputs of its nodes."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .....trainer.files import canonical_json, sha256_text
from ..axes import lists
from ..axes.typed import Axis, Value
from ..cell import node_inputs as inputs
from ..errors import GridError
from .plan import MOST_CELLS, Cell, Plan, without_effect
from .rules import Rule, read_rules

FORMAT = "workflow 1"
UNSEEN = ("filename_prefix",)
"""Inputs of an output node that do not change its picture."""
SAVERS = ("SaveImage", "PreviewImage")
NUMERIC = re.compile(rf"\s*(?:{lists.NUMBER}|{lists.RANGE.pattern}|\.\.\.?|…)\s*")
SIDE = 512


@dataclass(frozen=True)
class WorkflowCell:
    """All that decides one picture of a workflow: what its prompt is, and what of it the axes have
    set.
    """

    prompt: dict[str, Any]
    """The API prompt, of the output node and what comes before it."""
    output: str
    changes: dict[str, Any]
    """Values by "id.input"."""
    files: tuple[tuple[str, str], ...]
    """Folder and name of every file that the prompt loads."""
    render_order: tuple[Any, ...] = ()
    width: int = SIDE
    height: int = SIDE
    """The size of the picture as far as the prompt tells it; the file knows it for sure."""
    batch_size: ClassVar[int] = 1
    recipe: ClassVar[str] = ""
    """Workflows are not batched, and merge by nodes of their own."""

    @property
    def models(self) -> tuple[str, ...]:
        """What must be in memory for this picture."""
        return tuple(f"{folder}/{name}" for folder, name in self.files if folder != "input")

    def key(self, sha256_of: Any) -> str:
        """Hex SHA-256 of the picture's graph without ids and names of saved files, with the content
        of files for their names.
        """
        known: dict[str, str] = {}

        def content(id: str) -> str:
            if id not in known:
                node = self.prompt[id]
                found: dict[str, Any] = {}
                for name, value in node["inputs"].items():
                    if id == self.output and name in UNSEEN:
                        continue
                    if inputs.is_link(value):
                        found[name] = {"link": [content(value[0]), value[1]]}
                        continue
                    file = inputs.file_of(node["class_type"], name, value)
                    found[name] = {"file": sha256_of(*file)} if file else {"value": value}
                saver = id == self.output and node["class_type"] in SAVERS
                known[id] = sha256_text(
                    canonical_json(["picture" if saver else node["class_type"], found])
                )
            return known[id]

        return sha256_text(canonical_json([FORMAT, content(self.output)]))

    def to_json(self) -> dict[str, Any]:
        return dict(self.changes)

    def api_prompt(self, prefix: str) -> dict[str, Any]:
        """What `POST /prompt` takes; files that the output node writes begin with `prefix`."""
        prompt = copy.deepcopy(self.prompt)
        if "filename_prefix" in prompt[self.output]["inputs"]:
            prompt[self.output]["inputs"]["filename_prefix"] = prefix
        return prompt


def input_axis(target: str, values: Any, labels: str = "") -> Axis:
    """The axis of an input, "NODE.INPUT"; what its values must be is seen when the workflow is
    known.

    `values` is a text with one a line, where a line of numbers, ranges and commas counts as numbers
    and a line in quotes is a text as it stands, or a list of values as JSON has them. Raises
    GridError.
    """
    found: list[Any] = []
    if isinstance(values, list):
        found = values
    else:
        for number, line in lists.lines(str(values or "")):
            try:
                found += _line(line)
            except GridError as error:
                raise GridError(f"Line {number} of the values: {error}") from None
    if not found:
        raise GridError(f"The axis {target} has no values. Write one a line.")
    given = [line.strip() for line in labels.splitlines()]
    if len(given) > len(found):
        raise GridError(f"There are {len(given)} labels for {len(found)} values.")
    given += [""] * (len(found) - len(given))
    short = target.rpartition(".")[2].replace("_", " ")
    named = [
        Value(label or _words(short, value), {target: value})
        for value, label in zip(found, given, strict=True)
    ]
    return Axis(target, target, tuple(named))


def _line(line: str) -> list[str]:
    seeds = lists.seeds(line)
    if seeds is not None:
        return seeds
    if all(NUMERIC.fullmatch(part) for part in line.split(",")):
        return lists.numbers(line, whole=False)
    if len(line) > 1 and line[0] == line[-1] == '"':
        return [line[1:-1].replace('""', '"')]
    return [line]


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool | int | float) or (
        isinstance(value, str) and NUMERIC.fullmatch(value)
    ):
        return f"{name} {value}"
    return str(value) or f"no {name}"


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
    inputs.check_prompt(workflow)
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS:
        raise GridError(
            f"The grid {name} would have {count:,} cells; {MOST_CELLS:,} is the most. Take values off its axes."
        )
    shown = _output(workflow, output)
    used = _ancestors(workflow, shown)
    kept = {}
    for target, value in fixed.items():
        id, input = inputs.find_input(workflow, target)
        kept[f"{id}.{input}"] = inputs.read_value(workflow, id, input, value)
    base = {id: copy.deepcopy(workflow[id]) for id in used}
    for target, value in kept.items():
        _set(base, target, value, shown)
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
        inputs.specs(base[id]["class_type"])
    depth = _descendants(base)
    varied = sorted(
        {target for axis in resolved for target in axis.settings},
        key=lambda t: (-depth[_id(base, t)], t),
    )
    read = read_rules(rules, [axis.target for axis in resolved]) if rules.strip() else ()
    contents: dict[str, dict[str, str]] = {}

    def content(folder: str, file: str) -> str:
        known = contents.setdefault(folder, {})
        if file not in known:
            known[file] = inputs.content_sha256(folder, file)
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


def cell_of(
    base: Mapping[str, Any], output: str, changes: Mapping[str, Any], varied: Sequence[str] = ()
) -> WorkflowCell:
    """The cell of a template with these values by "id.input"."""
    prompt = {id: {**node, "inputs": dict(node["inputs"])} for id, node in base.items()}
    for target, value in changes.items():
        _set(prompt, target, value, output)
    prompt = {id: prompt[id] for id in _ancestors(prompt, output)}
    files = []
    width, height = SIDE, SIDE
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if not inputs.is_link(value) and (
                file := inputs.file_of(node["class_type"], name, value)
            ):
                files.append(file)
        sides = (node["inputs"].get("width"), node["inputs"].get("height"))
        if all(isinstance(side, int) and side > 0 for side in sides):
            width, height = sides
    found = tuple(sorted(set(files)))
    models = tuple(file for file in found if file[0] != "input")
    order = (models, *(canonical_json(changes.get(target)) for target in varied))
    return WorkflowCell(prompt, output, dict(changes), found, order, width, height)


def _notes(rules: Sequence[Rule], active: set[Rule]) -> list[str]:
    return [f'The rule "{rule.text}" leaves nothing out.' for rule in rules if rule not in active]


def _called(value: Value) -> list[str]:
    return [value.label, *(str(one) for one in value.set.values())]


def _output(prompt: inputs.Prompt, wanted: str) -> str:
    if wanted:
        id = inputs.find_node(prompt, wanted)
        if not inputs.is_output(prompt[id]["class_type"]):
            raise GridError(
                f"{inputs.called(prompt, id)} is no output node. Name the node that saves or previews the picture."
            )
        return id
    found = [
        id
        for id, node in prompt.items()
        if inputs.is_output(node["class_type"]) and "images" in node["inputs"]
    ]
    if not found:
        raise GridError(
            "The workflow has no node that saves or previews a picture. Add Save Image, and export it again."
        )
    if len(found) > 1:
        there = ", ".join(inputs.called(prompt, id) for id in found)
        raise GridError(
            f'The workflow shows pictures in {len(found)} places: {there}. Say which by "output".'
        )
    return found[0]


def _resolved(base: inputs.Prompt, workflow: inputs.Prompt, axis: Axis, output: str) -> Axis:
    """The axis with ids in place of titles, typed values, and patterns as all that they match."""
    found: list[Value] = []
    for value in axis.values:
        spread: list[Value] = [Value(value.label, {})]
        for target, given in value.set.items():
            if "." not in target:
                raise GridError(
                    f"{target!r} belongs to grids without a workflow. Write NODE.INPUT, such as KSampler.seed."
                )
            id, input = inputs.find_input(workflow, target)
            if id not in base:
                raise GridError(
                    f"{inputs.called(workflow, id)} does not come before {inputs.called(workflow, output)}: it changes no picture."
                )
            if id == output and input in UNSEEN:
                raise GridError(f"{input} of {inputs.called(workflow, id)} changes no picture.")
            options = inputs.matching(base, id, input, given)
            typed = [inputs.read_value(base, id, input, option) for option in options]
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


def _id(prompt: inputs.Prompt, target: str) -> str:
    """The node of "id.input": ids of nodes in subgraphs have colons, no dots."""
    return next(id for id in prompt if target.startswith(f"{id}."))


def _set(prompt: dict[str, Any], target: str, value: Any, output: str) -> None:
    if not any(target.startswith(f"{id}.") for id in prompt):
        raise GridError(f"{target} does not come before node {output}: it changes no picture.")
    id = _id(prompt, target)
    prompt[id]["inputs"][target[len(id) + 1 :]] = value


def _ancestors(prompt: inputs.Prompt, output: str) -> list[str]:
    """The output and all before it, in the order of the prompt. Raises GridError for a circle of
    links.
    """
    found: set[str] = set()
    open: set[str] = set()

    def walk(id: str) -> None:
        if id in open:
            raise GridError(
                f"The links of the workflow go in a circle at {inputs.called(prompt, id)}."
            )
        if id in found:
            return
        open.add(id)
        for value in prompt[id]["inputs"].values():
            if inputs.is_link(value):
                walk(value[0])
        open.discard(id)
        found.add(id)

    walk(output)
    return [id for id in prompt if id in found]


def _descendants(prompt: inputs.Prompt) -> dict[str, int]:
    """How many nodes must run again when one changes, itself included."""
    before = {id: set(_ancestors(prompt, id)) for id in prompt}
    return {id: sum(id in ancestors for ancestors in before.values()) for id in prompt}
