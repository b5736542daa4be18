"""A plain folder: caption files or names, whatever the names are, in one walk and with few pictures
in memory.
"""

from __future__ import annotations

import json
import os
import sys
import threading

import pytest
from PIL import Image

from cocktail.trainer.data.folder import facts as examined
from cocktail.trainer.data.folder.folder import folder_state, has_picture
from cocktail.trainer.data.split import split
from cocktail.trainer.errors import TrainerError

from .folders import by_image, load, picture, text

LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def test_a_caption_file_is_found_by_its_name(tmp_path):
    """ComfyUI's LoadImageTextDataSetFromFolder replaces the first `.png` of the whole path, here
    that of the folder.
    """
    picture(tmp_path, "data.png/x.png")
    text(tmp_path, "data.png/x.txt", "inside")
    picture(tmp_path, "v1.5.png")
    text(tmp_path, "v1.5.txt", "with a dot")
    picture(tmp_path, "no.suffix/y.png")
    text(tmp_path, "no.txt", "not of y")
    captions = {image: pair.caption for image, pair in by_image(load(tmp_path)[0]).items()}
    assert captions == {
        "data.png/x.png": "inside",
        "v1.5.png": "with a dot",
        "no.suffix/y.png": "y",
    }


def test_pairs_are_in_the_order_of_their_paths(tmp_path):
    for name in ("b.png", "a/z.png", "a.png", "B.png", "10.png", "9.png"):
        picture(tmp_path, name)
    images = [pair.image for pair in load(tmp_path)[0].pairs]
    assert images == sorted(images) and len(images) == 6


def test_odd_but_good_files_are_pairs(tmp_path):
    """Upper case, byte order marks, line ends of Windows, emoji, spaces, names that Windows keeps
    for devices.
    """
    files = {
        "UPPER.PNG": ("UPPER.TXT", b"in capitals", "in capitals"),
        "mark.png": ("mark.txt", "\ufeffafter a mark".encode(), "after a mark"),
        "marks.png": ("marks.txt", "\ufeff\ufeffafter two".encode(), "after two"),
        "windows.jpg": ("windows.txt", b"  one line\r\nanother\r\n", "one line"),
        "\U0001f431 \u732b.webp": ("\U0001f431 \u732b.txt", "\u732b".encode(), "\u732b"),
        "second.jpeg": ("second.caption", b"from .caption", "from .caption"),
        "deep/er/still.jfif": ("deep/er/still.txt", b"deep", "deep"),
    }
    if sys.platform != "win32":
        files |= {
            "space .png": ("space .txt", b"a space before the dot", "a space before the dot"),
            "CON.png": ("CON.txt", b"a device", "a device"),
            'q"uo\\te.png': ('q"uo\\te.txt', b"quoted", "quoted"),
        }
    for name, (sidecar, content, _) in files.items():
        picture(tmp_path, name)
        text(tmp_path, sidecar, content)
    dataset, report = load(tmp_path, on_problem="stop")
    captions = {image: pair.caption for image, pair in by_image(dataset).items()}
    assert captions == {name: caption for name, (*_, caption) in files.items()}
    assert report.other_files == {} and report.layout == "plain"


