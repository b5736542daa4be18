"""Where checkpoints stand on grids, and which of them won a vote there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import GridError
from ..store.plan_file import naming
from ..store.store import Store
from .ballot import Ballot
from .verdict import ENDS

MOST_GRIDS = 256
"""So many grids are known without being read again."""


@dataclass(frozen=True)
class Winner:
    """The checkpoint that leads a vote."""

    grid: str
    checkpoint: str
    label: str
    votes: int
    decided: bool
    """Whether the vote is over: it leads, or it has won."""

    def to_json(self) -> dict[str, Any]:
        return {
            "grid": self.grid,
            "name": self.checkpoint,
            "label": self.label,
            "votes": self.votes,
            "decided": self.decided,
        }


def winner_among(grids: Path, checkpoints: Collection[str]) -> Winner | None:
    """Of all grids below `grids` whose vote is led by one of these checkpoints, the winner of one
    whose vote is over, if there is any, and of these of the one with the most votes.
    """
    found = []
    for votes in sorted(grids.glob("[!.]*/votes.jsonl")):
        # A vote of a grid that is gone or damaged has no winner to show.
        try:
            winner = _winner(votes.parent, _state(votes), _state(votes.with_name("plan.json")))
        except (OSError, GridError):
            continue
        if winner is not None and winner.checkpoint in checkpoints:
            found.append(winner)
    return max(found, key=lambda one: (one.decided, one.votes), default=None)


def columns_of(grids: Path, checkpoints: Collection[str]) -> list[dict[str, Any]]:
    """Where these checkpoints are values of an axis: for every such grid its name, how many axes it
    has, the number of this one, and the number of the value by checkpoint.
    """
    found = []
    for plan in sorted(grids.glob("[!.]*/plan.json")):
        try:
            count, axes = _checkpoints(plan.parent, _state(plan))
        except (OSError, GridError):
            continue
        for axis, values in axes:
            columns = {name: at for name, at in values.items() if name in checkpoints}
            if columns:
                name = plan.parent.name
                found.append({"grid": name, "axes": count, "axis": axis, "columns": columns})
    return found


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=MOST_GRIDS)
def _winner(folder: Path, votes: tuple[int, int], plan: tuple[int, int]) -> Winner | None:
    """The leader of a grid's vote on checkpoints, for the states of the files it depends on."""
    ballot = Ballot(Store(folder))
    report = ballot.report()
    leader = ballot.field.candidates[report["leader_number"]]
    checkpoint = leader.set.get("checkpoint")
    if not report["votes"] or not isinstance(checkpoint, str):
        return None
    decided = report["verdict"]["state"] in ENDS
    return Winner(folder.name, checkpoint, leader.label, report["votes"], decided)


@lru_cache(maxsize=MOST_GRIDS)
def _checkpoints(
    folder: Path, plan: tuple[int, int]
) -> tuple[int, tuple[tuple[int, dict[str, int]], ...]]:
    """How many axes a grid has, and those of checkpoints: their number, and the first value of
    each checkpoint.
    """
    head = Store(folder).saved_plan().head
    found = []
    with naming(folder / "plan.json"):
        for number, axis in enumerate(head["axes"]):
            values: dict[str, int] = {}
            for at, value in enumerate(axis["values"]):
                if isinstance(name := value["set"].get("checkpoint"), str):
                    values.setdefault(name, at)
            if values:
                found.append((number, values))
    return len(head["axes"]), tuple(found)
