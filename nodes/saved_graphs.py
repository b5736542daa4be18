"""The saved graphs of the pack as prompts: the inputs of each, and a prompt with other values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..trainer.errors import nearest
from .grid.engine.cell.node_inputs import find_input, is_link, read_value, specs
from .grid.engine.errors import GridError
from .host.names import BadName, check_name

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
MOST_VALUES, MOST_CHOICES = 1_000, 40
"""So many values a request may give, and so many choices of an input are listed."""
LONGEST = 500
"""So many letters of a name or a complaint are told."""
NOTE = "MarkdownNote"


class BadValues(Exception):
    """Values that a graph cannot take. `problems` says which, by title and input."""

    def __init__(self, problems: list[dict[str, str]]) -> None:
        self.problems = problems
        super().__init__(" ".join(one["message"] for one in problems))


def graph_names() -> list[str]:
    """Names of the saved graphs, the files of workflows/api without .json."""
    return sorted(file.stem for file in (FOLDER / "api").glob("*.json"))


def read_prompt(name: str) -> dict[str, Any]:
    """The API prompt of a saved graph. Raises BadName, which suggests the nearest name, if there is
    none.
    """
    names = graph_names()
    if check_name(name, "graph") not in names:
        raise BadName(f"There is no saved graph {name!r}.{nearest(name, names)}")
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


def listed() -> list[dict[str, Any]]:
    """Every saved graph: its name, what it is about, and its inputs by title and name."""
    known: dict[str, dict[str, Any]] = {}
    found = []
    for name in graph_names():
        try:
            inputs, problem = inputs_of(read_prompt(name), known), {}
        except GridError as error:
            inputs, problem = {}, {"problem": str(error)}
        found.append({"name": name, "about": about(name), "inputs": inputs, **problem})
    return found


def about(name: str) -> str:
    """The heading and the first words of a graph's first note."""
    graph = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    notes = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] == NOTE]
    parts = notes[0].split("\n\n") if notes else []
    return ". ".join(part.lstrip("# ").rstrip(".") for part in parts[:2])


def inputs_of(prompt: Mapping[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What one can change in a prompt: "TITLE.INPUT" with type, default, and choices or range.

    `known` keeps what classes declare, because reading that lists folders.
    """
    found = {}
    for node in prompt.values():
        kind = node["class_type"]
        if kind not in known:
            known[kind] = specs(kind)
        for name, value in node["inputs"].items():
            type_, options = known[kind].get(name, ("*", {}))
            described = described_type(type_, options)
            if described is None:
                continue
            if is_link(value):
                source = prompt[value[0]]["_meta"]["title"]
                described["linked_to"] = source
            else:
                described["default"] = value
            if options.get("advanced"):
                described["advanced"] = True
            found[f"{node['_meta']['title']}.{name}"] = described
    return found


def described_type(kind: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """An input's type in JSON; None for one that takes only what another node makes."""
    if isinstance(kind, list):
        return {"type": "COMBO", **({"choices": kind} if len(kind) <= MOST_CHOICES else {})}
    if kind in ("INT", "FLOAT"):
        return {"type": kind, **{end: options[end] for end in ("min", "max") if end in options}}
    return {"type": kind} if kind in ("STRING", "BOOLEAN") else None


def filled(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt of a saved graph with these values by "TITLE.INPUT". A value for a linked input
    replaces the link. Raises BadName, or BadValues with all that is wrong.
    """
    prompt, problems = read_prompt(name), []
    for target, value in values.items():
        try:
            key, entry = find_input(prompt, target)
            if isinstance(value, list | dict) or value is None:
                raise GridError(f"{target} takes a text, a number, true or false.")
            prompt[key]["inputs"][entry] = read_value(prompt, key, entry, value)
        except GridError as error:
            title, _, entry = target[:LONGEST].rpartition(".")
            problems.append({"title": title, "input": entry, "message": str(error)[:LONGEST]})
    if problems:
        raise BadValues(problems)
    return prompt


def translated(prompt: Mapping[str, Any], answer: Mapping[str, Any]) -> list[dict[str, str]]:
    """ComfyUI's complaints about a prompt, by title and input instead of by id."""
    problems = []
    for key, found in answer.items():
        title = prompt[key]["_meta"]["title"]
        for error in found["errors"]:
            entry = str((error.get("extra_info") or {}).get("input_name", ""))
            words = f"{error.get('message', 'Refused')}: {error.get('details', '')}".rstrip(": ")
            problems.append({"title": title, "input": entry, "message": f"{title}: {words}"})
    return problems
