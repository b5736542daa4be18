"""How much two checkpoints differ, block by block: one pass over both files, with tens of
megabytes of memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Event

from .blocks import BASE, LAYOUTS, TIME, slot_of
from .errors import MergeError, listed
from .family import family_of
from .health import POSITION_IDS
from .key_names import EMA_PART, TEXT_PART, UNET_PART, VAE_PART, part_of
from .reading import numbers
from .safetensors_file import FLOATS, Header, Tensor

CHUNK_ELEMENTS = 1 << 18
MOST_THREADS = 8
OTHER = "other"
"""The slot of tensors that are in no block: the noise schedule's buffers, and all tensors of
families without blocks.
"""


@dataclass(frozen=True)
class Difference:
    """The tensors of a block in both files. `relative` is |b - a| / |a| over all their numbers
    (Euclidean norms).
    """

    slot: str
    tensors: int
    equal: int
    relative: float
    cosine: float
    largest: float


@dataclass(frozen=True)
class Comparison:
    """Blocks in the order of the layout, and what could not be compared, by name."""

    differences: tuple[Difference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    other_shape: tuple[str, ...]
    not_finite: tuple[str, ...] = ()
    other_numbers: tuple[str, ...] = ()
    """Tensors of whole numbers, such as position_ids, with other ones in the other file."""

    @property
    def is_equal(self) -> bool:
        """Whether both files have the same tensors with the same values."""
        rest = (*self.only_in_a, *self.only_in_b, *self.other_shape, *self.not_finite)
        rest += self.other_numbers
        return not rest and all(block.equal == block.tensors for block in self.differences)


@dataclass(frozen=True)
class _Sums:
    a: float = 0.0
    b: float = 0.0
    product: float = 0.0
    square: float = 0.0
    largest: float = 0.0
    tensors: int = 0
    equal: int = 0
    is_finite: bool = True

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.a + other.a,
            self.b + other.b,
            self.product + other.product,
            self.square + other.square,
            max(self.largest, other.largest),
            self.tensors + other.tensors,
            self.equal + other.equal,
            self.is_finite and other.is_finite,
        )


def compare(
    a: Header,
    b: Header,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare two files whose tensors have the usual names (`key_names.with_usual_names`).

    `progress(done_bytes, total_bytes)` is called after every tensor; an exception from it ends the
    pass. Raises MergeError for files that have no tensor in common.
    """
    shared = [name for name in a.tensors if name in b.tensors and part_of(name) != EMA_PART]
    pairs = [(a.tensors[name], b.tensors[name]) for name in shared]
    other_shape = [x.name for x, y in pairs if x.shape != y.shape]
    pairs = [(x, y) for x, y in pairs if x.shape == y.shape]
    whole = [(x, y) for x, y in pairs if not _are_weights(x, y)]
    pairs = [(x, y) for x, y in pairs if _are_weights(x, y)]
    if not pairs:
        raise MergeError(
            f"{a.path.name} ({family_of(a).name}) and {b.path.name} ({family_of(b).name}) have no "
            "tensors in common. Compare checkpoints of the same architecture."
        )
    layout = "SDXL" if family_of(a).kind == "SDXL" else "SD1.5"
    sums: dict[str, _Sums] = {}
    measured = _measure(a, b, pairs, threads, progress)
    not_finite = tuple(tensor for tensor, found in measured.items() if not found.is_finite)
    for tensor, found in measured.items():
        if not found.is_finite:
            continue
        slot = _slot(tensor, layout)
        sums[slot] = sums.get(slot, _Sums()) + found
    order = (TEXT_PART, TIME, *LAYOUTS[layout], OTHER, VAE_PART)
    return Comparison(
        tuple(_difference(slot, sums[slot]) for slot in order if slot in sums),
        tuple(n for n in a.tensors if n not in b.tensors and part_of(n) != EMA_PART),
        tuple(n for n in b.tensors if n not in a.tensors and part_of(n) != EMA_PART),
        tuple(other_shape),
        not_finite,
        tuple(x.name for x, y in whole if not _have_same_numbers(a, b, x, y)),
    )


