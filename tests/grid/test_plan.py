"""How axes become cells, in which order they are rendered, and what a cell's key depends on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cocktail.nodes.grid.axes import Axis, checkpoint_axis, typed_axis
from cocktail.nodes.grid.cell import CellSettings
from cocktail.nodes.grid.errors import GridError
from cocktail.nodes.grid.plan import MOST_CELLS, make_plan

SETTINGS = CellSettings(
    checkpoint="base.safetensors",
    prompt="a red circle",
    negative_prompt="",
    seed=1,
    steps=20,
    cfg=7.0,
    sampler="euler",
    scheduler="normal",
    width=512,
    height=512,
    clip_skip=1,
)
FIXED = {name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__}


def typed(target: str, *values: object) -> Axis:
    return typed_axis(target, "\n".join(map(str, values)), {"sampler": [], "scheduler": []})


def content_of(checkpoint: str) -> str:
    return f"sha256 of {checkpoint}"


def test_cells_are_the_product_of_the_axes_in_display_order():
    plan = make_plan(
        "g", FIXED, [typed("seed", 1, 2), typed("size", "64x96", 128)], content_of
    )  # fmt: skip
    assert [cell.position for cell in plan.cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert plan.cells[2].settings == replace(SETTINGS, seed=2, width=64, height=96)
    assert set(plan.fixed) == set(FIXED) - {"seed", "width", "height"}
    assert plan.size_words() == "4 cells (2 x seed, 2 x size)"


@pytest.mark.parametrize("places", list(itertools.permutations(range(3))))
def test_every_checkpoint_is_rendered_in_one_go_whatever_the_order_of_the_axes(places):
    axes = [
        checkpoint_axis([("a", ""), ("b", ""), ("c", "")]),
        typed("prompt", "x", "y"),
        typed("seed", 1, 2),
    ]
    plan = make_plan("g", FIXED, [axes[place] for place in places], content_of)
    order = [cell.settings.checkpoint for cell in plan.render_order]
    assert [name for name, _ in itertools.groupby(order)] == ["a", "b", "c"]
    assert len(order) == 12


def test_checkpoints_of_the_same_content_are_rendered_once():
    axes = [checkpoint_axis([("a", ""), ("copy of a", "")]), typed("seed", 1, 2)]
    plan = make_plan("g", FIXED, axes, lambda checkpoint: "the same")
    assert len(plan.cells) == 4
    assert [cell.settings.checkpoint for cell in plan.render_order] == ["a", "a"]
    assert plan.repeats == 2


def test_a_checkpoint_is_read_once():
    asked = []

    def content(checkpoint: str) -> str:
        asked.append(checkpoint)
        return checkpoint

    make_plan(
        "g", FIXED, [typed("seed", 1, 2, 3), checkpoint_axis([("a", ""), ("b", "")])], content
    )
    assert asked == ["a", "b"]


def test_the_key_of_a_cell_does_not_change_between_versions():
    assert SETTINGS.key("0" * 64) == (
        "7cbbcf82177c9ebbb03c3a6edaf9f7cee7210b10530b9160928c84c701ec3ded"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a red circle "},
        {"negative_prompt": "blurry"},
        {"seed": 2},
        {"steps": 21},
        {"cfg": 7.5},
        {"sampler": "heun"},
        {"scheduler": "karras"},
        {"width": 520},
        {"height": 520},
        {"clip_skip": 2},
    ],
)
def test_every_setting_is_part_of_the_key(change):
    assert replace(SETTINGS, **change).key("0" * 64) != SETTINGS.key("0" * 64)


def test_the_content_of_the_checkpoint_is_part_of_the_key_and_its_name_is_not():
    assert replace(SETTINGS, checkpoint="renamed").key("0" * 64) == SETTINGS.key("0" * 64)
    assert SETTINGS.key("1" * 64) != SETTINGS.key("0" * 64)
    assert replace(SETTINGS, cfg=7).key("0" * 64) == SETTINGS.key("0" * 64)


@pytest.mark.parametrize(
    ("change", "axes", "words"),
    [
        ({}, [typed("seed", 1), typed("seed", 2)], "Axis 1 and axis 2 both vary the seed"),
        ({"checkpoint": ""}, [typed("seed", 1)], "has no checkpoint"),
        ({"width": 100}, [typed("seed", 1)], "width 100 is not a multiple of 8"),
        ({"clip_skip": 13}, [typed("seed", 1)], "clip skip 13 is out of range"),
        (
            {},
            [typed("seed", *range(200)), typed("steps", *range(1, 201))],
            f"would have 40,000 cells; {MOST_CELLS:,} is the most",
        ),
    ],
)
def test_a_plan_that_cannot_be_rendered_is_refused(change, axes, words):
    with pytest.raises(GridError) as error:
        make_plan("g", {**FIXED, **change}, axes, content_of)
    assert words in str(error.value)


def test_a_fixed_setting_that_an_axis_varies_is_not_looked_at():
    plan = make_plan("g", {**FIXED, "width": 3, "checkpoint": ""}, [
        typed("size", 64),
        checkpoint_axis([("a", "")]),
    ], content_of)  # fmt: skip
    assert plan.cells[0].settings.width == 64


def test_a_missing_checkpoint_ends_the_planning():
    def missing(checkpoint: str) -> str:
        raise GridError(f"There is no checkpoint {checkpoint}.")

    with pytest.raises(GridError, match=r"no checkpoint base\.safetensors"):
        make_plan("g", FIXED, [typed("seed", 1)], missing)
