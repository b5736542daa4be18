"""Random numbers that are a function of seed, tensor, model and element: the same in any order, any
pieces, on any machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PER_COUNT = 16
"""Numbers that one step of the generator's counter gives."""


@dataclass(frozen=True)
class Draws:
    """The draws for the elements of one tensor from element `start` on."""

    seed: int
    tensor: str
    start: int = 0

    def uniform(self, model: int, count: int, device: Any = None) -> Tensor:
        """`count` float32 numbers, multiples of 2^-16 from 0 up to 1 (excluded), for the model of
        that number.

        They are the words of Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
        3", 2011), whose streams NumPy keeps the same in all versions.
        """
        import numpy as np
        import torch

        digest = hashlib.sha256(f"{self.seed}/{model}/{self.tensor}".encode()).digest()
        first, skipped = divmod(self.start, PER_COUNT)
        key = np.frombuffer(digest[:16], "<u8")
        generator = np.random.Philox(key=key, counter=[first, 0, 0, 0])
        words = generator.random_raw(-(-(skipped + count) // PER_COUNT) * 4)
        parts = np.asarray(words, "<u8").view("<u2")[skipped : skipped + count]
        values = torch.from_numpy(parts.astype(np.float32))
        return values.mul_(2.0**-16).to(device)
