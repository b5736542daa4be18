"""EveryDream2's optimizer.json, with what train.json says of learning rate and schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import TrainerError, nearest
from ..group import check_type
from .draft import Draft, checked, choice, unknown
from .keys import FREEZING_KEYS, OPTIMIZER_KEYS, OPTIMIZER_TOP_KEYS

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw 8 bit",
    "lion": "lion",
    "lion8bit": "lion",
    "prodigy": "prodigy",
    "dadapt_adam": "d-adapt adam",
    "dadapt_adan": "d-adapt adan",
    "dadapt_lion": "d-adapt lion",
    "dadapt_sgd": "d-adapt sgd",
}
SCHEDULES = {
    "constant": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "polynomial": "polynomial",
}
END_SHARES = {"constant": 0.0, "linear": 0.34, "cosine": 0.26, "polynomial": 0.34}
"""What is left of the rate at the end of a run when EveryDream2 stretches the schedule to 1.5 times
the run.
"""


INHERITED = (
    "optimizer",
    "lr",
    "lr_scheduler",
    "lr_decay_steps",
    "lr_warmup_steps",
    "betas",
    "epsilon",
    "weight_decay",
)
"""What the text encoder takes over from the base. The rest is the UNet's alone."""


def read(draft: Draft, given: dict[str, Any], train: dict[str, Any]) -> None:
    """Both optimizers. Files of early 2023 are flat: they have the keys of the base at the top."""
    flat = "base" not in given and any(key in given for key in OPTIMIZER_KEYS)
    prefix = "" if flat else "base."
    base = (
        {key: value for key, value in given.items() if key in OPTIMIZER_KEYS}
        if flat
        else _object(given, "base")
    )
    overrides = _object(given, "text_encoder_overrides")
    checked("optimizer.json", base, OPTIMIZER_KEYS, prefix)
    checked("optimizer.json", overrides, OPTIMIZER_KEYS, "text_encoder_overrides.")
    _report_unused(draft, given, base if flat else {})
    for path, part in ((prefix, base), ("text_encoder_overrides.", overrides)):
        for key in part:
            if key not in OPTIMIZER_KEYS:
                draft.say(path + key, part[key], "ignored", unknown(key, tuple(OPTIMIZER_KEYS)))
    inherited = {key: base.get(key) for key in INHERITED}
    for key in ("lr", "lr_scheduler", "lr_decay_steps", "lr_warmup_steps"):
        if train.get(key) is not None and (key == "lr" or not inherited[key]):
            inherited[key] = train[key]
    unet = inherited | {key: value for key, value in base.items() if key not in inherited}
    _part(draft, "unet_optimizer", "learning_rate", prefix, unet, base)
    own = {key: value for key, value in overrides.items() if value is not None}
    if train.get("lr") is not None:
        own["lr"] = train["lr"]
    _part(
        draft,
        "text_encoder_optimizer",
        "text_encoder_learning_rate",
        "text_encoder_overrides.",
        inherited | own,
        overrides,
    )
    _lr_keys(draft, train)
    _rate_scale(draft, given, flat)
    freezing = _object(given, "text_encoder_freezing")
    _freezing(draft, checked("optimizer.json", freezing, FREEZING_KEYS, "text_encoder_freezing."))


def _report_unused(draft: Draft, given: dict[str, Any], flat: dict[str, Any]) -> None:
    """A line for each key at the top that is no setting."""
    used = ("base", "text_encoder_overrides", "text_encoder_freezing", "text_encoder_lr_scale")
    for key, value in given.items():
        if key not in used and key not in flat:
            why = OPTIMIZER_TOP_KEYS.get(key) or unknown(key, tuple(OPTIMIZER_TOP_KEYS))
            draft.say(key, "..." if isinstance(value, dict) else value, "ignored", why)


