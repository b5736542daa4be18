"""Run settings: JSON in and out, and words for what is wrong with them."""

from __future__ import annotations

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.runs import run_identity
from cocktail.trainer.settings.group import Group
from cocktail.trainer.settings.groups import GROUPS, SamplePrompt
from cocktail.trainer.settings.run_settings import HARMLESS, RunSettings


def test_settings_survive_json():
    settings = RunSettings(resolution=768, epochs=3, learning_rate=2e-6, clip_skip=2)
    assert RunSettings.from_json(settings.to_json()) == settings


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(TrainerError, match="'learning_rat'. Did you mean learning_rate"):
        RunSettings.from_json({"learning_rat": 1e-6})


NUMBERS = {
    field.name: field
    for field in dataclasses.fields(RunSettings)
    if type(field.default) in (int, float)
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds_that_are_kept(name):
    low, high = NUMBERS[name].metadata["between"]
    kind = type(NUMBERS[name].default)
    with pytest.raises(TrainerError, match=name):
        RunSettings(**{name: kind(low - 1)})
    with pytest.raises(TrainerError, match=name):
        RunSettings(**{name: kind(high + 1)})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of bf16, fp32, fp16"),
        ({"epochs": "ten"}, "epochs is 'ten'; it must be a whole number"),
        ({"train_text_encoder": 1}, "train_text_encoder is 1; it must be true or false"),
        ({"resolution": 500, "bucket_step": 64}, "resolution is 500; it must be a multiple of"),
    ],
)
def test_wrong_values_are_refused_in_words(values, words):
    with pytest.raises(TrainerError, match=words):
        RunSettings(**values)


OLD = {
    "resolution": 512,
    "bucket_step": 64,
    "epochs": 10,
    "batch_size": 4,
    "learning_rate": 1.5e-6,
    "train_text_encoder": True,
    "text_encoder_learning_rate": 1.5e-6,
    "conditional_dropout": 0.04,
    "clip_skip": 1,
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "seed": 555,
    "save_every_epochs": 1,
    "validation_timesteps": 4,
    "precision": "bf16",
    "save_precision": "fp16",
}
"""The settings of a run.json from before there were groups."""


def fields_of(group):
    """A strategy for values of every field of a group, within its bounds or choices."""
    values = {}
    for field in dataclasses.fields(group):
        low, high = field.metadata["between"] or (0, 0)
        if field.metadata["choices"]:
            values[field.name] = st.sampled_from(field.metadata["choices"])
        elif type(field.default) is bool:
            values[field.name] = st.booleans()
        elif type(field.default) is int:
            values[field.name] = st.integers(int(low), int(high))
        elif type(field.default) is float:
            values[field.name] = st.floats(low, high)
        elif field.name == "pinned_epochs":
            values[field.name] = st.sampled_from(["", "1", "10, 20,30"])
        elif type(field.default) is tuple:
            values[field.name] = st.lists(
                fields_of(SamplePrompt).filter(valid(SamplePrompt)), max_size=2
            )
        else:
            values[field.name] = st.text(max_size=20)
    return st.fixed_dictionaries({}, optional=values)


def valid(group):
    def check(values):
        try:
            group.from_json(values)
        except TrainerError:
            return False
        return True

    return check


@pytest.mark.parametrize("name", GROUPS)
@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(data=st.data())
def test_every_group_survives_json(name, data):
    values = data.draw(fields_of(GROUPS[name]).filter(valid(GROUPS[name])))
    settings = RunSettings.from_json({name: values})
    again = RunSettings.from_json(json.loads(json.dumps(settings.to_json())))
    assert again == settings
    assert again.identity() == settings.identity()
    for key, value in values.items():
        if key != "prompts":
            assert getattr(getattr(settings, name), key) == value


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_at_its_defaults_leaves_the_identity_as_it_was(name):
    assert RunSettings.from_json({name: {}}).identity() == RunSettings().identity()
    assert RunSettings.from_json({name: GROUPS[name]().to_json()}).identity() == OLD


def test_settings_from_before_the_groups_are_read_and_keep_their_identity():
    settings = RunSettings.from_json(OLD)
    assert settings == RunSettings()
    assert (
        run_identity("base", "dataset", settings)
        == "dc75106e4c62e2f87d393f8e555a397f00a3b142ebd27c5a08a6b9231ea2e1f2"
    )