def _are_weights(x: Tensor, y: Tensor) -> bool:
    is_float = {x.dtype, y.dtype} <= set(FLOATS)
    return is_float and not x.name.endswith(POSITION_IDS)


def _have_same_numbers(a: Header, b: Header, x: Tensor, y: Tensor) -> bool:
    sides = zip(numbers(a, x), numbers(b, y), strict=True)
    return all(bool((ours == theirs).all()) for ours, theirs in sides)


def _slot(name: str, layout: str) -> str:
    part = part_of(name)
    if part != UNET_PART:
        return part
    slot = slot_of(name, layout)
    return OTHER if slot == BASE else slot


def _difference(slot: str, sums: _Sums) -> Difference:
    of_a = math.sqrt(sums.square / sums.a) if sums.a else math.inf
    relative = of_a if sums.square else 0.0
    norms = math.sqrt(sums.a) * math.sqrt(sums.b)
    cosine = max(-1.0, min(1.0, sums.product / norms)) if norms else float(sums.a == sums.b)
    return Difference(slot, sums.tensors, sums.equal, relative, cosine, sums.largest)


def _measure(
    a: Header,
    b: Header,
    pairs: Sequence[tuple[Tensor, Tensor]],
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> Mapping[str, _Sums]:
    """The sums of every pair, by the tensor's name; one pair at a time in each of the threads."""
    total = sum(x.size_bytes + y.size_bytes for x, y in pairs)
    done, stop = 0, Event()
    found: dict[str, _Sums] = {}
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        try:
            running = {pool.submit(_sums, a, b, x, y, stop): (x, y) for x, y in pairs}
            waiting = set(running)
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    x, y = running[future]
                    found[x.name] = future.result()
                    done += x.size_bytes + y.size_bytes
                if progress:
                    progress(done, total)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {x.name: found[x.name] for x, _ in pairs}


def _sums(a: Header, b: Header, x: Tensor, y: Tensor, stop: Event) -> _Sums:
    import torch

    found = _Sums(tensors=1)
    equal = True
    sides = (numbers(a, x, CHUNK_ELEMENTS), numbers(b, y, CHUNK_ELEMENTS))
    for ours, theirs in zip(*sides, strict=True):
        if stop.is_set():
            break
        ours, theirs = ours.double(), theirs.double()
        difference = theirs - ours
        equal = equal and not bool(difference.any())
        found = found + _Sums(
            float(torch.dot(ours, ours)),
            float(torch.dot(theirs, theirs)),
            float(torch.dot(ours, theirs)),
            float(torch.dot(difference, difference)),
            float(difference.abs().max()),
        )
        if not math.isfinite(found.a + found.b):
            return replace(found, is_finite=False)
    return found + _Sums(equal=int(equal))


def report(found: Comparison, a: str, b: str) -> str:
    """A comparison as a person reads it, one line a block."""
    lines = [f"{b} compared with {a}: |b - a| / |a|, cosine, largest difference, equal tensors"]
    lines += [
        f"{d.slot:>12}  {100 * d.relative:9.4f} %  {d.cosine:.6f}  {d.largest:.4g}"
        f"  {d.equal} of {d.tensors}"
        for d in found.differences
    ]
    if found.is_equal:
        lines.append("All tensors are equal.")
    for names, what in (
        (found.only_in_a, f"only in {a}"),
        (found.only_in_b, f"only in {b}"),
        (found.other_shape, "of different shapes"),
        (found.other_numbers, "with other whole numbers"),
        (found.not_finite, "with NaN or infinity, left out"),
    ):
        if names:
            lines.append(f"{what}: {len(names)} tensors ({listed(names, 3)})")
    return "\n".join(lines)