def test_both_caption_files_and_a_shared_one_are_reported(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        picture(tmp_path, name)
    text(tmp_path, "a.txt", "of both")
    text(tmp_path, "b.txt", "counts")
    text(tmp_path, "b.caption", "does not")
    text(tmp_path, "orphan.txt", "of no picture")
    dataset, report = load(tmp_path)
    assert {image: pair.caption for image, pair in by_image(dataset).items()} == {
        "a.jpg": "of both",
        "a.png": "of both",
        "b.png": "counts",
    }
    assert report.notes == (
        "pictures with a .txt and a .caption file, of which the first is used: 1",
        "pictures that share a caption file with another of the same name: 2",
        "caption files of no picture: orphan.txt",
    )
    assert report.other_files == {".txt": 1}


def test_further_lines_are_counted_whatever_ends_them(tmp_path):
    for name, data in {"a": b"one\rtwo", "b": b"one\r\ntwo\r\n", "c": b"one\n\n"}.items():
        picture(tmp_path, f"2_cat/{name}.png")
        text(tmp_path, f"2_cat/{name}.txt", data)
    said = "caption files with more than one line, of which only the first is used: 2"
    for layout in ("kohya", "plain"):
        dataset, report = load(tmp_path, layout=layout)
        assert {pair.caption for pair in dataset.pairs} == {"one"}
        assert report.notes == (f"{said} (caption_text: whole file)",)
    whole = load(tmp_path, caption_text="whole file")[0]
    assert [pair.caption for pair in whole.pairs] == ["one\ntwo", "one\r\ntwo", "one"]


def test_captions_that_clip_does_not_read_whole_are_counted(tmp_path, tokenizer):
    for number in (1, 75, 76, 160):
        picture(tmp_path, f"{number}.png")
        text(tmp_path, f"{number}.txt", "cat " * number)
    assert load(tmp_path, tokenizer=tokenizer)[1].notes == (
        "captions of more than 75 CLIP tokens, cut off there unless data.text_chunks is raised: "
        "2 (the longest has 160, for 3 chunks)",
    )
    assert load(tmp_path)[1].notes == ()
    text(tmp_path, "1.txt", "cat\n{a|" + "cat " * 80 + "}")
    (note,) = load(tmp_path, tokenizer=tokenizer, caption_text="drawn line")[1].notes
    assert "3 (the longest has 160" in note


@LINKS
def test_links_are_followed_but_no_folder_is_read_twice(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "out"
    picture(outside, "far.png")
    picture(folder, "a/near.png")
    (folder / "linked").symlink_to(outside)
    (folder / "a" / "circle").symlink_to(folder)
    (folder / "aa").symlink_to(folder / "a")
    (folder / "alias.png").symlink_to(folder / "a" / "near.png")
    dataset, report = load(folder, on_problem="stop")
    assert [pair.image for pair in dataset.pairs] == ["a/near.png", "alias.png", "linked/far.png"]
    assert report.notes == (
        "not read: a/circle (it is a link to a folder that is already read)",
        "not read: aa (it is a link to a folder that is already read)",
    )


@LINKS
def test_links_to_files_that_nobody_reads_are_notes_and_those_to_captions_are_not(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "out"
    picture(outside, "far.png")
    text(outside, "far.txt", "far away")
    text(outside, "own.txt", "linked inside")
    (outside / "own.png").symlink_to("far.png")
    (outside / "far2.png").symlink_to("far.png")
    (outside / "far2.txt").symlink_to("own.txt")
    picture(folder, "near.png")
    text(folder, "near.txt", "near")
    text(tmp_path, "README.md", "{}")
    (folder / "linked").symlink_to(outside)
    for name in ("README.md", "LICENSE.txt"):
        (folder / name).symlink_to("../README.md")
    dataset, report = load(folder, on_problem="stop")
    assert by_image(dataset)["linked/far2.png"].caption == "linked inside"
    assert sum("is a link that leads out" in note for note in report.notes) == 2
    picture(folder, "named.png")
    (folder / "metadata.jsonl").symlink_to("../README.md")
    for on_problem in ("stop", "skip"):
        with pytest.raises(TrainerError, match=r"metadata.jsonl may hold .* cp -rL"):
            load(folder, on_problem=on_problem)


def test_a_folder_is_a_group_and_stays_on_one_side(tmp_path):
    for user in range(12):
        for number in range(3):
            picture(tmp_path, f"user{user}/{number}.png")
    picture(tmp_path, "top.png")
    dataset = load(tmp_path)[0]
    assert by_image(dataset)["user3/1.png"].group == "user3"
    assert by_image(dataset)["top.png"].group == ""
    sides: dict[str, set[str]] = {}
    for pair in split(dataset, 0.3, 1, together="same group").pairs:
        sides.setdefault(pair.group, set()).add(pair.split)
    assert all(len(side) == 1 for side in sides.values())


def test_the_fingerprint_of_a_plain_folder_is_what_it_was(tmp_path):
    """Groups and where a picture lies do not count; these values are of the first version of the
    loader.
    """
    data = (
        b"BM:\0\0\0\0\0\0\x006\0\0\0(\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0\0\0\0\0\4"
        + bytes(19)
        + b"\xff\0\0\0"
    )
    text(tmp_path, "sub/red_1.bmp", data)
    text(tmp_path, "sub/blue.bmp", data)
    text(tmp_path, "sub/blue.txt", "blue\nand more")
    dataset = load(tmp_path)[0]
    assert [(pair.image, pair.id) for pair in dataset.pairs] == [
        ("sub/blue.bmp", "11a5b069fd5c2acd"),
        ("sub/red_1.bmp", "d70abbbb70a97523"),
    ]
    assert dataset.fingerprint == "fc0e86c406dd016aa169493a2bc59b1bb684d00ed7d8d580e8b4f03d42145cd7"


def test_the_background_is_part_of_the_dataset(tmp_path):
    picture(tmp_path, "a.png", mode="RGBA")
    white = load(tmp_path)[0]
    black = load(tmp_path, background="#00FF00")[0]
    assert white.background == "#ffffff" and black.background == "#00ff00"
    assert white.fingerprint == load(tmp_path, background="#FFFFFF")[0].fingerprint
    assert white.fingerprint != black.fingerprint
    for colour in ("green", "#0f0", "#00ff0g", "", "#00ff00;"):
        with pytest.raises(TrainerError, match="is not a colour. Write it as #rrggbb"):
            load(tmp_path, background=colour)


def test_an_unknown_layout_is_asked_for_by_its_name_only(tmp_path):
    picture(tmp_path, "2_cat/a.png")
    assert load(tmp_path)[0].pairs[0].weight == 2
    plain, report = load(tmp_path, layout="plain")
    assert (plain.pairs[0].weight, plain.pairs[0].caption) == (1, "a")
    assert "read as plain: as asked" in str(report)


def test_state_and_presence_need_no_file_to_be_opened(tmp_path, monkeypatch):
    picture(tmp_path, "deep/a.png")
    state = folder_state(tmp_path)
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr("io.open", None)
    assert folder_state(tmp_path) == state and has_picture(tmp_path)
    os.utime(tmp_path / "deep" / "a.png", (1, 1))
    assert folder_state(tmp_path) != state


class Stop(Exception):
    """What Interrupt raises."""


def test_an_interrupt_keeps_what_was_learned_and_waits_for_nothing(tmp_path, monkeypatch):
    for number in range(200):
        picture(tmp_path / "pictures", f"{number:03}.png")
    opened, gate = [], threading.Event()
    original = examined.open_rgb

    def slow(data):
        opened.append(1)
        if len(opened) > 100:
            assert gate.wait(60)
        return original(data)

    def stop(done, _total):
        if done >= 64:
            raise Stop

    monkeypatch.setattr(examined, "open_rgb", slow)
    cache = tmp_path / "cache.json"
    with pytest.raises(Stop):
        load(tmp_path / "pictures", cache=cache, progress=stop)
    gate.set()
    kept = len(json.loads(cache.read_text(encoding="utf-8")))
    assert 64 <= kept <= 100
    opened.clear()
    monkeypatch.setattr(examined, "open_rgb", lambda data: opened.append(1) or original(data))
    assert len(load(tmp_path / "pictures", cache=cache)[0].pairs) == 200
    assert len(opened) == 200 - kept


def test_an_interrupt_is_heard_while_a_picture_is_being_decoded(tmp_path, monkeypatch):
    picture(tmp_path, "slow.png")
    gate = threading.Event()
    original = examined.open_rgb
    monkeypatch.setattr(examined, "open_rgb", lambda data: gate.wait(60) and original(data))

    def stop(_done, _total):
        raise Stop

    with pytest.raises(Stop):
        load(tmp_path, progress=stop)
    assert not gate.is_set()
    gate.set()


def test_few_pixels_are_decoded_at_the_same_time(tmp_path, monkeypatch):
    """However many threads there are: large pictures wait for each other, small ones do not."""
    side = 1600
    for number in range(6):
        Image.new("1", (side, side), number % 2).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(examined, "WORKERS", 6)
    monkeypatch.setattr(examined, "PIXELS_AT_ONCE", 2 * side * side)
    lock, now, most = threading.Lock(), [0], [0]
    original = examined.open_rgb
    second = threading.Event()

    def counted(data):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 2:
                second.set()
        second.wait(60)
        try:
            return original(data)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(examined, "open_rgb", counted)
    assert len(load(tmp_path)[0].pairs) == 6
    assert most[0] == 2


def test_a_damaged_cache_is_made_again(tmp_path):
    picture(tmp_path / "pictures", "a.png")
    cache = tmp_path / "cache.json"
    for content in ("", "{", "[]", '{"a.png": [1, 2]}'):
        cache.write_text(content, encoding="utf-8")
        assert len(load(tmp_path / "pictures", cache=cache)[0].pairs) == 1
        assert len(json.loads(cache.read_text(encoding="utf-8"))["a.png"]) == 5
