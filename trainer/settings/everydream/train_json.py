"""EveryDream2's train.json."""

from __future__ import annotations

from typing import Any

from ...errors import TrainerError
from .draft import Draft, choice, unknown
from .keys import DEAD, ELSEWHERE, TRAIN_KEYS

LOSSES = {"mse": "mse", "huber": "huber", "mse_huber": "huber to mse", "huber_mse": "mse to huber"}
ATTENTIONS = {"sdp": "sdpa", "xformers": "xformers", "slice": "sliced"}
PLAIN = {
    "resolution": "resolution",
    "batch_size": "batch_size",
    "max_epochs": "epochs",
    "cond_dropout": "conditional_dropout",
    "zero_frequency_noise_ratio": "loss.offset_noise",
    "timestep_start": "loss.timestep_start",
    "timestep_end": "loss.timestep_end",
    "gradient_checkpointing": "compute.gradient_checkpointing",
    "wandb": "logging.wandb",
}
"""Keys of train.json whose values are settings as they stand."""


def read(draft: Draft, given: dict[str, Any]) -> None:
    """train.json."""
    values = {name: default for name, (_, default) in TRAIN_KEYS.items()} | given
    for key in ("grad_accum", "max_epochs"):
        if values[key] < 1:
            raise TrainerError(f"train.json: {key} is {values[key]}; it must be at least 1.")
    draft.put("bucket_table", "EveryDream2")
    draft.put("data", {"accumulate": values["grad_accum"], "crop_jitter": 0.02})
    draft.put("data.crop_variants", 4)
    for key in given:
        if key not in TRAIN_KEYS:
            draft.say(key, given[key], "ignored", unknown(key, tuple(TRAIN_KEYS) + tuple(DEAD)))
        elif key in ELSEWHERE:
            draft.say(key, given[key], "ignored", ELSEWHERE[key])
    for key, name in PLAIN.items():
        draft.keep(key, values[key], name, key in given)
    _numbers(draft, values, given)
    _saving(draft, values, given)
    _switches(draft, values, given)
    _ema(draft, values, given)


def _numbers(draft: Draft, values: dict[str, Any], given: dict[str, Any]) -> None:
    seed = values["seed"]
    if seed < 0:
        draft.translate(
            "seed", seed, "seed", 555, "-1 means a random seed; here runs can be repeated"
        )
    else:
        draft.keep("seed", seed, "seed", "seed" in given)
    skip = values["clip_skip"]
    draft.translate(
        "clip_skip",
        skip,
        "clip_skip",
        min(max(skip, 1), 4),
        "in EveryDream2 0 and 1 both mean the last layer",
    )
    accumulate = values["grad_accum"]
    if accumulate > 1:
        draft.translate(
            "grad_accum",
            accumulate,
            "data.accumulate",
            accumulate,
            "the loss is the mean over the batches here, the sum in EveryDream2",
        )
    elif "grad_accum" in given:
        draft.take("grad_accum", accumulate, "data.accumulate")
    clip = values["clip_grad_norm"]
    if clip is None:
        draft.translate("clip_grad_norm", clip, "gradient_clip", 0.0, "null means no clipping")
    else:
        draft.translate(
            "clip_grad_norm",
            clip,
            "gradient_clip",
            float(clip),
            "for the UNet and the text encoder; EveryDream2 clips only the UNet",
        )
    for key, name in (
        ("min_snr_gamma", "loss.min_snr_gamma"),
        ("pyramid_noise_discount", "loss.pyramid_noise"),
    ):
        if values[key] is not None:
            draft.keep(key, float(values[key]), name, key in given)
        elif key in given:
            draft.translate(key, None, name, 0.0, "null means off")
    _loss(draft, values, given)
    _pictures(draft, values, given)


def _loss(draft: Draft, values: dict[str, Any], given: dict[str, Any]) -> None:
    loss = values["loss_type"]
    kind = choice("train.json", "loss_type", loss, LOSSES)
    if "loss_type" not in given:
        draft.translate(
            "loss_type",
            "mse",
            "loss.kind",
            "mse",
            "not in the file; the loss of all versions of 2023",
        )
    elif loss in ("mse", "huber"):
        draft.take("loss_type", loss, "loss.kind")
    else:
        draft.translate(
            "loss_type",
            loss,
            "loss.kind",
            kind,
            "as EveryDream2 computes it, which is the reverse of what it documents",
        )


def _pictures(draft: Draft, values: dict[str, Any], given: dict[str, Any]) -> None:
    if "flip_p" in given:
        draft.translate(
            "flip_p",
            given["flip_p"],
            "data.flip",
            float(given["flip_p"]),
            "as documented; EveryDream2 of 2025 ignores it",
        )
    if values["embedding_perturbation"]:
        draft.say(
            "embedding_perturbation",
            values["embedding_perturbation"],
            "ignored",
            "Cocktail does not add noise to text embeddings",
        )
    elif "embedding_perturbation" in given:
        draft.say("embedding_perturbation", 0.0, "ignored", "it is off")


