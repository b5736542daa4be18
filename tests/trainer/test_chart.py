"""The loss chart shows what runs have recorded: each figure in its place, in the run's colour, and
the best epoch by a star.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from cocktail.trainer.chart import COLOURS, VIEWS, chart_name, draw_chart, make_figure, smoothed
from cocktail.trainer.journal import Journal
from cocktail.trainer.runs import Base, Paths, Run, create_run
from cocktail.trainer.settings.run_settings import RunSettings

STEPS_PER_EPOCH = 4
GOOD, BAD = [0.20, 0.15, 0.10, 0.12], [0.30, 0.33, 0.36, 0.27]
"""Validation losses of two runs before training and after each of three epochs."""


@pytest.fixture
def make_run(tmp_path, few_shapes):
    """Makes runs with the given validation losses; the training loss of step n is 1 / n."""

    def make(name: str, validations: list[float]) -> Run:
        run = create_run(
            tmp_path / "runs",
            name,
            Base("base.safetensors", str(tmp_path / "base.safetensors"), "0" * 64),
            few_shapes,
            RunSettings(),
            Paths(str(tmp_path / "checkpoints"), "", ""),
        )
        journal = Journal(run)
        for epoch, loss in enumerate(validations):
            for step in range((epoch - 1) * STEPS_PER_EPOCH + 1, epoch * STEPS_PER_EPOCH + 1):
                if epoch:
                    journal.record("step", epoch, step, loss=1 / step)
            journal.record("validation", epoch, epoch * STEPS_PER_EPOCH, loss=loss)
        journal.close()
        return run

    return make


def points(line) -> list[tuple[float, float]]:
    """Where a line has its points, to nine digits."""
    return [rounded(point) for point in zip(*line.get_data(), strict=True)]


def rounded(point: tuple[float, float]) -> tuple[float, float]:
    return round(float(point[0]), 9), round(float(point[1]), 9)


def test_every_loss_is_drawn_at_its_epoch(make_run):
    losses, relative = make_figure([make_run("chart-one", GOOD)]).axes
    raw, smooth, validation = losses.lines
    training = [1 / step for step in range(1, 13)]
    epochs = [step / STEPS_PER_EPOCH for step in range(1, 13)]
    assert points(raw) == [rounded(p) for p in zip(epochs, training, strict=True)]
    assert points(smooth) == [rounded(p) for p in zip(epochs, smoothed(training), strict=True)]
    assert points(validation) == list(enumerate(GOOD))
    assert points(relative.lines[0]) == [(0, 0), (1, -25), (2, -50), (3, -40)]
    assert raw.get_linewidth() < smooth.get_linewidth()
    assert losses.get_ylim()[0] == 0


def test_a_step_that_was_taken_again_after_a_kill_counts_once(make_run):
    run = make_run("chart-again", GOOD)
    journal = Journal(run)
    journal.record("step", 3, 11, loss=0.5)
    journal.record("validation", 3, 12, loss=0.05)
    journal.close()
    losses, relative = make_figure([run]).axes
    assert len(points(losses.lines[0])) == 12
    assert points(losses.lines[0])[10] == (11 / 4, 0.5)
    assert points(losses.lines[2])[3] == (3, 0.05)
    assert points(relative.lines[1]) == [(3, -75)]


def test_a_star_in_the_runs_colour_marks_the_best_epoch_of_each(make_run):
    runs = [make_run("chart-good", GOOD), make_run("chart-bad", BAD)]
    losses, relative = make_figure(runs).axes
    stars = [line for line in relative.lines if line.get_marker() == "*"]
    assert [points(star) for star in stars] == [[(2, -50)], [(3, -10)]]
    assert [text.get_text() for text in relative.get_legend().texts] == [
        "chart-good: 0.200, lowest at epoch 2, 50 % below the start",
        "chart-bad: 0.300, lowest at epoch 3, 10 % below the start",
    ]
    for number, run in enumerate(runs):
        own = [*losses.lines[3 * number : 3 * number + 3], *relative.lines[2 * number :][:2]]
        assert {to_hex(line.get_color()) for line in own} == {COLOURS[number].lower()}
        assert {f"{run.name}: training", f"{run.name}: validation"} <= {
            text.get_text() for text in losses.get_legend().texts
        }


def test_long_names_of_runs_stay_inside_the_picture_and_leave_the_charts_their_width(
    make_run, tmp_path
):
    for letters in (22, 32, 42):
        runs = [make_run(f"chart-{number}".ljust(letters, "x"), GOOD) for number in range(3)]
        figure = make_figure(runs)
        figure.savefig(tmp_path / "chart.png")  # lays the figure out
        for axes in figure.axes:
            assert axes.get_legend().get_window_extent().x1 <= figure.bbox.x1, letters
            assert axes.bbox.width > 0.9 * figure.bbox.width, letters


def coloured(picture: numpy.ndarray, figure, place: tuple[float, float], colour: str) -> int:
    """How many pixels around a place of the lower chart have a run's colour."""
    x, y = figure.axes[1].transData.transform(place)
    column, row = round(x), picture.shape[0] - round(y)
    around = picture[row - 12 : row + 13, column - 12 : column + 13].astype(float) / 255
    return int((abs(around - to_rgb(colour)) < 0.05).all(axis=-1).sum())


