"""Captions that lie beside pictures are read where it is certain whose they are; what is left over
is named.
"""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cocktail.trainer.data.image import MODULES, PACKAGES, SUFFIXES
from cocktail.trainer.errors import TrainerError

from .folders import by_image, jsonl, load, picture, text

WHOSE = {
    "with its suffix": ("a.png", "a.png.txt"),
    "with its suffix, .caption": ("a.png", "a.png.caption"),
    "in lower case": ("IMG_2.JPG", "img_2.txt"),
    "in upper case": ("img_2.jpg", "IMG_2.TXT"),
    "both": ("IMG_2.JPG", "img_2.jpg.txt"),
    "composed": (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.txt")),
    "decomposed": (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.txt")),
}


@pytest.mark.parametrize("how", WHOSE)
def test_a_caption_file_that_can_only_mean_one_picture_is_its(tmp_path, how):
    name, sidecar = WHOSE[how]
    picture(tmp_path, f"deep/{name}")
    text(tmp_path, f"deep/{sidecar}", "a cat")
    dataset, report = load(tmp_path, on_problem="stop")
    assert [pair.caption for pair in dataset.pairs] == ["a cat"]
    assert not report.captions_from_names and not report.other_files


spellings = some.sampled_from(["a", "A", "é", "e\u0301", "É"])


@settings(max_examples=25, deadline=None)
@given(
    names=some.sets(
        some.tuples(spellings, some.sampled_from([".png", ".PNG", ".jpg"])), min_size=1
    ),
    captions=some.sets(spellings | some.sampled_from(["a.png", "A.jpg", "b"])),
)
def test_no_caption_goes_to_a_picture_that_it_may_not_mean(tmp_path_factory, names, captions):
    """Every caption says whose it is; of several pictures that it fits, none gets it."""
    folder = tmp_path_factory.mktemp("any")
    for stem, end in names:
        picture(folder, stem + end)
    for stem in captions:
        text(folder, f"{stem}.txt", f"caption {stem}")
    dataset, report = load(folder)
    read = set()
    for image, pair in by_image(dataset).items():
        stem = image.rpartition(".")[0]
        if not pair.caption.startswith("caption "):
            assert stem not in captions
            continue
        said = pair.caption.removeprefix("caption ")
        read.add(said)
        if said == stem:
            continue
        assert stem not in captions
        fits = [name for name in names if plain(said) in (plain("".join(name)), plain(name[0]))]
        exactly = [name for name in names if plain(said) == plain("".join(name))]
        assert exactly == [(stem, image[len(stem) :])] or len(fits) == 1
    told = {problem.file for problem in report.unread}
    told |= {word for note in report.notes if "of no picture" in note for word in note.split()}
    if any(not pair.caption.startswith("caption ") for pair in dataset.pairs):
        assert {f"{stem}.txt" for stem in captions - read} <= told


def plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def test_caption_in_json_is_read(tmp_path):
    picture(tmp_path, "c.png")
    text(tmp_path, "c.json", json.dumps({"caption": "a cat", "seed": 1}))
    dataset, report = load(tmp_path, on_problem="stop")
    assert [pair.caption for pair in dataset.pairs] == ["a cat"] and report.layout == "plain"


ORPHANS = {
    "other.txt": (b"a cat", "it may hold a caption that is not read (no picture has its name)"),
    "r0.json": (b'{"tags": "cat"}', "it may hold a caption that is not read (none is in it)"),
    "captions.jsonl": (
        b'{"file_name": "r0.png", "text": "a cat"}\n',
        "it names pictures, but is not called as a file of pairs is (such as metadata.jsonl)",
    ),
    "train.csv": (
        b"image,text\nr0.png,a cat\n",
        "it names pictures, but is not called as a file of pairs is (such as metadata.jsonl)",
    ),
    "more.zip": (b"PK\x05\x06" + bytes(18), "it is an archive; unpack it, or move it away"),
}


@pytest.mark.parametrize("name", ORPHANS)
def test_what_may_hold_captions_stops_and_is_named(tmp_path, name):
    data, why = ORPHANS[name]
    picture(tmp_path, "r0.png")
    text(tmp_path, name, data)
    with pytest.raises(TrainerError) as error:
        load(tmp_path, on_problem="stop")
    assert f"  {name}: {why}\n" in str(error.value)
    dataset, report = load(tmp_path)
    assert [pair.caption for pair in dataset.pairs] == ["r0"]
    assert f"could not be read, ignored: {name}: {why}" in str(report)


ELSEWHERE = {
    "a folder of captions": ("a.png", "captions/a.txt"),
    "folders side by side": ("imgs/a.png", "txts/a.txt"),
    "the folder above": ("imgs/a.png", "a.caption"),
    "in another spelling": ("imgs/IMG_1.JPG", "txts/img_1.txt"),
    "with the picture's suffix": ("imgs/a.png", "txts/a.png.txt"),
    "as JSON": ("imgs/a.png", "json/a.json"),
    "of another ending": ("imgs/a.png", "tags/a.tags"),
    "tags beside it": ("a.png", "a.tags"),
    "a tagger's, beside it": ("a.png", "a.wd14"),
    "of an unknown ending, beside it": ("a.png", "a.cap"),
    "of an unknown ending with its suffix": ("a.png", "a.png.cap"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("layout", ["plain", "everydream"])
def test_a_text_called_like_a_picture_without_a_caption_stops(tmp_path, where, layout):
    name, file = ELSEWHERE[where]
    picture(tmp_path, name)
    picture(tmp_path, "z.png")
    text(tmp_path, "z.txt", "a dog")
    text(tmp_path, file, "a cat")
    with pytest.raises(TrainerError, match="1 other files in input/few cannot be used") as error:
        load(tmp_path, on_problem="stop", layout=layout)
    assert f"  {file}: it may " in str(error.value)
    report = load(tmp_path, layout=layout)[1]
    assert f"could not be read, ignored: {file}: it may " in str(report)
    assert "caption files of no picture" not in str(report)


def test_what_is_no_text_or_of_another_name_does_not_stop(tmp_path):
    picture(tmp_path, "imgs/a.png")
    text(tmp_path, "cache/a.npz", b"PK\3\4\xff\xfe")
    text(tmp_path, "imgs/a.xmp", "<xml/>")
    text(tmp_path, "imgs/a.bin", b"\xff\xfe\xfd")
    text(tmp_path, "txts/b.txt", "of no picture")
    report = load(tmp_path, on_problem="stop")[1]
    assert "caption files of no picture: txts/b.txt" in report.notes


def test_a_text_beside_a_picture_that_has_a_caption_is_not_anothers(tmp_path):
    for name in ("a.png", "sub/a.png"):
        picture(tmp_path, name)
    text(tmp_path, "sub/a.txt", "a cat")
    text(tmp_path, "sub/a.tags", "cat")
    assert len(load(tmp_path, on_problem="stop")[0].pairs) == 2


def test_an_archive_stops_where_every_picture_has_its_caption(tmp_path):
    picture(tmp_path, "a.png")
    text(tmp_path, "a.txt", "a cat")
    text(tmp_path, "sub/all.zip", b"PK\x05\x06" + bytes(18))
    with pytest.raises(TrainerError, match=r"sub/all\.zip: it is an archive; unpack it"):
        load(tmp_path, on_problem="stop")
    assert "ignored: sub/all.zip: it is an archive" in str(load(tmp_path)[1])


def test_where_every_picture_has_its_caption_nothing_stops(tmp_path):
    picture(tmp_path, "a.png")
    text(tmp_path, "a.txt", "a cat")
    jsonl(tmp_path, "list.jsonl", {"file_name": "a.png", "text": "a dog"})
    text(tmp_path, "b.txt", "of a picture that is gone")
    text(tmp_path, "a.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    dataset, report = load(tmp_path, on_problem="stop" if ".heic" not in SUFFIXES else "skip")
    assert [pair.caption for pair in dataset.pairs] == ["a cat"]
    assert "caption files of no picture: b.txt" in report.notes


def test_a_readme_is_no_caption(tmp_path):
    picture(tmp_path, "a cat.png")
    text(tmp_path, "README.txt", "about these pictures")
    assert [pair.caption for pair in load(tmp_path, on_problem="stop")[0].pairs] == ["a cat"]


@pytest.mark.parametrize("end", sorted(PACKAGES))
@pytest.mark.parametrize("layout", ["plain", "kohya", "everydream"])
def test_a_picture_that_needs_a_package_is_read_or_told(tmp_path, end, layout):
    picture(tmp_path, "2_cat/a.png")
    text(tmp_path, f"2_cat/b{end}", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    with pytest.raises(TrainerError) as error:
        load(tmp_path, on_problem="stop", layout=layout)
    dataset, report = load(tmp_path, layout=layout)
    assert "1 of 2 pictures in input/few cannot be used" in str(error.value)
    assert (report.found, len(dataset.pairs), report.other_files) == (2, 1, {})
    if end not in SUFFIXES:
        needs = f"{end[1:].upper()} pictures need the package {PACKAGES[end]}"
        assert [problem.reason for problem in report.problems] == [needs]


def test_a_folder_of_such_pictures_or_of_an_archive_says_so(tmp_path):
    text(tmp_path, "pictures.zip", b"PK\x05\x06" + bytes(18))
    with pytest.raises(
        TrainerError, match=r"There is no picture .* pictures.zip: it is an archive"
    ):
        load(tmp_path)


def test_the_packages_are_those_of_the_extra():
    assert set(MODULES) == set(PACKAGES.values())
