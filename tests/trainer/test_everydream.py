"""EveryDream2's configuration as settings: every key is accounted for, and what it says is what
EveryDream2 does.

The values are those of the files as EveryDream2 shipped them in March 2023, October 2023 and May
2025.
"""

from __future__ import annotations

import json

import pytest

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.settings.everydream.importing import import_everydream
from cocktail.trainer.settings.run_settings import RunSettings

COMMON = {
    "batch_size": 10, "ckpt_every_n_minutes": None, "clip_grad_norm": None, "clip_skip": 0, "cond_dropout": 0.04,
    "data_root": "pictures", "disable_textenc_training": False, "flip_p": 0.0, "gpuid": 0, "gradient_checkpointing": True,
    "grad_accum": 1, "logdir": "logs", "log_step": 25, "max_epochs": 30, "notebook": False, "optimizer_config": "optimizer.json",
    "project_name": "project_abc", "resolution": 512, "resume_ckpt": "sd_v1-5_vae", "run_name": None,
    "sample_prompts": "sample_prompts.txt", "sample_steps": 300, "save_ckpt_dir": None, "save_ckpts_from_n_epochs": 0,
    "save_every_n_epochs": 20, "save_optimizer": False, "seed": 555, "shuffle_tags": False, "wandb": False,
    "write_schedule": False, "zero_frequency_noise_ratio": 0.02,
}  # fmt: skip
OF_2023 = {
    "disable_xformers": False, "lowvram": False, "lr": 1.5e-06, "lr_decay_steps": 0, "lr_scheduler": "constant",
    "lr_warmup_steps": None, "scale_lr": False, "rated_dataset": False, "rated_dataset_target_dropout_percent": 50,
}  # fmt: skip
EMA = {
    "ema_decay_rate": None, "ema_strength_target": None, "ema_update_interval": None, "ema_device": None,
    "ema_sample_nonema_model": False, "ema_sample_ema_model": False, "ema_resume_model": None,
}  # fmt: skip
LATER = {
    "disable_amp": False,
    "validation_config": "validation_default.json",
    "enable_zero_terminal_snr": False,
    "load_settings_every_epoch": False,
    **EMA,
}
TRAIN = {
    "2023-03": {**COMMON, **OF_2023, "amp": True, "validation_config": None},
    "2023-10": {**COMMON, **OF_2023, **LATER, "max_epochs": 1, "min_snr_gamma": None},
    "2025-05": {
        **COMMON, **LATER, "attn_type": "sdp", "batch_size": 8, "embedding_perturbation": 0.0, "loss_type": "mse", "max_epochs": 40,
        "seed": -1, "timestep_start": 0, "timestep_end": 1000, "pyramid_noise_discount": 0.03, "min_snr_gamma": 5.0,
    },
}  # fmt: skip
BASE = {
    "optimizer": "adamw8bit", "lr": 1e-6, "lr_scheduler": "constant", "lr_decay_steps": None, "lr_warmup_steps": None,
    "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.010,
}  # fmt: skip
REST = {
    "text_encoder_freezing": {"unfreeze_last_n_layers": None},
    "apply_grad_scaler_step_tweaks": True,
}
OPTIMIZER = {
    "2023-03": {"doc": {}, "optimizer": "adamw8bit", "lr": 1e-6, "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.010, "text_encoder_lr_scale": 1.0},
    "2023-10": {"doc": {}, "base": BASE, "text_encoder_overrides": dict.fromkeys(BASE), **REST},
    "2025-05": {"doc": {}, "base": BASE, "text_encoder_overrides": {**dict.fromkeys(BASE), "lr": 5e-7, "lr_scheduler": "cosine"}, **REST},
}  # fmt: skip
D_ADAPTATION = {
    **BASE,
    "optimizer": "dadapt_adam",
    "lr": 0.1,
    "weight_decay": 0.80,
    "d0": 1e-6,
    "decouple": True,
}
SPLIT = {
    "documentation": {},
    "validate_training": True,
    "val_split_mode": "automatic",
    "stabilize_training_loss": False,
    "stabilize_split_proportion": 0.15,
    "every_n_epochs": 1,
    "seed": 555,
}
OWN = {
    "manual_data_root": None,
    "auto_split_proportion": 0.15,
    "extra_manual_datasets": {},
    "use_relative_loss": False,
}
VALIDATION = {
    "2023-03": {**SPLIT, "val_data_root": None, "val_split_proportion": 0.15},
    "2023-10": {**SPLIT, **OWN},
    "2025-05": {**SPLIT, **OWN},
}


def imported(train, optimizer=None, validation=None, steps_per_epoch=0):
    texts = (
        json.dumps(value) if value is not None else "" for value in (train, optimizer, validation)
    )
    return import_everydream(*texts, steps_per_epoch)


def keys_of(optimizer):
    for key, value in optimizer.items():
        if key in ("base", "text_encoder_overrides", "text_encoder_freezing"):
            yield from (f"{key}.{inner}" for inner in value)
        else:
            yield key


@pytest.mark.parametrize("date", TRAIN)
def test_every_key_is_accounted_for(date):
    found = imported(TRAIN[date], OPTIMIZER[date], VALIDATION[date])
    told = {(line.file, line.key) for line in found.lines}
    given = {("train.json", key) for key in TRAIN[date]}
    given |= {("optimizer.json", key) for key in keys_of(OPTIMIZER[date])}
    given |= {("validation.json", key) for key in VALIDATION[date]}
    assert given <= told
    assert len(told) == len(found.lines), "a key is told of twice"
    assert all(
        line.fate in ("taken", "translated", "ignored") and line.text for line in found.lines
    )
    assert not any("no such key" in line.text for line in found.lines)
    assert found.report().count("\n") == len(found.lines)


EXPECTED = {
    "epochs": 30, "batch_size": 10, "gradient_clip": 0.0, "save_every_epochs": 20, "bucket_table": "EveryDream2",
    "unet_optimizer": {"optimizer": "adamw 8 bit", "weight_decay": 0.01}, "loss": {"offset_noise": 0.02},
    "text_encoder_optimizer": {"optimizer": "adamw 8 bit", "weight_decay": 0.01},
    "data": {"crop_jitter": 0.02, "crop_variants": 4}, "compute": {"gradient_checkpointing": True}, "samples": {"every_steps": 300},
}  # fmt: skip


@pytest.mark.parametrize(
    ("date", "changes"),
    [
        ("2023-03", {}),
        ("2023-10", {"epochs": 1}),
        (
            "2025-05",
            {
                "epochs": 40, "batch_size": 8, "learning_rate": 1e-6, "text_encoder_learning_rate": 5e-7,
                "loss": {"offset_noise": 0.02, "min_snr_gamma": 5.0, "pyramid_noise": 0.03},
                "text_encoder_optimizer": {"optimizer": "adamw 8 bit", "weight_decay": 0.01, "schedule": "cosine", "end_share": 0.26},
            },
        ),
    ],
)  # fmt: skip
def test_the_shipped_files_become_these_settings(date, changes):
    found = imported(TRAIN[date], OPTIMIZER[date], VALIDATION[date])
    assert found.settings == RunSettings.from_json({**EXPECTED, **changes})


def test_d_adaptation_as_shipped():
    overrides = {**dict.fromkeys(BASE), "lr": 0.1, "weight_decay": 0.8}
    found = imported(
        TRAIN["2025-05"], {"base": D_ADAPTATION, "text_encoder_overrides": overrides, **REST}
    )
    for part in (found.settings.unet_optimizer, found.settings.text_encoder_optimizer):
        assert (part.optimizer, part.weight_decay, part.d0) == ("d-adapt adam", 0.8, 1e-6)
    assert found.settings.learning_rate == found.settings.text_encoder_learning_rate == 0.1


def test_the_length_of_an_epoch_turns_shares_into_steps():
    found = imported(TRAIN["2025-05"], OPTIMIZER["2025-05"], None, steps_per_epoch=100)
    part = found.settings.text_encoder_optimizer
    assert (part.decay_steps, part.warmup_steps, part.end_share) == (6000, 120, 0.0)
    train = {
        **TRAIN["2025-05"],
        "grad_accum": 2,
        "ema_strength_target": 0.1,
        "ema_update_interval": 5,
    }
    found = imported(train, OPTIMIZER["2025-05"], {"every_n_epochs": 0.5}, steps_per_epoch=100)
    part = found.settings.text_encoder_optimizer
    assert (part.decay_steps, part.warmup_steps) == (3000, 60)
    assert found.settings.ema.decay == pytest.approx(0.1 ** (1 / 400))
    assert found.settings.validation.every_steps == 25


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ({"clip_skip": 1}, "clip_skip", 1),
        ({"clip_skip": 3}, "clip_skip", 3),
        ({"disable_amp": True}, "precision", "fp32"),
        ({"disable_textenc_training": True}, "train_text_encoder", False),
        ({"clip_grad_norm": 1.5}, "gradient_clip", 1.5),
        ({"loss_type": "mse_huber"}, "loss.kind", "huber to mse"),
        ({"loss_type": "huber_mse"}, "loss.kind", "mse to huber"),
        ({"save_every_n_epochs": None}, "saving.every_minutes", 20.0),
        ({"save_every_n_epochs": None}, "save_every_epochs", 40),
        ({"attn_type": "slice"}, "compute.attention", "sliced"),
        ({"grad_accum": 3}, "samples.every_steps", 100),
        ({"lr": 3e-6}, "text_encoder_learning_rate", 3e-6),
        ({"ema_decay_rate": 0.99}, "ema.every_steps", 500),
        ({"save_full_precision": True}, "save_precision", "fp32"),
        ({"enable_zero_terminal_snr": True}, "loss.zero_terminal_snr", False),
    ],
)
def test_a_key_means_what_it_means_in_everydream2(change, name, value):
    found = imported({**TRAIN["2025-05"], **change}, OPTIMIZER["2025-05"])
    holder, _, key = name.rpartition(".")
    assert getattr(getattr(found.settings, holder) if holder else found.settings, key) == value


