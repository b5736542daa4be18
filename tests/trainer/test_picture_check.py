"""Missing and changed pictures are found without reading the unchanged ones."""

from __future__ import annotations

import os

import pytest

from cocktail.trainer.data.folder import picture_check
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.folder.picture_check import check_pictures
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.shapes import draw_shapes


@pytest.fixture
def folder(tmp_path):
    draw_shapes(tmp_path / "shapes", count=5, seed=5)
    return tmp_path / "shapes"


@pytest.fixture
def facts(tmp_path):
    return tmp_path / "facts.json"


@pytest.fixture
def dataset(folder, facts):
    return load_folder(folder, "shapes", cache=facts)[0]


def flip_a_bit(file, keep_time=False):
    state = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    time_ns = state.st_mtime_ns + (0 if keep_time else 10**9)
    os.utime(file, ns=(time_ns, time_ns))


def test_unchanged_pictures_are_not_read(dataset, facts, folder, monkeypatch):
    monkeypatch.setattr("cocktail.trainer.data.folder.picture_check.sha256_file", None)
    check = check_pictures(dataset, [facts])
    assert check.fine and str(check) == "all 5 pictures are there"


def test_missing_and_changed_pictures_are_named(dataset, facts, folder):
    (folder / "00001.png").unlink()
    flip_a_bit(folder / "00002.png")
    check = check_pictures(dataset, [facts])
    assert (check.missing, check.changed) == (("00001.png",), ("00002.png",))
    assert str(check) == (
        "1 of 5 pictures are missing:\n  00001.png\n1 of 5 pictures have changed:\n  00002.png"
    )
    load_folder(folder, "shapes", on_problem="skip", cache=facts)
    assert check_pictures(dataset, [facts]) == check, "also when the folder has been loaded anew"


def test_another_time_of_change_is_not_a_change(dataset, facts, folder):
    os.utime(folder / "00002.png", ns=(1, 1))
    assert check_pictures(dataset, [facts]).fine


def test_only_a_full_reading_finds_what_kept_its_size_and_time(dataset, facts, folder):
    flip_a_bit(folder / "00002.png", keep_time=True)
    assert check_pictures(dataset, [facts]).fine
    assert check_pictures(dataset, [facts], read_all=True).changed == ("00002.png",)


@pytest.mark.parametrize("text", ["", "[]", '{"00002.png": [1]}', None])
def test_without_facts_pictures_are_only_looked_for(dataset, facts, folder, text):
    facts.unlink() if text is None else facts.write_text(text)
    flip_a_bit(folder / "00002.png")
    (folder / "00001.png").unlink()
    check = check_pictures(dataset, [facts])
    assert (check.missing, check.changed, check.unknown) == (("00001.png",), (), 4)


def test_what_progress_raises_ends_the_check(dataset):
    with pytest.raises(KeyboardInterrupt):
        check_pictures(dataset, progress=interrupt)


def interrupt(done, total):
    raise KeyboardInterrupt


def test_pictures_of_unknown_size_and_time_are_counted_without_being_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_check, "_read", lambda *_: pytest.fail("opened"))
    pairs = []
    for number in range(30):
        name = f"{number:05}.png"
        (tmp_path / name).touch()
        pairs.append(Pair(str(number), name, "0" * 64, 8, 8, "a"))
    check = check_pictures(Dataset("many", str(tmp_path), tuple(pairs)))
    assert check.unknown == 30 and str(check) == (
        "all 30 pictures are there\n30 of them could not be compared with the dataset"
    )
