"""The words about a run say what its figures say, and every sentence carries them."""

from __future__ import annotations

import json

import numpy
import pytest

from cocktail.trainer.figures.words import as_text, read_lines

from .run_folders import made_pairs, made_run, record_course, record_validation

SPLITS = ["train"] * 2 + ["validation"] * 24


def lines_of(tmp_path, course, epochs, noise=0.002):
    run = made_run(tmp_path, "words", made_pairs(SPLITS), epochs=epochs, learning_rate=3e-6)
    recorded = record_course(run, lambda epoch: [0.1 * course(epoch)], epochs, noise=noise)
    means = numpy.array([numpy.mean(list(recorded[e].values())) for e in range(epochs + 1)])
    lines = read_lines(run)
    json.dumps([line.as_json() for line in lines], allow_nan=False)
    return lines, as_text(lines), means


def test_a_run_that_overfits_is_told_when_and_which_checkpoint_to_use(tmp_path):
    lines, text, means = lines_of(tmp_path, lambda e: 1 + 0.1 * (((e - 8) / 8) ** 2 - 1), 20)
    best = int(means.argmin())
    change, above = 100 * (means[best] / means[0] - 1), 100 * (means[-1] / means[best] - 1)
    assert lines[0].figures["change_percent"] == pytest.approx(change)
    assert lines[0].figures["lowest_epoch"] == best and f"lowest at epoch {best}" in lines[0].text
    assert f"It began to overfit after epoch {best}" in lines[1].text
    assert lines[1].figures["above_lowest_percent"] == pytest.approx(above)
    assert f"is {above:.0f} % above its lowest at epoch 20" in lines[1].text
    assert best + 5 <= lines[1].figures["trending_up_from_epoch"] < 20
    assert f"Use the checkpoint of epoch {best}" in text and "3e-06" in text


def test_a_run_that_still_improves_is_told_to_go_on(tmp_path):
    lines, text, means = lines_of(tmp_path, lambda e: 1 - 0.01 * e, 12)
    assert "No overfitting so far: the last validation, epoch 12, is the lowest." in text
    assert lines[-1].text.startswith("Try more epochs than 12")
    assert lines[-1].figures["change_percent"] == pytest.approx(100 * (means[-1] / means[0] - 1))


def test_a_loss_that_rises_from_the_first_step_speaks_for_a_lower_rate(tmp_path):
    lines, _, means = lines_of(tmp_path, lambda e: 1 + 0.05 * e, 4)
    assert "never lower than at the start" in lines[0].text
    (advice,) = [line for line in lines if line.text.startswith("Try a lower learning rate")]
    assert advice.figures == {
        "first_change_percent": pytest.approx(100 * (means[1] / means[0] - 1)),
        "learning_rate": 3e-6,
    }


def test_a_change_that_chance_explains_is_called_so(tmp_path):
    lines, text, _ = lines_of(tmp_path, lambda e: 1.0, 3, noise=0.05)
    assert "overfit" not in text.replace("No overfitting", "")
    figures = lines[0].figures
    if figures["change_percent"] < 0:
        small = -figures["change_percent"] <= 2 * figures["standard_error_percent"]
        assert small == ("no more than chance" in text)
        assert "Hold back more pairs than 24" in text


def test_measured_training_pairs_show_what_is_learned_by_heart(tmp_path):
    run = made_run(tmp_path, "gap", made_pairs(SPLITS), epochs=2)
    ids = [pair.id for pair in run.dataset().validation]
    training = [f"{n:016x}" for n in range(2)]
    for epoch, (seen, unseen) in enumerate([(0.2, 0.2), (0.15, 0.19), (0.1, 0.18)]):
        levels, measured = {key: [unseen] for key in ids}, {key: [seen] for key in training}
        record_validation(run, epoch, epoch * 5, levels, measured)
    (gap,) = [line for line in read_lines(run) if "by heart" in line.text]
    assert gap.figures == {
        "training_change_percent": pytest.approx(-50),
        "validation_change_percent": pytest.approx(-10),
    }
    assert "changed by -50.0 %, that of the validation pairs by -10.0 %" in gap.text


def test_a_run_without_validations_says_that_nothing_is_known(tmp_path):
    run = made_run(tmp_path, "young", made_pairs(SPLITS))
    (line,) = read_lines(run)
    assert "has not validated yet" in line.text and line.figures == {}
    record_validation(run, 0, 0, {"0" * 16: [0.1]})
    assert "measured once" in as_text(read_lines(run))


def test_a_pair_that_stands_out_is_counted(tmp_path):
    run = made_run(tmp_path, "far", made_pairs(SPLITS))
    ids = [pair.id for pair in run.dataset().validation]
    losses = {pair: [0.1 + 0.001 * n] for n, pair in enumerate(ids)}
    losses[ids[0]] = [0.4]
    record_validation(run, 0, 0, losses)
    (far,) = [line for line in read_lines(run) if "stands out" in line.text]
    assert far.figures["pairs"] == 1 and far.figures["measured"] == 24
