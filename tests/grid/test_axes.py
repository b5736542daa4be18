"""What can be written on an axis, and how its values are called."""

from __future__ import annotations

import pytest

from cocktail.nodes.grid.axes import checkpoint_axis, runs_axis, typed_axis
from cocktail.nodes.grid.errors import GridError

CHOICES = {
    "sampler": ["euler", "euler_ancestral", "dpmpp_2m"],
    "scheduler": ["normal", "karras"],
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
            ("clip skip 1 (-1)", {"clip_skip": 1}),
            ("clip skip 2 (-2)", {"clip_skip": 2}),
        ]),
        ("cfg", "7\n7.5", [("cfg 7", {"cfg": 7.0}), ("cfg 7.5", {"cfg": 7.5})]),
        ("steps", "1\n20", [("1 step", {"steps": 1}), ("20 steps", {"steps": 20})]),
        ("sampler", "euler", [("euler", {"sampler": "euler"})]),
        ("scheduler", "karras", [("karras", {"scheduler": "karras"})]),
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
        ("seed", "1, 2, 3", "Write one seed a line"),
        ("seed", "-1", "seed -1 is out of range: give a number from 0"),
        ("cfg", "high", "'high' is not a number"),
        ("cfg", "nan", "'nan' is not a number"),
        ("cfg", "inf", "'inf' is not a number"),
        ("size", "512x", "'512x' is not a size"),
        ("size", "500", "width 500 is not a multiple of 8 pixels. The nearest is 496"),
        ("size", "8", "width 8 is out of range"),
        ("clip skip", "13", "from 1 to 12"),
        ("steps", "0", "from 1 to 10000"),
        ("sampler", "eulr", "Did you mean euler?"),
        ("scheduler", "zzz", "There are: normal, karras"),
        ("prompt", "a\nb\na", "Line 3 of the values: 'a' is there twice"),
        ("cfg", "7\n7.0", "is there twice"),
        ("prompt", " \n", "The prompt axis has no values"),
        ("mood", "good", "'mood' cannot be varied"),
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
        [("v64", 1, 10, "v64-1"), ("v64", 2, 15, "v64-2a"), ("v64", 2, 20, "v64-2b"), ("v96", 2, 20, "v96-2")]
    )  # fmt: skip
    assert [value.label for value in axis.values] == [
        "v64 epoch 1",
        "v64 epoch 2 step 15",
        "v64 epoch 2 step 20",
        "v96 epoch 2",
    ]
