"""From a folder to a dataset to batches, with real picture files."""

from __future__ import annotations

import collections
import math
from collections import Counter

import numpy
import pytest
from PIL import Image

from cocktail.trainer.data.buckets import batches, choose_bucket, make_buckets
from cocktail.trainer.data.folder.folder import folder_state, has_picture, load_folder
from cocktail.trainer.data.image import fit, open_rgb
from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.data.split import split
from cocktail.trainer.errors import TrainerError


def add(folder, name, caption=None, colour="red", size=(40, 30)):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_bytes(
            caption if isinstance(caption, bytes) else caption.encode("utf-8")
        )
    return path


def load(folder, **options):
    return load_folder(folder, "input/few", **options)


def test_captions_come_from_the_text_file_or_the_file_name(tmp_path):
    add(tmp_path, "a.png", "a red thing\nde.utf8=ein rotes Ding\n")
    add(tmp_path, "sub/b.jpg", "\ufeffa blue thing", "blue")
    add(tmp_path, "a green thing_0001.png", colour="green")
    dataset, report = load(tmp_path)
    captions = {pair.image: pair.caption for pair in dataset.pairs}
    assert captions == {
        "a.png": "a red thing",
        "sub/b.jpg": "a blue thing",
        "a green thing_0001.png": "a green thing",
    }
    assert str(report).splitlines() == [
        "3 pictures found, 3 pairs, 0 skipped",
        "read as plain: it has no files of another layout",
        "pictures without a caption file, captioned by their names: 1",
        "caption files with more than one line, of which only the first is used: 1 "
        "(caption_text: whole file)",
    ]
    whole, _ = load(tmp_path, caption_text="whole file")
    assert "ein rotes Ding" in {p.image: p.caption for p in whole.pairs}["a.png"]


def test_every_problem_is_reported_with_its_file_and_skipped_on_request(tmp_path):
    add(tmp_path, "good.png", "good")
    add(tmp_path, "latin.png", "caf\xe9".encode("latin-1"), "blue")
    add(tmp_path, "empty.png", " \n", "green")
    add(tmp_path, "torn.png", "torn", size=(400, 300))
    whole = (tmp_path / "torn.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.jpg").write_text("<html>", encoding="utf-8")
    (tmp_path / "drawing.svg").write_text("<svg/>", encoding="utf-8")
    with pytest.raises(TrainerError) as error:
        load(tmp_path)
    words = str(error.value)
    assert "4 of 5 pictures in input/few cannot be used" in words
    assert (
        "latin.png: the caption is not UTF-8 (latin.txt, byte 0xe9 at 3; save it as UTF-8)" in words
    )
    for file in (
        "empty.png: the caption is empty",
        "torn.png: the file",
        "page.jpg: the file",
    ):
        assert file in words
    dataset, report = load(tmp_path, on_problem="skip")
    assert [pair.image for pair in dataset.pairs] == ["good.png"]
    assert sum(report.reasons().values()) == 4 and report.other_files == {".svg": 1}


