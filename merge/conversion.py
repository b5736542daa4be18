"""A copy of a checkpoint in another precision, without averaged copies and leftovers of training.
The original is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .ancestry import read_ingredients, write_ingredients
from .engine import write_file
from .errors import MergeError, listed
from .family import family_of
from .hashing import file_hashes
from .health import POSITION_IDS
from .key_names import EMA, PARTS, UNET, VAE_PART, part_of, with_usual_names
from .licence import read_licence
from .metadata import Source, describe
from .pickled import is_pickled, safetensors_of
from .plan import (
    PRECISIONS,
    Blend,
    Copy,
    MergePlan,
    OutputTensor,
    check_precision,
    own_type,
    position_ids,
    stored_as,
)
from .plan import Source as TensorSource
from .quantised import is_quantised, with_numbers
from .recipe import Ingredient
from .safetensors_file import FLOATS, Tensor, read_header
from .web_ui import json_object

KEEP = "as it is"
CONVERTED = "cocktail.converted"
DROPPED = (
    "optimizer",
    "lr_scheduler",
    "loss.",
    "callbacks",
    "loops.",
    "ema.",
    "global_step",
    "epoch",
)
"""The beginnings of the names of tensors that training tools leave in a checkpoint."""
EMA_CHOICES = ("drop", "keep", "use")


@dataclass(frozen=True)
class Conversion:
    """What `convert` did: how many tensors the new file has and how many were left out."""

    tensors: int
    averaged: int
    left_over: int
    size_before: int
    size_after: int

    def __str__(self) -> str:
        return (
            f"{self.tensors} tensors, "
            f"{self.size_before / 1e6:.1f} MB -> {self.size_after / 1e6:.1f} MB; left out: "
            f"{self.averaged} averaged copies, {self.left_over} leftovers of training"
        )


def convert(
    path: Path,
    out: Path,
    precision: str = KEEP,
    ema: str = "drop",
    vae: bool = False,
    name: str | None = None,
    hash_cache: Path | None = None,
    converted: Path | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write a copy of the checkpoint `path` as `out`, which must not exist.

    `precision` is "as it is" or one of `plan.PRECISIONS`; the VAE keeps its own unless `vae`. `ema`
    says what to do with averaged copies (`model_ema.*`): "drop", "keep", or "use", which writes
    them as the UNet's weights. `name` is what the new file's metadata calls the original. Pickled
    checkpoints are read through a safetensors copy in the folder `converted`. Raises MergeError
    when a file is missing, damaged or cannot be written, or has no averaged copies to use.
    """
    _check_choices(out, precision, ema)
    file = path
    if converted and is_pickled(path):
        file = safetensors_of(path, converted, hash_cache, progress)
    plain = read_header(file)
    usual = with_usual_names(plain)
    # As it is, a quantised tensor is its bytes and its scales, unless other weights replace it.
    header = usual if precision == KEEP and ema != "use" else with_numbers(usual)
    averaged = {n for n in header.tensors if n.startswith(EMA)}
    left_over = {n for n in header.tensors if n.startswith(DROPPED)}
    gone = left_over | (set() if ema == "keep" else averaged)
    of_unet = _averages(header.tensors, averaged) if ema == "use" else {}
    tensors = tuple(
        _output(tensor, header.tensors[of_unet.get(n, n)], precision, vae)
        for n, tensor in header.tensors.items()
        if n not in gone
    )
    if not tensors:
        raise MergeError(
            f"{path.name} contains only {', '.join(PARTS[3:])}, so there is nothing to keep."
        )
    hashes = file_hashes(path, hash_cache, progress)
    ingredient = Ingredient(name or path.name, hashes.sha256)
    source = Source(path, hashes, plain.metadata, read_licence(path, plain.metadata))
    metadata = {k: v for k, v in header.metadata.items() if not k.startswith("cocktail.")}
    metadata |= {
        "format": "pt",
        CONVERTED: json.dumps({"precision": precision, "ema": ema, "vae": vae}),
        **write_ingredients([describe(ingredient, source)]),
    }
    plan = MergePlan((ingredient,), (header,), tensors, family_of(header), None)
    write_file(plan, out, metadata, threads, progress=progress)
    dropped = 0 if ema == "keep" else len(averaged)
    size = out.stat().st_size
    return Conversion(len(tensors), dropped, len(left_over), hashes.size_bytes, size)


def _check_choices(out: Path, precision: str, ema: str) -> None:
    if precision != KEEP:
        check_precision(precision, (KEEP, *PRECISIONS))
    if ema not in EMA_CHOICES:
        raise MergeError(
            f"{ema!r} is not a choice for averaged copies. Choose one of {', '.join(EMA_CHOICES)}."
        )
    if out.suffix != ".safetensors":
        raise MergeError(f"The name {out.name} must end in .safetensors.")


def _output(tensor: Tensor, source: Tensor, precision: str, vae: bool) -> OutputTensor:
    """The tensor in the precision it gets in the new file, with the numbers of `source`."""
    is_kept = precision == KEEP or (part_of(tensor.name) == VAE_PART and not vae)
    wanted = own_type(tensor) if is_kept else stored_as(tensor.name, precision)
    if tensor.name.endswith(POSITION_IDS):
        return position_ids(tensor)
    is_float = tensor.dtype in FLOATS and "." in tensor.name
    found = TensorSource(0, source)
    if not is_quantised(source) and (not is_float or source.dtype == wanted):
        return OutputTensor(tensor.name, source.dtype, tensor.shape, Copy(found))
    return OutputTensor(tensor.name, wanted, tensor.shape, Blend(found, ()))


def _averages(tensors: Mapping[str, Tensor], averaged: set[str]) -> dict[str, str]:
    """The averaged copy of every UNet tensor; its name is that of the weight without the dots."""
    unet = [name for name in tensors if name.startswith(UNET)]
    found = {name: EMA + name.removeprefix("model.").replace(".", "") for name in unet}
    if not averaged:
        raise MergeError("The checkpoint has no averaged copies (model_ema.*) to use. Choose drop.")
    missing = [
        name
        for name, copy in found.items()
        if copy not in averaged or tensors[copy].shape != tensors[name].shape
    ]
    if missing:
        raise MergeError(
            f"Averaged copies are missing or have another shape: {listed(missing)}. Choose drop."
        )
    return found


def find_or_convert(
    path: Path,
    folder: Path,
    name: str,
    precision: str,
    ema: str,
    vae: bool,
    called: str,
    hash_cache: Path | None = None,
    converted: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, Conversion | None]:
    """Like `convert`, to NAME.safetensors in `folder`; None in place of the conversion if this very
    file is there already.

    Without a name the file is named after the original's hash and the choices made. `called` is the
    original's name in the metadata. Raises MergeError when another file has the name; that file is
    left alone.
    """
    sha256 = file_hashes(path, hash_cache, progress).sha256
    choices = {"precision": precision, "ema": ema, "vae": vae}
    words = [
        sha256[:12],
        precision.replace(" ", "-"),
        *([ema] if ema != "drop" else []),
        *(["vae"] if vae else []),
    ]
    out = folder / f"{name or 'convert-' + '-'.join(words)}.safetensors"
    if out.exists():
        metadata = read_header(out).metadata
        entries = read_ingredients(metadata)
        if json_object(metadata.get(CONVERTED)) == choices and [e["sha256"] for e in entries] == [
            sha256
        ]:
            return out, None
        raise MergeError(
            f"{out} exists already and is another file. Nothing is overwritten: choose another "
            "name, "
            "or leave the name empty."
        )
    done = convert(path, out, precision, ema, vae, called, hash_cache, converted, None, progress)
    return out, done
