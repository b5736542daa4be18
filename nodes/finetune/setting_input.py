"""The inputs of settings, with the trainer's own defaults, bounds, choices and texts."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

from ...trainer.settings.group import Group
from ..schema import opt


def group_inputs(
    group: type[Group], advanced: tuple[str, ...] = (), **keywords: dict[str, Any]
) -> list[io.Input]:
    """An input for each single setting of a group, those of `advanced` marked as rare.

    `keywords` are further options of an input by its name, such as `optional` and `multiline`.
    """
    return [
        setting_input(field, advanced=field.name in advanced, **keywords.get(field.name, {}))
        for field in dataclasses.fields(group)
        if not isinstance(field.default, tuple | Group)
    ]


def setting_input(field: dataclasses.Field, **keywords: Any) -> io.Input:
    """The input of a setting; `keywords` are `advanced`, `optional`, `multiline`, as ComfyUI has
    them.
    """
    id, default, kind = field.name, field.default, type(field.default)
    known = field.metadata
    common = {"default": default, "tooltip": known["text"], **keywords}
    if known["choices"]:
        return opt(io.Combo.Input, id, options=list(known["choices"]), **common)
    if kind is bool:
        return opt(io.Boolean.Input, id, **common)
    if kind is str:
        return opt(io.String.Input, id, **common)
    low, high = known["between"]
    step = known["step"] or 1
    limits: dict[str, Any] = {"min": kind(low), "max": kind(high), "step": step}
    if kind is float:
        limits["round"] = min(step, 1e-9, low if low > 0 else 1)
    if id == "seed":
        # Without this the page adds a widget to every input named seed, and changes it after each
        # queueing.
        limits["control_after_generate"] = False
    return opt(io.Int.Input if kind is int else io.Float.Input, id, **limits, **common)