def test_a_folder_without_a_usable_picture_is_refused_even_when_skipping(tmp_path):
    assert not has_picture(tmp_path)
    with pytest.raises(TrainerError, match="no picture in input/few"):
        load(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    assert has_picture(tmp_path)
    with pytest.raises(TrainerError, match="No pair is left"):
        load(tmp_path, on_problem="skip")


def test_a_picture_is_decoded_once_for_as_long_as_it_stays_the_same(tmp_path, monkeypatch):
    from cocktail.trainer.data.folder import facts as module

    pictures, cache = tmp_path / "pictures", tmp_path / "cache.json"
    add(pictures, "a.png", "a")
    add(pictures, "b.png", "b", "blue")
    first, _ = load(pictures, cache=cache)
    opened = []
    monkeypatch.setattr(module, "open_rgb", lambda data: opened.append(1) or open_rgb(data))
    again, _ = load(pictures, cache=cache)
    assert again == first and opened == []
    before = folder_state(pictures)
    add(pictures, "b.png", "b", "green", (50, 50))
    assert folder_state(pictures) != before
    changed, _ = load(pictures, cache=cache)
    assert opened == [1] and changed.fingerprint != first.fingerprint


def test_a_fingerprint_depends_on_content_and_not_on_names(tmp_path):
    add(tmp_path / "one", "a.png", "a")
    add(tmp_path / "two", "z.png", "a")
    one, two = load(tmp_path / "one")[0], load(tmp_path / "two")[0]
    assert one.fingerprint == two.fingerprint
    add(tmp_path / "two", "z.png", "another")
    assert load(tmp_path / "two")[0].fingerprint != one.fingerprint


def test_a_repeated_pair_has_an_id_of_its_own_and_a_manifest_survives_saving(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        add(tmp_path / "pictures", name, "the same \u2028 caption")
    dataset, _ = load(tmp_path / "pictures")
    ids = [pair.id for pair in dataset.pairs]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]
    dataset.save(tmp_path / "m.parquet")
    assert Dataset.load(tmp_path / "m.parquet") == dataset


def test_a_split_is_rounded_up_stable_and_keeps_an_image_on_one_side(tmp_path):
    for number in range(20):
        add(tmp_path, f"{number}.png", f"caption {number}", colour=(number, 0, 0))
    dataset, _ = load(tmp_path)
    halves = split(dataset, 0.15, 555)
    assert len(halves.validation) == 3 and len(halves.train) == 17
    assert split(dataset, 0.15, 555) == halves and split(dataset, 0.15, 1) != halves
    add(tmp_path, "new.png", "new", colour=(0, 99, 0))
    kept = {pair.id for pair in split(load(tmp_path)[0], 0.15, 555).validation}
    assert len(kept & {pair.id for pair in halves.validation}) >= 2
    add(tmp_path, "again.png", "another caption of the same picture", colour=(0, 99, 0))
    sides = collections.defaultdict(set)
    for pair in split(load(tmp_path)[0], 0.5, 1).pairs:
        sides[pair.image_hash].add(pair.split)
    assert all(len(side) == 1 for side in sides.values())
    with pytest.raises(TrainerError, match="leaves 0 to train on"):
        split(dataset, 1.0, 1)


def test_transparency_becomes_white_and_orientation_is_upright(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_rgb(tmp_path / "clear.png").getpixel((4, 4)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert open_rgb(tmp_path / "p.png").getpixel((4, 4)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), "blue").save(tmp_path / "turned.jpg", exif=exif)
    assert open_rgb(tmp_path / "turned.jpg").size == (40, 80)
    deep = numpy.full((8, 8), 128 * 257, dtype=numpy.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert open_rgb(tmp_path / "deep.png").getpixel((4, 4)) == (128, 128, 128)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.tif")
    red, green, blue = open_rgb(tmp_path / "print.tif").getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_a_picture_covers_its_bucket_and_a_large_jpeg_is_never_decoded_smaller(tmp_path):
    Image.new("RGB", (1600, 1200), "red").save(tmp_path / "large.jpg")
    decoded = open_rgb(tmp_path / "large.jpg", cover=(256, 192))
    assert 256 <= decoded.width < 1600 and decoded.height >= 192
    assert fit(decoded, 256, 192).size == (256, 192)


def test_buckets_stay_within_the_area_and_the_nearest_ratio_is_chosen():
    buckets = make_buckets(512, 64)
    assert (512, 512) in buckets and (448, 576) in buckets and (576, 448) in buckets
    for width, height in buckets:
        assert width % 64 == height % 64 == 0 and width * height <= 512 * 512
        assert max(width / height, height / width) <= 4
    assert choose_bucket(1000, 1000, buckets) == (512, 512)
    assert choose_bucket(640, 480, buckets) == (576, 448)
    ratios = [abs(math.log(w / h) - math.log(3 / 2)) for w, h in buckets]
    width, height = choose_bucket(1500, 1000, buckets)
    assert abs(math.log(width / height) - math.log(3 / 2)) == min(ratios)


def test_an_epoch_has_every_pair_once_in_batches_of_one_bucket_in_an_order_of_its_own():
    buckets = {f"id{n}": ((64, 64), (96, 48))[n % 3 == 0] for n in range(50)}
    first = batches(buckets, 4, seed=1, epoch=0)
    assert sorted(showing.pair for batch in first for showing in batch) == sorted(buckets)
    assert all(len({buckets[showing.pair] for showing in batch}) == 1 for batch in first)
    assert sum(len(batch) < 4 for batch in first) <= 2
    assert first == batches(dict(reversed(buckets.items())), 4, seed=1, epoch=0)
    assert first != batches(buckets, 4, seed=1, epoch=1)
    assert first != batches(buckets, 4, seed=2, epoch=0)


def test_an_epoch_shows_a_pair_as_often_as_its_weight_says_and_draws_for_a_fraction():
    buckets = dict.fromkeys(("twice", "never", "half", "once"), (64, 64))
    weights = {"twice": 2, "never": 0, "half": 2.5}
    counts = Counter()
    for epoch in range(200):
        plan = batches(buckets, 3, seed=1, epoch=epoch, weights=weights)
        assert plan == batches(buckets, 3, seed=1, epoch=epoch, weights=weights)
        shown = [showing for batch in plan for showing in batch]
        assert len(set(shown)) == len(shown)
        counts.update(showing.pair for showing in shown)
    assert counts["twice"] == 400 and counts["once"] == 200 and counts["never"] == 0
    assert 470 <= counts["half"] <= 530
