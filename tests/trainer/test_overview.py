"""Looking at a dataset: contact sheets, histograms, and how its pictures fall into buckets."""

from __future__ import annotations

import dataclasses
import io
import math
import weakref
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageDraw

from cocktail.trainer.data.buckets import EVERYDREAM2, bucket_use, choose_bucket, make_buckets
from cocktail.trainer.data.clean import contact_sheet as contact_sheet_module
from cocktail.trainer.data.clean.contact_sheet import (
    CAPTION_LINES,
    FONT,
    ORDERS,
    choose_pairs,
    contact_sheet,
)
from cocktail.trainer.data.clean.overview import draw_overview, overview, overview_figure
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.image import open_rgb
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.lettering import FAINT, FRAME, INK, PAPER, font, line_height, wrap
from cocktail.trainer.shapes import draw_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("overview") / "shapes"
    draw_shapes(folder, count=30, seed=4)
    return load_folder(folder, "shapes")[0]


def coloured(folder: Path, sizes: list[tuple[int, int]]) -> Dataset:
    """Pictures of one colour each, by the pair's number: (10, 20, 30 * number)."""
    pairs = []
    for number, size in enumerate(sizes):
        Image.new("RGB", size, colour_of(number)).save(folder / f"{number}.png")
        words = " ".join(["caption"] * (3 * number)) + f" of picture {number}"
        pairs.append(Pair(str(number), f"{number}.png", str(number) * 64, *size, words.strip()))
    return Dataset("coloured", str(folder), tuple(pairs))


def colour_of(number: int) -> tuple[int, int, int]:
    return 10, 20, 30 * number


