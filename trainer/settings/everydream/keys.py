"""The keys of EveryDream2's configuration files: their types, EveryDream2's own defaults, and why
some are ignored.
"""

from __future__ import annotations

from typing import Any

Kinds = tuple[tuple[type | None, ...], Any]
"""Types that a value may have (None for null), and the value when the key is absent."""

TRAIN_KEYS: dict[str, Kinds] = {
    "resume_ckpt": ((str,), None),
    "data_root": ((str, dict, list), None),
    "project_name": ((str,), None),
    "run_name": ((str, None), None),
    "logdir": ((str,), None),
    "save_ckpt_dir": ((str, None), None),
    "resolution": ((int,), 512),
    "batch_size": ((int,), 2),
    "grad_accum": ((int,), 1),
    "max_epochs": ((int,), 300),
    "seed": ((int,), 555),
    "clip_skip": ((int,), 0),
    "cond_dropout": ((float,), 0.04),
    "embedding_perturbation": ((float,), 0.0),
    "flip_p": ((float,), 0.0),
    "shuffle_tags": ((bool,), False),
    "keep_tags": ((int,), 0),
    "disable_textenc_training": ((bool,), False),
    "disable_unet_training": ((bool,), False),
    "disable_amp": ((bool,), False),
    "gradient_checkpointing": ((bool,), False),
    "attn_type": ((str,), "sdp"),
    "disable_xformers": ((bool,), False),
    "gpuid": ((int,), 0),
    "optimizer_config": ((str, None), None),
    "lr": ((float, None), None),
    "lr_scheduler": ((str, None), None),
    "lr_warmup_steps": ((int, None), None),
    "lr_decay_steps": ((int, None), None),
    "clip_grad_norm": ((float, None), None),
    "loss_type": ((str,), "mse"),
    "timestep_start": ((int,), 0),
    "timestep_end": ((int,), 1000),
    "min_snr_gamma": ((float, None), None),
    "zero_frequency_noise_ratio": ((float,), 0.02),
    "pyramid_noise_discount": ((float, None), None),
    "enable_zero_terminal_snr": ((bool, None), None),
    "train_sampler": ((str,), "ddpm"),
    "load_settings_every_epoch": ((bool, None), None),
    "save_every_n_epochs": ((int, None), None),
    "save_ckpts_from_n_epochs": ((int, None), 0),
    "ckpt_every_n_minutes": ((int, None), None),
    "save_optimizer": ((bool,), False),
    "save_full_precision": ((bool,), False),
    "no_save_ckpt": ((bool,), False),
    "no_prepend_last": ((bool,), False),
    "sample_prompts": ((str, None), None),
    "sample_steps": ((int,), 250),
    "validation_config": ((str, None), None),
    "log_step": ((int,), 25),
    "wandb": ((bool,), False),
    "write_schedule": ((bool,), False),
    "rated_dataset": ((bool,), False),
    "rated_dataset_target_dropout_percent": ((int,), 50),
    "plugins": ((list, None), None),
    "ema_decay_rate": ((float, None), None),
    "ema_strength_target": ((float, None), None),
    "ema_update_interval": ((int, None), 500),
    "ema_device": ((str, None), "cpu"),
    "ema_sample_nonema_model": ((bool, None), False),
    "ema_sample_ema_model": ((bool, None), False),
    "ema_resume_model": ((str, None), None),
}

OPTIMIZER_KEYS: dict[str, Kinds] = {
    "optimizer": ((str, None), None),
    "lr": ((float, None), None),
    "lr_scheduler": ((str, None), None),
    "lr_decay_steps": ((int, None), None),
    "lr_warmup_steps": ((int, None), None),
    "betas": ((list, None), None),
    "epsilon": ((float, None), None),
    "weight_decay": ((float, None), None),
    "d0": ((float, None), None),
    "decouple": ((bool, None), None),
    "momentum": ((float, None), None),
    "growth_rate": ((float, None), None),
    "no_prox": ((bool, None), None),
    "safeguard_warmup": ((bool, None), None),
}

