"""The input of a setting, with the trainer's own default, bounds and choices."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

from ..schema import opt


def setting_input(
    id: str,
    default: Any,
    tooltip: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    step: float | None = None,
    **keywords: Any,
) -> io.Input:
    """An input of the default's type; `keywords` are `advanced`, `optional`, `multiline`, as
    ComfyUI has them.
    """
    common = {"default": default, "tooltip": tooltip, **keywords}
    if choices:
        return opt(io.Combo.Input, id, options=list(choices), **common)
    if type(default) is bool:
        return opt(io.Boolean.Input, id, **common)
    if type(default) is str:
        return opt(io.String.Input, id, **common)
    assert low is not None and high is not None, f"{id} needs bounds"
    kind = io.Int.Input if type(default) is int else io.Float.Input
    step = 1 if step is None else step
    limits = {"min": type(default)(low), "max": type(default)(high), "step": step}
    if kind is io.Float.Input:
        limits["round"] = min(step, 1e-9, low or 1)
    if id == "seed":
        # Without this the page adds a widget to every input named seed, and changes it after each
        # queueing.
        limits["control_after_generate"] = False
    return opt(kind, id, **limits, **common)


def group_inputs(group: type, advanced: tuple[str, ...] = (), **keywords: Any) -> list[io.Input]:
    """An input for each setting of a group, those of `advanced` marked as rare."""
    return [
        setting_input(
            field.name,
            field.default,
            field.metadata["text"],
            field.metadata["low"],
            field.metadata["high"],
            field.metadata["choices"],
            field.metadata["step"],
            advanced=field.name in advanced,
            **(keywords.get(field.name) or {}),
        )
        for field in dataclasses.fields(group)
        if type(field.default) is not tuple
    ]
