"""Whether a checkpoint's numbers are sound, and what it says of itself that others understand."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .errors import MergeError, listed
from .family import family_of
from .key_names import EMA
from .prediction import prediction_of
from .reading import numbers
from .safetensors_file import FLOATS, Header, Tensor
from .web_ui import json_object

POSITION_IDS = "embeddings.position_ids"
MOST_THREADS = 8
MECHA = "mecha_recipe"
PROMPT = "prompt"
MODEL_INPUTS = ("ckpt_name", "unet_name", "model_name", "vae_name", "clip_name")


@dataclass(frozen=True)
class Health:
    """The names of tensors with NaN or infinity, of weights that are all zero, and of position ids
    that are not 0, 1, 2, ...
    """

    not_finite: tuple[str, ...]
    zero: tuple[str, ...]
    wrong_positions: tuple[str, ...]


def examine(header: Header, progress: Callable[[int, int], None] | None = None) -> Health:
    """Read every number of a checkpoint. `progress(done_bytes, total_bytes)` follows it.

    The noise schedule's buffers (names without a dot) may hold infinity; averaged copies are looked
    at like the weights.
    """
    tensors = [tensor for tensor in header.tensors.values() if tensor.elements]
    total, done = sum(tensor.size_bytes for tensor in tensors), 0
    found: dict[str, str | None] = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        results = pool.map(lambda tensor: _fault(header, tensor), tensors)
        for tensor, fault in zip(tensors, results, strict=True):
            found[tensor.name] = fault
            done += tensor.size_bytes
            if progress:
                progress(done, total)
    kinds = ("not finite", "zero", "positions")
    return Health(*(tuple(n for n, fault in found.items() if fault == kind) for kind in kinds))


def _fault(header: Header, tensor: Tensor) -> str | None:
    if tensor.name.endswith(POSITION_IDS):
        return None if has_positions(header, tensor) else "positions"
    if tensor.dtype not in FLOATS or "." not in tensor.name:
        return None
    is_zero = True
    for part in numbers(header, tensor):
        if not bool(part.isfinite().all()):
            return "not finite"
        is_zero = is_zero and not bool(part.any())
    is_weight = tensor.name.endswith(".weight") and not tensor.name.startswith(EMA)
    return "zero" if is_zero and is_weight else None


def check_finite(header: Header, tensor: Tensor) -> None:
    """Raise MergeError if a weight holds anything but numbers."""
    if _fault(header, tensor) == "not finite":
        raise MergeError(
            f"These tensors contain NaN or infinity: {tensor.name} in {header.path.name}. "
            "The checkpoint is broken; use another one."
        )


def has_positions(header: Header, tensor: Tensor) -> bool:
    """Whether position ids are 0, 1, 2, ..., in whatever type."""
    import torch

    expected = torch.arange(tensor.elements)
    found = torch.cat([part.double() for part in numbers(header, tensor)])
    return bool((found == expected).all())


def notes(header: Header, health: Health) -> list[str]:
    """What is unusual about a checkpoint, one sentence each."""
    told = []
    prediction = prediction_of(header, family_of(header))
    if prediction and prediction.by:
        told.append(f"predicts {prediction}")
    for names, what in (
        (health.not_finite, "tensors contain NaN or infinity: the checkpoint is broken"),
        (health.zero, "weights are all zero"),
        (health.wrong_positions, "position_ids are not 0, 1, 2, ...; a merge and prune mend them"),
    ):
        if names:
            told.append(f"{len(names)} {what} ({listed(names, 3)})")
    return [*told, *_recipes_of_others(header.metadata)]


def _recipes_of_others(metadata: Mapping[str, str]) -> Iterator[str]:
    """What tools whose recipes cannot be read here say about a file."""
    if MECHA in metadata:
        models = re.findall(r'^model "([^"]+)"', metadata[MECHA], re.MULTILINE)
        methods = re.findall(r'^merge "([^"]+)"', metadata[MECHA], re.MULTILINE)
        yield f"merged by sd-mecha: {_list(methods)} of {_list(models)}"
    told = json_object(metadata.get("sd_merge_recipe"))
    if str(told.get("type", "")).endswith("model-mixer"):
        yield f"merged by model-mixer: {_short(json.dumps(told, ensure_ascii=False))}"
    nodes = [node for node in json_object(metadata.get(PROMPT)).values() if isinstance(node, dict)]
    if nodes:
        kinds = [str(node.get("class_type")) for node in nodes]
        inputs = [node.get("inputs") for node in nodes]
        models = [i[k] for i in inputs if isinstance(i, dict) for k in MODEL_INPUTS if k in i]
        merging = [kind for kind in kinds if "merge" in kind.lower()] or kinds
        yield (
            f"saved by ComfyUI: {_list(merging)} of "
            f"{_list([model for model in models if isinstance(model, str)])}"
        )


def _list(found: list[str]) -> str:
    return _short(listed(list(dict.fromkeys(found)), 5)) or "nothing that it names"


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
