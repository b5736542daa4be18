"""The vote on a grid in its folder: what routes and nodes ask for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from .....merge.card.rounds import MOST_CANDIDATES
from ..errors import GridError
from ..plan.plan import Plan
from ..store.picture import open_picture
from ..store.pixels import pixel_hash
from ..store.store import Store
from . import enough, ranking
from .field import Field, field_of
from .log import ID, PAIR, Vote, VoteLog, Votes, check, comparable, judge_name
from .outcome import outcome
from .questions import (
    ACTIVE,
    METHODS,
    ROUNDS,
    VoteSoFar,
    all_alike,
    comparisons,
    have_same_pictures,
    in_field,
    next_question,
)
from .strengths import Comparison
from .verdict import NOTHING, SURE, Twins

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
    where: str = ""
    """Only the votes on these values of other axes count; see `Field.only`."""

    @cached_property
    def field(self) -> Field:
        """Raises OSError, and GridError if there is nothing to compare."""
        return self._whole.only(self.where)

    @cached_property
    def voted(self) -> Field:
        """The field, which has no more candidates than can be ranked. Raises the same."""
        count = len(self.field.candidates)
        if count > MOST_CANDIDATES:
            raise GridError(
                f"The {self.field.axis} axis has {count:,} values, and {MOST_CANDIDATES} is the "
                "most that can be voted on. Vote on another axis, or on a grid with fewer values."
            )
        return self.field

    @property
    def _whole(self) -> Field:
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
        self, judge: str, count: int, method: str = "", round_votes: int = 0, most_votes: int = 0
    ) -> dict[str, Any]:
        """The next question to a judge, None when there is no more, and how far the vote is. No
        candidate is named: the vote is blind. Without a method it is the one that a Vote node has
        noted. `most_votes` of them end the vote, if it is not 0.
        """
        judge, read = judge_name(judge), self.log.read()
        rounds = self._rounds(read, method, round_votes)
        method = ROUNDS if rounds else ACTIVE
        files = self.store.files()
        state = VoteSoFar(
            self.voted,
            read.standing,
            files,
            self._pixels,
            self._seed,
            method,
            rounds,
            0 if rounds else most_votes,
        )
        asked, found = next_question(state, judge, count)
        told: dict[str, Any] = {
            "question": None,
            "axis": self.field.axis,
            "state": found.state,
            "over": found.ends,
            "text": found.text if asked is None else "",
            "probability": found.best[found.leader],
            **self._counts(read, judge),
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
        read = log.read()
        if any(vote.id == id for vote in read.standing):
            raise Answered("This question has been answered already. Ask for the next one.")
        vote = Vote(id, judge, tuple(shown), _places(shown, order), bad, time.time())
        check(vote)
        if gone := [key for key in shown if not self.store.is_finished(key)]:
            raise GridError(f"There is no picture of the cell {gone[0]} in this grid.")
        # Counted first: once the vote is stored, nothing may say that it is not.
        told = self._counts(replace(read, standing=(*read.standing, vote)), judge)
        log.add(vote)
        return told

    def undo(self, judge: str) -> dict[str, Any]:
        """Take back the last vote of a judge; where an axis is named, of those on it. Raises
        OSError, and GridError if there is none.
        """
        judge = judge_name(judge)
        vote = self.log.undo(judge, self._is_here)
        counts = self._counts(self.log.read(), judge)
        return {"undone": vote.id, "shown": list(vote.shown), **counts}

    def report(
        self, by: Sequence[str] = (), sure: float = SURE, method: str = "", round_votes: int = 0
    ) -> dict[str, Any]:
        """Rankings as `ranking.report` gives them, and what could not be read of the votes."""
        known = [ranking.JUDGE, *self.voted.places[0].labels]
        if unknown := [what for what in by if what not in known]:
            raise GridError(
                f"Votes cannot be ranked by {unknown[0][:100]!r}. Give one of these: "
                f"{', '.join(known)}."
            )
        read = self.log.read()
        rounds = self._rounds(read, method, round_votes)
        alike = self._alike(comparisons(self.field, read.standing))
        found = ranking.report(self.field, read.standing, by, sure, rounds, alike, self._twins)
        return {**found, "undone": read.undone, "problem": read.problem()}

    def progress(self, until: str, votes: int) -> enough.Enough:
        """How far the vote is; see `enough.progress`."""
        made = comparisons(self.voted, self.log.read().standing)
        if self._alike(made):
            return enough.Enough(True, NOTHING)
        labels = [one.label for one in self.field.candidates]
        rounds = votes if until == enough.ROUNDS_OVER else 0
        found = outcome(made, labels, rounds, twins=self._twins).verdict
        return enough.progress(made, found, until, votes)

    def is_over(self, method: str = "", round_votes: int = 0, most_votes: int = 0) -> bool:
        """Whether nobody is asked any more in a vote with these rules."""
        read = self.log.read()
        rounds = self._rounds(read, method, round_votes)
        labels = [one.label for one in self.voted.candidates]
        made = comparisons(self.voted, read.standing)
        most, alike = 0 if rounds else most_votes, self._alike(made)
        return outcome(made, labels, rounds, most, all_alike=alike, twins=self._twins).verdict.ends

    def note(self, until: str, votes: int) -> None:
        """Write down whether the vote is in rounds: who wins depends on it. Raises OSError."""
        rounds = votes if until == enough.ROUNDS_OVER else 0
        if self.log.read().rounds.get(self.field.axis, 0) != rounds:
            self.log.set_rounds(self.field.axis, rounds)

    def _rounds(self, read: Votes, method: str, round_votes: int) -> int:
        """How many votes all rounds have together; a part of a vote has no rounds: 0."""
        if method and method not in METHODS:
            raise GridError(f"There is no method {method[:100]!r}. Give one of {METHODS}.")
        if self.where.strip():
            return 0
        noted = read.rounds.get(self.field.axis, 0)
        if not method:
            return noted
        return (round_votes or noted or ROUND_VOTES) if method == ROUNDS else 0

    def _alike(self, made: Sequence[Comparison]) -> bool:
        """Whether there is nothing to compare; what has been compared did differ."""
        return not made and all_alike(self.field, self.store.files(), self._pixels)

    @property
    def _twins(self) -> Twins:
        return partial(have_same_pictures, self.field, self.store.files(), self._pixels)

    def _is_here(self, vote: Vote) -> bool:
        if not self.axis and not self.where:
            return True
        return self.field.comparison(vote.shown, vote.order) is not None

    def _counts(self, read: Votes, judge: str) -> dict[str, Any]:
        """The votes that count in this field, as the ranking counts them."""
        try:
            here = comparable(in_field(self.field, read.standing))
        except GridError:
            # A vote is on pictures: it is cast without an axis too, where that of the models has
            # nothing to compare.
            here = comparable(read.standing)
        own = sum(vote.judge == judge for vote in here)
        return {"votes": len(here), "own": own, "problem": read.problem()}

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


def _facts(path: Path) -> tuple[str, int, int] | None:
    """Hash of the pixels, width and height of a picture, None if it cannot be read."""
    try:
        file = path.stat()
        return _read_facts(path, file.st_mtime_ns, file.st_size)
    except OSError:
        return None


@lru_cache(maxsize=MOST_PICTURES)
def _read_facts(path: Path, changed: int, size: int) -> tuple[str, int, int]:
    with open_picture(path) as picture:
        width, height = picture.size
    return pixel_hash(path), width, height
