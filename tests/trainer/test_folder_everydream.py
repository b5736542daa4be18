"""A folder made for EveryDream2 gives the pairs, captions and settings that EveryDream2 gives."""

from __future__ import annotations

import json
import math

import pytest

from cocktail.trainer.data.buckets import batches
from cocktail.trainer.data.captions import vary
from cocktail.trainer.errors import TrainerError

from .folders import by_image, load, picture, text

PICTURES = (
    "a photo of ted bennet, sitting_1.jpg",
    "in text.png",
    "in caption.jpeg",
    "ignored.gif",
    "notes.tiff",
    ".hidden.png",
    "people/one.webp",
    "people/two.BMP",
    "people/old/three.jfif",
    "people/old/four.png",
    "people/old/older/five.png",
    "weights/six.png",
    "weights/seven.png",
    ".thumbnails/eight.png",
)
FILES = {
    "in text.txt": "a dog, brown, big",
    "in text.yaml": "multiply: 3\nshuffle_tags: true",
    "in caption.caption": "a cow",
    "people/global.yaml": "tags: [in the style of xyz]\ncond_dropout: 0.2\nmultiply: 2",
    "people/multiply.txt": " 1.5\n",
    "people/flip_p.txt": "0.5",
    "people/one.yml": "main_prompt: from yml\ntags: [low]\nflip_p: 0.25",
    "people/one.yaml": (
        "main_prompt: from yaml\ntags:\n- tag: holding a sword\n  weight: 1.5\n- tag: clouds\n  "
        "weight: 0.5"
    ),
    "people/one.txt": "from txt, standing",
    "people/batch_id.txt": "together",
    "people/old/global.yml": "cond_dropout: 0.0\ntags: [old]",
    "people/old/local.yaml": "main_prompt: an old photo\nmultiply: 0.5",
    "people/old/shuffle_tags.txt": "",
    "people/old/four.caption": "four, standing",
    "weights/loss_scale.txt": "0.5",
    "weights/cond_dropout.txt": "1",
    "weights/seven.json": '{"caption": "seven, up", "multiply": 4, "rating": 2}',
}


@pytest.fixture
def folder(tmp_path):
    """Every kind of file that data/dataset.py of EveryDream2 looks for."""
    for name in PICTURES:
        picture(tmp_path, name)
    for name, content in FILES.items():
        text(tmp_path, name, content)
    return tmp_path


def test_the_pairs_and_the_length_of_an_epoch_are_those_of_everydream2(folder):
    """By its code (5098db8): data/dataset.py takes jpg, jpeg, png, bmp, webp and jfif, in any case,
    and passes over names with a leading dot, so 10 of the 14 pictures. data/data_loader.py shows
    floor(sum of multipliers) of them in an epoch. The multipliers: nothing said 1 (three: the
    first, `in caption`, `six`); `in text` 3 by its yaml; people/: multiply.txt 1.5 before the
    global 2, for one and two; people/old: local.yaml 0.5 for three and four; people/old/older: the
    global 2, because local and .txt files hold for their own folder alone; seven: 1 there and 4
    here, because EveryDream2 does not look for .json beside a picture. Its own code run on this
    folder gave 10 items and an epoch of 13.
    """
    dataset, report = load(folder)
    assert report.layout == "everydream" and report.found == len(dataset.pairs) == 10
    assert report.problems == report.unread == ()
    weights = {image: pair.weight for image, pair in by_image(dataset).items()}
    assert weights == {
        "a photo of ted bennet, sitting_1.jpg": 1,
        "in text.png": 3,
        "in caption.jpeg": 1,
        "people/one.webp": 1.5,
        "people/two.BMP": 1.5,
        "people/old/three.jfif": 0.5,
        "people/old/four.png": 0.5,
        "people/old/older/five.png": 2,
        "weights/six.png": 1,
        "weights/seven.png": 4,
    }
    (folder / "weights/seven.json").unlink()
    pairs = load(folder)[0].pairs
    assert math.floor(sum(pair.weight for pair in pairs)) == 13
    buckets = dict.fromkeys((pair.id for pair in pairs), (64, 64))
    weight = {pair.id: pair.weight for pair in pairs}
    epochs = [len(batches(buckets, 1, 1, epoch, weight)) for epoch in range(300)]
    assert sum(epochs) / len(epochs) == pytest.approx(13, abs=0.2)


def test_captions_and_settings_come_from_the_picture_the_folder_and_the_tree(folder):
    pairs = by_image(load(folder)[0])
    captions = {image: pair.caption for image, pair in pairs.items()}
    assert captions == {
        "a photo of ted bennet, sitting_1.jpg": "a photo of ted bennet, sitting",
        "in text.png": "a dog, brown, big",
        "in caption.jpeg": "a cow",
        # the strongest source first, all tags by weight: sidecars .yaml, .yml, .txt, then the tree
        "people/one.webp": "from yaml, holding a sword, low, standing, in the style of xyz, clouds",
        "people/two.BMP": "two, in the style of xyz",
        "people/old/three.jfif": "an old photo, old, in the style of xyz",
        "people/old/four.png": "four, standing, old, in the style of xyz",
        "people/old/older/five.png": "five, old, in the style of xyz",
        "weights/six.png": "six",
        "weights/seven.png": "seven, up",
    }
    dropout = {image: pair.conditional_dropout for image, pair in pairs.items()}
    assert dropout["people/one.webp"] == 0.2 and dropout["in text.png"] is None
    assert dropout["people/old/older/five.png"] == dropout["people/old/four.png"] == 0
    assert dropout["weights/six.png"] == 1
    assert [pairs[f"people/{name}"].flip for name in ("one.webp", "two.BMP")] == [0.25, 0.5]
    assert pairs["people/old/four.png"].flip == 0
    assert {pair.loss_scale for image, pair in pairs.items() if "weights" in image} == {0.5}
    shuffled = {image for image, pair in pairs.items() if pair.shuffle_tags}
    assert shuffled == {"in text.png", "people/old/three.jfif", "people/old/four.png"}
    assert pairs["people/old/older/five.png"].group == "people/old/older"
    assert pairs["in text.png"].group == ""


