"""A folder made for kohya's sd-scripts gives the pairs, captions and repeats that those give."""

from __future__ import annotations

import json

import pytest

from cocktail.trainer.errors import TrainerError

from .folders import by_image, load, picture, text

PICTURES = (
    "5_cat/a.png",
    "5_cat/b.JPG",
    "5_cat/face_1_2_3_4.webp",
    "5_cat/deeper/c.png",
    "5_cat/d.gif",
    "1_a person/e.bmp",
    "3_/f.png",
    "0_off/g.png",
    "-2_off/h.png",
    "album/i.png",
    "top.png",
)
FILES = {
    "5_cat/a.caption": "the cat\nand a second line",
    "5_cat/a.txt": "another text",
    "5_cat/face.txt": "a face",
    "3_/f.txt": "f, tag",
}


@pytest.fixture
def folder(tmp_path):
    for name in PICTURES:
        picture(tmp_path, name)
    for name, content in FILES.items():
        text(tmp_path, name, content)
    return tmp_path


def test_the_pairs_and_repeats_are_those_of_kohya(folder):
    """By its code (48d368fa): library/config_util.py makes a subset of each folder directly below
    the top one whose name begins with an integer above 0 and `_`, and library/train_util.py takes
    the png, jpg, jpeg, webp and bmp pictures directly in it: three in 5_cat, one in `1_a person`,
    one in 3_; with repeats 3 x 5 + 1 + 3 = 19. Its own code run on this folder said 5 pictures and
    "19 train images with repeats".
    """
    dataset, report = load(folder, layout="kohya")
    pairs = by_image(dataset)
    assert {image: pair.weight for image, pair in pairs.items()} == {
        "5_cat/a.png": 5,
        "5_cat/b.JPG": 5,
        "5_cat/face_1_2_3_4.webp": 5,
        "1_a person/e.bmp": 1,
        "3_/f.png": 3,
    }
    assert sum(pair.weight for pair in dataset.pairs) == 19
    assert {image: pair.caption for image, pair in pairs.items()} == {
        "5_cat/a.png": "the cat",
        "5_cat/b.JPG": "cat",
        "5_cat/face_1_2_3_4.webp": "a face",
        "1_a person/e.bmp": "a person",
        "3_/f.png": "f, tag",
    }
    assert pairs["5_cat/b.JPG"].group == "5_cat"
    assert report.problems == ()
    assert report.notes == (
        (
            "pictures that kohya skips: 1 in -2_off, 1 in 0_off, 1 in 5_cat, 1 in 5_cat/deeper, "
            "1 in album and 1 more"
        ),
        "pictures with a .caption and a .txt file, of which the first is used: 1",
        "caption files with more than one line, of which only the first is used: 1 "
        "(caption_text: whole file)",
    )
    assert report.captions_from_names == 2


def test_folders_of_repeats_are_recognised_unless_there_is_anything_else(folder, tmp_path):
    assert load(folder)[1].layout == "plain"
    for name in ("top.png", "album/i.png", "5_cat/deeper/c.png", "-2_off/h.png"):
        (folder / name).unlink()
    report = load(folder)[1]
    assert report.layout == "kohya"
    assert "read as kohya: all pictures are in folders named like 10_cat" in str(report)
    picture(folder, "2024_summer/j.png")
    assert load(folder)[1].layout == "plain", "a year is no number of repeats"


def test_a_multiply_file_next_to_repeats_counts_as_everydream2_and_both_are_named(tmp_path):
    picture(tmp_path, "10_cat/a.png")
    text(tmp_path, "10_cat/multiply.txt", "3")
    dataset, report = load(tmp_path)
    assert dataset.pairs[0].weight == 3
    assert report.why == (
        "it has 10_cat/multiply.txt; it could also be kohya (all pictures are in folders named "
        "like 10_cat)"
    )


METADATA = {
    "one": {"caption": "one", "tags": "a, b", "train_resolution": [512, 512]},
    "two.png": {"tags": "only, tags"},
    "sub/three.webp": {"caption": "three", "image_size": [24, 16]},
    "/home/someone/train/sub/four.jpg": {"caption": "four", "score": 3},
    "C:\\train\\sub\\five.png": {"caption": "five"},
    "sub\\six": {"caption": "six"},
}


