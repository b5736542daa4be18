"""What the votes on a grid say: who stands where, and on which pictures it was decided."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .grids import Field
from .reading import LARGEST_LINES, Lines
from .rounds import Standing, ordered, standing
from .strengths import Comparison, Strengths, strengths

KEY = re.compile(r"[0-9a-f]{64}")
ID = re.compile(r"[0-9a-f]{32}")
MOST_VOTES = 1_000_000
MOST_ROUND_VOTES = 100_000


@dataclass(frozen=True)
class Vote:
    """The cells that were `shown`, and the `order` of those told apart, the best first."""

    judge: str
    shown: tuple[str, ...]
    order: tuple[str, ...]


@dataclass(frozen=True)
class Votes:
    """The votes that stand, a judge's last one on the same pictures, and what identifies them."""

    standing: tuple[Vote, ...]
    problem: str
    size_bytes: int
    sha256: str
    """Of the first `size_bytes` of the file: votes that come later do not change it."""
    rounds: Mapping[str, int] = field(default_factory=dict)
    """How many votes all rounds have together, by the target of an axis that is voted on in rounds.
    """


@dataclass(frozen=True)
class Rank:
    """How a candidate did. `strength` is in logits relative to the mean of all, with the ends of
    its 95 % interval; `wins` is the share of pictures beside it that it beat, equal ones counted as
    half.
    """

    number: int
    strength: float
    low: float
    high: float
    votes: int
    wins: float


@dataclass(frozen=True)
class Decisive:
    """Two pictures of the same place, and how the votes on them went."""

    place: int
    won: int
    lost: int
    ties: int


def read_votes(path: Path, most_bytes: int = LARGEST_LINES) -> Votes:
    """The votes in a grid's votes.jsonl; none if there is no such file. Raises Unreadable."""
    lines = Lines(path, most_bytes)
    votes: dict[str, Vote] = {}
    rounds: dict[str, int] = {}
    senseless = 0
    for line in lines:
        if line.get("kind") == "undo":
            undone = votes.get(str(line.get("vote")))
            if undone is not None and undone.judge == line.get("judge"):
                del votes[str(line["vote"])]
        elif (told := _rounds(line)) is not None:
            rounds[told[0]] = told[1]
        elif (found := _vote(line)) is not None and len(votes) < MOST_VOTES:
            votes.setdefault(line["id"], found)
        else:
            senseless += 1
    lines.damaged += senseless
    last: dict[tuple[str, frozenset[str]], Vote] = {}
    for vote in votes.values():
        last.pop((vote.judge, frozenset(vote.shown)), None)
        last[vote.judge, frozenset(vote.shown)] = vote
    digest = lines.digest.hexdigest()
    return Votes(tuple(last.values()), lines.problem(), lines.read_bytes, digest, rounds)


def _rounds(line: dict[str, Any]) -> tuple[str, int] | None:
    axis, votes = line.get("axis"), line.get("votes")
    if line.get("kind") != "rounds" or not isinstance(axis, str):
        return None
    return (axis, votes) if type(votes) is int and 0 <= votes <= MOST_ROUND_VOTES else None


def _vote(line: dict[str, Any]) -> Vote | None:
    shown, order, judge = _keys(line.get("shown")), _keys(line.get("order")), line.get("judge")
    id, bad = line.get("id"), line.get("bad", False)
    if line.get("kind") != "vote" or shown is None or order is None or not isinstance(bad, bool):
        return None
    if not isinstance(id, str) or not ID.fullmatch(id) or not isinstance(judge, str) or not judge:
        return None
    if len(shown) not in (2, 4) or not set(order) <= set(shown) or (bad and order):
        return None
    return Vote(judge, shown, order[: len(shown) - 1])


def _keys(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        return None
    if len(set(value)) < len(value) or not all(KEY.fullmatch(key) for key in value):
        return None
    return tuple(value)


def compared(field: Field, votes: Sequence[Vote]) -> list[tuple[Vote, Comparison]]:
    """The votes on pictures of this field, each with what it says of its candidates."""
    found = []
    for vote in votes:
        place = field.place_of(vote.shown)
        if place is None:
            continue
        numbers = tuple(field.where[key][place] for key in vote.shown)
        if len(set(numbers)) == len(numbers):
            order = tuple(field.where[key][place] for key in vote.order)
            found.append((vote, Comparison(numbers, order)))
    return found


def ranked(
    made: Sequence[Comparison], candidates: int, round_votes: int = 0
) -> tuple[list[Rank], Strengths]:
    """The candidates, the first one first, and their strengths: in the order of the Ranking node.
    With `round_votes` the vote is in rounds that have so many together.
    """
    found = strengths(made, candidates)
    stayed = _standing(made, candidates, round_votes).stayed if round_votes else ()
    beaten: Counter[int] = Counter()
    halves: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    met: Counter[int] = Counter()
    for one in made:
        last = len(one.order)
        at = {n: one.order.index(n) if n in one.order else last for n in one.shown}
        for number, rank in at.items():
            seen[number] += 1
            met[number] += len(at) - 1
            beaten[number] += sum(rank < other for other in at.values())
            halves[number] += sum(rank == other for other in at.values()) - 1
    ranks = []
    for number in ordered(range(candidates), found.mean.tolist(), stayed):
        low, high = found.interval(number)
        wins = (beaten[number] + 0.5 * halves[number]) / met[number] if met[number] else 0.5
        ranks.append(Rank(number, float(found.mean[number]), low, high, seen[number], wins))
    return ranks, found


def _standing(made: Sequence[Comparison], candidates: int, votes: int) -> Standing:
    return standing(made, candidates, votes, lambda some: strengths(some, candidates).mean.tolist())


def decisive(field: Field, votes: Sequence[Vote], one: int, other: int) -> list[Decisive]:
    """The places in which votes told `one` from `other`, those with the clearest majority first."""
    tally: dict[int, Counter[str]] = {}
    for vote in votes:
        place = field.place_of(vote.shown)
        if place is None:
            continue
        at = {field.where[key][place]: key for key in vote.shown}
        if one not in at or other not in at:
            continue
        last = len(vote.order)
        ours, theirs = (
            vote.order.index(at[n]) if at[n] in vote.order else last for n in (one, other)
        )
        word = "won" if ours < theirs else "lost" if ours > theirs else "ties"
        tally.setdefault(place, Counter())[word] += 1
    found = [Decisive(place, t["won"], t["lost"], t["ties"]) for place, t in tally.items()]
    told = [one for one in found if one.won != one.lost]
    return sorted(told, key=lambda one: (-abs(one.won - one.lost), one.lost, one.place))
