"""A cell of a grid over any workflow: the API prompt with what the axes set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .....trainer.files import canonical_json, sha256_text
from ..errors import GridError
from . import files as file_checks
from . import node_inputs

FORMAT = "workflow 1"


UNSEEN = ("filename_prefix",)
"""Inputs of an output node that do not change its picture."""


SAVERS = ("SaveImage", "PreviewImage")


SIDE = 512


@dataclass(frozen=True)
class WorkflowCell:
    """All that decides one picture of a workflow: its prompt, and the inputs that the axes set."""

    prompt: dict[str, Any]
    """The API prompt of the output node and all nodes before it."""
    output: str
    changes: dict[str, Any]
    """Values by "id.input"."""
    files: tuple[tuple[str, str], ...]
    """Folder and name of every file that the prompt loads."""
    render_order: tuple[Any, ...] = ()
    width: int = SIDE
    height: int = SIDE
    """The size of the picture as far as the prompt says it. Only the file is sure to have it."""

    @property
    def rendered_here(self) -> bool:
        """Only a queue runs the nodes of a workflow."""
        return False

    @property
    def batch_size(self) -> int:
        """Workflows are not batched."""
        return 1

    @property
    def recipe(self) -> str:
        """Workflows merge with nodes of their own."""
        return ""

    @property
    def models(self) -> tuple[str, ...]:
        """What must be in memory for this picture."""
        return tuple(f"{folder}/{name}" for folder, name in self.files if folder != "input")

    @property
    def comfy_files(self) -> tuple[tuple[str, str], ...]:
        """The files, which are known by ComfyUI's folders already."""
        return self.files

    def check_files(self, contents: Mapping[str, Mapping[str, str]]) -> None:
        """Raise GridError if a file is not the one that was planned with."""
        file_checks.check_unchanged(self.files, contents, node_inputs.content_sha256)

    def key(self, sha256_of: Callable[[str, str], str]) -> str:
        """Hex SHA-256 of the picture's graph without ids and names of saved files, with the content
        of files in place of their names.
        """
        known: dict[str, str] = {}
        for id in causes_first(self.prompt, self.output):
            node = self.prompt[id]
            found: dict[str, Any] = {}
            for name, value in node["inputs"].items():
                if id == self.output and name in UNSEEN:
                    continue
                if node_inputs.is_link(value):
                    found[name] = {"link": [known[value[0]], value[1]]}
                    continue
                file = node_inputs.file_of(node["class_type"], name, value)
                found[name] = {"file": sha256_of(*file)} if file else {"value": value}
            saver = id == self.output and node["class_type"] in SAVERS
            known[id] = sha256_text(
                canonical_json(["picture" if saver else node["class_type"], found])
            )
        return sha256_text(canonical_json([FORMAT, known[self.output]]))

    def to_json(self) -> dict[str, Any]:
        return dict(self.changes)

    def api_prompt(self, prefix: str) -> dict[str, Any]:
        """What `POST /prompt` takes; files that the output node writes begin with `prefix`."""
        prompt = copy.deepcopy(self.prompt)
        if "filename_prefix" in prompt[self.output]["inputs"]:
            prompt[self.output]["inputs"]["filename_prefix"] = prefix
        return prompt

    def graphs(self, prefix: str) -> dict[str, Any]:
        """The API prompt, which the page opens too."""
        return {"prompt": self.api_prompt(prefix)}


def cell_of(
    base: Mapping[str, Any], output: str, changes: Mapping[str, Any], varied: Sequence[str] = ()
) -> WorkflowCell:
    """The cell of a template with these values by "id.input"."""
    prompt = dict(base)
    for target, value in changes.items():
        set_input(prompt, target, value, output)
    prompt = {id: prompt[id] for id in ancestors(prompt, output)}
    files = []
    width, height = SIDE, SIDE
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if not node_inputs.is_link(value) and (
                file := node_inputs.file_of(node["class_type"], name, value)
            ):
                files.append(file)
        sides = (node["inputs"].get("width"), node["inputs"].get("height"))
        if all(isinstance(side, int) and side > 0 for side in sides):
            width, height = sides
    found = tuple(sorted(set(files)))
    models = tuple(file for file in found if file[0] != "input")
    order = (models, *(canonical_json(changes.get(target)) for target in varied))
    return WorkflowCell(prompt, output, dict(changes), found, order, width, height)


def node_of(prompt: node_inputs.Prompt, target: str) -> str:
    """The node of "id.input": ids of nodes in subgraphs are such as 12:3, with no dots."""
    return next(id for id in prompt if target.startswith(f"{id}."))


def set_input(prompt: dict[str, Any], target: str, value: Any, output: str) -> None:
    if not any(target.startswith(f"{id}.") for id in prompt):
        raise GridError(f"{target} does not lead to node {output}, so it changes no picture.")
    id = node_of(prompt, target)
    inputs = {**prompt[id]["inputs"], target[len(id) + 1 :]: value}
    prompt[id] = {**prompt[id], "inputs": inputs}


def ancestors(prompt: node_inputs.Prompt, output: str) -> list[str]:
    """The output and all before it, in the order of the prompt. Raises GridError for a circle of
    links.
    """
    found = set(causes_first(prompt, output))
    return [id for id in prompt if id in found]


def causes_first(prompt: node_inputs.Prompt, *outputs: str) -> list[str]:
    """The outputs and all before them, each node after those that it is linked to. Raises GridError
    for a circle of links.
    """
    found: dict[str, None] = {}
    open: dict[str, Iterator[str]] = {}
    for output in outputs:
        todo = [] if output in found else [output]
        while todo:
            id = todo[-1]
            links = open.setdefault(id, _linked(prompt, id))
            cause = next((link for link in links if link not in found), None)
            if cause is None:
                found[todo.pop()] = None
                del open[id]
            elif cause not in prompt:
                raise GridError(
                    f"{node_inputs.called(prompt, id)} is linked to node {cause}, which does not "
                    "exist."
                )
            elif cause in open:
                raise GridError(
                    "The links of the workflow form a circle at "
                    f"{node_inputs.called(prompt, cause)}."
                )
            else:
                todo.append(cause)
    return [*found]


def check_loops(prompt: node_inputs.Prompt, output: str) -> None:
    """Refuse an output between the two ends of a loop: only the first pass would reach it."""
    before = set(causes_first(prompt, output))
    for id in prompt.keys() - before:
        start = node_inputs.loop_start(prompt, id)
        if start in before:
            raise GridError(
                f"{node_inputs.called(prompt, output)} is within a loop, between "
                f"{node_inputs.called(prompt, start)} and {node_inputs.called(prompt, id)}, so it "
                "would show the first pass only. Link it to what comes out at the end of the loop."
            )


def _linked(prompt: node_inputs.Prompt, id: str) -> Iterator[str]:
    return (value[0] for value in prompt[id]["inputs"].values() if node_inputs.is_link(value))


def descendants(prompt: node_inputs.Prompt) -> dict[str, int]:
    """How many nodes must run again when one changes, itself included."""
    after: dict[str, int] = {}
    for number, id in enumerate(reversed(causes_first(prompt, *prompt))):
        # One bit for each node, so that long chains stay cheap.
        after[id] = after.get(id, 0) | 1 << number
        for cause in _linked(prompt, id):
            after[cause] = after.get(cause, 0) | after[id]
    return {id: bin(after[id]).count("1") for id in prompt}