MANY_CHANGED = {
    "resolution": 768,
    "bucket_step": 32,
    "epochs": 7,
    "learning_rate": 1,
    "weight_decay": 0,
    "precision": "fp32",
    "bucket_table": "generated",
    "unet_optimizer": {
        "optimizer": "prodigy",
        "d0": 1e-5,
        "warmup_steps": 20,
        "schedule": "cosine",
        "decouple": False,
    },
    "text_encoder_optimizer": {"beta1": 0, "growth_rate": 2},
    "layers": {"text_encoder_last_layers": 3, "freeze_embeddings": True},
    "loss": {
        "prediction": "v-prediction",
        "zero_terminal_snr": True,
        "min_snr_gamma": 5,
        "timestep_end": 900,
    },
    "data": {"accumulate": 2, "crop_jitter": 0.02, "crop_variants": 3, "flip": 1},
    "validation": {"every_steps": 50, "train_share": 0.1},
    "ema": {"decay": 0.999, "device": "as the weights"},
    "compute": {"tf32": True, "attention": "sliced"},
    "samples": {"every_steps": 5, "prompts": [{"prompt": "a red circle", "cfg": 5, "width": 64}]},
    "saving": {"pinned_epochs": "1, 2", "resume_minutes": 3},
    "logging": {"wandb": True},
    "sharing": {"policy": "share", "leave_gb": 1},
}


def test_the_identity_of_settings_in_every_group_is_what_it_always_was():
    settings = RunSettings.from_json(MANY_CHANGED)
    assert (
        run_identity("base", "dataset", settings)
        == "76522623dc701d5203a71a73594df9a109480fd994f5db757a3c937cebc726cd"
    )


CHANGES = {
    "unet_optimizer": {"optimizer": "lion"},
    "text_encoder_optimizer": {"optimizer": "lion"},
    "layers": {"freeze_embeddings": True},
    "loss": {"offset_noise": 0.02},
    "data": {"accumulate": 2},
    "validation": {"every_epochs": 2},
    "ema": {"decay": 0.9},
    "compute": {"tf32": True},
    "samples": {"every_epochs": 1, "prompts": [{"prompt": "a cat"}]},
    "saving": {"keep_last": 1},
    "logging": {"wandb": True},
    "sharing": {"policy": "polite"},
    "range_test": {"steps": 100},
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_changed_group_counts_unless_it_is_harmless(name):
    changed = RunSettings.from_json({name: CHANGES[name]}).identity() != OLD
    assert changed == (name not in HARMLESS)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"los": {}}, "'los'. Did you mean loss"),
        ({"loss": {"min_snr": 5.0}}, "'loss.min_snr'. Did you mean loss.min_snr_gamma"),
        (
            {"text_encoder_optimizer": {"beta": 0.5}},
            "'text_encoder_optimizer.beta'. Did you mean text_encoder_optimizer.beta[12]",
        ),
        (
            {"text_encoder_optimizer": {"beta1": 5}},
            "text_encoder_optimizer.beta1 is 5; it must be between",
        ),
        (
            {"unet_optimizer": {"schedule": "cosin"}},
            "unet_optimizer.schedule is 'cosin'; it must be one of",
        ),
        (
            {"samples": {"prompts": [{}, {"promt": ""}]}},
            r"'samples.prompts\[1\].promt'. Did you mean samples.prompts\[1\].prompt",
        ),
        ({"samples": {"prompts": ["a cat"]}}, r"samples.prompts\[0\] must be a JSON object"),
        ({"data": 5}, "data must be a JSON object"),
        (
            {"layers": {"train_unet": False}, "train_text_encoder": False},
            "Neither the UNet nor the text encoder",
        ),
        (
            {"loss": {"timestep_start": 500, "timestep_end": 500}},
            "timestep_end is 500; it must be above",
        ),
        ({"loss": {"zero_terminal_snr": True}}, "needs loss.prediction v-prediction"),
        ({"loss": {"debiased": True, "min_snr_gamma": 5}}, "not both"),
        ({"ema": {"decay": float("nan")}}, "ema.decay is nan"),
    ],
)
def test_what_is_wrong_in_a_group_is_said_with_its_path(value, words):
    with pytest.raises(TrainerError, match=words):
        RunSettings.from_json(value)


@pytest.mark.parametrize("group", [RunSettings, SamplePrompt, *GROUPS.values()])
def test_every_setting_says_what_it_means_and_every_number_has_bounds(group):
    for field in dataclasses.fields(group):
        if isinstance(field.default, Group):
            continue
        assert field.metadata["text"].endswith((".", ")")), field.name
        if type(field.default) in (int, float):
            low, high = field.metadata["between"]
            assert low <= field.default <= high, field.name