def _saving(draft: Draft, values: dict[str, Any], given: dict[str, Any]) -> None:
    epochs, minutes = values["save_every_n_epochs"], values["ckpt_every_n_minutes"]
    if epochs:
        draft.translate(
            "save_every_n_epochs",
            epochs,
            "save_every_epochs",
            epochs,
            "at the end of the epoch, not one step later; the best and the last are also saved",
        )
    else:
        last = values["max_epochs"]
        draft.translate(
            "save_every_n_epochs",
            epochs,
            "save_every_epochs",
            last,
            "only the best and the last",
        )
    if minutes:
        draft.translate(
            "ckpt_every_n_minutes",
            minutes,
            "saving.every_minutes",
            float(minutes),
            "the same minutes",
        )
    elif not epochs:
        draft.translate(
            "ckpt_every_n_minutes",
            minutes,
            "saving.every_minutes",
            20.0,
            "EveryDream2 saves every 20 minutes if neither key is set",
        )
    elif "ckpt_every_n_minutes" in given:
        draft.translate(
            "ckpt_every_n_minutes", minutes, "saving.every_minutes", 0.0, "null means never"
        )
    first = values["save_ckpts_from_n_epochs"]
    if "save_ckpts_from_n_epochs" in given:
        why = (
            "0 means from the start"
            if not first
            else "checkpoints are saved from the start; saving.keep_last removes old ones"
        )
        draft.say("save_ckpts_from_n_epochs", first, "ignored", why)
    full = values["save_full_precision"]
    if full:
        draft.translate("save_full_precision", full, "save_precision", "fp32", "the same")
    elif "save_full_precision" in given:
        draft.translate("save_full_precision", full, "save_precision", "fp16", "the same")


def _switches(draft: Draft, values: dict[str, Any], given: dict[str, Any]) -> None:
    off = values["disable_textenc_training"]
    draft.translate(
        "disable_textenc_training",
        off,
        "train_text_encoder",
        not off,
        "the same; here this saves its time and memory",
    )
    if "disable_unet_training" in given:
        off = given["disable_unet_training"]
        draft.translate("disable_unet_training", off, "layers.train_unet", not off, "the same")
    if values["disable_amp"]:
        draft.translate("disable_amp", True, "precision", "fp32", "the same")
    else:
        draft.translate(
            "disable_amp",
            False,
            "precision",
            "bf16",
            "EveryDream2 uses fp16; bf16 needs no loss scaling. On NVIDIA GPUs older than "
            "2020 choose fp16",
        )
    attention = values["attn_type"]
    if "attn_type" in given:
        to = choice("train.json", "attn_type", attention, ATTENTIONS)
        draft.translate("attn_type", attention, "compute.attention", to, "the same")
    if "disable_xformers" in given:
        draft.translate(
            "disable_xformers",
            given["disable_xformers"],
            "compute.attention",
            draft.settings.get("compute", {}).get("attention", "sdpa"),
            "the kind of attention changes the speed, not the results",
        )
    steps = max(0, values["sample_steps"])
    why = "counted in optimizer steps instead of batches; the prompts come from Sample nodes"
    draft.translate(
        "sample_steps", steps, "samples.every_steps", draft.steps(steps) if steps else 0, why
    )
    if values["enable_zero_terminal_snr"]:
        draft.say(
            "enable_zero_terminal_snr",
            True,
            "ignored",
            "it only makes sense with v-prediction: set loss.prediction and "
            "loss.zero_terminal_snr together",
        )
    elif "enable_zero_terminal_snr" in given:
        draft.say(
            "enable_zero_terminal_snr",
            given["enable_zero_terminal_snr"],
            "ignored",
            "it is off",
        )


def _ema(draft: Draft, values: dict[str, Any], given: dict[str, Any]) -> None:
    decay, strength = values["ema_decay_rate"], values["ema_strength_target"]
    interval = values["ema_update_interval"] or 500
    if strength is not None and not 0.0 < strength < 1.0:
        raise TrainerError(
            f"train.json: ema_strength_target is {strength}; it must be between 0 and 1."
        )
    if strength is not None and draft.steps_per_epoch:
        accumulate = draft.settings["data"]["accumulate"]
        batches = draft.steps_per_epoch * values["max_epochs"]
        updates = max(1, batches // (interval * accumulate))
        decay = strength ** (1 / updates)
        draft.translate(
            "ema_strength_target",
            strength,
            "ema.decay",
            min(decay, 0.999999),
            f"for {updates} updates in the run",
        )
    elif strength is not None:
        draft.say(
            "ema_strength_target",
            strength,
            "ignored",
            "this needs the number of batches in an epoch: give steps_per_epoch, or set ema.decay",
        )
    elif "ema_strength_target" in given:
        draft.say("ema_strength_target", None, "ignored", "it is off")
    if strength is None and decay is not None:
        draft.translate(
            "ema_decay_rate",
            decay,
            "ema.decay",
            float(decay),
            "the same, except that the decay warms up",
        )
    elif "ema_decay_rate" in given:
        why = "ema_strength_target decides" if strength is not None else "it is off"
        draft.say("ema_decay_rate", given["ema_decay_rate"], "ignored", why)
    on = draft.settings.get("ema", {}).get("decay")
    if on:
        draft.translate(
            "ema_update_interval",
            values["ema_update_interval"],
            "ema.every_steps",
            interval,
            "in optimizer steps; null crashes EveryDream2, 500 is its default",
        )
        device = "cpu" if (values["ema_device"] or "cpu") == "cpu" else "as the weights"
        draft.translate("ema_device", values["ema_device"], "ema.device", device, "the same")
    for key in ("ema_update_interval", "ema_device"):
        if key in given and not on:
            draft.say(key, given[key], "ignored", "without a decay there is no EMA")
