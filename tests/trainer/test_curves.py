"""The curves of a run and its table: every figure is that of its records, by an independent
formula.
"""

from __future__ import annotations

import csv
import io
import json
import math

import numpy
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from cocktail.trainer.chart import COLOURS, chart_png, make_figure
from cocktail.trainer.figures import table
from cocktail.trainer.figures.curves import (
    EVERYTHING,
    TRAINING,
    Curve,
    Places,
    Point,
    number,
    percent,
    read_curves,
)
from cocktail.trainer.trend import trend, trends

from .run_folders import made_pairs, made_run, record_course, record_steps, record_validation

ONE_SET = ["train"] * 4 + ["validation"] * 30
BEST, EPOCHS = 12, 30


def bowl(epoch: int) -> list[float]:
    """Losses at four noise levels, lowest at epoch BEST, 4 % below the start."""
    factor = 1 + 0.04 * (((epoch - BEST) / BEST) ** 2 - 1)
    return [factor * level for level in (0.3, 0.1, 0.06, 0.04)]


@pytest.fixture(scope="module")
def risen(tmp_path_factory):
    run = made_run(tmp_path_factory.mktemp("risen"), "risen", made_pairs(ONE_SET), epochs=EPOCHS)
    return run, record_course(run, bowl, EPOCHS)


def by_hand(recorded):
    """Means and standard errors of the change since the start, from the recorded levels."""
    table = numpy.array([[numpy.mean(x) for x in recorded[e].values()] for e in sorted(recorded)])
    change = table - table[0]
    return table.mean(axis=1), change.std(axis=1, ddof=1) / math.sqrt(table.shape[1])


def test_losses_and_paired_standard_errors_are_those_of_the_records(risen):
    run, recorded = risen
    (curve,) = read_curves(run).sets
    means, errors = by_hand(recorded)
    assert [point.epoch for point in curve.points] == list(range(EPOCHS + 1))
    assert [p.loss for p in curve.points] == pytest.approx(means.tolist(), abs=1e-12)
    assert [p.error for p in curve.points] == pytest.approx(errors.tolist(), abs=1e-12)
    assert curve.best.epoch == means.argmin() and curve.pairs == 30
    change = 100 * (means / means[0] - 1)
    lowest = f"lowest at epoch {means.argmin()}, {-change.min():.1f} % below the start"
    assert str(curve) == f"{means[0]:.3f}, {lowest}"


def test_epochs_at_which_the_loss_was_trending_up_are_those_that_the_run_warned_at(risen):
    run, _ = risen
    (curve,) = read_curves(run).sets
    validations = run.validations()
    warned = [trend(validations[: n + 1], 5) is not None for n in range(EPOCHS + 1)]
    assert [point.rising for point in curve.points] == warned
    assert warned.index(True) in range(BEST + 5, 27) and warned[-1]
    assert curve.trending_up_from.epoch == warned.index(True)
    assert [found is not None for found in trends(validations, 5)] == warned


def test_the_chart_shades_the_rise_and_nothing_else(risen):
    run, _ = risen
    (curve,) = read_curves(run).sets
    start = curve.trending_up_from.epoch
    figure, file = make_figure([run]), io.BytesIO()
    figure.savefig(file, format="png")
    picture = numpy.asarray(Image.open(file).convert("RGB")) / 255
    axes = figure.axes[1]
    low, high = axes.get_ylim()

    def at(epoch: float):
        x, y = axes.transData.transform((epoch, high - 0.03 * (high - low)))
        return picture[picture.shape[0] - round(y), round(x)]

    shade = 1 - 0.1 * (1 - numpy.array(to_rgb(COLOURS[0])))
    assert at(start + 0.4) == pytest.approx(shade, abs=0.01)
    assert at(EPOCHS - 0.4) == pytest.approx(shade, abs=0.01)
    assert at(start - 0.4).tolist() == [1, 1, 1] == at(BEST + 0.4).tolist()


def test_the_band_is_one_standard_error_to_both_sides(risen):
    run, recorded = risen
    means, errors = by_hand(recorded)
    losses, change = make_figure([run]).axes
    for axes, scale in ((losses, 1.0), (change, 100 / means[0])):
        corners = axes.collections[0].get_paths()[0].vertices
        heights = [y for x, y in corners if x == BEST + 1]
        assert max(heights) - min(heights) == pytest.approx(2 * scale * errors[BEST + 1], rel=1e-6)


def test_a_validation_within_an_epoch_has_a_place_of_its_own(tmp_path):
    run = made_run(tmp_path, "within", made_pairs(ONE_SET), epochs=2)
    ids = [pair.id for pair in run.dataset().validation]
    record_validation(run, 0, 0, {pair: [0.4] for pair in ids})
    record_steps(run, 1, range(1, 5))
    record_validation(run, 1, 2, {pair: [0.3] for pair in ids})
    record_validation(run, 1, 4, {pair: [0.2] for pair in ids})
    record_steps(run, 2, range(5, 9))
    record_validation(run, 2, 6, {pair: [0.1] for pair in ids})
    record_validation(run, 2, 8, {pair: [0.5] for pair in ids})
    (curve,) = read_curves(run).sets
    assert [point.epoch for point in curve.points] == [0, 0.5, 1, 1.5, 2]
    assert curve.best.epoch == 1.5 and "lowest at epoch 1.5, 75 % below" in str(curve)


