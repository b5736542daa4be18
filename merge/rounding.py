"""One rounding from float64 to the stored type.

PyTorch converts float64 to fp16 and bf16 by way of float32, which rounds twice: a value just off
the middle of two fp16 numbers can land in the middle first and then on the wrong side. Rounding to
odd in between makes the second rounding the only one that counts (Boldo & Melquiond, "When double
rounding is odd", 2005).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BELOW_FLOAT32 = (1 << 29) - 1


def round_once(values: Tensor, out: Tensor, bits: Tensor, single: Tensor) -> None:
    """Write float64 `values` to `out` (float8, fp16, bf16 or fp32), each to the nearest number of
    that type, ties to even.

    `values` is used up. `bits` (int64) and `single` (float32) are scratch of the same length.
    """
    import torch

    if out.dtype == torch.float32:
        out.copy_(values)
        return
    odd = values.view(torch.int64)
    torch.bitwise_and(odd, BELOW_FLOAT32, out=bits)
    bits.add_(BELOW_FLOAT32)
    odd.bitwise_or_(bits).bitwise_and_(~BELOW_FLOAT32)
    single.copy_(values)
    out.copy_(single)
