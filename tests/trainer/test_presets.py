"""Presets are plain numbers, and every number that is known of them stands here again."""

from __future__ import annotations

import pytest

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.settings.presets import PRESETS, preset


def test_the_baseline_is_everydream2_of_march_2023():
    settings = preset("ED2 2023 baseline")
    assert (settings.resolution, settings.batch_size, settings.epochs) == (512, 10, 30)
    assert settings.learning_rate == settings.text_encoder_learning_rate == 1.5e-6
    assert (settings.conditional_dropout, settings.loss.offset_noise) == (0.04, 0.02)
    assert (settings.loss.kind, settings.loss.min_snr_gamma) == ("mse", 0.0)
    assert (settings.seed, settings.gradient_clip, settings.clip_skip) == (555, 0.0, 1)
    assert settings.compute.gradient_checkpointing and settings.train_text_encoder


def test_the_cosmopolitan_presets_differ_from_it_in_what_is_known():
    small, large = preset("Cosmopolitan 512 D-Adaptation"), preset("Cosmopolitan 768 AdamW")
    for part in (small.unet_optimizer, small.text_encoder_optimizer):
        assert (part.optimizer, part.weight_decay, part.d0) == ("d-adapt adam", 0.8, 1e-6)
    assert small.learning_rate == small.text_encoder_learning_rate == 0.1
    assert (small.resolution, small.epochs, small.save_every_epochs) == (512, 70, 10)
    assert (large.resolution, large.epochs, large.save_every_epochs) == (768, 60, 10)
    assert large.unet_optimizer.optimizer == large.text_encoder_optimizer.optimizer == "adamw"
    assert large.learning_rate == 1.5e-6


def test_no_two_presets_are_the_same_run():
    found = [preset(name).identity() for name in PRESETS]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_an_unknown_preset_is_refused_with_the_nearest_one():
    with pytest.raises(TrainerError, match="Did you mean Cosmopolitan 768 AdamW"):
        preset("cosmopolitan 768")
