"""EveryDream2's validation.json."""

from __future__ import annotations

from typing import Any

from ...errors import TrainerError
from .draft import Draft, unknown
from .keys import ELSEWHERE, VALIDATION_KEYS


def read(draft: Draft, values: dict[str, Any]) -> None:
    """validation.json."""
    draft.file = "validation.json"
    for key, value in values.items():
        if key not in VALIDATION_KEYS:
            draft.say(key, value, "ignored", unknown(key, tuple(VALIDATION_KEYS)))
    every = values.get("every_n_epochs", 1)
    if every <= 0:
        raise TrainerError(f"validation.json: every_n_epochs is {every}; it must be above 0.")
    if every >= 1:
        draft.put("validation.every_epochs", round(every))
        told = f"validation.every_epochs = {round(every)}"
    elif draft.steps_per_epoch:
        steps = draft.steps(draft.steps_per_epoch * every)
        draft.put("validation.every_epochs", 1)
        draft.put("validation.every_steps", steps)
        told = f"validation.every_steps = {steps}"
    else:
        draft.put("validation.every_epochs", 1)
        told = "after every epoch; more often needs steps_per_epoch, or set validation.every_steps"
    share = float(values.get("stabilize_split_proportion", 0.15))
    stabilised = values.get("stabilize_training_loss", False)
    draft.put("validation.train_share", share if stabilised else 0.0)
    told_of = {
        "every_n_epochs": told,
        "stabilize_training_loss": f"validation.train_share = {share if stabilised else 0.0}",
        "stabilize_split_proportion": "validation.train_share"
        if stabilised
        else "stabilize_training_loss is off",
    }
    for key, value in values.items():
        if key in told_of:
            draft.say(key, value, "translated", told_of[key])
        elif key in VALIDATION_KEYS:
            draft.say(
                key,
                "..." if isinstance(value, dict) and value else value,
                "ignored",
                ELSEWHERE[f"validation {key}"],
            )
