"""Axes of a grid: what varies, the values it takes, and how each value is called on a sheet."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from .....merge.errors import MergeError
from .....merge.text import name_finder, parse
from .....trainer.files import canonical_json
from ..cell.settings import STRONGEST, Lora, check_limits, clip_skip_label, lora_words
from ..errors import GridError
from . import lists

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

REPLACES = {
    "prompt search and replace": "replace_in_prompt",
    "negative prompt search and replace": "replace_in_negative_prompt",
}
"""Targets that change a text that is set elsewhere, and the settings that say how: a list of
[search, replacement].
"""

FILES = {"checkpoint": "checkpoint", "VAE": "vae", "LoRA": "lora"}
"""Targets whose values are files, and the kind of file."""

NO_FILE = "none"
SIZE = re.compile(r"(\d{1,9})(?:\s*[x×*]\s*(\d{1,9}))?", re.IGNORECASE)

Choices = Mapping[str, Sequence[str]]
"""What there is to choose from: "sampler", "scheduler", and files by kind."""


@dataclass(frozen=True)
class Value:
    """One value of an axis: the settings it sets, and its name on sheets."""

    label: str
    set: dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """One thing that varies over a grid, or several that vary together."""

    label: str
    target: str
    values: tuple[Value, ...]

    @property
    def settings(self) -> set[str]:
        """The names of all settings that values of this axis set."""
        return {name for value in self.values for name in value.set}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def typed_axis(
    target: str, text: str, choices: Choices, search: str = "", labels: str = ""
) -> Axis:
    """The axis of a list with one value a line; blank lines do not count, and `""` is the empty
    text.

    Numbers, names and sizes can stand on one line too, separated by commas, and numbers as ranges
    (`values.numbers`). A `*` in the name of a checkpoint, VAE or LoRA stands for all that match.
    `search` is what values of a search-and-replace axis take the place of. `labels` holds one label
    a line, for the values in their order. Raises GridError naming the line that is wrong.
    """
    if target not in TARGETS:
        raise GridError(f"{target!r} cannot be varied. Choose one of: {', '.join(TARGETS)}.")
    if target in REPLACES and not search:
        raise GridError(
            f"The {target} axis has nothing to search for. Write it into the search box."
        )
    if search and target not in REPLACES:
        raise GridError(
            f"The search box is for search and replace. Empty it, or change the target from {target}."
        )
    read = _reader(target, choices, search)
    found: list[Value] = []
    known: set[str] = set()
    for number, line in lists.lines(text):
        try:
            for value in read(line):
                check_limits(value.set)
                if (same := canonical_json(value.set)) in known:
                    raise GridError(f"{value.label!r} is there twice. Delete one of the lines.")
                known.add(same)
                found.append(value)
        except GridError as error:
            raise GridError(f"Line {number} of the values: {error}") from None
    if not found:
        raise GridError(f"The {target} axis has no values. Write one a line.")
    name = f"{target}: {search}" if search else target
    return Axis(name, name, tuple(labelled(found, labels)))


def checkpoint_axis(chosen: Sequence[tuple[str, str]]) -> Axis:
    """The axis of (checkpoint name, label) pairs; without a label a checkpoint is called by its
    file.

    A checkpoint that is there twice, such as one that two rules have picked, is one value with both
    labels.
    """
    labels: dict[str, list[str]] = {}
    for checkpoint, label in chosen:
        known = labels.setdefault(checkpoint, [])
        if label and label not in known:
            known.append(label)
    if not labels:
        raise GridError("The checkpoint axis is empty. Choose at least one checkpoint.")
    short = dict(zip(labels, _file_labels(list(labels)), strict=True))
    values = tuple(
        Value(" / ".join(known) or short[name], {"checkpoint": name})
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


def prompt_axis(prompts: Sequence[tuple[str, str]]) -> Axis:
    """The axis of (prompt, label) pairs; without a label a prompt is its own. Raises GridError if
    there are none.
    """
    values: dict[str, Value] = {}
    for prompt, label in prompts:
        values.setdefault(prompt, Value(label or prompt or "no prompt", {"prompt": prompt}))
    if not values:
        raise GridError("The prompt axis is empty: there is no prompt in what it was given.")
    return Axis("prompt", "prompt", tuple(values.values()))


def combine(axes: Sequence[Axis], together: bool) -> Axis:
    """Several axes as one: their values move together, first with first, or all meet all.

    Raises GridError if they set the same thing, or are to move together and are not equally long.
    """
    check_apart(axes)
    names = (
        " + ".join(axis.target for axis in axes)
        if together
        else " x ".join(axis.target for axis in axes)
    )
    lengths = [len(axis.values) for axis in axes]
    if together and len(set(lengths)) > 1:
        counted = ", ".join(f"{axis.target} {len(axis.values)}" for axis in axes)
        raise GridError(f"Axes that move together need equally many values; these have: {counted}.")
    count = lengths[0] if together else math.prod(lengths)
    if count > lists.MOST_VALUES:
        raise GridError(
            f"Every combination of {' x '.join(map(str, lengths))} values makes {count:,}; {lists.MOST_VALUES:,} is the most."
        )
    found = [Value("", {})]
    if together:
        found *= lengths[0]
    for axis in axes:
        if together:
            pairs = list(zip(found, axis.values, strict=True))
        else:
            pairs = [(before, value) for before in found for value in axis.values]
        found = [_both(before, value) for before, value in pairs]
    return Axis(names, names, tuple(found))


def check_apart(axes: Sequence[Axis]) -> None:
    """Raise GridError if two axes vary the same thing. Search and replace may, for different words."""
    for later, axis in enumerate(axes):
        for earlier, before in enumerate(axes[:later]):
            shared = (before.settings & axis.settings) - set(REPLACES.values())
            if shared or before.target == axis.target:
                what = axis.target if before.target == axis.target else _words(shared)
                raise GridError(
                    f"Axis {earlier + 1} and axis {later + 1} both vary the {what}. Put all its values on one axis."
                )


def axis_from_json(described: Any, number: int, choices: Choices) -> Axis:
    """An axis of a plan as JSON: {"target", "values": text or list, "search", "labels"} as on the
    node, or what `to_json` gives.

    Raises GridError that names the axis by its `number`.
    """
    try:
        if not isinstance(described, dict) or not isinstance(described.get("target"), str):
            raise GridError('give an object with "target" and "values".')
        values = described.get("values")
        of_node = "." in described["target"]
        if isinstance(values, list) and values and all(isinstance(v, dict) for v in values):
            found = [_value_from_json(value, of_node) for value in values]
            for value in found:
                check_limits(value.set)
            label = str(described.get("label") or described["target"])
            return Axis(label, described["target"], tuple(found))
        search, labels = (
            str(described.get("search") or ""),
            text_of(described.get("labels"), "labels"),
        )
        if of_node:
            from ..plan.of_workflow import input_axis

            return input_axis(described["target"], values, labels)
        text = text_of(values, "values")
        return typed_axis(described["target"], text, choices, search, labels)
    except GridError as error:
        raise GridError(f"Axis {number}: {error}") from None


def text_of(value: Any, what: str) -> str:
    """The lines of a text, or of a list with one each. Raises GridError for anything else."""
    if value is not None and not isinstance(value, str | list):
        raise GridError(f"{what} must be a text with one a line, or a list, and is {value!r}.")
    return value if isinstance(value, str) else "\n".join(map(str, value or []))


SETTABLE: dict[str, tuple[type, ...]] = {
    "checkpoint": (str,), "prompt": (str,), "negative_prompt": (str,), "seed": (int,), "steps": (int,),
    "cfg": (int, float), "sampler": (str,), "scheduler": (str,), "width": (int,), "height": (int,),
    "clip_skip": (int,), "vae": (str,), "loras": (list, tuple), "image": (str,), "denoise": (int, float),
    "batch_size": (int,), "recipe": (str,),
    **{name: (list, tuple) for name in REPLACES.values()}, "lora_strength": (int, float),
}  # fmt: skip
"""The settings that a value may set, and of what kind each is."""


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they came from JSON, LoRAs and replacements as tuples. Raises GridError for one
    that is unknown or of the wrong kind.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in SETTABLE:
            near = difflib.get_close_matches(name, SETTABLE, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(SETTABLE)}."
            raise GridError(f"there is no setting {name!r}.{hint}")
        if not isinstance(value, SETTABLE[name]) or isinstance(value, bool):
            kind = "a list" if list in SETTABLE[name] else f"a {SETTABLE[name][-1].__name__}"
            raise GridError(f"{name} must be {kind}, and is {value!r}.")
        found[name] = _tuples(name, value) if isinstance(value, list | tuple) else value
    return found


def _value_from_json(value: dict[str, Any], of_node: bool = False) -> Value:
    settings = value.get("set")
    if not isinstance(settings, dict) or not settings:
        raise GridError('a value needs "set", an object with the settings that it sets.')
    label = str(value.get("label") or ", ".join(f"{n} {v}" for n, v in settings.items()))
    return Value(label, settings if of_node else checked(settings))


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
                    f"loras must be a list of [file, strength on the model, strength on the text encoder], and is {value!r}."
                )
        return tuple((lora[0], float(lora[1]), float(lora[2])) for lora in value)
    if len(value) != 2 or not all(isinstance(word, str) for word in value):
        raise GridError(
            f"{name} must be [what to search for, what to put there], and is {value!r}."
        )
    return tuple(value)


def _both(before: Value, value: Value) -> Value:
    label = f"{before.label} · {value.label}" if before.label else value.label
    return Value(label, {**before.set, **value.set})


def labelled(found: Sequence[Value], labels: str) -> list[Value]:
    """Values under the labels that are given, one a line; a blank line leaves a value its own."""
    given = [line.strip() for line in labels.splitlines()]
    while given and not given[-1]:
        given.pop()
    if len(given) > len(found):
        raise GridError(f"There are {len(given)} labels for {len(found)} values.")
    given += [""] * (len(found) - len(given))
    return [
        replace(value, label=label) if label else value
        for value, label in zip(found, given, strict=True)
    ]


def _words(settings: set[str]) -> str:
    words = {"width": "size", "height": "size", "loras": "LoRA", "vae": "VAE"}
    return ", ".join(sorted({words.get(name, name.replace("_", " ")) for name in settings}))


def _file_labels(files: Sequence[str]) -> list[str]:
    """Files without folder and suffix, where that is enough to tell them apart."""
    paths = [PurePosixPath(file.replace("\\", "/")) for file in files]
    short = [
        path.stem if path.suffix in (".safetensors", ".ckpt", ".pt") else path.name
        for path in paths
    ]
    return [
        label if short.count(label) == 1 else str(path)
        for label, path in zip(short, paths, strict=True)
    ]


def _reader(target: str, choices: Choices, search: str) -> Callable[[str], list[Value]]:
    """What turns one line into values of that target."""
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
            f"seed {value} is out of range: give a number from 0 to {2**64 - 1}, or draw some: 4 seeds."
        )
    if target == "clip skip":
        return Value(clip_skip_label(int(value)), {name: value})
    if target == "steps":
        return Value(f"{value} step" if value == 1 else f"{value} steps", {name: value})
    if target == "LoRA strength" and abs(value) > STRONGEST:
        raise GridError(
            f"LoRA strength {value:g} is out of range: give a number from -{STRONGEST:g} to {STRONGEST:g}."
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
        near = difflib.get_close_matches(line, known, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
        raise GridError(f"There is no {target} {line!r}. {hint}")
    return Value(line, {target: line})


def _file_names(target: str, line: str, choices: Choices) -> list[str]:
    """The names of a line; a comma in the name of a file that there is does not separate."""
    return [line] if line in choices.get(FILES[target], ()) else lists.names(line)


def _files(target: str, line: str, choices: Choices) -> list[Value]:
    """The files that a line names: one, or with `*` or `?` all that match, in natural order."""
    if target == "VAE" and line == NO_FILE:
        return [Value("the checkpoint's VAE", {"vae": ""})]
    found = _matching(target, line, choices)
    return [
        Value(label, {FILES[target]: name})
        for name, label in zip(found, _file_labels(found), strict=True)
    ]


def _recipe(line: str, choices: Choices) -> Value:
    """A recipe as text, "0.6 vodka + 0.4 epic"; a checkpoint alone is itself."""
    from .mixes import recipe_set

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
            f"{entry!r} is no LoRA with its strength. Write FILE:0.8, or FILE:0.8:0.5 for model and text encoder."
        ) from None
    found = []
    matching = _matching("LoRA", name.strip(), choices)
    for file, label in zip(matching, _file_labels(matching), strict=True):
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
    stems = {PurePosixPath(file.replace("\\", "/")).stem: file for file in known}
    near = difflib.get_close_matches(PurePosixPath(plain).stem, stems, n=1, cutoff=0.5)
    hint = f" Did you mean {stems[near[0]]}?" if near else ""
    raise GridError(
        f"There is no {target} {name!r}.{hint} Put the file into its folder and press R."
    )


def _natural(name: str) -> list[Any]:
    """Numbers in names count as numbers: epoch 9 comes before epoch 10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", name.lower())
    ]
