"""A card for programs: what it says as JSON, and the hash of everything that it speaks of."""

from __future__ import annotations

from typing import Any

from .. import licence
from ..recipe_json import to_json
from .card import Card, Ranked
from .licences import given
from .links import links_of
from .words import triggers, verdict

FORMAT = 1
KIND = "cocktail release card"


def record_of(card: Card) -> dict[str, Any]:
    """The record of a card. Nothing of this machine is in it: no path, no time."""
    model = card.lineage.released
    assert model.hashes is not None
    by_hand = given(card.lineage, card.wishes.licences)
    return {
        "kind": KIND,
        "format": FORMAT,
        "title": card.title,
        "verdict": verdict(card),
        "checkpoint": {
            "name": card.name,
            "family": card.family.name,
            "size_bytes": model.hashes.size_bytes,
            "sha256": model.hashes.sha256,
            "autov1": card.legacy,
            "autov2": model.hashes.autov2,
            "autov3": model.hashes.autov3,
            "licence": licence.to_json(card.licence),
            "trigger_words": triggers(card),
            "recipe": to_json(model.recipe) if model.recipe is not None else None,
        },
        "warnings": list(card.warnings),
        "models": [
            {
                "name": one.name,
                "sha256": one.hashes.sha256 if one.hashes else None,
                "licence": licence.to_json(by_hand.get(one.key) or one.licence),
                "made_of": [{"model": key, "share": share} for key, share in one.made_of],
                "run": one.run or None,
                "epoch": one.note.epoch if one.note else None,
                "problem": one.problem or None,
            }
            for one in card.lineage.models.values()
        ],
        "runs": [
            {"name": run.name, "id": run.id, "dataset": dict(run.dataset), "best": run.losses.best}
            for run in card.runs
        ],
        "votes": [_votes(card, one) for one in card.ranked],
        "pictures": [
            {"file": one.file, "sha256": one.sha256, "grid": one.grid, "cell": one.key}
            for one in card.pictures
        ],
        "not_recorded": list(card.problems),
        "links": [link.to_json() for link in links_of(card)],
    }


def _votes(card: Card, one: Ranked) -> dict[str, Any]:
    return {
        "grid": one.grid.name,
        "votes": one.counted,
        "judges": one.judges,
        "this": card.number_in(one),
        "ranking": [
            {
                "candidate": rank.number,
                "label": one.field.candidates[rank.number].label,
                "strength": round(rank.strength, 6),
                "low": round(rank.low, 6),
                "high": round(rank.high, 6),
                "wins": round(rank.wins, 6),
                "votes": rank.votes,
            }
            for rank in one.ranks
        ],
    }