def place_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Where a colour is on a sheet: left, top, right, bottom."""
    pixels = numpy.asarray(sheet)
    return Image.fromarray((pixels == colour).all(axis=2)).getbbox()


def written(lines: list[tuple[str, tuple, int]], size: tuple[int, int]) -> Image.Image:
    """Lines of text, colour and size as they should stand below a picture."""
    paper = Image.new("RGB", size, PAPER)
    for number, (words, colour, letters) in enumerate(lines):
        at = (0, 2 + number * line_height(FONT))
        ImageDraw.Draw(paper).text(at, words, colour, font(letters))
    return paper


SIZES = [(40, 40), (80, 40), (20, 60), (64, 48), (48, 64), (30, 90), (90, 30)]


@pytest.mark.parametrize("order", ORDERS)
def test_a_contact_sheet_shows_every_chosen_picture_above_its_size_and_caption(tmp_path, order):
    dataset = coloured(tmp_path, SIZES)
    weighted = dataclasses.replace(dataset.pairs[2], weight=2.5, split="validation/faces")
    dataset = dataclasses.replace(dataset, pairs=(*dataset.pairs[:2], weighted, *dataset.pairs[3:]))
    sheet = contact_sheet(dataset, count=5, columns=3, side=100, order=order, seed=3)
    assert sheet.width == 12 + 3 * 112
    chosen = choose_pairs(dataset, 5, order, 3)
    bottoms = []
    for place, pair in enumerate(chosen):
        found = place_of(sheet, colour_of(int(pair.id)))
        assert found, pair
        left, top, right, bottom = found
        scale = 100 / max(pair.width, pair.height)
        assert (right - left, bottom - top) == (
            round(pair.width * scale),
            round(pair.height * scale),
        )
        column = 12 + place % 3 * 112
        assert abs((left + right) / 2 - (column + 50)) <= 0.5
        facts = f"{pair.width} x {pair.height}"
        facts += " · x 2.5 · validation/faces" if pair.id == "2" else ""
        caption = wrap(pair.caption, 100, FONT, CAPTION_LINES)
        (facts,) = wrap(facts, 100, FONT - 2, 1)
        lines = [(facts, FAINT, FONT - 2), *((words, INK, FONT) for words in caption)]
        below = sheet.crop((column, bottom, column + 100, bottom + 2 + len(lines) * 15))
        # The frame around the picture is one pixel wide.
        below.paste(PAPER, (0, 0, 100, 1))
        assert below.tobytes() == written(lines, below.size).tobytes()
        bottoms.append(bottom)
    assert len(set(bottoms[:3])) == len(set(bottoms[3:])) == 1 and bottoms[3] > bottoms[0] + 100
    others = {pair.id for pair in dataset.pairs} - {pair.id for pair in chosen}
    assert [place_of(sheet, colour_of(int(other))) for other in sorted(others)] == [None, None]


def test_the_draw_depends_on_the_seed_only(shapes):
    first = [pair.id for pair in choose_pairs(shapes, 10, ORDERS[0], 1)]
    assert first == [pair.id for pair in choose_pairs(shapes, 10, ORDERS[0], 1)]
    assert first != [pair.id for pair in choose_pairs(shapes, 10, ORDERS[0], 2)]


def test_a_picture_that_has_gone_says_so_in_its_place(tmp_path):
    dataset = coloured(tmp_path, SIZES[:2])
    (tmp_path / "0.png").unlink()
    sheet = contact_sheet(dataset, side=100, order="as in the dataset")
    found = place_of(sheet, colour_of(1))
    assert found
    tile = sheet.crop((12, found[3] - 100, 112, found[3]))
    wanted = Image.new("RGB", (100, 100), FRAME)
    ImageDraw.Draw(wanted).text((50, 50), "cannot be read", INK, font(FONT), anchor="mm")
    assert tile.tobytes() == wanted.tobytes()


def test_a_contact_sheet_holds_one_decoded_picture_at_a_time(tmp_path, monkeypatch):
    decoded = []

    def watched(*args):
        assert not [image for image in decoded if image() is not None]
        image = open_rgb(*args)
        decoded.append(weakref.ref(image))
        return image

    monkeypatch.setattr(contact_sheet_module, "open_rgb", watched)
    contact_sheet(coloured(tmp_path, SIZES), side=100)
    assert len(decoded) == len(SIZES)


def pairs_of(sizes: list[tuple[int, int]], captions: list[str]) -> Dataset:
    pairs = (
        Pair(str(number), f"{number}.png", f"{number:064}", *size, caption)
        for number, (size, caption) in enumerate(zip(sizes, captions, strict=True))
    )
    return Dataset("some", "/", tuple(pairs), history=("loaded", "cleaned"))


SOME = pairs_of(
    [(512, 512), (512, 512), (256, 256), (1024, 512), (2048, 512)],
    ["one", "one", "one two three", "one two", "one two three four five"],
)


def test_the_text_says_what_there_is_line_by_line():
    facts = overview(SOME, (512,), 64, count_tokens=lambda texts: [80, 1, 1, 76, 75])
    assert str(facts).splitlines() == [
        f"some: 5 pairs of 5 pictures, fingerprint {SOME.fingerprint[:12]}",
        "to train on: 5, shown 5 times an epoch",
        "megapixels: 0.07 to 1.05, median 0.26",
        "words in a caption: 1 to 5, median 2",
        "CLIP tokens in a caption: 1 to 80, more than 75 in 2",
        "pairs that share their caption with another: 2",
        "buckets at 512: 3, 1 pictures enlarged, 1.8% cropped away in all",
        "  512 x 512: 3 pairs, 1 enlarged, 0.0% cropped away",
        "  704 x 320: 1 pairs, 9.1% cropped away",
        "  1024 x 256: 1 pairs, 0.0% cropped away",
        "history: loaded",
        "history: cleaned",
    ]
    with pytest.raises(TrainerError, match="has no pairs"):
        overview(Dataset("empty", "/", ()))


def bars(chart) -> list[tuple[float, float]]:
    """The middle and the height of a histogram's bars that are not empty."""
    return [
        (patch.get_x() + patch.get_width() / 2, patch.get_height())
        for patch in chart.patches
        if patch.get_height()
    ]


def lines_at(chart) -> list[float]:
    return [line.get_xdata()[0] for line in chart.lines]


