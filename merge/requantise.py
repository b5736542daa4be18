"""A checkpoint quantised in the way of another one: after a mix of quantised checkpoints, say."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .ancestry import write_ingredients
from .conversion import CONVERTED, DROPPED
from .errors import MergeError, listed
from .hashing import Progress, file_hashes
from .key_names import EMA, with_usual_names
from .licence import read_licence
from .metadata import Source, describe
from .quantised import METADATA, UNUSED, Scaled, is_quantised, with_numbers
from .reading import open_checkpoint, read_values
from .recipe import Ingredient
from .safetensors_file import Header, Tensor, lay_out, new_file, read_header, torch_type

LARGEST_INT8 = 127.0


@dataclass(frozen=True)
class Requantised:
    """How many tensors are quantised, and the root mean square of their error against that of the
    weights.
    """

    tensors: int
    error: float

    def __str__(self) -> str:
        return f"{self.tensors} tensors quantised, {100 * self.error:.2f} % off (root mean square)"


def quantise_like(
    path: Path,
    like: Path,
    out: Path,
    hash_cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Requantised:
    """Write `path` to `out` with those weights quantised that are so in `like`, in the same types
    and with the same kinds of scales. Averaged copies and leftovers of training are left out, all
    else is copied byte for byte.

    A scale is the largest number of its part of the weight over the largest of the type. Raises
    MergeError where `like` is not quantised, or in another way than with plain scales (fp8, int8),
    and where a weight has another shape there.
    """
    header = open_checkpoint(path)
    pattern = with_usual_names(read_header(like))
    kinds = _kinds(header, with_numbers(pattern), like)
    plain = {
        name: tensor
        for name, tensor in header.tensors.items()
        if name not in kinds and not name.startswith((EMA, *DROPPED))
    }
    if quantised := [name for name, tensor in plain.items() if is_quantised(tensor)]:
        raise MergeError(
            f"{path.name} is quantised itself where {like.name} is not: {listed(quantised, 3)}. "
            "Prune it to fp16 or fp32 first."
        )
    sides = {
        name: tensor
        for name, tensor in pattern.tensors.items()
        if name.endswith(UNUSED) and _layer_of(name) in {"", *map(_layer_of, kinds)}
    }
    entries = [(t.name, t.dtype, t.shape) for t in (*plain.values(), *sides.values())]
    for kind in kinds.values():
        entries += [(t.name, t.dtype, t.shape) for t in (kind.stored, kind.scale)]
    start, places = lay_out(entries, _metadata(header, pattern, path, like, hash_cache))
    size = len(start) + sum(place.size_bytes for place in places.values())
    copied = [(header.path, plain), (pattern.path, sides)]
    total, steps = len(plain) + len(sides) + len(kinds), itertools.count(1)
    off, whole = 0.0, 0.0
    with new_file(out, size) as temporary, temporary.open("r+b") as file:
        file.write(start)
        for source, tensors in copied:
            with source.open("rb") as given:
                for name, tensor in tensors.items():
                    given.seek(tensor.offset)
                    _put(file, places[name], given.read(tensor.size_bytes))
                    progress(next(steps), total)
        for name, kind in kinds.items():
            value = read_values(header, name)
            stored, scale, meant = quantise(value, kind)
            _put(file, places[kind.stored.name], _data(stored))
            _put(file, places[kind.scale.name], _data(scale))
            off += float((meant - value).double().square().sum())
            whole += float(value.double().square().sum())
            progress(next(steps), total)
    return Requantised(len(kinds), math.sqrt(off / whole) if whole else 0.0)


def _put(file: IO[bytes], place: Tensor, data: bytes) -> None:
    file.seek(place.offset)
    file.write(data)


def quantise(value: Any, kind: Scaled) -> tuple[Any, Any, Any]:
    """Stored numbers and scales of a weight, and the weight that they mean, in float32."""
    import torch

    dtype = torch_type(kind.stored.dtype)
    largest = LARGEST_INT8 if kind.stored.dtype == "I8" else float(torch.finfo(dtype).max)
    parts = value.reshape(kind.scale.elements, -1)
    scale = parts.abs().amax(1) / (largest * kind.factor)
    scale = torch.where(scale > 0, scale, torch.ones(())).to(torch_type(kind.scale.dtype))
    if not bool((scale.float() > 0).all() and scale.float().isfinite().all()):
        raise MergeError(
            f"{kind.scale.name} cannot be stored as {kind.scale.dtype}: the weights are too small "
            "or too large for it. Keep the checkpoint in fp16 or fp32."
        )
    step = (scale.float() * kind.factor)[:, None]
    numbers = (parts / step).clamp(-largest, largest)
    stored = (numbers.round() if kind.stored.dtype == "I8" else numbers).to(dtype)
    meant = (stored.float() * step).reshape(value.shape)
    return stored.reshape(kind.stored.shape), scale.reshape(kind.scale.shape), meant


def _kinds(header: Header, pattern: Header, like: Path) -> dict[str, Scaled]:
    """How each weight that is to be quantised is so in the pattern."""
    found: dict[str, Scaled] = {}
    for name, kind in pattern.tensors.items():
        if not is_quantised(kind) or name not in header.tensors:
            continue
        if not isinstance(kind, Scaled):
            raise MergeError(
                f"{like.name} is quantised in a way that can be read but not written: {name}. Only "
                "fp8 and int8 with plain scales can."
            )
        own = header.tensors[name]
        if own.shape != kind.shape:
            raise MergeError(
                f"{name} has the shape {list(own.shape)} in {header.path.name} and "
                f"{list(kind.shape)} in {like.name}. Take a checkpoint of the same family."
            )
        found[name] = kind
    if not found:
        raise MergeError(
            f"{like.name} has no quantised weight that {header.path.name} has too, so there is "
            "nothing to do."
        )
    return found


def _metadata(
    header: Header, pattern: Header, path: Path, like: Path, hash_cache: Path | None
) -> dict[str, str]:
    metadata = {k: v for k, v in header.metadata.items() if not k.startswith("cocktail.")}
    if METADATA in pattern.metadata:
        metadata[METADATA] = pattern.metadata[METADATA]
    hashes = file_hashes(path, hash_cache)
    source = Source(path, hashes, header.metadata, read_licence(path, header.metadata))
    return {
        **metadata,
        "format": "pt",
        CONVERTED: json.dumps({"quantised like": like.name}),
        **write_ingredients([describe(Ingredient(path.name, hashes.sha256), source)]),
    }


def _layer_of(name: str) -> str:
    """The layer of a weight or of its side tensors; "" for a marker of the whole file."""
    for ending in (".weight", *UNUSED):
        if name.endswith(ending):
            layer = name.removesuffix(ending)
            return "" if ending == "scaled_fp8" else layer
    return name


def _data(tensor: Any) -> bytes:
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