def test_the_picture_has_the_points_and_the_star_where_the_figures_say(make_run, tmp_path):
    run = make_run("chart-picture", GOOD)
    draw_chart([run], tmp_path / "chart.png")
    picture = numpy.asarray(Image.open(tmp_path / "chart.png").convert("RGB"))
    assert picture.shape == (900, 1200, 3)
    figure = make_figure([run])
    figure.savefig(tmp_path / "again.png")  # lays the figure out, so that places are known
    assert 15 < coloured(picture, figure, (1, -25), COLOURS[0]) < 120
    assert coloured(picture, figure, (2, -50), COLOURS[0]) > 120, "the star"
    assert coloured(picture, figure, (0.5, -45), COLOURS[0]) == 0
    assert coloured(picture, figure, (1, -25), COLOURS[1]) == 0


def test_a_run_without_validations_yet_has_its_training_loss_only(make_run):
    run = make_run("chart-young", [])
    journal = Journal(run)
    journal.record("step", 1, 1, loss=0.25)
    journal.close()
    losses, relative = make_figure([run]).axes
    assert [points(line) for line in losses.lines] == [[(1, 0.25)], [(1, 0.25)]]
    assert len(relative.lines) == 1, "the line at 0"


def test_a_chart_gets_another_name_when_its_runs_have_recorded_more(make_run):
    run, other = make_run("chart-name", GOOD), make_run("chart-other", BAD)
    before = chart_name([run])
    assert before.startswith("chart-name_") and Path(before).suffix == ".png"
    assert chart_name([run]) == before != chart_name([run, other])
    journal = Journal(run)
    journal.record("step", 4, 13, loss=0.1)
    journal.close()
    assert chart_name([run]) != before


def test_a_chart_gets_another_name_when_it_is_drawn_in_another_way(make_run):
    run = make_run("chart-ways", GOOD)
    ways = [(VIEWS[0], 0.04), (VIEWS[1], 0.04), (VIEWS[2], 0.04), (VIEWS[0], 0.2)]
    assert len({chart_name([run], *way) for way in ways}) == 4


def test_each_half_of_the_chart_can_stand_alone(make_run):
    run = make_run("chart-halves", GOOD)
    (losses,) = make_figure([run], VIEWS[1]).axes
    (change,) = make_figure([run], VIEWS[2]).axes
    assert points(losses.lines[2]) == list(enumerate(GOOD))
    assert points(change.lines[0]) == [(0, 0), (1, -25), (2, -50), (3, -40)]
    assert losses.get_xlabel() == change.get_xlabel() == "epoch"


def test_smoothing_keeps_a_constant_and_begins_at_the_first_value():
    assert smoothed([0.5] * 100) == pytest.approx([0.5] * 100)
    assert smoothed([0.9, 0.1])[0] == pytest.approx(0.9)
    assert smoothed([]) == []
    assert smoothed([0.5, 0.1, 0.9], 0) == [0.5, 0.1, 0.9]
