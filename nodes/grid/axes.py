"""Axes of a grid: what varies, the values it takes, and how each value is called on a sheet."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from .cell import check_limits, clip_skip_label
from .errors import GridError

TARGETS = (
    "prompt",
    "negative prompt",
    "seed",
    "size",
    "clip skip",
    "cfg",
    "steps",
    "sampler",
    "scheduler",
)
"""What an axis of typed values can vary; checkpoints have axes of their own."""

EMPTY = '""'
SIZE = re.compile(r"(\d+)(?:\s*[x×*]\s*(\d+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Value:
    """One value of an axis: the settings it sets, and its name on sheets."""

    label: str
    set: dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """One thing that varies over a grid."""

    label: str
    target: str
    values: tuple[Value, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def typed_axis(target: str, text: str, choices: Mapping[str, Sequence[str]]) -> Axis:
    """The axis of a list with one value a line; blank lines do not count, and `""` is the empty text.

    `choices` holds the samplers and schedulers that there are, under "sampler" and "scheduler".
    Raises GridError naming the line that is wrong.
    """
    if target not in TARGETS:
        raise GridError(f"{target!r} cannot be varied. Choose one of: {', '.join(TARGETS)}.")
    read = _reader(target, choices)
    values: list[Value] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = read(line.strip())
            check_limits(value.set)
        except GridError as error:
            raise GridError(f"Line {number} of the values: {error}") from None
        if value.set in [known.set for known in values]:
            raise GridError(
                f"Line {number} of the values: {value.label!r} is there twice. Delete one of the lines."
            )
        values.append(value)
    if not values:
        raise GridError(f"The {target} axis has no values. Write one a line.")
    return Axis(target, target, tuple(values))


def checkpoint_axis(chosen: Sequence[tuple[str, str]]) -> Axis:
    """The axis of (checkpoint name, label) pairs; without a label a checkpoint is called by its file.

    A checkpoint that is there twice, such as one that two rules have picked, is one value with both labels.
    """
    labels: dict[str, list[str]] = {}
    for checkpoint, label in chosen:
        known = labels.setdefault(checkpoint, [])
        if label and label not in known:
            known.append(label)
    if not labels:
        raise GridError("The checkpoint axis is empty. Choose at least one checkpoint.")
    short = {checkpoint: _file_label(checkpoint) for checkpoint in labels}
    names = list(short.values())
    values = tuple(
        Value(
            " / ".join(known)
            or (short[name] if names.count(short[name]) == 1 else name.replace("\\", "/")),
            {"checkpoint": name},
        )
        for name, known in labels.items()
    )
    return Axis("checkpoint", "checkpoint", values)


def runs_axis(saved: Sequence[tuple[str, int, int, str]]) -> Axis:
    """The axis of saved checkpoints, given as (run name, epoch, step, checkpoint name).

    Two checkpoints of one epoch are told apart by their steps.
    """
    epochs = [(run, epoch) for run, epoch, _, _ in saved]
    return checkpoint_axis(
        [
            (
                checkpoint,
                f"{run} epoch {epoch}"
                + (f" step {step}" if epochs.count((run, epoch)) > 1 else ""),
            )
            for run, epoch, step, checkpoint in saved
        ]
    )


def _file_label(checkpoint: str) -> str:
    path = PurePosixPath(checkpoint.replace("\\", "/"))
    return path.stem if path.suffix in (".safetensors", ".ckpt", ".pt") else path.name


def _reader(target: str, choices: Mapping[str, Sequence[str]]) -> Callable[[str], Value]:
    """What turns one line into a value of that target."""
    if target == "prompt":
        return lambda line: _text("prompt", line, "no prompt", "")
    if target == "negative prompt":
        return lambda line: _text("negative_prompt", line, "no negative prompt", "negative: ")
    if target == "size":
        return _size
    if target in ("sampler", "scheduler"):
        return lambda line: _choice(target, line, choices[target])
    return lambda line: _number(target, line)


def _text(name: str, line: str, empty: str, before: str) -> Value:
    if line == EMPTY:
        return Value(empty, {name: ""})
    return Value(before + line, {name: line})


def _number(target: str, line: str) -> Value:
    name = target.replace(" ", "_")
    try:
        value = float(line) if target == "cfg" else int(line)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = "number" if target == "cfg" else "whole number"
        raise GridError(f"{line!r} is not a {kind}. Write one {target} a line.")
    if target == "clip skip":
        return Value(clip_skip_label(int(value)), {name: value})
    if target == "steps":
        return Value(f"{value} step" if value == 1 else f"{value} steps", {name: value})
    return Value(f"{target} {value:g}" if target == "cfg" else f"{target} {value}", {name: value})


def _size(line: str) -> Value:
    match = SIZE.fullmatch(line)
    if match is None:
        raise GridError(f"{line!r} is not a size. Write width x height in pixels, such as 512x768.")
    width = int(match[1])
    height = int(match[2] or width)
    return Value(f"{width} x {height}", {"width": width, "height": height})


def _choice(target: str, line: str, known: Sequence[str]) -> Value:
    if line not in known:
        near = difflib.get_close_matches(line, known, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
        raise GridError(f"There is no {target} {line!r}. {hint}")
    return Value(line, {target: line})
