"""Axes of values as people type them: one per line, for every target that an axis can have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from .....merge.errors import MergeError
from .....merge.text import name_finder, parse
from .....trainer.errors import nearest
from .....trainer.files import canonical_json
from .....trainer.settings.text import clip_skip_words
from ..cell.mix import recipe_set
from ..cell.samplers import as_people_write
from ..cell.settings import (
    REPLACES,
    STRONGEST,
    Lora,
    check_limits,
    lora_words,
)
from ..errors import GridError
from ..patterns import matches
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


TEXTS = ("prompt", "negative prompt", *REPLACES)
FILES = {"checkpoint": "checkpoint", "VAE": "vae", "LoRA": "lora"}
"""Targets whose values are files, and the kind of file."""

NO_FILE = "none"
AUTOMATIC = ("automatic", "auto", "baked vae")
"""What other programs call the checkpoint's own VAE, or one that they choose."""
IN_PROMPTS = re.compile(r"<lora:([^<>]+)>", re.IGNORECASE)
"""A LoRA as A1111's prompts have it."""
SIZE = re.compile(r"(\d{1,9})(?:\s*[x×*]\s*(\d{1,9}))?", re.IGNORECASE)


def typed_axis(
    target: str, text: str | list[Any], choices: Choices, search: str = "", labels: str = ""
) -> Axis:
    """The axis of a list with one value per line. Blank lines are ignored, and `""` is the empty
    text.

    Numbers, names and sizes can share a line, separated by commas, and numbers can be ranges
    (`lists.numbers`). A `*` in the name of a checkpoint, VAE or LoRA stands for all that match.
    `search` is the text that a search-and-replace axis replaces with its values. `labels` holds one
    label per line, in the order of the values. A list holds one value each: texts are taken as they
    are. Raises GridError that names the wrong line.
    """
    if isinstance(text, list):
        check_plain(text)
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
    is_literal = isinstance(text, list) and target in TEXTS
    if is_literal:
        read = _reader_of_texts(target, search)
    given = list(enumerate(map(str, text), 1)) if is_literal else lists.lines(_lines(text))
    for number, line in given:
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
        raise GridError(f"The {target} axis has no values. Write one per line.")
    name = f"{target}: {search}" if search else target
    return Axis(name, name, tuple(labelled(found, labels)))


def _reader(target: str, choices: Choices, search: str) -> Callable[[str], list[Value]]:
    """A function that turns one line into values of that target."""
    if target in TEXTS:
        read = _reader_of_texts(target, search)
        return lambda line: [value for text in lists.texts(line) for value in read(text)]
    if target == "size":
        return lambda line: [_size(size) for size in lists.names(line)]
    if target in ("sampler", "scheduler"):
        return lambda line: [_choice(target, name, choices[target]) for name in lists.names(line)]
    if target == "recipe":
        return lambda line: [_recipe(line, choices)]
    if target == "LoRA":
        return lambda line: _loras_of(line, choices)
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


def _reader_of_texts(target: str, search: str) -> Callable[[str], list[Value]]:
    """A function that turns one text into the value that sets it."""
    if target in REPLACES:
        name = REPLACES[target]
        return lambda text: [Value(text or f"without {search}", {name: (search, text)})]
    if target == "prompt":
        return lambda text: [_text("prompt", text, "no prompt", "")]
    return lambda text: [_text("negative_prompt", text, "no negative prompt", "negative: ")]


def check_plain(values: Sequence[Any]) -> None:
    """Raise GridError if a value of a JSON list is neither a text nor a number."""
    for number, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise GridError(
                f"Line {number} of the values: {canonical_json(value)[:60]} is neither a text nor "
                "a number. Write each value of the list as a text in quotes."
            )


def _lines(text: str | list[Any]) -> str:
    return text if isinstance(text, str) else "\n".join(map(str, text))


def _text(name: str, text: str, empty: str, before: str) -> Value:
    return Value(before + text if text else empty, {name: text})


