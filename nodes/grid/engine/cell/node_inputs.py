"""Any input of any node of an API prompt: which one a name means, which values it takes, and which
file a value is.

This is the only part of grids over workflows that asks ComfyUI about its nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .....merge.hashing import file_sha256
from .....trainer.errors import nearest
from ....host.names import BadName, below, hashes_file
from ..axes import lists
from ..errors import GridError
from ..patterns import matches
from .samplers import as_people_write

Prompt = Mapping[str, Mapping[str, Any]]
"""An API prompt: nodes by id, each with "class_type" and "inputs"."""

MOST_NODES = 5_000
LONGEST_TARGET = 1_000
UPLOADS = ("image_upload", "video_upload", "audio_upload", "animated_image_upload")
"""Options of a combo whose values are files in ComfyUI's input, output or temp folder."""

LOOP = "FLOW_CONTROL"
"""The type of the link from the beginning of a loop to its end, as ComfyUI's own examples of loops
call it.
"""

OUTSIDE_FOLDERS = ("custom_nodes", "configs", "datasets")


def check_prompt(prompt: Any) -> None:
    """Raise GridError unless this is an API prompt whose nodes this ComfyUI knows."""
    how = "In ComfyUI choose Workflow > Export (API) and send that file's content."
    if not isinstance(prompt, dict) or not prompt:
        raise GridError(f"The workflow is not an API prompt, an object of nodes by id. {how}")
    if len(prompt) > MOST_NODES:
        raise GridError(f"The workflow has {len(prompt):,} nodes; {MOST_NODES:,} is the most.")
    if isinstance(prompt.get("nodes"), list):
        raise GridError(f"The workflow is in the format of the page, not an API prompt. {how}")
    for id, node in prompt.items():
        if not (
            isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
        ):
            raise GridError(
                f'The workflow is not an API prompt: node {id} has no "class_type" and "inputs". '
                f"{how}"
            )
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] not in prompt:
                raise GridError(
                    f"Input {name} of {called(prompt, id)} is linked to node {value[0]}, which "
                    "does not "
                    "exist."
                )


