"""Sentences and names that several parts of a card say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .card import Card, Ranked
from .graph import cut, plain
from .lineage import Model
from .loss_chart import spoken
from .reading import text

UNKNOWN = "not recorded"
SETTINGS = ("seed", "steps", "cfg", "sampler", "scheduler", "clip_skip", "denoise", "vae")
"""Of a picture, in the order in which they are told."""


def verdict(card: Card) -> str:
    """Why this checkpoint was released, in one or two sentences."""
    vote, number = card.final, None if card.final is None else card.number_in(card.final)
    if vote is not None and number is not None:
        return _vote_words(vote, number, card.rival)
    model = card.lineage.released
    run = card.lineage.runs.get(model.run)
    if run is not None and run.losses.best is not None:
        return f"Trained: {epoch_words(model)} of the run {plain(run.name)}. {spoken(run.losses)}"
    if model.run:
        return (
            f"Trained: {epoch_words(model)} of the run {plain(model.run)}. No votes are recorded."
        )
    made = f"A mix of {len(model.made_of)} checkpoints. " if model.made_of else ""
    return f"{made}How it was chosen is not recorded: no votes were found."


def _vote_words(vote: Ranked, number: int, rival: int | None) -> str:
    place, of = vote.place_of(number), len(vote.ranks)
    stands = f"Place {place} of {of}" if place > 1 else f"First of {of}"
    how = ", by rounds with" if vote.in_rounds else " in"
    told = f"{stands}{how} {vote.cast} on the grid {plain(vote.grid.name)}."
    if rival is None:
        return told
    gap, low, high = vote.strengths.ahead(number, rival)
    share, least, most = (100 / (1 + math.exp(-one)) for one in (gap, low, high))
    other = cut(vote.field.candidates[rival].label, 60)
    against = f"Against {other} it would win {share:.0f} of 100 decided votes"
    if least <= 50 <= most:
        return (
            f"{told} {against} (95 % interval {least:.0f} to {most:.0f}), so the votes do not tell "
            "them apart."
        )
    return f"{told} {against} (95 % interval {least:.0f} to {most:.0f})."


def epoch_words(model: Model) -> str:
    """Which checkpoint of its run a model is."""
    note = model.note
    if note is None or note.epoch is None:
        return "a checkpoint"
    return f"epoch {note.epoch}" + (" (EMA)" if note.ema else "")


def triggers(card: Card) -> str:
    """The words that the checkpoint was taught to answer to."""
    said = card.wishes.trigger_words or text(
        card.lineage.released.metadata.get("modelspec.trigger_phrase"), 500
    )
    return ", ".join(filter(None, (plain(word) for word in said.replace("\n", ",").split(","))))


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(cut(name, 60) for name in names[:most]) + more


def settings_words(settings: Mapping[str, Any]) -> str:
    """How a picture was made, in one line."""
    told = []
    if isinstance(settings.get("width"), int) and isinstance(settings.get("height"), int):
        told.append(f"{settings['width']} x {settings['height']}")
    for name in SETTINGS:
        if name in settings and settings[name] not in ("", None):
            told.append(f"{name.replace('_', ' ')} {plain(str(settings[name])[:80])}")
    negative = text(settings.get("negative_prompt"), 300)
    if negative.strip():
        told.append(f"negative prompt: {plain(negative)}")
    if settings.get("loras"):
        told.append(f"with LoRAs {plain(str(settings['loras'])[:200])}")
    if "prompt" not in settings and not told:
        told = [
            f"{plain(str(k)[:60])} {plain(str(v)[:80])}" for k, v in list(settings.items())[:12]
        ]
    return ", ".join(told)


def size_words(size_bytes: int) -> str:
    """The size of a file."""
    if size_bytes < 1e6:
        return f"{size_bytes / 1e3:,.0f} KB"
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:,.2f} GB"


def setting_words(value: Any) -> str:
    """The value of a setting."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(str(value)[:300])
