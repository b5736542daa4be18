"""What of a card can be checked again: files with their hashes, named below the folders that a
person gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .card import Card

MODELS, RUNS, GRIDS, CARD = ("models", "runs", "grids", "card")
"""The folders that files are below; CARD is the card's own."""
WHOLE, BEGINNING, SETTINGS = ("whole file", "beginning", "settings of a run")
"""What a hash is of: a file; the first bytes of one that grows; what decides a run's weights."""


@dataclass(frozen=True)
class Link:
    """A file that a card speaks of: what it is, and its hash when the card was made."""

    what: str
    name: str
    under: str
    file: str
    kind: str
    sha256: str
    size_bytes: int = 0
    """Of the BEGINNING, or of a checkpoint; 0 if it is not known."""

    def to_json(self) -> dict[str, Any]:
        found = {name: value for name, value in vars(self).items() if value not in (0, "")}
        return found


def links_of(card: Card) -> list[Link]:
    """Everything that can be checked, the released checkpoint first, each once."""
    return list(dict.fromkeys(_links(card)))


def _links(card: Card) -> Iterator[Link]:
    models = list(card.lineage.models.values())
    bases = {model.base for model in models}
    for number, model in enumerate(models):
        if model.hashes is not None:
            what = "ingredient" if number else "checkpoint"
            what = "base" if model.key in bases else what
            file, hashes = _slashes(model.name), model.hashes
            yield Link(what, model.name, MODELS, file, WHOLE, hashes.sha256, hashes.size_bytes)
    for run in card.runs:
        yield Link(
            "settings", run.name, RUNS, f"{run.name}/run.json", SETTINGS, run.settings_sha256
        )
        if run.facts is not None:
            file = f"{run.name}/dataset.parquet"
            yield Link("dataset", run.facts.name, RUNS, file, WHOLE, run.facts.sha256)
    for one in card.ranked:
        file, votes = f"{one.grid.name}/votes.jsonl", one.votes
        yield Link("votes", one.grid.name, GRIDS, file, BEGINNING, votes.sha256, votes.size_bytes)
    shown = {one.grid for one in card.pictures} | {one.grid.name for one in card.ranked}
    for grid in card.grids:
        if grid.name in shown:
            yield Link("plan", grid.name, GRIDS, f"{grid.name}/plan.json", WHOLE, grid.sha256)
    for one in card.pictures:
        yield Link("picture", one.file, GRIDS, one.source, WHOLE, one.original)


def _slashes(name: str) -> str:
    return name.replace("\\", "/")
