"""Mixes of LoRA files. A LoRA's matrices are factors of its weights: their mean is not the mean of
the weights. The sum of products is a product again, of the factors side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import MergeError, listed
from .lora import LARGEST_RANK, factors, low_rank, usual_name, write_lora
from .lora_kinds import DOWN, OWN, check_kind
from .quantised import with_numbers
from .recipe import Ingredient, Recipe, flatten, layouts, short_name
from .safetensors_file import Header, read_header


@dataclass(frozen=True)
class Mixed:
    """How many weights the mix holds, its largest rank, and what cutting to a rank has cost:
    |sum - mix| / |sum| over all weights (Euclidean norms).
    """

    weights: int
    rank: int
    error: float


def shares_of(recipe: Recipe) -> list[tuple[str, float]]:
    """The names and weights of a recipe of LoRAs. Raises MergeError for methods and block weights,
    which have no meaning for factors.
    """
    mix = flatten(recipe)
    shares = [(atom.name, float(share)) for atom, share in mix if isinstance(atom, Ingredient)]
    if len(shares) < len(mix) or layouts(recipe):
        raise MergeError(
            "LoRA files can only be added with a weight for each: methods and block weights work "
            "on weights, and a LoRA holds factors of them. Bake the LoRAs into checkpoints and mix "
            "those."
        )
    return shares


def mix_loras(loras: Sequence[tuple[Path, float]], out: Path, rank: int | None = None) -> Mixed:
    """Write the sum of strength x LoRA as the new LoRA file `out`, in float32.

    Its ranks are the sums of theirs; with `rank`, every weight is cut to the nearest product of
    that rank (in the sum of squares). Raises MergeError for other kinds of files, or if `out`
    exists.
    """
    if rank is not None and not 1 <= rank <= LARGEST_RANK:
        raise MergeError(f"The rank must be from 1 to {LARGEST_RANK}; it is {rank}.")
    parts: dict[str, list[tuple[Header, str, float]]] = {}
    for path, strength in loras:
        header = with_numbers(read_header(path))
        check_kind(header, "mixed")
        if other := [name for name in header.tensors if not name.endswith(OWN)]:
            raise MergeError(
                f"{path.name} cannot be mixed: only up and down matrices can, and it holds "
                f"{listed(other, 3)} too. Use a LoRA file without them."
            )
        for name in header.tensors:
            if name.endswith(DOWN):
                layer = name.removesuffix(DOWN)
                parts.setdefault(usual_name(layer), []).append((header, layer, strength))
    found: dict[str, Any] = {}
    largest, lost, whole = 0, 0.0, 0.0
    for sides in parts.values():
        layer = sides[0][1]
        up, down, kernel = _side_by_side(sides)
        if rank is not None and up.shape[1] > rank:
            product = up.double() @ down.double()
            up, down = low_rank(product, rank)
            lost += float((product - up.double() @ down.double()).square().sum())
            whole += float(product.square().sum())
        largest = max(largest, up.shape[1])
        found[f"{layer}.lora_up.weight"] = up.reshape(*up.shape, *[1] * len(kernel))
        found[f"{layer}{DOWN}"] = down.reshape(len(down), -1, *kernel)
        found[f"{layer}.alpha"] = up.new_tensor(float(up.shape[1]))
    told = " + ".join(f"{strength:g} {short_name(path.name)}" for path, strength in loras)
    metadata = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(largest),
        "ss_network_alpha": str(largest),
        "cocktail.mixed_loras": told,
    }
    write_lora(out, found, metadata, "F32")
    return Mixed(len(parts), largest, math.sqrt(lost / whole) if whole else 0.0)


def _side_by_side(sides: Sequence[tuple[Header, str, float]]) -> tuple[Any, Any, tuple[int, ...]]:
    """up [m, r] and down [r, n] of a sum, and the shape of a convolution's kernel."""
    import torch

    ups, downs, kernels = [], [], set()
    for header, layer, strength in sides:
        up, down, scale, kernel = factors(header, layer)
        ups.append(up * (strength * scale))
        downs.append(down)
        kernels.add((len(up), down.shape[1], kernel))
    if len(kernels) > 1:
        names = [header.path.name for header, _, _ in sides]
        raise MergeError(
            f"{sides[0][1]} has different shapes in {listed(names)}. Mix LoRAs of one family."
        )
    return torch.cat(ups, 1), torch.cat(downs, 0), kernels.pop()[2]
