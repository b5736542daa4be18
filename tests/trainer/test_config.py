"""Run settings: JSON in and out, and words for what is wrong with them."""

from __future__ import annotations

import pytest

from cocktail.trainer.config import RANGES, RunSettings
from cocktail.trainer.errors import TrainerError


def test_settings_survive_json():
    settings = RunSettings(resolution=768, epochs=3, learning_rate=2e-6, clip_skip=2)
    assert RunSettings.from_json(settings.to_json()) == settings


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(TrainerError, match="'learning_rat'. Did you mean learning_rate"):
        RunSettings.from_json({"learning_rat": 1e-6})


@pytest.mark.parametrize("name", RANGES)
def test_every_number_has_bounds_that_are_kept(name):
    low, high = RANGES[name]
    kind = type(getattr(RunSettings(), name))
    with pytest.raises(TrainerError, match=name):
        RunSettings(**{name: kind(low - 1)})
    with pytest.raises(TrainerError, match=name):
        RunSettings(**{name: kind(high + 1)})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of bf16, fp32, fp16"),
        ({"epochs": "ten"}, "epochs must be of type int"),
        ({"train_text_encoder": 1}, "train_text_encoder must be of type bool"),
        ({"resolution": 500, "bucket_step": 64}, "resolution is 500; it must be a multiple of"),
    ],
)
def test_wrong_values_are_refused_in_words(values, words):
    with pytest.raises(TrainerError, match=words):
        RunSettings(**values)