def build_metadata(folder, name="metadata.json"):
    for file in (
        "one.png",
        "two.png",
        "sub/three.webp",
        "sub/four.jpg",
        "sub/five.png",
        "sub/six.png",
        "seven.png",
    ):
        picture(folder, file)
    text(folder, "seven.txt", "not in the metadata")
    return text(folder, name, json.dumps(METADATA, indent=2))


@pytest.mark.parametrize("name", ["metadata.json", "meta_lat.json"])
def test_a_metadata_file_names_the_pairs(tmp_path, name):
    """FineTuningDataset of library/train_util.py makes one image of each key, and joins caption and
    tags: six pairs here. Its own code run on such a folder said 6 images, with captions "one,a, b"
    (kohya puts no space after its comma) and so on.
    """
    build_metadata(tmp_path, name)
    dataset, report = load(tmp_path)
    assert report.layout == "kohya" and report.why == f"{name} has captions"
    assert {image: pair.caption for image, pair in by_image(dataset).items()} == {
        "one.png": "one, a, b",
        "two.png": "only, tags",
        "sub/three.webp": "three",
        "sub/four.jpg": "four",
        "sub/five.png": "five",
        "sub/six.png": "six",
    }
    assert {pair.weight for pair in dataset.pairs} == {1}
    assert report.notes == (
        f"pictures that {name} does not name, not read: 1",
        "not used: score (1 x)",
    )


def test_no_word_of_a_caption_is_replaced(tmp_path):
    """kohya's clean_captions_and_tags turns a person into a girl by its built-in table."""
    picture(tmp_path, "2_x/a.png")
    text(tmp_path, "2_x/a.txt", "a person in a room, 1girl, solo")
    assert load(tmp_path)[0].pairs[0].caption == "a person in a room, 1girl, solo"


def test_a_folder_without_repeats_or_metadata_is_refused_by_name(tmp_path):
    picture(tmp_path, "cat/a.png")
    with pytest.raises(
        TrainerError,
        match="neither a metadata.json nor a folder of pictures with a name like 10_cat",
    ):
        load(tmp_path, layout="kohya")


def test_folders_of_repeats_below_the_top_are_pointed_at(tmp_path):
    picture(tmp_path, "img/10_sks man/r0.png")
    picture(tmp_path, "reg/1_man/r1.png")
    why = "its folders are named like 10_cat: load it by itself to have them shown so often"
    with pytest.raises(TrainerError) as error:
        load(tmp_path, on_problem="stop")
    for folder in ("img", "reg"):
        assert f"  {folder}: {why} (or choose the layout plain)\n" in str(error.value)
    assert load(tmp_path)[1].layout == "plain"
    plain = load(tmp_path, on_problem="stop", layout="plain")[0]
    assert [pair.weight for pair in plain.pairs] == [1, 1]
    (inside,) = load(tmp_path / "img", on_problem="stop")[0].pairs
    assert (inside.weight, inside.caption) == (10, "sks man")
    with pytest.raises(TrainerError, match="or the folder img or the folder reg."):
        load(tmp_path, layout="kohya")


@pytest.mark.parametrize(
    ("files", "stops"),
    [
        (["2024/05_may/a.png", "2024/06_june/b.png"], False),
        (["album/05_may/a.png", "album/06_june/b.png"], False),
        (["album/10_best/a.png", "album/others/b.png"], False),
        (["mine/10_cat/a.png", "mine/2_dog/b.png"], True),
        (["img/10_cat/a.png", "others/b.png"], True),
    ],
)
def test_folders_of_dates_are_no_repeats(tmp_path, files, stops):
    for file in files:
        picture(tmp_path, file)
    said = "its folders are named like 10_cat: load it by itself"
    if stops:
        with pytest.raises(TrainerError, match=said):
            load(tmp_path, on_problem="stop")
    else:
        assert said in str(load(tmp_path, on_problem="stop")[1])