FREEZING_KEYS: dict[str, Kinds] = {
    "unfreeze_last_n_layers": ((int, None), None),
    "freeze_front_n_layers": ((int, None), None),
    "freeze_embeddings": ((bool, None), None),
    "freeze_final_layer_norm": ((bool, None), None),
}

VALIDATION_KEYS: dict[str, Kinds] = {
    "documentation": ((dict, str), None),
    "validate_training": ((bool,), True),
    "val_split_mode": ((str,), "automatic"),
    "auto_split_proportion": ((float,), 0.15),
    "val_split_proportion": ((float,), 0.15),
    "manual_data_root": ((str, None), None),
    "val_data_root": ((str, None), None),
    "extra_manual_datasets": ((dict, None), None),
    "stabilize_training_loss": ((bool,), False),
    "stabilize_split_proportion": ((float,), 0.15),
    "every_n_epochs": ((float,), 1),
    "seed": ((int,), 555),
    "batch_size": ((int, None), None),
    "use_relative_loss": ((bool,), False),
}

OPTIMIZER_TOP_KEYS = {
    "doc": "it is documentation",
    "text_encoder_lr_scale": "EveryDream2 ignores it when there is a base section",
    "apply_grad_scaler_step_tweaks": "bf16 needs no loss scaling, and fp16 scales automatically",
    "log_grad_norm": "gradient norms are always recorded",
}

_DEAD = "it has no effect in EveryDream2 either"
DEAD = {
    key: _DEAD
    for key in (
        "notebook",
        "lowvram",
        "ed1_mode",
        "useadam8bit",
        "scale_lr",
        "amp",
        "text_encoder_lr_scale",
        "hf_repo_subfolder",
        "config",
    )
}
"""Keys of old files that no longer do anything."""

_BY_RUN = "a run takes its name from Fine-tune, and its folder is named after it"
_PAIRS = "this belongs to the pairs: set it in the dataset nodes or in the folder's local.yaml"
ELSEWHERE = {
    "resume_ckpt": "choose the checkpoint to start from in Base",
    "data_root": "the pairs come from Load Dataset",
    "project_name": _BY_RUN,
    "run_name": _BY_RUN,
    "logdir": _BY_RUN,
    "save_ckpt_dir": "checkpoints go to models/checkpoints/cocktail/RUN",
    "shuffle_tags": _PAIRS,
    "keep_tags": _PAIRS,
    "gpuid": "a run uses the first device that it can see",
    "optimizer_config": "give optimizer.json together with this file",
    "train_sampler": "they all train on the same noise schedule",
    "load_settings_every_epoch": "the settings of a run do not change; make another run",
    "save_optimizer": "every resume point contains the state of the optimizers",
    "no_save_ckpt": "checkpoints are always single files",
    "no_prepend_last": "the last checkpoint is named by its epoch like all others",
    "sample_prompts": "prompts come from Sample nodes",
    "validation_config": "give validation.json together with this file",
    "log_step": "every step is recorded",
    "write_schedule": "the seed determines order and batches",
    "rated_dataset": "weight pairs in the dataset nodes",
    "rated_dataset_target_dropout_percent": "weight pairs in the dataset nodes",
    "plugins": "other nodes take the place of plug-ins",
    "ema_sample_nonema_model": "every sample says which weights it was drawn with",
    "ema_sample_ema_model": "every sample says which weights it was drawn with",
    "ema_resume_model": "resume points contain the EMA weights",
    "validation documentation": "it is documentation",
    "validation validate_training": "a run validates on what Split Dataset holds back",
    "validation val_split_mode": "use Split Dataset for a share, Add Validation Set for a folder",
    "validation auto_split_proportion": "set the share in Split Dataset",
    "validation val_split_proportion": "set the share in Split Dataset",
    "validation manual_data_root": "load that folder and link it to Add Validation Set",
    "validation val_data_root": "load that folder and link it to Add Validation Set",
    "validation extra_manual_datasets": "load those folders and link them to Add Validation Set",
    "validation seed": "noise and noise levels are derived from each pair",
    "validation batch_size": "here the loss of a pair does not depend on its batch",
    "validation use_relative_loss": _DEAD,
}
"""What to do instead for keys that are not settings of a run."""
