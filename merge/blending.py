"""first + the sum of weight x (x - first): float64 arithmetic and one rounding, at the speed of
float32 where that is proven to be enough.

Float64 arithmetic in a fixed order of separate subtractions, multiplications and additions defines
every element of a result, so no bit depends on the machine, the number of threads or the size of
the pieces. For fp16 results most elements need less: float32 arithmetic with a bound on its error
gives two ends of an interval that holds the exact value; where both ends round to the same fp16
number, so does the float64 sum. Elsewhere float64 decides: less than one element in a hundred, or
as many as lie in the middle of two fp16 numbers (a tenth for a share of 0.3, half for 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from .rounding import round_once

if TYPE_CHECKING:
    from torch import Tensor

HALF_ULP = 2.0**-24
"""Relative error of one float32 operation."""
TILT = 2.0**-20
"""By how much the share of a weighted sum of two is changed to either side to get an interval."""
LARGEST_DENOMINATOR = 500
"""Of a share for which an interval made by `TILT` is proven to hold (see `_blend_two`)."""
TOO_MANY = 3
"""Where more than one element in this many is in doubt, the whole piece is computed in float64."""

TELLING = 1 << 16
"""Elements of a piece that says something about all pieces with the same weights."""


class Blender:
    """One thread's buffers for pieces of up to `elements` elements, made when they are first
    needed.
    """

    def __init__(self, elements: int) -> None:
        self._elements = elements
        self._buffers: dict[tuple[str, Any], Tensor] = {}
        self._in_vain: set[tuple[float, ...]] = set()

    @cached_property
    def _few(self) -> Blender:
        """For the elements of a piece that are in doubt."""
        return Blender(self._elements // TOO_MANY + 1)

    def blend(self, sources: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> bool:
        """Write sources[0] + the sum of weights[i] x (sources[i + 1] - sources[0]) to `out`; False
        if an element is not finite.

        `sources` and `out` are flat, of one length and of any floating point types.
        """
        import torch

        doubtful = None
        # Halves of differences lie in the middle of two numbers so often that float32 is tried once
        # and then no more.
        if out.dtype == torch.float16 and tuple(weights) not in self._in_vain:
            if len(weights) == 1 and _is_simple(weights[0]) and _are_half(sources):
                doubtful = self._blend_two(sources[0], sources[1], weights[0], out)
            elif all(source.dtype != torch.float64 for source in sources):
                doubtful = self._blend_single(sources, weights, out)
            if doubtful is None and len(out) >= TELLING:
                self._in_vain.add(tuple(weights))
        if doubtful is None:
            self._blend_double(sources, weights, out)
        elif len(doubtful):
            indices = torch.from_numpy(doubtful)
            few = [_taken(source, indices) for source in sources]
            exact = self._few._buffer("exact", len(doubtful), out.dtype)
            self._few._blend_double(few, weights, exact)
            out.view(torch.int16).scatter_(0, indices, exact.view(torch.int16))
        return is_finite(out)

    def _blend_two(self, a: Tensor, b: Tensor, share: float, out: Tensor) -> Any:
        """As `_blend_single`, in two operations, for fp16 numbers a and b and a share of b that is
        a simple fraction p/q.

        The interval is the sum with share -/+ `TILT`. Let m be the larger of |a| and |b|, and d = b
        - a. Float32 is off by less than m x 2^-22 (PyTorch computes a + share x d in it, fused or
        not). Where a and b are more than one binade apart, |d| is above m/2, and the interval is
        wider than that error. Elsewhere both are multiples of m x 2^-12, so the sum is a multiple
        of m x 2^-12 / q: for q up to 500 it is either further from the middle of two fp16 numbers
        than the error, or that middle itself, which the rounded ends then enclose, because rounding
        is monotone.
        """
        import torch

        if share > 0.5:
            # PyTorch would change its formula here, and with it the sign of some zeros.
            a, b, share = b, a, 1 - share
        lower = self._buffer("lower", len(out), torch.float16)
        torch.lerp(a, b, share - TILT, out=lower)
        torch.lerp(a, b, share + TILT, out=out)
        return _different(lower, out)

    def _blend_single(
        self, sources: Sequence[Tensor], weights: Sequence[float], out: Tensor
    ) -> Any:
        """Fill `out` by float32; the indices where that does not settle the rounding, or None where
        it settles too little.

        With n weights every number is off by at most half a unit in its last place after each of
        the n additions and at the interval's ends, and every weighted difference by three more: its
        weight, difference and product.
        """
        import torch

        n = len(out)
        first, total, term, width = (
            self._buffer(k, n, torch.float32) for k in ("a", "s", "d", "w")
        )
        first.copy_(sources[0])
        torch.abs(first, out=width)
        base = first
        additions = len(weights) + 1.5
        for source, weight in zip(sources[1:], weights, strict=True):
            term.copy_(source)
            term.sub_(first)
            torch.add(base, term, alpha=weight, out=total)
            width.add_(term.abs_(), alpha=abs(weight) * (1 + 3 / additions))
            base = total
        error = additions * HALF_ULP
        lower = self._buffer("lower", n, torch.float16)
        torch.add(base, width, alpha=-error, out=term)
        lower.copy_(term)
        torch.add(base, width, alpha=error, out=term)
        out.copy_(term)
        return _different(lower, out)

    def _blend_double(
        self, sources: Sequence[Tensor], weights: Sequence[float], out: Tensor
    ) -> None:
        import torch

        n = len(out)
        first, total, term = (self._buffer(k, n, torch.float64) for k in ("a", "s", "d"))
        single = self._buffer("a", n, torch.float32)
        _widen(sources[0], first, single)
        base = first
        for source, weight in zip(sources[1:], weights, strict=True):
            _widen(source, term, single)
            term.sub_(first).mul_(weight)
            torch.add(base, term, out=total)
            base = total
        round_once(base, out, term.view(torch.int64), single)

    def _buffer(self, name: str, count: int, dtype: Any) -> Tensor:
        import torch

        if (name, dtype) not in self._buffers:
            self._buffers[name, dtype] = torch.empty(self._elements, dtype=dtype)
        return self._buffers[name, dtype][:count]


def _different(lower: Tensor, upper: Tensor) -> Any:
    """The indices where two fp16 tensors differ in bits; None where those are too many to treat one
    by one.
    """
    import numpy as np
    import torch

    bits = (half.view(torch.int16).numpy() for half in (lower, upper))
    found = np.flatnonzero(np.not_equal(*bits))
    return found if len(found) * TOO_MANY <= len(upper) else None


@lru_cache
def _is_simple(share: float) -> bool:
    simple = Fraction(share).limit_denominator(LARGEST_DENOMINATOR)
    return 0 < share < 1 and abs(simple - Fraction(share)) < 2.0**-52 * share


def _are_half(sources: Sequence[Tensor]) -> bool:
    import torch

    return all(source.dtype == torch.float16 for source in sources)


def _widen(source: Tensor, out: Tensor, single: Tensor) -> None:
    """Float64 of any floating point type. By way of float32, which holds them all, PyTorch is
    faster.
    """
    import torch

    if source.dtype in (torch.float32, torch.float64):
        out.copy_(source)
    else:
        out.copy_(single.copy_(source))


def _taken(source: Tensor, indices: Tensor) -> Tensor:
    """source[indices], also for types that PyTorch cannot index."""
    import torch

    if source.element_size() == 1:
        return source.view(torch.uint8).index_select(0, indices).view(source.dtype)
    return source.index_select(0, indices)


def is_finite(values: Tensor) -> bool:
    """Whether no element is NaN or infinite. Their sum tells, unless it overflows by itself."""
    import math

    import torch

    if values.element_size() == 1:
        values = values.float()
    return math.isfinite(values.sum()) or bool(torch.isfinite(values).all())
