"""Work on large tensors piece by piece: what fits the processor's cache costs a fraction of what
goes through fresh memory.
"""

from __future__ import annotations

from collections.abc import Iterator

ELEMENTS = 1 << 17


def pieces(count: int, step: int = ELEMENTS) -> Iterator[slice]:
    """The slices that cut `count` elements (or rows) into pieces of `step`."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