def _number(target: str, text: str) -> Value:
    name = target.replace(" ", "_").lower()
    fractions = target in ("cfg", "denoise", "LoRA strength")
    try:
        value = lists.number(text) if fractions else int(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = "number, such as 0.5, 1/2 or 50%" if fractions else "whole number"
        raise GridError(f"{text!r} is not a {kind}. Write numbers with commas, or one a line.")
    if target == "seed" and value < 0:
        raise GridError(
            f"seed {value} is out of range: give a number from 0 to {2**64 - 1}, or draw some, "
            "such as 4 seeds."
        )
    if target == "clip skip":
        return Value(clip_skip_words(int(value)), {name: value})
    if target == "steps":
        return Value(f"{value} step" if value == 1 else f"{value} steps", {name: value})
    if target == "LoRA strength" and abs(value) > STRONGEST:
        raise GridError(
            f"LoRA strength {value:g} is out of range: give a number from -{STRONGEST:g} to "
            f"{STRONGEST:g}."
        )
    written = "/" in text or "%" in text
    words = text if written else f"{value:g}" if fractions else value
    return Value(f"{target} {words}", {name: value})


def _size(line: str) -> Value:
    match = SIZE.fullmatch(line)
    if match is None:
        raise GridError(f"{line!r} is not a size. Write width x height in pixels, such as 512x768.")
    width = int(match[1])
    height = int(match[2] or width)
    return Value(f"{width} x {height}", {"width": width, "height": height})


def _choice(target: str, line: str, known: Sequence[str]) -> Value:
    if line not in known:
        line = as_people_write(line, known) or line
    if line not in known:
        hint = nearest(line, known) or f" There are: {', '.join(known)}."
        raise GridError(f"There is no {target} {line!r}.{hint}")
    return Value(line, {target: line})


def _file_names(target: str, line: str, choices: Choices) -> list[str]:
    """The names of a line. A comma in the name of an existing file does not separate."""
    return [line] if _named(target, line, choices) else lists.names(line)


def _files(target: str, line: str, choices: Choices) -> list[Value]:
    """The files that a line names: one, or all that match a `*` or `?`, in natural order."""
    if target == "VAE" and line.lower() == NO_FILE:
        return [Value("the checkpoint's VAE", {"vae": ""})]
    if target == "VAE" and line.lower() in AUTOMATIC and not _named(target, line, choices):
        raise GridError(
            f"There is no VAE {line!r}. Write {NO_FILE} for the checkpoint's own VAE, or a file."
        )
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


def _loras_of(line: str, choices: Choices) -> list[Value]:
    """The LoRAs of a line. Commas and colons in the name of an existing file do not separate."""
    if found := _exact_lora(line, choices):
        return _values_of_lora(*found)
    return [value for entry in lists.names(line) for value in _loras(entry, choices)]


def _loras(entry: str, choices: Choices) -> list[Value]:
    """`file`, `file:strength` or `file:on the model:on the text encoder`; `none` for no LoRA. With
    one strength also as in a prompt of A1111's, `<lora:file:strength>`.
    """
    if (in_prompt := IN_PROMPTS.fullmatch(entry)) and in_prompt[1].count(":") < 2:
        entry = in_prompt[1]
    if found := _exact_lora(entry, choices):
        return _values_of_lora(*found)
    if entry.partition(":")[0].strip().lower() == NO_FILE:
        return [Value("no LoRA", {"loras": ()})]
    name, *strengths = entry.split(":")
    try:
        found = _strengths(strengths)
    except ValueError:
        raise GridError(
            f"{entry!r} is not a LoRA with its strength. Write FILE:0.8, or FILE:0.8:0.5 for model "
            "and text encoder."
        ) from None
    return _values_of_lora(_matching("LoRA", name.strip(), choices), found)


def _exact_lora(entry: str, choices: Choices) -> tuple[list[str], tuple[float, float]] | None:
    """The file that is called exactly like an entry without its strengths, and these."""
    parts = entry.split(":")
    for count in range(min(3, len(parts))):
        name = ":".join(parts[: len(parts) - count]).strip()
        file = _named("LoRA", name, choices) if name.lower() != NO_FILE else None
        try:
            if file:
                return [file], _strengths(parts[len(parts) - count :])
        except ValueError:
            continue
    return None


def _strengths(written: Sequence[str]) -> tuple[float, float]:
    """The strengths on the model and on the text encoder, 1 if none are written. Raises
    ValueError.
    """
    on_model, on_clip = [lists.number(s) for s in [*written, *written][:2] or ["1", "1"]]
    if not (abs(on_model) <= STRONGEST and abs(on_clip) <= STRONGEST) or len(written) > 2:
        raise ValueError
    return on_model, on_clip


def _values_of_lora(files: Sequence[str], strengths: tuple[float, float]) -> list[Value]:
    found = []
    for file, label in zip(files, file_labels(files), strict=True):
        lora: Lora = (file, *strengths)
        found.append(Value(lora_words((label, *strengths)), {"loras": (lora,)}))
    return found


def _named(target: str, name: str, choices: Choices) -> str | None:
    """The file that is called exactly so, with or without its suffix."""
    plain = name.replace("\\", "/")
    files = {file.replace("\\", "/"): file for file in choices.get(FILES[target], ())}
    without_suffix = {file.rpartition(".")[0]: files[file] for file in reversed(files)}
    return files.get(plain) or without_suffix.get(plain)


def _matching(target: str, name: str, choices: Choices) -> list[str]:
    """The file of that name, or else all that are like it."""
    if file := _named(target, name, choices):
        return [file]
    known = choices.get(FILES[target], ())
    if any(mark in name for mark in "*?"):
        plain = name.replace("\\", "/")
        found = [file for file in known if matches(file.replace("\\", "/"), plain)]
        if not found:
            raise GridError(f"No {target} matches {name!r}.")
        return sorted(found, key=_natural)
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
