"""Plans and axes as JSON: what plan.json holds, and what people and other programs write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .....trainer.errors import nearest
from ..axes.axis import Axis, Value, text_of
from ..axes.choices import Choices
from ..axes.inputs import input_axis
from ..axes.lists import MOST_VALUES
from ..axes.typed import typed_axis
from ..cell import files, node_inputs
from ..cell.any_workflow import cell_of
from ..cell.samplers import as_people_write
from ..cell.settings import REPLACES, STRONGEST, CellSettings, check_limits
from ..cell.stock import StockCell
from ..errors import GridError
from .of_settings import make_plan
from .of_workflow import workflow_plan
from .plan import FORMAT, Plan

TEXT, WHOLE, NUMBER, LIST = (str,), (int,), (int, float), (list, tuple)
WORDS = {TEXT: "a text", WHOLE: "a whole number", NUMBER: "a number", LIST: "a list"}
SETTABLE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("checkpoint", "prompt", "negative_prompt"), TEXT),
    **dict.fromkeys(("seed", "steps"), WHOLE),
    **dict.fromkeys(("cfg",), NUMBER),
    **dict.fromkeys(("sampler", "scheduler"), TEXT),
    **dict.fromkeys(("width", "height", "clip_skip"), WHOLE),
    **{"vae": TEXT, "loras": LIST, "image": TEXT, "denoise": NUMBER, "batch_size": WHOLE},
    **{"recipe": TEXT, **dict.fromkeys(REPLACES.values(), LIST), "lora_strength": NUMBER},
}
"""The settings that a value may set, and the type of each."""


def axis_from_json(
    described: Any, number: int, choices: Choices, workflow: node_inputs.Prompt | None = None
) -> Axis:
    """An axis of a plan as JSON: {"target", "values": text or list, "search", "labels"} as on the
    node, or what `to_json` gives. Values of an input of a node are read by its type in `workflow`.

    Raises GridError that names the axis by its `number`.
    """
    try:
        if not isinstance(described, dict) or not isinstance(described.get("target"), str):
            raise GridError('give an object with "target" and "values".')
        values = described.get("values")
        if isinstance(values, list) and len(values) > MOST_VALUES:
            raise GridError(f"it has {len(values):,} values; {MOST_VALUES:,} is the most.")
        if isinstance(values, list) and values and all(isinstance(v, dict) for v in values):
            found = [_value_from_json(value) for value in values]
            for value in found:
                check_limits(value.set)
            label = str(described.get("label") or described["target"])
            return Axis(label, described["target"], tuple(found))
        search, labels = (
            str(described.get("search") or ""),
            text_of(described.get("labels"), "labels"),
        )
        if "." in described["target"]:
            kind = None
            if workflow is not None:
                kind = node_inputs.kind_of(
                    workflow, *node_inputs.find_input(workflow, described["target"])
                )
            return input_axis(described["target"], values, labels, kind, search)
        text = values if isinstance(values, list) else text_of(values, "values")
        return typed_axis(described["target"], text, choices, search, labels)
    except GridError as error:
        raise GridError(f"Axis {number}: {error}") from None


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from JSON, with LoRAs and replacements as tuples. Raises GridError for a setting
    that is unknown or has the wrong type.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in SETTABLE:
            hint = nearest(name, SETTABLE) or f" There are: {', '.join(SETTABLE)}."
            raise GridError(f"there is no setting {name!r}.{hint}")
        if not isinstance(value, SETTABLE[name]) or isinstance(value, bool):
            raise GridError(f"{name} must be {WORDS[SETTABLE[name]]}, not {value!r}.")
        found[name] = _tuples(name, value) if isinstance(value, list | tuple) else value
    return found


def _value_from_json(value: dict[str, Any]) -> Value:
    settings = value.get("set")
    if not isinstance(settings, dict) or not settings:
        raise GridError('a value needs "set", an object with the settings that it sets.')
    label = str(value.get("label") or ", ".join(f"{n} {v}" for n, v in settings.items()))
    of_nodes = {name: one for name, one in settings.items() if "." in name}
    own = {name: one for name, one in settings.items() if name not in of_nodes}
    return Value(label, {**checked(own), **of_nodes})


def _tuples(name: str, value: Sequence[Any]) -> tuple[Any, ...]:
    if name == "loras":
        for lora in value:
            if not (
                isinstance(lora, list | tuple)
                and len(lora) == 3
                and isinstance(lora[0], str)
                and all(isinstance(s, int | float) and abs(s) <= STRONGEST for s in lora[1:])
            ):
                raise GridError(
                    "loras must be a list of [file, strength on the model, strength on the text "
                    f"encoder], not {value!r}."
                )
        return tuple((lora[0], float(lora[1]), float(lora[2])) for lora in value)
    if len(value) != 2 or not all(isinstance(word, str) for word in value):
        raise GridError(f"{name} must be [text to search for, replacement], not {value!r}.")
    return tuple(value)


def plan_from_json(described: Any, choices: Choices, sha256_of: Callable[[str, str], str]) -> Plan:
    """The plan of a JSON object with "name", "fixed", "axes" and optionally "rules" (a list, or a
    text with one per line).

    `Plan.to_json` gives such an object; its cells are resolved again. Raises GridError.
    """
    if not isinstance(described, dict):
        raise GridError('A plan is an object with "name", "fixed" and "axes".')
    if described.get("format", FORMAT) != FORMAT:
        raise GridError(
            f"This plan has format {described['format']}; this version of the pack reads {FORMAT}. "
            "Update the pack."
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
    settings = _as_called_here(settings, choices)
    found = [
        replace(
            axis,
            values=tuple(
                replace(value, set=_as_called_here(value.set, choices)) for value in axis.values
            ),
        )
        for axis in found
    ]
    return make_plan(
        str(described.get("name", "")), settings, found, sha256_of, text_of(rules, "rules")
    )


def _as_called_here(settings: Mapping[str, Any], choices: Choices) -> dict[str, Any]:
    """Settings with the names that ComfyUI has for samplers and schedulers, and none for no file.
    Raises GridError for a sampler or scheduler that there is not.
    """
    found = dict(settings)
    for target in ("sampler", "scheduler"):
        known = choices.get(target)
        value = found.get(target)
        if value is None or not known or value in known:
            continue
        found[target] = as_people_write(value, known)
        if found[target] is None:
            raise GridError(f"There is no {target} {value!r}. There are: {', '.join(known)}.")
    for kind in ("vae", "image"):
        if found.get(kind, "").lower() == files.NONE:
            found[kind] = ""
    return found


def settings_from_json(plan: Mapping[str, Any], settings: dict[str, Any]) -> CellSettings:
    """What decides a cell of a plan as JSON, from the "settings" of that cell."""
    if plan.get("workflow"):
        return cell_of(plan["workflow"], plan["output"], settings)
    return StockCell.from_json(settings)


def _workflow_plan(described: dict[str, Any], choices: Choices) -> Plan:
    axes, fixed, rules = (described.get(part) for part in ("axes", "fixed", "rules"))
    if not isinstance(axes, list) or not axes:
        raise GridError('A plan needs "axes", a list with at least one.')
    if not isinstance(fixed or {}, dict):
        raise GridError('"fixed" must be an object with a value for each NODE.INPUT that it sets.')
    workflow = described["workflow"]
    node_inputs.check_prompt(workflow)
    return workflow_plan(
        str(described.get("name", "")),
        workflow,
        [
            axis_from_json(axis, number, choices, workflow)
            for number, axis in enumerate(axes, start=1)
        ],
        fixed or {},
        text_of(rules, "rules"),
        str(described.get("output") or ""),
    )
