"""Looking at a dataset: contact sheets, histograms, and how its pictures fall into buckets."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from PIL import Image

from cocktail.trainer.data.buckets import EVERYDREAM2, bucket_use, choose_bucket, make_buckets
from cocktail.trainer.data.clean.contact_sheet import ORDERS, choose_pairs, contact_sheet
from cocktail.trainer.data.clean.overview import draw_overview, overview
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.shapes import draw_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("overview") / "shapes"
    draw_shapes(folder, count=30, seed=4)
    return load_folder(folder, "shapes")[0]


@pytest.mark.parametrize("order", ORDERS)
def test_a_contact_sheet_shows_every_chosen_picture_over_its_caption(shapes, order):
    sheet = contact_sheet(shapes, count=10, columns=4, side=100, order=order)
    assert sheet.width == 12 + 4 * 112 and sheet.height > 3 * 112
    chosen = choose_pairs(shapes, 10, order, 1)
    assert len({pair.id for pair in chosen}) == 10
    background = sheet.getpixel((0, 0))
    assert background == (255, 255, 255)
    colours = sheet.getcolors(sheet.width * sheet.height)
    assert colours is not None and len(colours) > 50


def test_the_draw_hangs_on_the_seed_alone(shapes):
    first = [pair.id for pair in choose_pairs(shapes, 10, ORDERS[0], 1)]
    assert first == [pair.id for pair in choose_pairs(shapes, 10, ORDERS[0], 1)]
    assert first != [pair.id for pair in choose_pairs(shapes, 10, ORDERS[0], 2)]


def test_a_picture_that_has_gone_says_so_in_its_place(shapes):
    missing = Dataset("gone", "/nowhere", shapes.pairs[:2])
    assert contact_sheet(missing, side=100).size[0] == 12 + 2 * 112


def test_a_contact_sheet_of_large_pictures_holds_one_at_a_time(tmp_path):
    for number in range(6):
        Image.effect_noise((2000, 1500), 50).convert("RGB").save(tmp_path / f"{number}.jpg")
    dataset, _ = load_folder(tmp_path, "large")
    tracemalloc.start()
    contact_sheet(dataset, side=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_the_text_names_what_there_is(shapes):
    text = str(overview(shapes, (64, 96), 16, count_tokens=lambda texts: [80 for _ in texts]))
    assert "30 pairs of 30 pictures" in text
    assert "more than 75 in 30" in text
    assert "buckets at 64" in text and "buckets at 96" in text
    with pytest.raises(TrainerError, match="has no pairs"):
        overview(Dataset("empty", "/", ()))


def test_the_picture_has_a_histogram_for_each_figure(shapes):
    image = Image.open(io.BytesIO(draw_overview(overview(shapes, (64, 96), 16))))
    assert image.size == (1200, 1080)


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
def test_everydream2s_sizes_are_multiples_of_64_there_upright_and_lying(resolution):
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