def test_frozen_layers_take_the_embeddings_with_them():
    optimizer = {**OPTIMIZER["2025-05"], "text_encoder_freezing": {"unfreeze_last_n_layers": 2}}
    layers = imported(TRAIN["2025-05"], optimizer).settings.layers
    assert (layers.text_encoder_last_layers, layers.freeze_embeddings) == (2, True)
    old = {**OPTIMIZER["2025-05"], "text_encoder_freezing": {"freeze_front_n_layers": -2}}
    assert imported(TRAIN["2025-05"], old).settings.layers == layers


def test_keys_that_everydream2_does_not_know_are_told_of():
    lines = imported({"batchsize": 4}).lines
    (line,) = [line for line in lines if line.key == "batchsize"]
    assert line.fate == "ignored" and "no such key. Did you mean batch_size?" in line.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "lr": 1e-6, // fast\n  "seed": 1\n}', "train.json is not valid JSON at line 2, column 15: JSON has no comments"),
        ('{\n  "lr": 1e-6,\n}', "at line [23], column .*: remove the comma before the closing bracket"),
        ('{"data_root": "X:\\my"}', "a backslash in a text must be doubled"),
        ('{"seed": 1, "seed": 2}', "the key 'seed' appears twice"),
        ("[]", "train.json must be a JSON object"),
        ('{"batch_size": "4"}', "train.json: batch_size is '4'; it must be a whole number"),
        ('{"wandb": 1}', "wandb is 1; it must be true or false"),
        ('{"grad_accum": 0}', "grad_accum is 0; it must be at least 1"),
        ('{"loss_type": "l1"}', "loss_type is 'l1'; it must be one of mse"),
        ('{"cond_dropout": 4.0}', "conditional_dropout is 4.0; it must be between"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_words(text, words):
    with pytest.raises(TrainerError, match=words):
        import_everydream(text)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"optimizer": "coordinate_dowg"}, "optimizer is 'coordinate_dowg', which is not known here"),
        ({"optimizer": "adam8bit"}, "Did you mean adamw8bit"),
        ({"betas": [0.9]}, "betas is .* it must be two numbers"),
        ({"lr": "fast"}, "base.lr is 'fast'; it must be a number or null"),
        ({"lr_scheduler": "step"}, "lr_scheduler is 'step'; it must be one of"),
    ],
)  # fmt: skip
def test_a_wrong_optimizer_is_refused_in_words(base, words):
    with pytest.raises(TrainerError, match=words):
        import_everydream("{}", json.dumps({"base": base}))