def _rate_scale(draft: Draft, given: dict[str, Any], flat: bool) -> None:
    key = "text_encoder_lr_scale"
    scale = given.get(key)
    if scale is not None and flat:
        check_type(f"optimizer.json: {key}", scale, (float,))
        draft.take(key, float(scale), "layers.text_encoder_rate_scale")
    elif key in given:
        draft.say(key, scale, "ignored", OPTIMIZER_TOP_KEYS[key])


def _part(
    draft: Draft, part: str, rate: str, prefix: str, values: dict[str, Any], given: dict[str, Any]
) -> None:
    """One part's optimizer. `values` is what counts for it, `given` what its own object says."""

    def note(key: str, fate: str, text: str) -> None:
        if key in given:
            draft.say(prefix + key, given[key], fate, text)

    name = (values.get("optimizer") or "adamw8bit").lower()
    if name not in OPTIMIZERS:
        raise TrainerError(
            f"optimizer.json: {prefix}optimizer is {name!r}, which is not known here."
            f"{nearest(name, OPTIMIZERS)} There are: {', '.join(OPTIMIZERS)}."
        )
    draft.put(f"{part}.optimizer", OPTIMIZERS[name])
    remarks = {
        "dadapt_adan": "; EveryDream2 silently uses AdamW 8 bit instead",
        "lion8bit": "; its state is kept in fp32",
    }
    note(
        "optimizer",
        "translated",
        f"{part}.optimizer = {OPTIMIZERS[name]!r}{remarks.get(name, '')}",
    )
    draft.put(rate, float(values["lr"]) if values.get("lr") is not None else 1e-6)
    note(
        "lr",
        "taken" if values.get("lr") is not None else "translated",
        f"as {rate} = {draft.settings[rate]:g}",
    )
    _numbers(draft, part, prefix, values, note)
    _schedule(draft, part, prefix, values, given)


def _numbers(
    draft: Draft,
    part: str,
    prefix: str,
    values: dict[str, Any],
    note: Callable[[str, str, str], None],
) -> None:
    """Betas, step sizes and switches of one part's optimizer."""
    betas = values.get("betas") or [0.9, 0.999]
    if len(betas) != 2 or any(type(beta) not in (int, float) for beta in betas):
        raise TrainerError(f"optimizer.json: {prefix}betas is {betas!r}; it must be two numbers.")
    draft.put(f"{part}.beta1", float(betas[0]))
    draft.put(f"{part}.beta2", float(betas[1]))
    note("betas", "translated", f"{part}.beta1 and beta2")
    for key, default in (
        ("epsilon", 1e-8),
        ("weight_decay", 0.01),
        ("d0", 1e-6),
        ("momentum", 0.0),
    ):
        value = values.get(key)
        draft.put(f"{part}.{key}", float(default if value is None else value))
        note(key, "taken", f"as {part}.{key} = {draft.settings[part][key]:g}")
    growth = values.get("growth_rate")
    limited = growth is not None and growth != float("inf")
    draft.put(f"{part}.growth_rate", float(growth) if limited and growth is not None else 0.0)
    note(
        "growth_rate",
        "translated",
        f"{part}.growth_rate = {draft.settings[part]['growth_rate']:g}; 0 is no limit",
    )
    for key in ("decouple", "safeguard_warmup"):
        value = values.get(key)
        draft.put(f"{part}.{key}", True if value is None else value)
        note(key, "taken", f"as {part}.{key}")
    note("no_prox", "ignored", "it belongs to an optimizer that EveryDream2 cannot choose")


