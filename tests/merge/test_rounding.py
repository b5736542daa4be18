"""The one rounding, at the numbers where a second one shows."""

from __future__ import annotations

import pytest
import torch

from cocktail.merge.rounding import round_once

# Distance from 1 to the next number of each type.
STEPS = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2.0**-23}


def rounded(values: list[float], dtype: torch.dtype) -> list[float]:
    exact = torch.tensor(values, dtype=torch.float64)
    out = torch.empty(len(values), dtype=dtype)
    round_once(exact, out, torch.empty_like(exact, dtype=torch.int64), torch.empty(len(values)))
    return out.double().tolist()


@pytest.mark.parametrize("dtype", STEPS)
def test_the_middle_goes_to_the_even_neighbour(dtype):
    step = STEPS[dtype]
    assert rounded([1 + step / 2, 1 + step * 3 / 2], dtype) == [1, 1 + 2 * step]
    assert rounded([-1 - step / 2, -1 - step * 3 / 2], dtype) == [-1, -1 - 2 * step]


@pytest.mark.parametrize("dtype", STEPS)
def test_a_hair_beside_the_middle_goes_to_the_nearer_neighbour(dtype):
    step, hair = STEPS[dtype], 2.0**-50
    assert rounded([1 + step / 2 + hair, 1 + step * 3 / 2 - hair], dtype) == [1 + step, 1 + step]


def test_zero_and_the_smallest_fp16_numbers_are_exact():
    values = [0.0, 2.0**-24, -3 * 2.0**-24, 65504.0]
    assert rounded(values, torch.float16) == values
    assert rounded([2.0**-25, 2.0**-25 + 2.0**-60], torch.float16) == [0, 2.0**-24]
