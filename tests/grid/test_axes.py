"""What can be written on an axis, and how its values are called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cocktail.nodes.grid.engine.axes.axis import combine, follow
from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis, runs_axis
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.plan_json import axis_from_json

CHOICES = {
    "sampler": ["euler", "euler_ancestral", "dpmpp_2m"],
    "scheduler": ["normal", "karras"],
    "checkpoint": ["run/e10.safetensors", "run/e9.safetensors", "sd15.safetensors"],
    "vae": ["mse.safetensors"],
    "lora": ["style/ink.safetensors", "style/oil.safetensors"],
}


@pytest.mark.parametrize(
    ("target", "text", "expected"),
    [
        ("prompt", "a red circle\n\n  a square, blue  ", [
            ("a red circle", {"prompt": "a red circle"}),
            ("a square, blue", {"prompt": "a square, blue"}),
        ]),
        ("negative prompt", '""\nblurry', [
            ("no negative prompt", {"negative_prompt": ""}),
            ("negative: blurry", {"negative_prompt": "blurry"}),
        ]),
        ("seed", "1\n18446744073709551615", [
            ("seed 1", {"seed": 1}),
            ("seed 18446744073709551615", {"seed": 2**64 - 1}),
        ]),
        ("size", "512\n512x768\n768 × 512", [
            ("512 x 512", {"width": 512, "height": 512}),
            ("512 x 768", {"width": 512, "height": 768}),
            ("768 x 512", {"width": 768, "height": 512}),
        ]),
        ("clip skip", "1\n2", [
            ("clip skip 1 (ComfyUI -1, EveryDream2 0 or 1)", {"clip_skip": 1}),
            ("clip skip 2 (ComfyUI -2, EveryDream2 2)", {"clip_skip": 2}),
        ]),
        ("cfg", "7\n7.5", [("cfg 7", {"cfg": 7.0}), ("cfg 7.5", {"cfg": 7.5})]),
        ("cfg", "22/3, 7", [("cfg 22/3", {"cfg": 22 / 3}), ("cfg 7", {"cfg": 7.0})]),
        ("denoise", "1/3, 50%", [
            ("denoise 1/3", {"denoise": 1 / 3}), ("denoise 50%", {"denoise": 0.5}),
        ]),
        ("LoRA strength", "1/3", [("LoRA strength 1/3", {"lora_strength": 1 / 3})]),
        ("LoRA", "style/ink:1/2, style/oil:50%:1/4", [
            ("ink:0.5", {"loras": (("style/ink.safetensors", 0.5, 0.5),)}),
            ("oil:0.5:0.25", {"loras": (("style/oil.safetensors", 0.5, 0.25),)}),
        ]),
        ("steps", "1\n20", [("1 step", {"steps": 1}), ("20 steps", {"steps": 20})]),
        ("sampler", "euler", [("euler", {"sampler": "euler"})]),
        ("scheduler", "karras", [("karras", {"scheduler": "karras"})]),
        ("sampler", "euler, dpmpp_2m", [
            ("euler", {"sampler": "euler"}),
            ("dpmpp_2m", {"sampler": "dpmpp_2m"}),
        ]),
        ("cfg", "4-8 [3]", [
            ("cfg 4", {"cfg": 4.0}), ("cfg 6", {"cfg": 6.0}), ("cfg 8", {"cfg": 8.0}),
        ]),
        ("size", "64, 64x96", [
            ("64 x 64", {"width": 64, "height": 64}),
            ("64 x 96", {"width": 64, "height": 96}),
        ]),
        ("seed", "1 seed", [("seed 3399012036751255", {"seed": 3399012036751255})]),
        ("checkpoint", "run/*\nsd15", [
            ("e9", {"checkpoint": "run/e9.safetensors"}),
            ("e10", {"checkpoint": "run/e10.safetensors"}),
            ("sd15", {"checkpoint": "sd15.safetensors"}),
        ]),
        ("VAE", "none\nmse", [
            ("the checkpoint's VAE", {"vae": ""}), ("mse", {"vae": "mse.safetensors"}),
        ]),
        ("LoRA", "none, style/ink:0.5, style/oil:1:0", [
            ("no LoRA", {"loras": ()}),
            ("ink:0.5", {"loras": (("style/ink.safetensors", 0.5, 0.5),)}),
            ("oil:1:0", {"loras": (("style/oil.safetensors", 1.0, 0.0),)}),
        ]),
        ("LoRA strength", "0.5", [("LoRA strength 0.5", {"lora_strength": 0.5})]),
        ("denoise", "0.5-1 [2]", [
            ("denoise 0.5", {"denoise": 0.5}), ("denoise 1", {"denoise": 1.0}),
        ]),
    ],
)  # fmt: skip
def test_values_are_read_one_a_line(target, text, expected):
    axis = typed_axis(target, text, CHOICES)
    assert [(value.label, value.set) for value in axis.values] == expected
    assert axis.target == target


@pytest.mark.parametrize(
    ("target", "text", "words"),
    [
        ("seed", "1\n1.5", "Line 2 of the values: '1.5' is not a whole number"),
        ("seed", "1, x, 3", "Write numbers with commas, or one a line"),
        ("seed", "-1", "seed -1 is out of range: give a number from 0"),
        ("cfg", "high", "'high' is not a number"),
        ("cfg", "1/0", "'1/0' is not a number"),
        ("steps", "1/2", "'1/2' is not a whole number"),
        ("cfg", "nan", "'nan' is not a number"),
        ("cfg", "inf", "'inf' is not a number"),
        ("size", "512x", "'512x' is not a size"),
        ("size", "500", "width 500 is not a multiple of 8 pixels. The nearest is 496"),
        ("size", "8", "width 8 is out of range"),
        ("clip skip", "13", "from 1 to 12"),
        ("steps", "0", "from 1 to 10000"),
        ("sampler", "eulr", "Did you mean euler?"),
        ("scheduler", "zzz", "There are: normal, karras"),
        ("prompt", "a\nb\na", "Line 3 of the values: 'a' appears twice"),
        ("cfg", "7\n7.0", "appears twice"),
        ("prompt", " \n", "The prompt axis has no values"),
        ("mood", "good", "'mood' cannot be varied"),
        ("seed", "-1", "or draw some, such as 4 seeds"),
        ("steps", "1-10 (-1)", "is an empty range"),
        ("checkpoint", "sd16", "Did you mean sd15.safetensors?"),
        ("checkpoint", "run2/*", "No checkpoint matches 'run2/*'"),
        ("LoRA", "style/ink:much", "Write FILE:0.8"),
        ("LoRA", "style/ink:101", "Write FILE:0.8"),
        ("denoise", "0", "denoise 0.0 is out of range"),
        ("prompt search and replace", "a", "Write it into the search box"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_what_to_do(target, text, words):
    with pytest.raises(GridError) as error:
        typed_axis(target, text, CHOICES)
    assert words in str(error.value)


def test_checkpoints_are_called_by_label_or_file():
    axis = checkpoint_axis(
        [("sd15.safetensors", ""), ("cocktail/mix-v1.5.safetensors", ""), ("x.ckpt", "the old one")]
    )
    assert [value.label for value in axis.values] == ["sd15", "mix-v1.5", "the old one"]
    assert [value.set["checkpoint"] for value in axis.values] == [
        "sd15.safetensors",
        "cocktail/mix-v1.5.safetensors",
        "x.ckpt",
    ]


def test_files_of_one_name_are_told_apart_by_their_folders():
    axis = checkpoint_axis([("a\\model.safetensors", ""), ("b\\model.safetensors", "")])
    assert [value.label for value in axis.values] == ["a/model.safetensors", "b/model.safetensors"]


def test_a_checkpoint_that_two_rules_pick_is_one_value_with_both_labels():
    axis = checkpoint_axis([("e3.safetensors", "best"), ("e3.safetensors", "last")])
    assert [(value.label, value.set) for value in axis.values] == [
        ("best / last", {"checkpoint": "e3.safetensors"})
    ]


def test_an_axis_without_checkpoints_is_refused():
    with pytest.raises(GridError, match="Choose at least one"):
        checkpoint_axis([])


def test_epochs_of_runs_are_called_by_run_and_epoch():
    axis = runs_axis(
        [
            ("v64", 1, 10, "v64-1"),
            ("v64", 2, 15, "v64-2a"),
            ("v64", 2, 20, "v64-2b"),
            ("v96", 2, 20, "v96-2"),
        ]
    )
    assert [value.label for value in axis.values] == [
        "v64 epoch 1",
        "v64 epoch 2 step 15",
        "v64 epoch 2 step 20",
        "v96 epoch 2",
    ]


def test_search_and_replace_names_what_it_looks_for():
    axis = typed_axis("prompt search and replace", 'circle\nsquare\n""', CHOICES, "circle")
    assert [(value.label, value.set) for value in axis.values] == [
        ("circle", {"replace_in_prompt": ("circle", "circle")}),
        ("square", {"replace_in_prompt": ("circle", "square")}),
        ("without circle", {"replace_in_prompt": ("circle", "")}),
    ]
    with pytest.raises(GridError, match="search box is only for search and replace"):
        typed_axis("seed", "1", CHOICES, "circle")


def test_labels_are_given_line_by_line():
    axis = typed_axis("seed", "1-3", CHOICES, labels="first\n\nlast\n")
    assert [value.label for value in axis.values] == ["first", "seed 2", "last"]
    with pytest.raises(GridError, match="4 labels for 3 values"):
        typed_axis("seed", "1-3", CHOICES, labels="a\nb\nc\nd")


def test_axes_move_together_or_meet_each_other():
    sizes, steps = typed_axis("size", "64, 96", CHOICES), typed_axis("steps", "4, 8", CHOICES)
    both = combine([sizes, steps], together=True)
    assert [value.set for value in both.values] == [
        {"width": 64, "height": 64, "steps": 4},
        {"width": 96, "height": 96, "steps": 8},
    ]
    assert both.target == "size + steps"
    assert both.values[0].label == "64 x 64 · 4 steps"
    assert len(combine([sizes, steps], together=False).values) == 4
    with pytest.raises(
        GridError, match="the same number of values, but these have: size 2, steps 3"
    ):
        combine([sizes, typed_axis("steps", "1-3", CHOICES)], together=True)
    with pytest.raises(GridError, match="1000 x 1000 x 1000 values makes 1,000,000,000; 20,000"):
        many = (
            typed_axis(target, values, CHOICES)
            for target, values in (("cfg", "1-100 [1000]"), ("seed", "1-1000"), ("steps", "1-1000"))
        )
        combine([*many], together=False)
    with pytest.raises(GridError, match="both vary the size"):
        combine([sizes, both], together=False)


def test_axes_of_one_thing_follow_each_other_and_others_do_not():
    epochs = checkpoint_axis([("run-1.safetensors", "epoch 1"), ("run-2.safetensors", "epoch 2")])
    others = checkpoint_axis([("other.safetensors", "")])
    both = follow([epochs, others])
    assert (both.target, both.label) == (epochs.target, epochs.label)
    assert [value.set["checkpoint"] for value in both.values] == [
        "run-1.safetensors",
        "run-2.safetensors",
        "other.safetensors",
    ]
    with pytest.raises(GridError, match="axis 1 varies the checkpoint, axis 2 the steps"):
        follow([epochs, typed_axis("steps", "4, 8", CHOICES)])


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ([], 'Axis 3: give an object with "target" and "values"'),
        ({"target": "mood", "values": "1"}, "Axis 3: 'mood' cannot be varied"),
        ({"target": "seed", "values": []}, "Axis 3: The seed axis has no values"),
        ({"target": "x", "values": [{"label": "a"}]}, 'Axis 3: a value needs "set"'),
        ({"target": "x", "values": [{"set": {"sede": 1}}]}, "Did you mean seed?"),
        (
            {"target": "x", "values": [{"set": {"seed": "1"}}]},
            "seed must be a whole number, not '1'",
        ),
        (
            {"target": "x", "values": [{"set": {"seed": "1", "KSampler.seed": 1}}]},
            "seed must be a whole number, not '1'",
        ),
        ({"target": "x", "values": [{"set": {"seed": -1}}]}, "seed -1 is out of range"),
        ({"target": "x", "values": [{"set": {"loras": ["a"]}}]}, "loras must be a list of [file"),
        (
            {"target": "x", "values": [{"set": {"loras": [["a", "x", 1]]}}]},
            "loras must be a list of [file",
        ),
        (
            {"target": "x", "values": [{"set": {"loras": [["a", 1, 101]]}}]},
            "loras must be a list of [file",
        ),
        (
            {"target": "seed", "values": 5},
            "Axis 3: values must be a text with one per line, or a list, not 5",
        ),
        ({"target": "seed", "values": "1", "labels": True}, "Axis 3: labels must be a text"),
        ({"target": "size", "values": "9" * 5000}, "is not a size"),
    ],
)  # fmt: skip
def test_an_axis_as_json_that_is_wrong_is_refused_with_its_number(described: Any, words: str):
    with pytest.raises(GridError) as error:
        axis_from_json(described, 3, CHOICES)
    assert words in str(error.value)


def test_an_axis_comes_back_from_its_json():
    axis = typed_axis("LoRA", "none, style/ink:0.5", CHOICES, labels="plain")
    assert axis_from_json(json.loads(json.dumps(axis.to_json())), 1, CHOICES) == axis
    typed = {"target": "seed", "values": ["1-2", 5], "labels": ["one"]}
    assert [value.label for value in axis_from_json(typed, 1, CHOICES).values] == [
        "one",
        "seed 2",
        "seed 5",
    ]
