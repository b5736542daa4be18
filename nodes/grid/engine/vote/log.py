"""votes.jsonl of a grid: a line for every vote and for every one that was taken back, whoever cast
it; and one where a vote begins to be in rounds, or ceases to be.

A vote names the cells that it was cast on, not candidates or places: it stays with its pictures
when the grid is planned again or an axis is renamed. Several processes may append at a time, and
each may be killed while it does.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .....trainer.jobs.lines import Lines
from ..errors import GridError

VOTE, UNDO, IN_ROUNDS = "vote", "undo", "rounds"
PAIR, FOUR = 2, 4
LONGEST_NAME = 60
MOST_VOTES = 100_000
"""That may be asked for."""
KEY = re.compile(r"[0-9a-f]{64}")
ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Vote:
    """What a judge said of pictures that were seen side by side."""

    id: str
    """That of the question: it is answered once."""
    judge: str
    shown: tuple[str, ...]
    """The keys of the cells, from left to right."""
    order: tuple[str, ...]
    """Those that were told apart, the best first; the rest is equal and worse. Of a pair one key
    is a win and none a tie.
    """
    bad: bool
    """Whether all were called bad. In the ranking that is a tie."""
    time: float


@dataclass(frozen=True)
class Votes:
    """The votes that stand, in the order in which they were cast, and what is wrong in the file."""

    standing: tuple[Vote, ...]
    undone: int = 0
    damaged: int = 0
    """Lines that make no sense."""
    cut: bool = False
    """Whether the last line was cut off; it is not read."""
    rounds: Mapping[str, int] = field(default_factory=dict)
    """How many votes all rounds have together, by the target of an axis that is voted on in rounds.
    """

    def problem(self) -> str:
        """A sentence about what could not be read, or ""."""
        lost = self.damaged + self.cut
        if not lost:
            return ""
        lines = "line of votes.jsonl is" if lost == 1 else "lines of votes.jsonl are"
        return f"{lost} {lines} damaged or cut off and left out; all others count."


class VoteLog:
    """The votes of a grid in its folder."""

    def __init__(self, folder: Path) -> None:
        self._lines = Lines(folder / "votes.jsonl", shared=True)

    def read(self) -> Votes:
        """All votes up to now. Raises OSError."""
        read = self._lines.read()
        votes: dict[str, Vote] = {}
        rounds: dict[str, int] = {}
        undone, damaged = 0, read.damaged
        for line in read.lines:
            if line.get("kind") == UNDO and isinstance(line.get("vote"), str):
                vote = votes.get(line["vote"])
                if vote is not None and vote.judge == line.get("judge"):
                    del votes[vote.id]
                    undone += 1
            elif (told := _rounds(line)) is not None:
                rounds[told[0]] = told[1]
            elif (vote := _vote(line)) is not None:
                votes.setdefault(vote.id, vote)
            else:
                damaged += 1
        return Votes(tuple(votes.values()), undone, damaged, self._is_cut(read.next), rounds)

    def add(self, vote: Vote) -> None:
        """Bring a vote to the disk. Raises OSError, and GridError for one that makes no sense."""
        check(vote)
        self._lines.append_first(_line(vote))

    def set_rounds(self, axis: str, votes: int) -> None:
        """The vote on this axis is in rounds that have so many votes together from now on; 0: it is
        not in rounds. Raises OSError.
        """
        self._lines.append_first(
            {"kind": IN_ROUNDS, "axis": axis, "votes": votes, "time": time.time()}
        )

    def undo(self, judge: str, is_meant: Callable[[Vote], bool] = lambda vote: True) -> Vote:
        """Take the last standing vote of a judge that `is_meant` back, and say which it was. Raises
        OSError, and GridError if there is none.
        """
        own = [v for v in self.read().standing if v.judge == judge and is_meant(v)]
        if not own:
            raise GridError(f"{judge} has no vote here that could be taken back.")
        self._lines.append_first(
            {"kind": UNDO, "vote": own[-1].id, "judge": judge, "time": time.time()}
        )
        return own[-1]

    def _is_cut(self, end: int) -> bool:
        try:
            return self._lines.path.stat().st_size > end
        except FileNotFoundError:
            return False


def check(vote: Vote) -> None:
    """Raise GridError for a vote that makes no sense."""
    if _vote(_line(vote)) != vote:
        raise GridError(
            "A vote needs the pictures that were shown, two or four different ones, and of these "
            "the ones that were told apart, the best first; none of them if all are bad."
        )


def _line(vote: Vote) -> dict[str, Any]:
    return {
        "kind": VOTE,
        "id": vote.id,
        "judge": vote.judge,
        "shown": list(vote.shown),
        "order": list(vote.order),
        "bad": vote.bad,
        "time": vote.time,
    }


def judge_name(name: str) -> str:
    """A judge's name without blanks around it. Raises GridError for one that is empty, too long or
    has characters that cannot be seen.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise GridError(
            f"Enter a judge's name of 1 to {LONGEST_NAME} characters in one line: votes of "
            "several judges are kept apart by it."
        )
    return name


def _vote(line: dict[str, Any]) -> Vote | None:
    """The vote that a line holds, None if it does not hold one."""
    shown, order, bad = _keys(line.get("shown")), _keys(line.get("order")), line.get("bad", False)
    id, judge, when = line.get("id"), line.get("judge"), line.get("time")
    if line.get("kind") != VOTE or shown is None or order is None or not isinstance(bad, bool):
        return None
    if not isinstance(id, str) or not ID.fullmatch(id) or not isinstance(judge, str) or not judge:
        return None
    if len(shown) not in (PAIR, FOUR) or not set(order) <= set(shown) or (bad and order):
        return None
    if isinstance(when, bool) or not isinstance(when, int | float):
        return None
    return Vote(id, judge, shown, order[: len(shown) - 1], bad, float(when))


def _rounds(line: dict[str, Any]) -> tuple[str, int] | None:
    """An axis and the votes of all its rounds, None for another line."""
    axis, votes = line.get("axis"), line.get("votes")
    if line.get("kind") != IN_ROUNDS or not isinstance(axis, str):
        return None
    if isinstance(votes, bool) or not isinstance(votes, int) or not 0 <= votes <= MOST_VOTES:
        return None
    return axis, votes


def _keys(value: Any) -> tuple[str, ...] | None:
    """A list of different cell keys, None for anything else."""
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        return None
    if len(set(value)) < len(value) or not all(KEY.fullmatch(key) for key in value):
        return None
    return tuple(value)


def comparable(votes: Sequence[Vote]) -> list[Vote]:
    """The votes without those whose judge has answered the same question again: pictures that a
    judge has seen before count once, by the last answer.
    """
    last: dict[tuple[str, frozenset[str]], Vote] = {}
    for vote in votes:
        last.pop((vote.judge, frozenset(vote.shown)), None)
        last[vote.judge, frozenset(vote.shown)] = vote
    return list(last.values())