def test_the_charts_show_the_pairs_of_every_ratio_size_length_and_bucket():
    tokens = [80, 1, 1, 76, 75]
    figure = overview_figure(overview(SOME, (512, 256), 64, count_tokens=lambda texts: tokens))
    ratios, sizes, lengths, at_512, at_256, unused = figure.axes
    assert figure.get_suptitle() == "some: 5 pairs" and not unused.get_visible()
    assert bars(ratios) == [
        (pytest.approx(place, abs=0.05), n) for place, n in ((0, 3), (1, 1), (2, 1))
    ]
    step = (1024 - 256) / 40
    wanted = [(256, 1), (512, 2), (math.sqrt(1024 * 512), 1), (1024, 1)]
    assert bars(sizes) == [(pytest.approx(place, abs=step), n) for place, n in wanted]
    assert lines_at(sizes) == [512, 256] and lines_at(lengths) == [75]
    # 75 and 76 tokens are in one of the 40 bars or in two that touch.
    assert bars(lengths)[0][1] == 2
    assert sum(height for _, height in bars(lengths)) == 5
    assert [chart.get_title() for chart in (at_512, at_256)] == ["buckets at 512", "buckets at 256"]
    names = [label.get_text() for label in at_512.get_yticklabels()]
    pairs, enlarged = ([bar.get_width() for bar in group] for group in at_512.containers)
    assert list(zip(names, pairs, enlarged, strict=True)) == [
        ("1024 x 256", 1, 0),
        ("704 x 320", 1, 0),
        ("512 x 512", 3, 1),
    ]


def test_the_picture_changes_with_the_pairs():
    fewer = dataclasses.replace(SOME, pairs=SOME.pairs[:4])
    whole, part = (
        Image.open(io.BytesIO(draw_overview(overview(dataset, (512,), 64), width=600)))
        for dataset in (SOME, fewer)
    )
    assert whole.size == part.size == (600, 720) and whole.tobytes() != part.tobytes()


def test_buckets_are_counted_with_what_is_enlarged_and_cropped():
    sizes = [(512, 512), (1024, 1024), (256, 256), (1456, 816)]
    uses = bucket_use(sizes, ((512, 512), (640, 384)))
    assert [(use.bucket, use.pairs, use.upscaled) for use in uses] == [
        ((512, 512), 3, 1),
        ((640, 384), 1, 0),
    ]
    assert uses[0].cropped == 0
    assert uses[1].cropped == pytest.approx(1 - (640 / 384) / (1456 / 816), abs=1e-9)


@pytest.mark.parametrize("resolution", EVERYDREAM2)
def test_everydream2s_sizes_are_multiples_of_64_upright_and_landscape(resolution):
    buckets = make_buckets(resolution, 64, table="EveryDream2")
    assert (resolution, resolution) in buckets
    for width, height in buckets:
        assert (height, width) in buckets
        assert (width % 64, height % 64) == (0, 0) or (1680, 576) in (
            (width, height),
            (height, width),
        )
        assert 0.72 <= width * height / resolution**2 <= 1.13


def test_everydream2_has_11_buckets_at_512_and_17_at_768_and_takes_the_nearest_ratio():
    assert len(make_buckets(512, 64, table="EveryDream2")) == 11
    at_768 = make_buckets(768, 64, table="EveryDream2")
    assert len(at_768) == 17 == len(make_buckets(800, 64, table="EveryDream2"))
    # data/image_train_item.py takes the smallest |w/h - ratio|
    for width, height in ((1456, 816), (816, 1456), (1000, 1000), (3000, 500), (1232, 928)):
        wanted = min(at_768, key=lambda size: abs(size[0] / size[1] - width / height))
        assert choose_bucket(width, height, at_768, "EveryDream2") == wanted
    with pytest.raises(TrainerError, match="no buckets for 1216"):
        make_buckets(1216, 64, table="EveryDream2")


def test_sixteen_to_nine_loses_what_was_measured():
    # reference figures for the nearest ratio, 512 and 768: 6.6 and 0.4 %
    for resolution, lost in ((512, 0.066), (768, 0.004)):
        table = make_buckets(resolution, 64, table="EveryDream2")
        (use,) = bucket_use([(1456, 816)], table, "EveryDream2")
        assert use.cropped == pytest.approx(lost, abs=0.001)


def test_a_pair_shown_often_and_one_held_back_count_as_such():
    pairs = (
        Pair("a", "a.png", "1" * 64, 64, 64, "one", weight=2.5),
        Pair("b", "b.png", "2" * 64, 64, 64, "one two", split="validation/faces"),
    )
    text = str(overview(Dataset("two", "/", pairs)))
    assert "to train on: 1, shown 2.5 times an epoch" in text and "held back, faces: 1" in text
