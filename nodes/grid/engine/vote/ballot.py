"""The vote on a grid in its folder: what routes and nodes ask for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ..errors import GridError
from ..plan.plan import Plan
from ..store.cell_file import FORMATS
from ..store.pixels import pixel_hash
from ..store.store import Store
from . import enough, ranking
from .field import Field, field_of
from .log import ID, PAIR, Vote, VoteLog, Votes, check, judge_name
from .questions import ACTIVE, METHODS, State, comparisons, next_question
from .verdict import SURE

MOST_PICTURES = 50_000
"""So many pictures are known by their pixels at a time."""
ROUND_VOTES = 480
"""In all rounds together, if nothing else is asked for: half an hour."""


class Answered(GridError):
    """The question has an answer already, such as from another tab."""


@dataclass(frozen=True)
class Ballot:
    """The vote on the values of one axis of a grid; that of the models if `axis` is ""."""

    store: Store
    axis: str = ""
    plan: Plan | None = None
    """The plan to take the values from; without it, the one that was rendered last."""

    @cached_property
    def field(self) -> Field:
        """Raises OSError, and GridError if there is nothing to compare."""
        if self.plan is not None:
            cells = self.plan.cells
            axes = [axis.to_json() for axis in self.plan.axes]
            return field_of(axes, [c.position for c in cells], [c.key for c in cells], self.axis)
        plan = self.store.saved_plan()
        return field_of(plan.head["axes"], plan.positions(), plan.keys, self.axis)

    @property
    def log(self) -> VoteLog:
        return VoteLog(self.store.folder)

    def question(
        self, judge: str, count: int, method: str = ACTIVE, round_votes: int = ROUND_VOTES
    ) -> dict[str, Any]:
        """The next question to a judge, None when there is no more, and how far the vote is. No
        candidate is named: the vote is blind.
        """
        if method not in METHODS:
            raise GridError(f"There is no method {method[:100]!r}. Give one of {METHODS}.")
        judge, read = judge_name(judge), self.log.read()
        files = self.store.files()
        state = State(
            self.field, read.standing, files, self._pixels, self._seed, method, round_votes
        )
        asked, found = next_question(state, judge, count)
        told: dict[str, Any] = {
            "question": None,
            "axis": self.field.axis,
            "state": found.state,
            "text": found.text if asked is None else "",
            "probability": max(found.best),
            **_counts(read, judge),
        }
        if asked is not None:
            told["question"] = {
                "id": asked.id,
                "shown": [self._shown(key, files[key]) for key in asked.shown],
                "place": dict(self.field.places[asked.place].labels),
            }
        return told

    def cast(
        self, judge: str, id: str, shown: Sequence[str], order: Sequence[str], bad: bool
    ) -> dict[str, Any]:
        """Bring a vote to the disk. Raises Answered, OSError, and GridError if it makes no sense
        or is on pictures that are not there.
        """
        judge, log = judge_name(judge), self.log
        if not ID.fullmatch(id):
            raise GridError("The question must be the id that came with the pictures.")
        if any(vote.id == id for vote in log.read().standing):
            raise Answered("This question has been answered already. Ask for the next one.")
        vote = Vote(id, judge, tuple(shown), _places(shown, order), bad, time.time())
        check(vote)
        if gone := [key for key in shown if not self.store.is_finished(key)]:
            raise GridError(f"There is no picture of the cell {gone[0]} in this grid.")
        log.add(vote)
        return _counts(log.read(), judge)

    def undo(self, judge: str) -> dict[str, Any]:
        """Take back the last vote of a judge. Raises OSError, and GridError if there is none."""
        judge = judge_name(judge)
        vote = self.log.undo(judge)
        return {"undone": vote.id, "shown": list(vote.shown), **_counts(self.log.read(), judge)}

    def report(self, by: Sequence[str] = (), sure: float = SURE) -> dict[str, Any]:
        """Rankings as `ranking.report` gives them, and what could not be read of the votes."""
        known = [ranking.JUDGE, *self.field.places[0].labels]
        if unknown := [what for what in by if what not in known]:
            raise GridError(
                f"Votes cannot be ranked by {unknown[0][:100]!r}. Give one of these: "
                f"{', '.join(known)}."
            )
        read = self.log.read()
        found = ranking.report(self.field, read.standing, by, sure)
        return {**found, "undone": read.undone, "problem": read.problem()}

    def progress(self, until: str, votes: int) -> enough.Enough:
        """How far the vote is; see `enough.progress`."""
        made = comparisons(self.field, self.log.read().standing)
        labels = [one.label for one in self.field.candidates]
        found = ranking.rank(made, labels).verdict
        return enough.progress(made, found.best, found.state, until, votes)

    @property
    def _seed(self) -> int:
        return int.from_bytes(self.store.folder.name.encode("utf-8"), "big")

    def _pixels(self, key: str) -> str | None:
        facts = _facts(self.store.cell_path(key))
        return None if facts is None else facts[0]

    def _shown(self, key: str, file: str) -> dict[str, Any]:
        facts = _facts(self.store.folder / file)
        assert facts is not None
        return {"key": key, "file": file, "width": facts[1], "height": facts[2]}


def _places(shown: Sequence[str], order: Sequence[str]) -> tuple[str, ...]:
    """The pictures that were told apart: of a ranking the last one is told by the others. Raises
    GridError for two winners of a pair.
    """
    if len(shown) == PAIR and len(order) > 1:
        raise GridError("Of a pair at most one picture is better: give it alone as the order.")
    return tuple(order)[: max(1, len(shown) - 1)]


def _counts(read: Votes, judge: str) -> dict[str, Any]:
    own = sum(vote.judge == judge for vote in read.standing)
    return {"votes": len(read.standing), "own": own, "problem": read.problem()}


def _facts(path: Path) -> tuple[str, int, int] | None:
    """Hash of the pixels, width and height of a picture, None if it cannot be read."""
    try:
        file = path.stat()
        return _read_facts(path, file.st_mtime_ns, file.st_size)
    except OSError:
        return None


@lru_cache(maxsize=MOST_PICTURES)
def _read_facts(path: Path, changed: int, size: int) -> tuple[str, int, int]:
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
        return pixel_hash(path), width, height
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name} cannot be read: {error}") from error
