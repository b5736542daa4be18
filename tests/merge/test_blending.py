"""The fast arithmetic gives the bits of float64 arithmetic, also where values are chosen to lie in
the way of it.
"""

from __future__ import annotations

import pytest
import torch

from cocktail.merge.blending import Blender
from cocktail.merge.rounding import round_once

SHARES = [0.4, 0.5, 0.05, 0.998, 0.3333333333333333, 0.37170001, 0.3, 0.7, 0.25, 0.15]


def by_float64(sources, weights, dtype=torch.float16):
    """The defining sequence of operations, written out."""
    first = sources[0].double()
    total = first.clone()
    for source, weight in zip(sources[1:], weights, strict=True):
        total = total + (source.double() - first) * weight
    out = torch.empty(len(total), dtype=dtype)
    round_once(total, out, torch.empty_like(total, dtype=torch.int64), torch.empty(len(total)))
    return out


def blended(sources, weights, dtype=torch.float16):
    out = torch.empty(len(sources[0]), dtype=dtype)
    assert Blender(len(out)).blend(sources, weights, out)
    return out


def bits(values):
    return values.view(torch.int16 if values.element_size() == 2 else torch.int32)


def wild(count, seed, dtype=torch.float16):
    """Every finite fp16 bit pattern is as likely: subnormal numbers, zeros of both signs, all
    exponents.
    """
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randint(-(1 << 15), 1 << 15, (count,), generator=generator)
    values = patterns.to(torch.int16).view(torch.float16)
    return torch.where(torch.isfinite(values) & (values.abs() < 8000), values, 0.5).to(dtype)


def near(values, seed):
    generator = torch.Generator().manual_seed(seed)
    return (
        values.float() + values.float() * 0.08 * torch.randn(len(values), generator=generator)
    ).half()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("related", [True, False])
def test_a_sum_of_two_has_the_bits_of_float64(share, related):
    a = wild(1 << 18, 1)
    b = near(a, 2) if related else wild(1 << 18, 2)
    assert torch.equal(bits(blended([a, b], [share])), bits(by_float64([a, b], [share])))


@pytest.mark.parametrize(
    "weights", [(0.2, 0.2), (0.5, -0.5), (1.0, -1.0), (-3.7, 0.123456789, 9.0)]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_sum_has_the_bits_of_float64(weights, dtype):
    a = wild(1 << 16, 1).clamp(-1000, 1000)
    sources = [a, *(near(a, seed) for seed in range(len(weights)))]
    assert torch.equal(
        bits(blended(sources, weights, dtype)), bits(by_float64(sources, weights, dtype))
    )
    apart = [wild(1 << 16, seed).clamp(-1000, 1000) for seed in range(len(weights) + 1)]
    assert torch.equal(
        bits(blended(apart, weights, dtype)), bits(by_float64(apart, weights, dtype))
    )


def test_every_kind_of_float_is_read_exactly():
    values = torch.linspace(-2, 2, 999)
    sources = [
        values.to(t)
        for t in (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64)
    ]
    for several in (sources, sources[:3]):
        weights = [0.3] * (len(several) - 1)
        assert torch.equal(bits(blended(several, weights)), bits(by_float64(several, weights)))


def test_the_middle_of_two_numbers_goes_to_the_even_one():
    step = 2.0**-10
    a = torch.full((100,), 1.0).half()
    b = torch.tensor([1 + step * k for k in range(1, 101)]).half()
    assert torch.equal(blended([a, b], [0.5]), by_float64([a, b], [0.5]))
    assert blended([a, b], [0.5])[:3].tolist() == [1.0, 1 + step, 1 + 2 * step]


@pytest.mark.parametrize(("share", "doubtful"), [(0.4, []), (0.3, [0.1]), (0.25, [0.22])])
def test_middles_are_decided_one_by_one_up_to_a_third_of_a_piece(monkeypatch, share, doubtful):
    """In one binade, so many results of these shares lie in the middle of two numbers."""
    generator = torch.Generator().manual_seed(3)
    a, b = (1 + torch.rand((2, 1 << 16), generator=generator)).half().clamp(max=1.999)
    decided = []
    whole = Blender._blend_double

    def counting(self, sources, *rest):
        decided.append(len(sources[0]) / len(a))
        whole(self, sources, *rest)

    monkeypatch.setattr(Blender, "_blend_double", counting)
    assert torch.equal(bits(blended([a, b], [share])), bits(by_float64([a, b], [share])))
    assert decided == pytest.approx(doubtful, abs=0.02)


def test_what_is_not_finite_is_told():
    out = torch.empty(3, dtype=torch.float16)
    a = torch.tensor([1.0, 2.0, 3.0]).half()
    for bad in (float("nan"), float("inf"), float("-inf")):
        b = torch.tensor([1.0, bad, 3.0]).half()
        assert not Blender(3).blend([a, b], [0.5], out)
    large = torch.full((3,), 60000.0).half()
    assert not Blender(3).blend([large, -large], [-0.5], out)
    assert Blender(3).blend([large, large], [0.5], out), (
        "the sum of the elements is too large, not an element"
    )
