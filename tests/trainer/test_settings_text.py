"""Settings as lines of text: what is shown can be read, and what is changed by name changes nothing
else.
"""

from __future__ import annotations

import pytest

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.settings.groups import SamplePrompt, SamplesSettings, SavingSettings
from cocktail.trainer.settings.presets import PRESETS, preset
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.settings.text import changed_by, describe, setting_lines


@pytest.mark.parametrize("name", PRESETS)
def test_a_text_of_settings_gives_them_back(name):
    settings = preset(name)
    assert changed_by(RunSettings(), describe(settings).splitlines()) == settings
    assert changed_by(RunSettings(), describe(settings, False).splitlines()) == settings


def test_texts_with_quotes_lines_and_numbers_in_them_give_themselves_back():
    prompts = (SamplePrompt('a "red"\ncircle = 5', " # "), SamplePrompt("12"))
    settings = RunSettings(
        samples=SamplesSettings(prompts=prompts), saving=SavingSettings(pinned_epochs="10")
    )
    assert changed_by(RunSettings(), describe(settings).splitlines()) == settings


def test_what_differs_comes_first():
    text = describe(RunSettings(epochs=7))
    assert text.splitlines()[:2] == ["# differs from the defaults:", "epochs = 7"]
    assert len(list(setting_lines(RunSettings()))) == sum(
        " = " in line for line in text.splitlines()
    )


def test_a_change_by_name_leaves_everything_else():
    changed = changed_by(
        preset("ED2 2023 baseline"), ["", "# remark", "loss.min_snr_gamma=5", "epochs = 3"]
    )
    was, now = preset("ED2 2023 baseline").to_json(), changed.to_json()
    assert now["epochs"] == 3 and now["loss"].pop("min_snr_gamma") == 5.0
    was["loss"].pop("min_snr_gamma")
    assert {**now, "epochs": 0} == {**was, "epochs": 0}


def test_a_factor_goes_by_what_the_settings_say():
    settings = RunSettings(learning_rate=3e-4)
    assert changed_by(settings, ["learning_rate *= 0.5"]).learning_rate == 1.5e-4
    for line in ("precision *= 2", "learning_rate *= half", "train_text_encoder *= 2"):
        with pytest.raises(TrainerError, match="is no number"):
            changed_by(settings, [line])


def test_settings_that_need_each_other_are_changed_together():
    lines = ["loss.zero_terminal_snr = true", "loss.prediction = v-prediction"]
    assert changed_by(RunSettings(), lines).loss.zero_terminal_snr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("epochs 5", "changes no setting. Write NAME = VALUE"),
        ("loss.min_snr_gama = 5", "'loss.min_snr_gama'. Did you mean loss.min_snr_gamma"),
        ("min_snr_gamma = 5", "Did you mean loss.min_snr_gamma"),
        ("loss = 5", "Unknown run setting 'loss'"),
        ("epochs = many", "epochs is 'many'; it must be a whole number"),
        ("text_encoder_optimizer.beta1 = 2", "text_encoder_optimizer.beta1 is 2; it must be"),
        ("epochs = 5\nepochs = 6", "epochs is given twice"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_in_words(line, words):
    with pytest.raises(TrainerError, match=words):
        changed_by(RunSettings(), line.splitlines())