def _schedule(
    draft: Draft, part: str, prefix: str, values: dict[str, Any], given: dict[str, Any]
) -> None:
    schedule = choice(
        "optimizer.json",
        f"{prefix}lr_scheduler",
        values.get("lr_scheduler") or "constant",
        SCHEDULES,
    )
    draft.put(f"{part}.schedule", schedule)
    decay, warmup = values.get("lr_decay_steps") or 0, values.get("lr_warmup_steps")
    told = ""
    batches = draft.steps_per_epoch * draft.settings["epochs"]
    if schedule == "constant":
        draft.put(f"{part}.decay_steps", 0)
        draft.put(f"{part}.warmup_steps", 0)
        told = "a constant rate has neither warm-up nor decay"
    elif decay or batches:
        decay = decay if decay >= 1 else int(batches * 1.5)
        warmup = warmup or int(decay / 50)
        draft.put(f"{part}.decay_steps", draft.steps(decay))
        draft.put(f"{part}.warmup_steps", draft.steps(warmup) if warmup else 0)
        told = (
            f"in optimizer steps: {draft.settings[part]['warmup_steps']} of warm-up, "
            f"{draft.settings[part]['decay_steps']} to the end of the schedule"
        )
    else:
        draft.put(f"{part}.end_share", END_SHARES[schedule])
        draft.put(f"{part}.warmup_steps", draft.steps(warmup) if warmup else 0)
        told = (
            "EveryDream2 stretches the schedule to 1.5 times the length of the run, so "
            f"{END_SHARES[schedule]:.0%} of the rate is left when the run ends: {part}.end_share. "
        )
        told += "For its warm-up of 3 % of the run, give steps_per_epoch" if not warmup else ""
    for key in ("lr_scheduler", "lr_decay_steps", "lr_warmup_steps"):
        if key in given:
            what = f"{part}.schedule = {schedule!r}" if key == "lr_scheduler" else told
            draft.say(prefix + key, given[key], "translated", what)


def _lr_keys(draft: Draft, train: dict[str, Any]) -> None:
    """The keys of train.json that optimizer.json's stand beside."""
    draft.file = "train.json"
    for key in ("lr", "lr_scheduler", "lr_decay_steps", "lr_warmup_steps"):
        if key not in train:
            continue
        if key == "lr" and train[key] is not None:
            draft.say(
                key,
                train[key],
                "translated",
                "learning_rate and text_encoder_learning_rate; it overrides optimizer.json",
            )
        elif train[key] in (None, 0):
            draft.say(key, train[key], "ignored", "optimizer.json decides")
        else:
            draft.say(key, train[key], "translated", "used where optimizer.json has no value")
    draft.file = "optimizer.json"


def _freezing(draft: Draft, values: dict[str, Any]) -> None:
    last, front = values.get("unfreeze_last_n_layers"), values.get("freeze_front_n_layers")
    if front is not None and "unfreeze_last_n_layers" not in values:
        last = -front if front < 0 else 12 - front
    if last is not None and last < 1:
        raise TrainerError(
            f"optimizer.json: text_encoder_freezing leaves {last} layers to train; "
            "it must be 1 to 12."
        )
    some = last is not None and last < 12
    draft.put("layers.text_encoder_last_layers", last if some else 0)
    frozen = values.get("freeze_embeddings")
    draft.put("layers.freeze_embeddings", some if frozen is None else frozen)
    draft.put("layers.freeze_final_norm", bool(values.get("freeze_final_layer_norm")))
    told = {
        "unfreeze_last_n_layers": f"layers.text_encoder_last_layers = {last if some else 0}, "
        f"layers.freeze_embeddings = {draft.settings['layers']['freeze_embeddings']}",
        "freeze_front_n_layers": f"layers.text_encoder_last_layers = {last if some else 0}",
        "freeze_embeddings": "layers.freeze_embeddings",
        "freeze_final_layer_norm": "layers.freeze_final_norm",
    }
    for key, value in values.items():
        fate = "translated" if key in told else "ignored"
        draft.say(
            f"text_encoder_freezing.{key}",
            value,
            fate,
            told.get(key) or unknown(key, tuple(told)),
        )


def _object(values: dict[str, Any], key: str) -> dict[str, Any]:
    check_type(f"optimizer.json: {key}", values.get(key), (dict, None))
    return values.get(key) or {}
