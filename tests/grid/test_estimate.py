"""What a grid will cost is learned from cells that were rendered before."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.store.estimate import duration, estimate, learn, size
from cocktail.nodes.grid.engine.store.store import Store

from .test_plan import FIXED, content_of, typed


def test_loads_and_encodings_are_counted_once_each(tmp_path: Path):
    axes = [typed("prompt", "x", "y"), typed("clip skip", 1, 2), typed("seed", 1, 2, 3)]
    cost = estimate(make_plan("g", FIXED, axes, content_of).render_order, learn(tmp_path))
    assert (cost.cells, cost.loads, cost.encodings, cost.seconds) == (12, 1, 3, None)
    assert "time unknown" in cost.words()


def test_time_and_disk_follow_steps_pixels_and_evaluations(tmp_path: Path):
    plan = make_plan("g", {**FIXED, "steps": 10}, [typed("seed", 1, 2)], content_of)
    first, second = plan.cells
    store = Store(tmp_path / "g")
    pixels = 512 * 512
    times = {"sample_s": 2.0, "decode_s": 0.5, "encode_s": 0.25, "load_s": 4.0}
    store.save_cell(first, bytes(pixels), times)
    store.save_cell(second, bytes(pixels), {"sample_s": 2.0, "decode_s": 0.5})
    learned = learn(tmp_path)
    assert learned.bytes_per_pixel == pytest.approx(1.0)

    def seconds(**settings: object) -> float:
        planned = make_plan("g", {**FIXED, "steps": 10, **settings}, [typed("seed", 3)], content_of)
        low, high = estimate(planned.cells, learned).seconds or (0.0, 0.0)
        return (low * high) ** 0.5

    rest = 4.0 + 2 * 0.25 + 0.5
    assert seconds() == pytest.approx(2.0 + rest)
    assert seconds(steps=20) == pytest.approx(4.0 + rest)
    assert seconds(width=1024) == pytest.approx(4.0 + rest)
    assert seconds(sampler="heun") == pytest.approx(4.0 + rest)


def test_numbers_are_told_so_that_they_can_be_read():
    assert [duration(s) for s in (0.2, 50, 600, 7200)] == ["1 s", "50 s", "10 min", "2.0 h"]
    assert [size(b) for b in (999, 425_000, 1.1e9)] == ["999 bytes", "425 kB", "1.1 GB"]