def is_link(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def called(prompt: Prompt, id: str) -> str:
    """A node in words: its title, or its class, and its id."""
    node = prompt[id]
    return f"{_title(node) or node['class_type']} ({id})"


def _title(node: Mapping[str, Any]) -> str:
    meta = node.get("_meta")
    return str(meta.get("title") or "") if isinstance(meta, dict) else ""


def find_node(prompt: Prompt, name: str) -> str:
    """The id of the node with that id, title or class. Raises GridError if there is none, or more
    than one.
    """
    if name in prompt:
        return name
    titles = {id: _title(node) for id, node in prompt.items()}
    classes = {id: node["class_type"] for id, node in prompt.items()}
    for names in (titles, classes):
        found = [id for id, one in names.items() if one.lower() == name.lower()]
        if len(found) == 1:
            return found[0]
        if found:
            raise GridError(
                f"The workflow has {len(found)} nodes called {name!r}: {', '.join(found)}. Write "
                "the id "
                "of the one you mean."
            )
    hint = nearest(name, [*titles.values(), *classes.values()])
    there = ", ".join(called(prompt, id) for id in [*prompt][:12])
    raise GridError(f"The workflow has no node {name!r}.{hint} There are: {there}.")


def find_input(prompt: Prompt, target: str) -> tuple[str, str]:
    """The node's id and the input that "NODE.INPUT" means. Titles and inputs may contain dots.
    Raises GridError.
    """
    refusal: GridError | None = None
    if len(target) > LONGEST_TARGET:
        raise GridError(f"{target[:40]!r}... is too long to name an input of a node.")
    for place, mark in enumerate(target):
        if mark != ".":
            continue
        node, name = target[:place].strip(), target[place + 1 :].strip()
        try:
            id = find_node(prompt, node)
        except GridError as error:
            refusal = refusal or error
            continue
        known = {**prompt[id]["inputs"], **specs(prompt[id]["class_type"])}
        if name in known:
            return id, name
        hint = nearest(name, known) or f" There are: {', '.join(known) or 'none'}."
        refusal = GridError(f"{called(prompt, id)} has no input {name!r}.{hint}")
    raise refusal or GridError(
        f"{target!r} does not name an input. Write NODE.INPUT, such as KSampler.cfg or 3.cfg."
    )


def specs(class_type: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and options of each input of a node. A combo's type is the list of its choices. Raises
    GridError.
    """
    from nodes import NODE_CLASS_MAPPINGS

    if class_type not in NODE_CLASS_MAPPINGS:
        hint = nearest(class_type, NODE_CLASS_MAPPINGS) or " Install the pack that has it."
        raise GridError(f"This ComfyUI has no node {class_type!r}.{hint}")
    found = {}
    inputs = NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()
    for part in ("required", "optional"):
        for name, spec in inputs.get(part, {}).items():
            kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
            if kind == "COMBO":
                kind = list(options.get("options") or [])
            found[name] = (kind, options)
    return found


def kind_of(prompt: Prompt, id: str, name: str) -> Any:
    """The type of an input as `specs` gives it; "*" for one that the node does not declare."""
    return specs(prompt[id]["class_type"]).get(name, ("*",))[0]


def loop_start(prompt: Prompt, id: str) -> str | None:
    """The node where the loop begins that a node closes; None if it closes none."""
    try:
        known = specs(prompt[id]["class_type"])
    except GridError:
        return None
    links = {name: value for name, value in prompt[id]["inputs"].items() if is_link(value)}
    return next((link[0] for name, link in links.items() if known.get(name, "*")[0] == LOOP), None)


def is_output(class_type: str) -> bool:
    from nodes import NODE_CLASS_MAPPINGS

    return bool(getattr(NODE_CLASS_MAPPINGS.get(class_type), "OUTPUT_NODE", False))


def matching(prompt: Prompt, id: str, name: str, value: Any) -> list[Any]:
    """The choices of a combo that match a pattern with `*` or `?`; any other value unchanged.
    Raises GridError.
    """
    kind = specs(prompt[id]["class_type"]).get(name, ("",))[0]
    if (
        not isinstance(kind, list)
        or not isinstance(value, str)
        or value in kind
        or not set(value) & set("*?")
    ):
        return [value]
    found = [
        one
        for one in kind
        if isinstance(one, str) and matches(one.replace("\\", "/"), value.replace("\\", "/"))
    ]
    if not found:
        raise GridError(f"Nothing that {name} of {called(prompt, id)} offers matches {value!r}.")
    return found


def read_value(prompt: Prompt, id: str, name: str, value: Any) -> Any:
    """A value as the input takes it: "3" becomes a number if the input takes numbers. Raises
    GridError if it does not fit.
    """
    kind, options = specs(prompt[id]["class_type"]).get(name, ("*", {}))
    where = f"{name} of {called(prompt, id)}"
    if isinstance(kind, list):
        return _choice(kind, value, where)
    if kind == "BOOLEAN":
        known = {
            "true": True,
            "on": True,
            "yes": True,
            "1": True,
            "false": False,
            "off": False,
            "no": False,
            "0": False,
        }
        if str(value).lower() not in known:
            raise GridError(f"{where} is true or false, not {value!r}.")
        return known[str(value).lower()]
    if kind in ("INT", "FLOAT"):
        return _number(kind, options, value, where)
    if kind == "STRING":
        if isinstance(value, list | dict):
            raise GridError(f"{where} takes a text, not {value!r}.")
        return str(value)
    if (
        isinstance(kind, str)
        and kind.isupper()
        and name in prompt[id]["inputs"]
        and is_link(prompt[id]["inputs"][name])
    ):
        raise GridError(f"{where} takes a {kind} from another node. Vary an input of that node.")
    return value


def _choice(kind: list[Any], value: Any, where: str) -> Any:
    """The choice that a value means: exactly that one, or what people call it."""
    fits = [one for one in kind if one == value or str(one) == str(value)]
    if fits:
        return fits[0]
    known = [one for one in kind if isinstance(one, str)]
    of_samplers = "euler" in known or "karras" in known
    if of_samplers and (same := as_people_write(str(value), known)):
        return same
    alike = [one for one in known if one.lower() == str(value).strip().lower()]
    if len(alike) == 1:
        return alike[0]
    hint = (
        nearest(str(value), map(str, kind))
        or f" It offers: {', '.join(map(str, kind[:20])) or 'nothing'}."
    )
    raise GridError(f"{where} does not offer {value!r}.{hint}")


def _number(kind: str, options: Mapping[str, Any], value: Any, where: str) -> int | float:
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str) and ("/" in value or "%" in value):
            value = lists.number(value)
        number = float(value) if kind == "FLOAT" else int(value)
        if not math.isfinite(number) or (kind == "INT" and float(value) != float(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise GridError(
            f"{where} takes a {'number' if kind == 'FLOAT' else 'whole number'}, not {value!r}."
        ) from None
    low, high = options.get("min", -math.inf), options.get("max", math.inf)
    if not low <= number <= high:
        raise GridError(f"{where} must be from {low} to {high}, not {number}.")
    return number


def file_of(class_type: str, name: str, value: Any) -> tuple[str, str] | None:
    """Folder and name of the file that a combo's value means, such as ("checkpoints",
    "a.safetensors"); None if it means no file. Raises GridError for a value that is no choice of
    the combo and leads out of ComfyUI's folders.
    """
    import folder_paths

    kind, options = specs(class_type).get(name, ("", {}))
    if not isinstance(value, str) or not isinstance(kind, list):
        return None
    if any(options.get(upload) for upload in UPLOADS):
        if value not in kind:
            _uploaded(value)
        return ("input", value)
    if value not in kind and leads_out(value):
        raise GridError(
            f"{name} of {class_type} is refused: {value!r} is neither one of its choices "
            "nor a name within a folder."
        )
    best: tuple[int, str] | None = None
    for folder in folder_paths.folder_names_and_paths:
        if folder in OUTSIDE_FOLDERS:
            continue
        files: Sequence[str] = folder_paths.get_filename_list(folder)
        if value in files and set(files) <= set(kind) and (best is None or len(files) > best[0]):
            best = (len(files), folder)
    return (best[1], value) if best else None


def leads_out(name: str) -> bool:
    """Whether a name is a path that begins elsewhere or climbs out of its folder."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0].endswith(":") or (not parts[0] and len(parts) > 1)


def _uploaded(name: str) -> Path:
    """The file of a name such as "a.png" or "a.png [output]". Raises GridError for one that climbs
    out of the folder that it names. Links there are those of ComfyUI's owner, and are followed, as
    ComfyUI does.
    """
    import folder_paths

    relative, folder = folder_paths.annotated_filepath(name)
    try:
        root = Path(folder or folder_paths.get_input_directory())
        return below(root, relative.strip(), "File")
    except (BadName, ValueError, OSError) as error:
        raise GridError(str(error)) from None


def content_sha256(folder: str, name: str) -> str:
    """Hex SHA-256 of such a file, remembered until it changes. Raises GridError if it does not
    exist.
    """
    import folder_paths

    if folder == "input":
        path = _uploaded(name)
    else:
        full = folder_paths.get_full_path(folder, name)
        path = Path(full) if full else Path()
    if not path.is_file():
        raise GridError(f"There is no file {name!r} in ComfyUI's {folder} folder.")
    return file_sha256(path, hashes_file())
