"""The learning rate range test: the rate rises, and what is read from the losses is what was put
into them.
"""

from __future__ import annotations

import numpy
import pytest

from cocktail.trainer.disk import saves
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.loop import train
from cocktail.trainer.optim.schedules import range_factor
from cocktail.trainer.range_chart import range_figure
from cocktail.trainer.range_test import exploded, range_settings, read_test, recorded, smoothed
from cocktail.trainer.settings.groups import OptimizerSettings, RangeTestSettings
from cocktail.trainer.settings.run_settings import RunSettings

STEPS = 300
RATES = numpy.geomspace(1e-8, 1e-2, STEPS)


def curve(falls_at=None, diverges_at=None, noise=0.01, seed=0):
    """Losses that start at 0.3, fall by 0.1 around one rate and grow from another one on."""
    x = numpy.log10(RATES)
    losses = numpy.full(STEPS, 0.3)
    if falls_at:
        losses -= 0.1 / (1 + numpy.exp(-(x - numpy.log10(falls_at)) * 6))
    if diverges_at:
        losses += 2 * numpy.maximum(0, x - numpy.log10(diverges_at)) ** 2
    return losses + numpy.random.default_rng(seed).normal(0, noise, STEPS)


def test_the_rate_rises_exponentially_to_that_of_the_run():
    settings = RangeTestSettings(steps=STEPS, start_share=1e-6)
    found = [1e-2 * range_factor(settings, step) for step in range(STEPS)]
    assert found == pytest.approx(RATES)
    assert range_factor(settings, STEPS + 5) == 1


def test_the_steepest_fall_and_the_divergence_are_found_where_they_are():
    found = read_test(RATES, curve(falls_at=3e-6, diverges_at=1e-3), STEPS, False)
    assert found.start == pytest.approx(0.3, abs=0.005)
    assert found.steepest == pytest.approx(3e-6, rel=0.6)
    assert 1e-3 < found.diverges < 5e-3, "at the start again, after the fall"
    assert found.suggested == pytest.approx(found.steepest, rel=0.05)
    assert "falls most steeply" in found.reason and "diverges at" in found.reason


def test_a_fall_beside_the_divergence_is_not_suggested():
    found = read_test(RATES, curve(falls_at=3e-4, diverges_at=5e-4), STEPS, False)
    assert found.steepest and found.diverges and found.diverges / 10 < found.steepest
    assert found.suggested == pytest.approx(found.diverges / 10, rel=0.05)
    assert "too near" in found.reason


def test_without_a_fall_a_tenth_of_the_divergence_is_suggested_as_a_bound():
    found = read_test(RATES, curve(diverges_at=1e-4), STEPS, False)
    assert found.steepest is None
    assert 5e-5 < found.diverges < 6e-4
    assert found.suggested == pytest.approx(found.diverges / 10, rel=0.05)
    assert "upper bound" in found.reason


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_suggests_nothing(seed):
    with pytest.raises(TrainerError, match="neither falls nor rises"):
        read_test(RATES, curve(noise=0.1, seed=seed), STEPS, False)


def test_a_test_that_ended_early_diverges_where_it_ended():
    losses = curve()[:200]
    found = read_test(RATES[:200], losses, STEPS, True)
    assert found.diverges == pytest.approx(RATES[199], rel=0.5)
    assert exploded(RATES[:200], [*losses[:195], *[2.0] * 5])
    assert not exploded(RATES[:200], losses)
    with pytest.raises(TrainerError, match="ended after 12 steps"):
        read_test(RATES[:12], losses[:12], STEPS, True)


def test_a_test_that_explodes_after_a_few_of_many_steps_says_where():
    rates = numpy.geomspace(1e-4, 1, 1000)[:40]
    losses = numpy.random.default_rng(0).normal(0.1, 0.005, 40)
    losses[-6:] *= 6
    found = read_test(rates, losses, 1000, True)
    assert found.diverges == pytest.approx(rates[34], rel=0.2)


def test_smoothing_is_a_centred_mean_that_shrinks_at_the_ends():
    values = numpy.random.default_rng(1).normal(size=50)
    found = smoothed(values, 9)
    for at in range(50):
        half = min(4, at, 49 - at)
        assert found[at] == pytest.approx(values[at - half : at + half + 1].mean())


def test_the_chart_has_the_losses_over_their_rates_and_marks_what_was_found():
    reading = read_test(RATES, curve(falls_at=3e-6, diverges_at=1e-3), STEPS, False)
    (axes,) = range_figure(reading, "test").axes
    raw, smooth, *marks = axes.lines
    assert axes.get_xscale() == "log"
    assert numpy.array_equal(raw.get_ydata(), reading.losses)
    assert numpy.array_equal(smooth.get_ydata(), reading.smooth)
    places = [mark.get_xdata()[0] for mark in marks]
    assert places == [reading.steepest, reading.diverges, reading.suggested]


def test_the_settings_keep_everything_but_what_the_test_is_about():
    settings = RunSettings(learning_rate=2e-6, text_encoder_learning_rate=1e-6, batch_size=7)
    found = range_settings(settings, 1e-8, 1e-3, 200)
    assert (found.learning_rate, found.text_encoder_learning_rate) == (1e-3, 5e-4)
    assert found.batch_size == 7 and found.loss.timestep_sampling == "stratified"
    assert found.range_test == RangeTestSettings(200, 1e-5)
    assert found.identity() != settings.identity() and "range_test" not in settings.identity()
    assert saves(found) == 0 < saves(settings)


@pytest.mark.parametrize(
    ("changes", "bounds", "words"),
    [
        ({}, (1e-3, 1e-3), "below the highest"),
        ({"unet_optimizer": OptimizerSettings("prodigy")}, (1e-8, 1e-3), "of the UNet is prodigy"),
        (
            {"text_encoder_optimizer": OptimizerSettings("d-adapt adam")},
            (1e-8, 1e-3),
            "of the text encoder is d-adapt adam",
        ),
    ],
)
def test_a_test_that_would_say_nothing_is_refused(changes, bounds, words):
    with pytest.raises(TrainerError, match=words):
        range_settings(RunSettings(**changes), *bounds, 200)


def test_a_real_test_takes_its_steps_saves_nothing_and_ends_when_the_loss_explodes(
    make_tiny_run, alone
):
    plain = make_tiny_run("range-plain", layers={"unet_layers": "all"}).settings
    run = make_tiny_run("range", **range_settings(plain, 1e-7, 1.0, 60).to_json())
    assert train(run.folder) == 0
    state, (rates, losses) = run.state(), recorded(run)
    assert state.status == "finished" and "range test" in state.message
    assert len(losses) < 60, "a rate of 1 is far too high"
    expected = 1e-7 ** (1 - numpy.arange(len(rates)) / 59)
    assert rates == pytest.approx(expected)
    assert run.checkpoints() == [] and not list((run.folder / "resume").glob("*"))
    assert [line["step"] for line in run.validations()] == [0]
    assert read_test(rates, losses, 60, True).diverges
