"""Cleaning: what is broken, tiny, long, empty of content or there twice is left out, and nothing
else.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageEnhance

from cocktail.trainer.data.clean import looks as looks_module
from cocktail.trainer.data.clean.clean import CleanSettings, clean
from cocktail.trainer.data.clean.looks import Look, look_at, looks, near_duplicates
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.data.split import split
from cocktail.trainer.errors import TrainerError


def scene(seed: int, size=(200, 160)) -> Image.Image:
    """A smooth random picture: no two are alike."""
    noise = numpy.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=numpy.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def save(folder: Path, name: str, image: Image.Image, caption: str = "a scene", **options) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)
    (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")


def cleaned(dataset: Dataset, **settings):
    return clean(dataset, CleanSettings(**settings), looks(dataset))


def names(dataset: Dataset) -> list[str]:
    return [pair.image for pair in dataset.pairs]


@pytest.fixture
def folder(tmp_path) -> Path:
    for seed in range(6):
        save(tmp_path / "pairs", f"scene{seed}.png", scene(seed))
    return tmp_path / "pairs"


def load(folder: Path) -> Dataset:
    return load_folder(folder, "pairs", on_problem="skip")[0]


def test_small_long_and_uniform_pictures_are_left_out_each_with_its_reason(folder):
    save(folder, "tiny.png", scene(20, (300, 63)))
    save(folder, "long.png", scene(21, (401, 100)))
    save(folder, "grey.png", Image.new("RGB", (100, 100), (100, 110, 120)))
    save(folder, "edge.png", scene(22, (400, 100)))
    dataset, report = cleaned(load(folder))
    assert names(dataset) == ["edge.png", *(f"scene{seed}.png" for seed in range(6))]
    assert {entry.image: entry.reason for entry in report.left_out} == {
        "tiny.png": "a side below 64 pixels",
        "long.png": "longer than 4 : 1",
        "grey.png": "nearly uniform",
    }
    assert "10 pairs, 7 kept, 3 left out" in str(report)


def test_the_same_picture_is_kept_once_or_with_each_caption_or_always(folder):
    for name, caption in (("again.png", "a scene"), ("more.png", "another")):
        save(folder, name, scene(0), caption)
    dataset = load(folder)
    assert names(cleaned(dataset)[0])[0] == "again.png" and len(cleaned(dataset)[0].pairs) == 6
    assert len(cleaned(dataset, same_picture="same caption")[0].pairs) == 7
    assert len(cleaned(dataset, same_picture="keep")[0].pairs) == 8


def test_a_smaller_brighter_and_recompressed_copy_is_near_and_another_picture_is_not(folder):
    save(folder, "small.png", scene(1, (100, 80)))
    save(folder, "bright.jpg", ImageEnhance.Brightness(scene(2)).enhance(1.1), quality=60)
    report = cleaned(load(folder))[1]
    assert [entry.image for entry in report.left_out] == ["scene2.png", "small.png"]
    assert {entry.reason for entry in report.left_out} == {"very similar to another picture"}
    assert len(cleaned(load(folder), near_distance=-1)[0].pairs) == 8


def test_of_like_pictures_the_one_held_back_for_validation_stays(folder):
    for seed in range(6):
        save(folder, f"copy{seed}.png", scene(seed, (400, 320)))
    dataset = split(load(folder), 0.5, 3)
    held_back = {pair.image for pair in dataset.validation}
    result, report = cleaned(dataset)
    assert len(result.pairs) == 6
    assert report.across > 0 and f"because validation has such a picture: {report.across}" in str(
        report
    )
    scenes = {pair.image[-5]: pair for pair in result.pairs}
    assert set(scenes) == set("012345")
    for number, pair in scenes.items():
        both = {f"scene{number}.png", f"copy{number}.png"}
        assert (pair.split == "validation") == bool(both & held_back)


def test_captions_of_one_picture_never_end_up_on_both_sides_even_if_all_are_kept(folder):
    pair = load(folder).pairs[0]
    held_back = Pair("x", pair.image, pair.image_hash, 200, 160, "held back", split="validation")
    dataset = Dataset("d", str(folder), (*load(folder).pairs, held_back))
    result, report = cleaned(dataset, same_picture="keep", near_distance=-1)
    assert len(result.validation) == 1 and report.across == 1
    assert pair.image_hash not in {kept.image_hash for kept in result.train}


def test_a_picture_that_has_gone_is_left_out_and_named(folder):
    dataset = load(folder)
    (folder / "scene3.png").unlink()
    result, report = cleaned(dataset)
    assert len(result.pairs) == 5
    assert [(e.image, e.reason) for e in report.left_out] == [
        ("scene3.png", "the picture can no longer be read")
    ]


def test_when_nothing_is_left_it_says_what_took_it_away(folder):
    with pytest.raises(TrainerError, match="6 x a side below 5000 pixels") as error:
        cleaned(load(folder), min_side=5000)
    assert "Loosen the limits" in str(error.value)


def test_a_look_is_kept_until_it_is_asked_for_again(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "looks.jsonl"
    first = looks(load(folder), cache)
    monkeypatch.setattr(looks_module, "open_rgb", lambda *_: pytest.fail("decoded again"))
    assert looks(load(folder), cache) == first and len(first) == 6
    monkeypatch.undo()
    cache.write_text(cache.read_text(encoding="utf-8")[:-30] + "\n{}\n", encoding="utf-8")
    assert looks(load(folder), cache) == first


def test_the_difference_hash_compares_each_field_with_the_next():
    falling = Image.linear_gradient("L").rotate(90).convert("RGB")
    assert look_at(falling).difference_hash in (0, 2**64 - 1)
    assert (
        look_at(falling.rotate(180)).difference_hash ^ look_at(falling).difference_hash == 2**64 - 1
    )
    assert look_at(Image.new("RGB", (50, 50))) == Look(0, 0.0, bytes(48))


@pytest.mark.parametrize("counter", [True, False])
def test_near_duplicates_are_those_that_a_plain_loop_finds(monkeypatch, counter):
    if not counter:
        monkeypatch.delattr(numpy, "bitwise_count", raising=False)
    draw = random.Random(5)
    hashes = [draw.getrandbits(64) for _ in range(300)]
    for _ in range(700):
        value = draw.choice(hashes)
        for _ in range(draw.randint(0, 6)):
            value ^= 1 << draw.randrange(64)
        hashes.append(value)
    dropped: dict[int, int] = {}
    for place, value in enumerate(hashes):
        kept = [
            (
                (value ^ hashes[other]).bit_count()
                if hasattr(int, "bit_count")
                else bin(value ^ hashes[other]).count("1"),
                other,
            )
            for other in range(place)
            if other not in dropped
        ]
        if kept and min(kept)[0] <= 3:
            dropped[place] = min(kept)[1]
    found = near_duplicates([Look(value, 50.0, bytes(48)) for value in hashes], 3)
    assert {likeness.picture: likeness.like for likeness in found} == dropped


def test_the_same_outline_in_other_colours_is_another_picture(folder):
    red, blue = Image.new("RGB", (200, 200), "white"), Image.new("RGB", (200, 200), "white")
    red.paste("red", (50, 50, 150, 150))
    blue.paste("blue", (50, 50, 150, 150))
    save(folder, "red.png", red)
    save(folder, "blue.png", blue)
    save(folder, "red again.png", red.resize((150, 150)))
    report = cleaned(load(folder))[1]
    assert [entry.image for entry in report.left_out] == ["red again.png"]
