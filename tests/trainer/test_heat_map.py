"""The heat map's figures are means of the records, and its words say what the figures say."""

from __future__ import annotations

import io
import json

import numpy
import pytest
from PIL import Image

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.figures.heat_map import judge, make_figure, make_levels, read_heat_map

from .run_folders import made_pairs, made_run, record_course, record_steps, record_validation

SPLITS = ["train"] * 2 + ["validation"] * 24
EPOCHS = 40
START = numpy.array([0.30, 0.12, 0.06, 0.04])


def learned_by_heart(epoch: int) -> list[float]:
    """Detail is lowest at epoch 12, the two levels between fall to epoch 20 and stay, composition
    falls to the end.
    """
    detail = 1 + 0.05 * (((epoch - 12) / 12) ** 2 - 1)
    form = 1 - 0.03 * min(epoch, 20) / 20
    return (START * [detail, form, form, 1 - 0.002 * epoch]).tolist()


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    run = made_run(tmp_path_factory.mktemp("heat"), "heat", made_pairs(SPLITS), epochs=EPOCHS)
    return run, record_course(run, learned_by_heart, EPOCHS)


def test_every_cell_is_the_mean_over_the_pairs(course):
    run, recorded = course
    heat = read_heat_map(run)
    means = numpy.array([list(recorded[e].values()) for e in range(EPOCHS + 1)]).mean(axis=1)
    assert heat.epochs == tuple(range(EPOCHS + 1))
    assert numpy.array(heat.loss) == pytest.approx(means, abs=1e-12)
    assert numpy.array(heat.relative) == pytest.approx(means / means[0] - 1, abs=1e-12)
    assert numpy.array(heat.above_lowest) == pytest.approx(means / means.min(axis=0) - 1)


def test_the_words_name_what_overfits_what_stands_and_what_still_improves(course):
    run, recorded = course
    heat = read_heat_map(run)
    detail, form, composition = heat.parts
    assert detail.verdict == "overfits" and 9 <= detail.since <= 15
    assert form.verdict == "has levelled off" and form.lowest_epoch >= 18
    assert composition.verdict == "still improves"
    table = numpy.array([list(recorded[e].values()) for e in range(EPOCHS + 1)])[:, :, 0]
    since = int(detail.since)
    assert since == table.mean(axis=1).argmin()
    difference = table[-1] - table[since]
    error = difference.std(ddof=1) / numpy.sqrt(difference.size)
    before = table[since].mean()
    figures = f"+{100 * difference.mean() / before:.0f} % since"
    assert f"detail overfits from epoch {since} ({figures}" in heat.words
    assert f"standard error {100 * error / before:.1f} %)" in str(detail)
    assert heat.words.startswith("composition still improves (-") and "form has levelled off" in (
        heat.words
    )


def test_the_route_gets_numbers_that_json_can_hold(course):
    run, _ = course
    value = json.loads(json.dumps(read_heat_map(run).as_json(), allow_nan=False))
    assert value["levels"][0] == {"from": 0, "to": 250, "label": "detail"}
    assert value["levels"][3] == {"from": 750, "to": 1000, "label": "composition"}
    assert len(value["epochs"]) == len(value["loss"]) == len(value["relative"]) == EPOCHS + 1
    assert value["parts"][0]["verdict"] == "overfits"


@pytest.mark.parametrize(
    ("course", "verdict"),
    [
        ([1.0], "measured once"),
        ([1.0, 1.0, 1.0], "has not changed"),
        ([1.0, 0.9, 0.8], "still improves"),
        ([1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], "has levelled off"),
        ([1.0, 0.9, 1.1], "has risen"),
        ([1.0, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15], "overfits"),
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], "overfits"),
    ],
)
def test_each_course_has_its_word(course, verdict):
    draw = numpy.random.default_rng(1)
    own = draw.uniform(0.5, 1.5, 40)
    validations = [
        {"epoch": n, "step": n, "pairs": dict(enumerate(own * mean + draw.normal(0, 0.01, 40)))}
        for n, mean in enumerate(course)
    ]
    part = judge("detail", validations, list(range(len(course))), patience=5)
    assert part.verdict == verdict
    assert ("from the start" in str(part)) == (min(course) == course[0] and verdict == "overfits")


def test_chance_alone_is_seldom_called_a_change():
    called = 0
    for seed in range(100):
        draw = numpy.random.default_rng(seed)
        validations = [
            {"epoch": n, "step": n, "pairs": dict(enumerate(draw.normal(1, 0.1, 60)))}
            for n in range(20)
        ]
        verdict = judge("detail", validations, range(20), patience=5).verdict
        called += verdict in ("overfits", "has risen", "still improves")
    assert called <= 12


def test_noise_levels_cover_the_schedule_once():
    for count in (1, 2, 3, 4, 7, 100):
        levels = make_levels(count)
        assert [level.start for level in levels] == [0, *(level.end for level in levels[:-1])]
        assert levels[-1].end == 1000
    assert [level.label for level in make_levels(4)] == ["detail", "form", "form", "composition"]


def test_a_run_of_an_older_version_is_told_so(tmp_path):
    run = made_run(tmp_path, "older", made_pairs(SPLITS))
    record_validation(run, 0, 0, {"a": [0.2, 0.1]}, with_levels=False)
    with pytest.raises(TrainerError, match="older Cocktail"):
        read_heat_map(run)
    record_steps(run, 1, range(1, 11))
    record_validation(run, 1, 10, {"a": [0.2, 0.1]})
    heat = read_heat_map(run)
    assert heat.loss == ((0.2, 0.1),) and heat.words.endswith("are known from epoch 1 on")


def test_the_picture_is_blue_where_the_loss_fell_and_red_where_it_rose(course):
    run, _ = course
    heat = read_heat_map(run)
    figure, file = make_figure(heat), io.BytesIO()
    figure.savefig(file, format="png")
    picture = numpy.asarray(Image.open(file).convert("RGB")).astype(int)
    assert picture.shape == (900, 1200, 3)
    assert (picture[:5] >= 250).all(), "light paper"

    def colour(axes, epoch: int, level: int):
        x, y = figure.axes[axes].transData.transform((epoch, level))
        return picture[picture.shape[0] - round(y), round(x)]

    widest = abs(numpy.array(heat.relative)).max()
    for epoch in range(0, EPOCHS + 1, 4):
        for level in range(4):
            red, _, blue = colour(0, epoch, level)
            change = heat.relative[epoch][level]
            if abs(change) > 0.1 * widest:
                assert (red > blue) == (change > 0), (epoch, level)
    brightness = [int(colour(1, epoch, 0).sum()) for epoch in (15, 20, 30, 40)]
    assert brightness == sorted(brightness, reverse=True), "darker the further above the lowest"
