"""A checkpoint quantised in the way of another one: after a mix of quantised checkpoints, say."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import block_scaled, by_rows, four_bits
from .ancestry import read_ingredients, write_ingredients
from .block_scaled import Blocked
from .by_rows import ByRows
from .conversion import CONVERTED, DROPPED
from .errors import MergeError, listed
from .four_bits import FP16_SMALLEST, Indexed
from .hashing import Progress, file_hashes
from .health import check_finite
from .key_names import EMA, with_usual_names
from .licence import read_licence
from .metadata import Source, describe
from .quantised import (
    GLOBAL_SCALE,
    METADATA,
    SECOND_SCALE,
    SHAPE,
    UNUSED,
    Quantised,
    Scaled,
    is_quantised,
    reader,
    with_numbers,
)
from .reading import open_checkpoint, read_values
from .recipe import Ingredient
from .safetensors_file import Header, Tensor, lay_out, new_file, read_header, torch_type
from .web_ui import json_object

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
    called: str = "",
    hash_cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Requantised:
    """Write `path` to `out` with those weights quantised that are so in `like`, in the same types
    and with the same kinds of scales. Averaged copies and leftovers of training are left out, all
    else is copied byte for byte.

    A scale is the largest number of its part of the weight over the largest of the type. `called`
    is the original's name in the metadata, else that of its file. Raises MergeError where `like` is
    not quantised, and where a weight has another shape there or contains NaN or infinity.
    """
    header = open_checkpoint(path)
    pattern = with_usual_names(read_header(like))
    kinds = _kinds(header, with_numbers(pattern), like)
    plain = _copied(header, kinds, path, like)
    sides = _sides(pattern, kinds)
    wanted = [*plain.values(), *sides.values(), *_written(kinds, pattern)]
    entries = [(tensor.name, tensor.dtype, tensor.shape) for tensor in wanted]
    start, places = lay_out(entries, _metadata(header, pattern, path, like, called, hash_cache))
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
            made, meant = _quantised(value, kind, pattern)
            for place, numbers in made.items():
                _put(file, places[place], _data(numbers))
            off += float((meant - value).double().square().sum())
            whole += float(value.double().square().sum())
            progress(next(steps), total)
    return Requantised(len(kinds), math.sqrt(off / whole) if whole else 0.0)


def find_or_quantise_like(
    path: Path,
    folder: Path,
    name: str,
    like: Path,
    called: str,
    hash_cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, Requantised | None]:
    """Like `quantise_like`, to NAME.safetensors in `folder`; None in place of what was done if this
    very file is there already.

    Without a name the file is named after the hashes of both. Raises MergeError when another file
    has the name; that file is left alone.
    """
    sha256 = file_hashes(path, hash_cache, progress).sha256
    choices = _choices(like, hash_cache)
    own = f"quantise-{sha256[:12]}-{choices['sha256'][:12]}"
    out = folder / f"{name or own}.safetensors"
    if out.exists():
        metadata = read_header(out).metadata
        entries = [entry["sha256"] for entry in read_ingredients(metadata)]
        if (json_object(metadata.get(CONVERTED)), entries) == (choices, [sha256]):
            return out, None
        raise MergeError(
            f"{out} exists already and is another file. Nothing is overwritten: choose another "
            "name, or leave the name empty."
        )
    return out, quantise_like(path, like, out, called, hash_cache, progress)


def _put(file: IO[bytes], place: Tensor, data: bytes) -> None:
    file.seek(place.offset)
    file.write(data)


def _sides(pattern: Header, kinds: dict[str, Quantised]) -> dict[str, Tensor]:
    """The tensors of quantised layers that are copied from the pattern."""
    layers = {"", *map(_layer_of, kinds)}
    found = {
        name: tensor
        for name, tensor in pattern.tensors.items()
        if name.endswith(UNUSED) and _layer_of(name) in layers
    }
    for kind in kinds.values():
        if isinstance(kind, Indexed):
            found |= {tensor.name: tensor for tensor in four_bits.carried(kind)}
        shape = kind.name.removesuffix(".weight") + SHAPE
        if isinstance(kind, ByRows) and shape in pattern.tensors:
            found[shape] = pattern.tensors[shape]
    return found


def _written(kinds: dict[str, Quantised], pattern: Header) -> list[Tensor]:
    """The tensors that are made of the weights, in the types and shapes they will have."""
    found: list[Tensor] = []
    with pattern.path.open("rb") as file:
        for kind in kinds.values():
            if isinstance(kind, Indexed):
                found += four_bits.written(kind, reader(file))
            elif isinstance(kind, ByRows):
                found += [kind.stored, kind.scale, *([kind.zero] if kind.zero else [])]
            else:
                factor = _factor_of(kind, pattern)
                found += [kind.stored, kind.scale, *([factor] if factor else [])]
    return found


def _quantised(value: Any, kind: Quantised, pattern: Header) -> tuple[dict[str, Any], Any]:
    """The tensors of a quantised weight by name, and the weight that they mean."""
    if isinstance(kind, ByRows):
        return by_rows.encode(value, kind, _scales)
    if not isinstance(kind, Indexed):
        return _made(value, kind, _factor_of(kind, pattern))
    with pattern.path.open("rb") as file:
        return four_bits.encode(value, kind, reader(file))


def _factor_of(kind: Scaled | Blocked, pattern: Header) -> Tensor | None:
    """The tensor with the factor of all scales of a weight, for kinds that have one."""
    layer = kind.name.removesuffix(".weight")
    if not isinstance(kind, Blocked) or not kind.packed:
        return None
    return pattern.tensors[layer + (SECOND_SCALE if kind.tiled else GLOBAL_SCALE)]


def _made(value: Any, kind: Scaled | Blocked, factor: Tensor | None) -> tuple[dict[str, Any], Any]:
    """The tensors of a weight with scales by name, and the weight that they mean."""
    if isinstance(kind, Scaled):
        stored, scale, meant = quantise(value, kind)
        return {kind.stored.name: stored, kind.scale.name: scale}, meant
    factor_type = factor.dtype if factor else "F32"
    try:
        stored, scale, number, meant = block_scaled.encode(value, kind, factor_type)
    except ValueError as error:
        raise MergeError(
            f"{kind.name} cannot be stored with a scale for a block of numbers ({error}): they are "
            "too small or too large for it. Keep the checkpoint in fp16 or fp32."
        ) from None
    made = {kind.stored.name: stored, kind.scale.name: scale}
    if factor:
        made[factor.name] = number.reshape(factor.shape)
    return made, meant


def quantise(value: Any, kind: Scaled) -> tuple[Any, Any, Any]:
    """Stored numbers and scales of a weight, and the weight that they mean, in float32."""
    import torch

    dtype = torch_type(kind.stored.dtype)
    largest = LARGEST_INT8 if kind.stored.dtype == "I8" else float(torch.finfo(dtype).max)
    parts = value.reshape(kind.scale.elements, -1)
    scale = _scales(parts.abs().amax(1) / (largest * kind.factor), kind.scale)
    step = (scale.float() * kind.factor)[:, None]
    numbers = (parts / step).clamp(-largest, largest)
    stored = (numbers.round() if kind.stored.dtype == "I8" else numbers).to(dtype)
    meant = (stored.float() * step).reshape(value.shape)
    return stored.reshape(kind.stored.shape), scale.reshape(kind.scale.shape), meant


def _scales(scale: Any, like: Tensor) -> Any:
    """Scales in the type in which they are stored, 1 where there is nothing but 0."""
    import torch

    scale = _rounded(torch.where(scale > 0, scale, torch.ones(())), like)
    if not bool((scale.float() > 0).all() and scale.float().isfinite().all()):
        raise MergeError(
            f"{like.name} cannot be stored as {like.dtype}: the weights are too small or too large "
            "for it. Keep the checkpoint in fp16 or fp32."
        )
    return scale


def _rounded(scale: Any, like: Tensor) -> Any:
    """Scales in the type in which they are stored. One that would lose so much that the largest
    numbers of its part were cut off, as where fp16 has few digits left, is rounded up. So is one
    that would be 0, unless it becomes larger than fp16's smallest number: fp16 would hold weights
    so small no better.
    """
    import torch

    found = scale.to(torch_type(like.dtype))
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    smallest = float(torch.ones((), dtype=bits).view(found.dtype))
    is_low = found.float() * (1 + 2**-8) < scale
    if smallest > FP16_SMALLEST:
        is_low &= found.float() > 0
    # The bits of positive numbers are in the order of the numbers.
    return torch.where(is_low, found.view(bits) + 1, found.view(bits)).view(found.dtype)


def _kinds(header: Header, pattern: Header, like: Path) -> dict[str, Quantised]:
    """How each weight that is to be quantised is so in the pattern."""
    found: dict[str, Quantised] = {}
    for name, kind in pattern.tensors.items():
        if not is_quantised(kind) or name not in header.tensors:
            continue
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


def _copied(
    header: Header, kinds: dict[str, Quantised], path: Path, like: Path
) -> dict[str, Tensor]:
    """The weights that are copied as they are."""
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
    for tensor in plain.values():
        check_finite(header, tensor)
    return plain


def _metadata(
    header: Header,
    pattern: Header,
    path: Path,
    like: Path,
    called: str,
    hash_cache: Path | None,
) -> dict[str, str]:
    metadata = {k: v for k, v in header.metadata.items() if not k.startswith("cocktail.")}
    if METADATA in pattern.metadata:
        metadata[METADATA] = pattern.metadata[METADATA]
    hashes = file_hashes(path, hash_cache)
    source = Source(path, hashes, header.metadata, read_licence(path, header.metadata))
    return {
        **metadata,
        "format": "pt",
        CONVERTED: json.dumps(_choices(like, hash_cache)),
        **write_ingredients([describe(Ingredient(called or path.name, hashes.sha256), source)]),
    }


def _choices(like: Path, hash_cache: Path | None) -> dict[str, str]:
    return {"quantised like": like.name, "sha256": file_hashes(like, hash_cache).sha256}


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