def test_what_training_has_nothing_for_is_reported(folder):
    report = load(folder)[1]
    assert (
        "not used: main prompts after the first (2 x), batch_id (2 x), rating (1 x)" in report.notes
    )
    assert str(report).splitlines()[:2] == [
        "10 pictures found, 10 pairs, 0 skipped",
        "read as everydream: it has in text.yaml",
    ]
    assert "other files, not read: 1 .gif, 1 .tiff" in str(report)


def test_shuffled_tags_keep_the_main_prompt_in_front_even_with_a_comma_in_it(tmp_path):
    picture(tmp_path, "a.png")
    text(tmp_path, "a.yaml", "main_prompt: ted, in paris\ntags: [a, b, c, d]\nshuffle_tags: true")
    (pair,) = load(tmp_path)[0].pairs
    shown = {vary(pair, (), str(key)) for key in range(50)}
    assert len(shown) > 10 and all(caption.startswith("ted, in paris, ") for caption in shown)


def test_a_global_shuffle_holds_below_it_as_the_documentation_says(tmp_path):
    picture(tmp_path, "below/a.png")
    text(tmp_path, "below/a.txt", "a, b, c")
    text(tmp_path, "global.yaml", "shuffle_tags: true")
    assert load(tmp_path)[0].pairs[0].shuffle_tags
    text(tmp_path, "below/global.yaml", "shuffle_tags: false")
    assert not load(tmp_path)[0].pairs[0].shuffle_tags


def test_a_caption_is_not_rewritten_by_its_commas(tmp_path):
    """EveryDream2 splits a caption at its commas and joins it again, without what stands there
    twice.
    """
    picture(tmp_path, "a.png")
    text(tmp_path, "a.txt", "a,b,  c,b")
    text(tmp_path, "multiply.txt", "2")
    assert load(tmp_path)[0].pairs[0].caption == "a,b,  c,b"


def test_of_a_text_with_several_lines_the_first_counts_and_the_report_says_so(tmp_path):
    picture(tmp_path, "a.png")
    text(tmp_path, "a.txt", "one, two\nthree")
    text(tmp_path, "multiply.txt", "2")
    dataset, report = load(tmp_path)
    assert dataset.pairs[0].caption == "one, two"
    assert report.notes == (
        (
            "caption files with more than one line, of which only the first is used: 1 "
            "(EveryDream2 uses all: caption_text)"
        ),
    )
    assert load(tmp_path, caption_text="whole file")[0].pairs[0].caption == "one, two\nthree"


def test_an_archive_is_not_opened_but_named(tmp_path):
    """EveryDream2 tries to unpack every zip, and opens the folder in its place."""
    picture(tmp_path, "a.png")
    text(tmp_path, "more.zip", b"PK\x05\x06" + bytes(18))
    text(tmp_path, "multiply.txt", "2")
    assert load(tmp_path)[1].other_files == {".zip": 1}


def test_a_list_of_pairs_is_read_as_everydream2s_json_data_root(tmp_path):
    for name in ("one.png", "two.png", "sub/three.png"):
        picture(tmp_path, name)
    text(tmp_path, "deep/words.txt", "from a file, far")
    entries = [
        {"image": "one.png", "caption": "one, up", "multiply": 2},
        {"image": "one.png", "caption": "the same again"},
        {
            "image": "/elsewhere/data/sub/three.png",
            "caption": {"main_prompt": "three", "tags": ["t"]},
        },
        {"image": "two.png", "caption": "deep/words.txt"},
        {"image": "sub\\three.png"},
        {"image": "four.png", "caption": "four"},
        {"caption": "none"},
    ]
    text(tmp_path, "pairs.json", json.dumps(entries))
    dataset, report = load(tmp_path)
    assert report.layout == "everydream"
    assert [(pair.image, pair.caption, pair.weight) for pair in dataset.pairs] == [
        ("one.png", "one, up", 2),
        ("one.png", "the same again", 1),
        ("sub/three.png", "three, t", 1),
        ("two.png", "from a file, far", 1),
        ("sub/three.png", "three", 1),
    ]
    assert [str(problem) for problem in report.problems] == [
        "pairs.json, entry 6: there is no such picture (four.png)",
        "pairs.json, entry 7: the entry names no picture",
    ]


def test_a_setting_that_is_not_understood_stops_or_leaves_the_pictures_without_it(tmp_path):
    picture(tmp_path, "sub/a.png")
    text(tmp_path, "sub/multiply.txt", "twice")
    with pytest.raises(TrainerError) as error:
        load(tmp_path, on_problem="stop")
    assert str(error.value).splitlines() == [
        "1 other files in input/few cannot be used:",
        (
            "  sub/multiply.txt: multiply is not a number above 0, at most 10000 (it is the text "
            "'twice')"
        ),
        'Repair or remove them, or set on_problem to "skip" to continue without them.',
    ]
    dataset, report = load(tmp_path)
    assert dataset.pairs[0].weight == 1 and len(report.unread) == 1
