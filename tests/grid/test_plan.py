"""How axes become cells, in which order they are rendered, and what a cell's key depends on."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cocktail.nodes.grid.engine.axes.axis import Axis
from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.cell.stock import StockCell
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import MOST_CELLS
from cocktail.nodes.grid.engine.plan.plan_json import plan_from_json

SETTINGS = StockCell(
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
FIXED = SETTINGS.to_json()


CHOICES = {
    "sampler": ["euler", "heun"],
    "scheduler": ["normal"],
    "vae": ["mse"],
    "lora": ["ink"],
    "checkpoint": ["base.safetensors"],
}


def typed(target: str, *values: object) -> Axis:
    return typed_axis(target, "\n".join(map(str, values)), CHOICES)


def replacing(search: str, *values: str) -> Axis:
    return typed_axis("prompt search and replace", "\n".join(values), CHOICES, search)


def content_of(kind: str, name: str) -> str:
    return f"sha256 of {name}"


def same(digit: str) -> Callable[[str, str], str]:
    """The content of every file is the same."""
    return lambda kind, name: digit * 64


def test_cells_are_the_product_of_the_axes_in_display_order():
    plan = make_plan("g", FIXED, [typed("seed", 1, 2), typed("size", "64x96", 128)], content_of)
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
    plan = make_plan("g", FIXED, axes, lambda kind, name: "the same")
    assert len(plan.cells) == 4
    assert [cell.settings.checkpoint for cell in plan.render_order] == ["a", "a"]
    assert plan.repeats == 2


def test_a_checkpoint_is_read_once():
    asked = []

    def content(kind: str, name: str) -> str:
        asked.append(name)
        return name

    make_plan(
        "g", FIXED, [typed("seed", 1, 2, 3), checkpoint_axis([("a", ""), ("b", "")])], content
    )
    assert asked == ["a", "b"]


def test_the_key_of_a_cell_does_not_change_between_versions():
    assert SETTINGS.key(same("0")) == (
        "7cbbcf82177c9ebbb03c3a6edaf9f7cee7210b10530b9160928c84c701ec3ded"
    )


def test_the_json_of_a_plan_and_the_keys_in_it_do_not_change_between_versions():
    choices = {
        "sampler": ["euler", "euler_ancestral"],
        "scheduler": ["normal"],
        "checkpoint": ["a.safetensors", "b.safetensors"],
        "vae": ["m.safetensors"],
        "lora": ["ink.safetensors"],
    }
    fixed = {
        **FIXED,
        **{"checkpoint": "", "steps": 4, "cfg": 7, "width": 64, "height": 64, "batch_size": 4},
        **{"vae": "m.safetensors", "loras": [["ink.safetensors", 0.5, 1.0]]},
        **{"image": "start.png", "denoise": 0.5},
    }
    described = {
        "name": "g",
        "fixed": fixed,
        "axes": [
            {"target": "recipe", "values": "0.5 a + 0.5 b\nb"},
            {"target": "sampler", "values": "euler, euler_ancestral"},
            {"target": "seed", "values": "1, 2"},
        ],
        "rules": ["seed = 2 and checkpoint = b.safetensors"],
    }

    def content(kind: str, name: str) -> str:
        return hashlib.sha256(f"{kind} {name}".encode()).hexdigest()

    plan = plan_from_json(described, choices, content)
    assert len(plan.cells) == 6
    whole = json.dumps(plan.to_json(), sort_keys=True).encode()
    assert hashlib.sha256(whole).hexdigest() == (
        "9e03d4987d36f3e5599ec8bc749772c801299245b856aee1102b5d88b753f845"
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
        {"vae": "mse.safetensors"},
        {"loras": (("ink.safetensors", 0.5, 0.5),)},
        {"loras": (("ink.safetensors", 0.5, 1.0),)},
        {"image": "start.png"},
        {"image": "start.png", "denoise": 0.5},
    ],
)
def test_every_setting_is_part_of_the_key(change):
    assert replace(SETTINGS, **change).key(same("0")) != SETTINGS.key(same("0"))


def test_the_content_of_the_checkpoint_is_part_of_the_key_and_its_name_is_not():
    assert replace(SETTINGS, checkpoint="renamed").key(same("0")) == SETTINGS.key(same("0"))
    assert SETTINGS.key(same("1")) != SETTINGS.key(same("0"))
    assert replace(SETTINGS, cfg=7).key(same("0")) == SETTINGS.key(same("0"))


@pytest.mark.parametrize(
    ("change", "axes", "words"),
    [
        ({}, [typed("seed", 1), typed("seed", 2)], "Axis 1 and axis 2 both vary the seed"),
        ({"checkpoint": ""}, [typed("seed", 1)], "has no checkpoint"),
        ({"width": 100}, [typed("seed", 1)], "width 100 is not a multiple of 8"),
        ({"clip_skip": 13}, [typed("seed", 1)], "clip skip 13 is out of range"),
        (
            {},
            [typed("seed", *range(1000)), typed("steps", *range(1, 101))],
            f"would have 100,000 cells; {MOST_CELLS:,} is the most. Remove values from its axes, or"
            " make several grids of it.",
        ),
    ],
)
def test_a_plan_that_cannot_be_rendered_is_refused(change, axes, words):
    with pytest.raises(GridError) as error:
        make_plan("g", {**FIXED, **change}, axes, content_of)
    assert words in str(error.value)


def test_a_fixed_setting_that_an_axis_varies_is_not_looked_at():
    plan = make_plan(
        "g",
        {**FIXED, "width": 3, "checkpoint": ""},
        [
            typed("size", 64),
            checkpoint_axis([("a", "")]),
        ],
        content_of,
    )
    assert plan.cells[0].settings.width == 64


def test_a_missing_checkpoint_ends_the_planning():
    def missing(kind: str, name: str) -> str:
        raise GridError(f"There is no {kind} {name}.")

    with pytest.raises(GridError, match=r"no checkpoint base\.safetensors"):
        make_plan("g", FIXED, [typed("seed", 1)], missing)


def test_a_lora_of_strength_0_and_a_value_that_is_the_default_change_no_key():
    off = replace(SETTINGS, loras=(("ink.safetensors", 0.0, 0.0),), vae="", denoise=1.0)
    assert off.key(same("0")) == SETTINGS.key(same("0"))


def test_search_and_replace_works_on_what_the_other_axes_set():
    plan = make_plan(
        "g",
        FIXED,
        [
            replacing("circle", "circle", "square"),
            replacing("a ", '"one ", "two "'),
            typed("prompt", "a red circle", "a blue circle"),
        ],
        content_of,
    )
    prompts = [cell.settings.prompt for cell in plan.cells]
    assert prompts[0] == "one red circle"
    assert prompts[-1] == "two blue square"
    assert len(set(prompts)) == 8


def test_a_search_word_that_is_nowhere_is_refused():
    with pytest.raises(GridError, match="says 'triangle', but no prompt contains it"):
        make_plan("g", FIXED, [replacing("triangle", "x")], content_of)


def test_values_that_change_nothing_are_noted():
    axes = [
        typed("prompt", "a circle", "a square"),
        replacing("circle", "circle", "triangle"),
        checkpoint_axis([("a", ""), ("copy of a", ""), ("b", "")]),
    ]
    plan = make_plan("g", FIXED, axes, lambda kind, name: name[-1])
    assert plan.notes == ("a, copy of a of the checkpoint axis give the same pictures.",)
    lora = [typed("LoRA", "none, ink:0, ink:1")]
    assert make_plan("g", FIXED, lora, content_of).notes == (
        "no LoRA, ink:0 of the LoRA axis give the same pictures.",
    )


def test_sizes_that_models_are_not_trained_on_are_noted():
    sizes = [typed("size", "512x768", "512x520", "904x1160")]
    assert make_plan("g", FIXED, sizes, content_of).notes == (
        "Models are trained on sides that are multiples of 64; these sizes are not: 512 x 520, "
        "904 x 1160.",
    )


def test_rules_leave_cells_out():
    axes = [
        checkpoint_axis([("m512", ""), ("m768", "")]),
        typed("size", 512, 768),
        typed("seed", 1, 2),
    ]
    rules = "checkpoint = *768 and size = 512x512\nCheckpoint=m512 and size != 512 x 512\nseed = 9"
    plan = make_plan("g", FIXED, axes, content_of, rules)
    assert [(c.settings.checkpoint, c.settings.width) for c in plan.cells] == [
        ("m512", 512),
        ("m512", 512),
        ("m768", 768),
        ("m768", 768),
    ]
    assert plan.left_out == 4
    assert plan.notes == ('The rule "seed = 9" leaves nothing out.',)
    assert "4 left out" in plan.size_words()


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("768 without 512", "Line 1 of the rules: '768 without 512' is not a condition"),
        ("mood = good", "there is no name 'mood'"),
        ("seed = *", "leave no cell"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rules: str, words: str):
    with pytest.raises(GridError) as error:
        make_plan("g", FIXED, [typed("seed", 1, 2)], content_of, rules)
    assert words in str(error.value)


def test_a_plan_comes_back_from_its_json():
    axes = [typed("LoRA", "none, ink:0.5"), typed("size", 64, 96), replacing("circle", "square")]
    plan = make_plan("g", FIXED, axes, content_of, "size = 96*")
    described = json.loads(json.dumps(plan.to_json()))
    assert plan_from_json(described, CHOICES, content_of) == plan


def test_a_plan_of_a_milliard_cells_is_refused_at_once():
    axes = [{"target": target, "values": "1-1000"} for target in ("seed", "steps")]
    axes.append({"target": "cfg", "values": "1-100 [1000]"})
    with pytest.raises(GridError, match="1,000,000,000 cells; 20,000 is the most"):
        plan_from_json({"name": "g", "fixed": FIXED, "axes": axes}, CHOICES, content_of)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axes": []}, 'needs "axes"'),
        ({"axes": None}, 'needs "axes"'),
        ({"fixed": 3}, 'needs "fixed"'),
        ({"fixed": {**FIXED, "sampler": "eulr"}}, "no sampler 'eulr'"),
        ({"fixed": {**FIXED, "mood": 1}}, "Fixed settings: there is no setting 'mood'"),
        ({"fixed": {"checkpoint": "a"}}, "sets no prompt"),
        ({"format": 2}, "Update the pack"),
        ({"colour": 1}, "A plan has no colour"),
        ({"axes": [{"target": "seed", "values": ""}]}, "Axis 1: The seed axis has no values"),
        ({"fixed": {**FIXED, "denoise": 0.5}}, "denoise 0.5 needs an image"),
        ({"rules": 5}, "rules must be a text with one per line, or a list, not 5"),
    ],
)
def test_a_plan_as_json_that_cannot_be_rendered_is_refused(change: dict[str, Any], words: str):
    described = {"name": "g", "fixed": FIXED, "axes": [{"target": "seed", "values": "1"}]}
    with pytest.raises(GridError) as error:
        plan_from_json({**described, **change}, CHOICES, content_of)
    assert words in str(error.value)


def test_a_vae_is_changed_last_and_a_lora_before_the_prompts():
    axes = [typed("VAE", "none, mse"), typed("prompt", "x", "y"), typed("LoRA", "none, ink:1")]
    order = make_plan("g", FIXED, axes, content_of).render_order
    assert [(len(c.settings.loras), c.settings.prompt, c.settings.vae) for c in order[:4]] == [
        (0, "x", ""),
        (0, "x", "mse"),
        (0, "y", ""),
        (0, "y", "mse"),
    ]
