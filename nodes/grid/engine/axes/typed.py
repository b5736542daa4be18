"""Axes of values as people type them: one a line, for every target that an axis can have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from .....merge.errors import MergeError
from .....merge.text import name_finder, parse
from .....trainer.errors import nearest
from .....trainer.files import canonical_json
from ..cell.mix import recipe_set
from ..cell.settings import (
    REPLACES,
    STRONGEST,
    Lora,
    check_limits,
    clip_skip_label,
    lora_words,
)
from ..errors import GridError
from . import lists
from .axis import Axis, Value, labelled
from .checkpoints import file_labels
from .choices import Choices

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
    "checkpoint",
    "VAE",
    "LoRA",
    "LoRA strength",
    "denoise",
    "prompt search and replace",
    "negative prompt search and replace",
    "recipe",
)
"""What an axis of typed values can vary."""


FILES = {"checkpoint": "checkpoint", "VAE": "vae", "LoRA": "lora"}
"""Targets whose values are files, and the kind of file."""

NO_FILE = "none"
SIZE = re.compile(r"(\d{1,9})(?:\s*[x×*]\s*(\d{1,9}))?", re.IGNORECASE)


def typed_axis(
    target: str, text: str, choices: Choices, search: str = "", labels: str = ""
) -> Axis:
    """The axis of a list with one value a line. Blank lines are ignored, and `""` is the empty
    text.

    Numbers, names and sizes can share a line, separated by commas, and numbers can be ranges
    (`lists.numbers`). A `*` in the name of a checkpoint, VAE or LoRA stands for all that match.
    `search` is the text that a search-and-replace axis replaces with its values. `labels` holds one
    label a line, in the order of the values. Raises GridError that names the wrong line.
    """
    if target not in TARGETS:
        raise GridError(f"{target!r} cannot be varied. Choose one of: {', '.join(TARGETS)}.")
    if target in REPLACES and not search:
        raise GridError(
            f"The {target} axis has no text to search for. Write it into the search box."
        )
    if search and target not in REPLACES:
        raise GridError(
            f"The search box is only for search and replace. Empty it, or change the target from "
            f"{target}."
        )
    read = _reader(target, choices, search)
    found: list[Value] = []
    known: set[str] = set()
    for number, line in lists.lines(text):
        try:
            for value in read(line):
                check_limits(value.set)
                if (same := canonical_json(value.set)) in known:
                    raise GridError(f"{value.label!r} appears twice. Delete one of the lines.")
                known.add(same)
                found.append(value)
        except GridError as error:
            raise GridError(f"Line {number} of the values: {error}") from None
    if not found:
        raise GridError(f"The {target} axis has no values. Write one a line.")
    name = f"{target}: {search}" if search else target
    return Axis(name, name, tuple(labelled(found, labels)))


def _reader(target: str, choices: Choices, search: str) -> Callable[[str], list[Value]]:
    """A function that turns one line into values of that target."""
    if target == "prompt":
        return lambda line: [_text("prompt", t, "no prompt", "") for t in lists.texts(line)]
    if target == "negative prompt":
        return lambda line: [
            _text("negative_prompt", t, "no negative prompt", "negative: ")
            for t in lists.texts(line)
        ]
    if target in REPLACES:
        name = REPLACES[target]
        return lambda line: [
            Value(text or f"without {search}", {name: (search, text)}) for text in lists.texts(line)
        ]
    if target == "size":
        return lambda line: [_size(size) for size in lists.names(line)]
    if target in ("sampler", "scheduler"):
        return lambda line: [_choice(target, name, choices[target]) for name in lists.names(line)]
    if target == "recipe":
        return lambda line: [_recipe(line, choices)]
    if target == "LoRA":
        return lambda line: [v for entry in lists.names(line) for v in _loras(entry, choices)]
    if target in FILES:
        return lambda line: [
            value
            for name in _file_names(target, line, choices)
            for value in _files(target, name, choices)
        ]
    if target == "seed":
        return lambda line: [
            _number(target, n) for n in lists.seeds(line) or lists.numbers(line, whole=True)
        ]
    whole = target in ("clip skip", "steps")
    return lambda line: [_number(target, number) for number in lists.numbers(line, whole)]


def _text(name: str, text: str, empty: str, before: str) -> Value:
    return Value(before + text if text else empty, {name: text})


def _number(target: str, text: str) -> Value:
    name = target.replace(" ", "_").lower()
    fractions = target in ("cfg", "denoise", "LoRA strength")
    try:
        value = float(text) if fractions else int(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = "number" if fractions else "whole number"
        raise GridError(f"{text!r} is not a {kind}. Write one {target} a line.")
    if target == "seed" and value < 0:
        raise GridError(
            f"seed {value} is out of range: give a number from 0 to {2**64 - 1}, or draw some, "
            "such as 4 seeds."
        )
    if target == "clip skip":
        return Value(clip_skip_label(int(value)), {name: value})
    if target == "steps":
        return Value(f"{value} step" if value == 1 else f"{value} steps", {name: value})
    if target == "LoRA strength" and abs(value) > STRONGEST:
        raise GridError(
            f"LoRA strength {value:g} is out of range: give a number from -{STRONGEST:g} to "
            f"{STRONGEST:g}."
        )
    return Value(f"{target} {value:g}" if fractions else f"{target} {value}", {name: value})


def _size(line: str) -> Value:
    match = SIZE.fullmatch(line)
    if match is None:
        raise GridError(f"{line!r} is not a size. Write width x height in pixels, such as 512x768.")
    width = int(match[1])
    height = int(match[2] or width)
    return Value(f"{width} x {height}", {"width": width, "height": height})


def _choice(target: str, line: str, known: Sequence[str]) -> Value:
    if line not in known:
        hint = nearest(line, known) or f" There are: {', '.join(known)}."
        raise GridError(f"There is no {target} {line!r}.{hint}")
    return Value(line, {target: line})


def _file_names(target: str, line: str, choices: Choices) -> list[str]:
    """The names of a line. A comma in the name of an existing file does not separate."""
    return [line] if line in choices.get(FILES[target], ()) else lists.names(line)


def _files(target: str, line: str, choices: Choices) -> list[Value]:
    """The files that a line names: one, or all that match a `*` or `?`, in natural order."""
    if target == "VAE" and line == NO_FILE:
        return [Value("the checkpoint's VAE", {"vae": ""})]
    found = _matching(target, line, choices)
    return [
        Value(label, {FILES[target]: name})
        for name, label in zip(found, file_labels(found), strict=True)
    ]


def _recipe(line: str, choices: Choices) -> Value:
    """A recipe as text, "0.6 vodka + 0.4 epic"; a checkpoint alone is itself."""
    try:
        recipe = parse(line, name_finder(choices.get("checkpoint", ())))
    except MergeError as error:
        raise GridError(str(error)) from None
    return Value(line, recipe_set(recipe))


def _loras(entry: str, choices: Choices) -> list[Value]:
    """`file`, `file:strength` or `file:on the model:on the text encoder`; `none` for no LoRA."""
    if entry == NO_FILE:
        return [Value("no LoRA", {"loras": ()})]
    name, *strengths = entry.split(":")
    try:
        on_model, on_clip = [float(s) for s in [*strengths, *(strengths or ["1"])]][:2]
        if not (abs(on_model) <= STRONGEST and abs(on_clip) <= STRONGEST) or len(strengths) > 2:
            raise ValueError
    except ValueError:
        raise GridError(
            f"{entry!r} is not a LoRA with its strength. Write FILE:0.8, or FILE:0.8:0.5 for model "
            "and "
            "text encoder."
        ) from None
    found = []
    matching = _matching("LoRA", name.strip(), choices)
    for file, label in zip(matching, file_labels(matching), strict=True):
        lora: Lora = (file, on_model, on_clip)
        found.append(Value(lora_words((label, on_model, on_clip)), {"loras": (lora,)}))
    return found


def _matching(target: str, name: str, choices: Choices) -> list[str]:
    known = choices.get(FILES[target], ())
    plain = name.replace("\\", "/")
    if any(mark in name for mark in "*?"):
        found = [file for file in known if fnmatch(file.replace("\\", "/"), plain)]
        if not found:
            raise GridError(f"No {target} matches {name!r}.")
        return sorted(found, key=_natural)
    for file in known:
        if plain in (file.replace("\\", "/"), file.replace("\\", "/").rpartition(".")[0]):
            return [file]
    hint = nearest(name, known, lambda file: PurePosixPath(file.replace("\\", "/")).stem)
    raise GridError(
        f"There is no {target} {name!r}.{hint} Put the file into its folder and press R."
    )


def _natural(name: str) -> list[Any]:
    """Numbers in names count as numbers: epoch 9 comes before epoch 10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", name.lower())
    ]