def test_epochs_of_different_lengths_keep_their_borders():
    steps = numpy.array([[1.0 if s <= 10 else 2.0, s] for s in range(1, 31)])
    closed = [{"kind": "epoch", "epoch": 1, "step": 10}, {"kind": "epoch", "epoch": 2, "step": 30}]
    place = Places(steps, closed, 3, 40)
    assert [place(s) for s in (0, 5, 10, 20, 30)] == [0, 0.5, 1, 1.5, 2]
    unfinished = Places(steps[:15], [], 3, 40)
    assert [unfinished(s) for s in (10, 15, 20)] == [1, 1.5, 2]
    begun = Places(steps[:5], [], 3, 30)
    assert begun(5) == 0.5, "from the steps of the whole run"
    assert Places(steps[:0], [], 3, 0)(0) == 0


def test_every_validation_set_has_a_curve(tmp_path):
    splits = ["train"] * 4 + ["validation"] * 6 + ["validation/faces"] * 3
    run = made_run(tmp_path, "sets", made_pairs(splits), epochs=3)
    ids = [pair.id for pair in run.dataset().validation]
    sets = {"validation": ids[:6], "faces": ids[6:]}
    for epoch in range(4):
        record_validation(
            run,
            epoch,
            epoch * 10,
            {pair: [0.1 + 0.01 * n * epoch] for n, pair in enumerate(ids)},
            {"0" * 16: [0.2 - 0.01 * epoch, 0.1], "1" * 16: [0.2, 0.1 - 0.02 * epoch]},
            sets,
        )
    curves = {curve.name: curve for curve in read_curves(run).sets}
    assert list(curves) == [EVERYTHING, "faces", "validation", TRAINING]
    assert curves["faces"].last.loss == pytest.approx(0.1 + 0.03 * 7)
    assert curves["faces"].pairs == 3 and curves["validation"].pairs == 6
    assert curves["faces"].last.error == pytest.approx(0.03 / math.sqrt(3))
    assert curves[TRAINING].last.loss == pytest.approx((0.2 - 0.03 + 0.1 + 0.2 + 0.1 - 0.06) / 4)
    losses, _ = make_figure([run]).axes
    assert [text.get_text() for text in losses.get_legend().texts] == [
        f"sets: {name}" for name in curves
    ]


def test_the_table_has_the_figures_of_the_curves_in_all_formats(risen):
    run, recorded = risen
    means, errors = by_hand(recorded)
    curves = [read_curves(run)]
    lines = list(csv.DictReader(io.StringIO(table.as_csv(curves))))
    assert tuple(lines[0]) == table.COLUMNS and len(lines) == EPOCHS + 1
    assert [float(line["loss"]) for line in lines] == pytest.approx(means.tolist(), abs=1e-12)
    assert [float(line["standard_error"]) for line in lines] == pytest.approx(errors.tolist())
    assert [line["lowest"] for line in lines].index("1") == means.argmin()
    value = json.loads(json.dumps(table.as_json(curves), allow_nan=False))
    (summary,) = value["summary"]
    assert summary["start"] == pytest.approx(means[0]) and summary["pairs"] == 30
    change = 100 * (means / means[0] - 1)
    assert summary["change_percent"] == pytest.approx(change.min())
    best = means.argmin()
    assert summary["standard_error_percent"] == pytest.approx(100 * errors[best] / means[0])
    assert summary["last_change_percent"] == pytest.approx(change[-1])
    assert [row["trending_up"] for row in value["validations"]].index(True) == summary[
        "trending_up_from_epoch"
    ]
    markdown = table.as_markdown(curves).splitlines()
    assert markdown[0].startswith("| run | set | start | lowest |")
    assert f"| {means[0]:.3f} | {means[best]:.3f} | {best} |" in markdown[2]
    assert len([line for line in markdown if line.startswith("| ")]) == 2 + 1 + EPOCHS + 1


def test_runs_without_losses_of_pairs_have_a_curve_without_errors(tmp_path):
    run = made_run(tmp_path, "bare", made_pairs(ONE_SET), epochs=2)
    record_validation(run, 0, 0, {"a": [0.2]})
    (run.folder / "validation.jsonl").unlink()
    (curve,) = read_curves(run).sets
    assert curve.points[0].error is None and curve.pairs is None
    assert str(curve) == "0.200, measured once"
    assert chart_png([read_curves(run)])[:4] == b"\x89PNG"


def test_a_run_that_has_recorded_nothing_has_no_curve(tmp_path):
    run = made_run(tmp_path, "nothing", made_pairs(ONE_SET))
    curves = read_curves(run)
    assert curves.sets == () and curves.validation is None and curves.losses == ()
    assert table.as_markdown([curves]) == "Nothing has been validated yet."
    assert table.as_json([curves]) == {"summary": [], "validations": []}


def test_losses_that_are_no_numbers_are_left_out(tmp_path):
    run = made_run(tmp_path, "odd", made_pairs(ONE_SET))
    with (run.folder / "metrics.jsonl").open("w") as file:
        for loss in ("NaN", "Infinity", "true", '"0.1"', "null", "0.25"):
            file.write(f'{{"kind": "step", "epoch": 1, "step": 1, "loss": {loss}}}\n')
            file.write(f'{{"kind": "validation", "epoch": 1, "step": 1, "loss": {loss}}}\n')
    curves = read_curves(run)
    assert curves.losses == (0.25,) and [p.loss for p in curves.sets[0].points] == [0.25]


def test_a_loss_that_never_fell_says_so():
    points = tuple(Point(float(n), n, 0.1 + 0.01 * n, None) for n in range(3))
    assert str(Curve("r", "validation", None, points)) == "0.100, never lower than at the start"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.13812, "0.138"), (0.0012345, "0.00123"), (1.0, "1.00"), (12.34, "12.3"), (0.0, "0")],
)
def test_losses_are_written_with_three_digits(value, words):
    assert number(value) == words


def test_percentages_are_written_as_people_say_them():
    assert [percent(v) for v in (1.4, -1.44, 25.4, 0.034)] == ["1.4 %", "-1.4 %", "25 %", "0.03 %"]
