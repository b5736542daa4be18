"""Rankings from votes: over all, and of the votes on each prompt, size or the like and of each
judge.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .agreement import agreement
from .effects import Effects, effects
from .field import Field
from .log import Vote, comparable
from .outcome import outcome
from .questions import comparisons, in_field
from .strengths import Comparison
from .verdict import SURE, Twins, Verdict, no_twins

JUDGE = "judge"
"""Groups of votes by who cast them; all others are axes of the grid, by their targets."""
MOST_EFFECTS = 10
"""So many effects of a group are told, those that are farthest from 0."""


@dataclass(frozen=True)
class Rank:
    """How a candidate did."""

    label: str
    strength: float
    """In logits, relative to the mean of all candidates."""
    low: float
    high: float
    """The 95 % interval of the strength."""
    best: float
    """The probability that it is the best."""
    votes: int
    """On its pictures."""
    wins: float
    """The share of pictures beside it that it beat, equal ones counted as half."""
    number: int
    """Of the candidate: two may have the same label."""
    stayed: int
    """After how many rounds it was still in; 0 where the vote is not in rounds."""


@dataclass(frozen=True)
class Ranking:
    """Candidates, the leader first: those that stayed in more rounds, then the stronger."""

    ranks: tuple[Rank, ...]
    votes: int
    verdict: Verdict
    spread: float
    """The standard deviation of the strengths in logits, as the votes suggest it."""


def rank(
    made: Sequence[Comparison],
    labels: Sequence[str],
    sure: float = SURE,
    round_votes: int = 0,
    all_alike: bool = False,
    twins: Twins = no_twins,
) -> Ranking:
    """The ranking of candidates by these votes, in rounds that have so many together. Where all
    pictures are `all_alike` there can be none; `twins` win together.
    """
    now = outcome(made, labels, round_votes, sure=sure, all_alike=all_alike, twins=twins)
    votes, found = now.posterior, now.verdict
    beaten, met, seen = _counts(made)
    ends = votes.intervals()
    ranks = [
        Rank(
            labels[number],
            float(votes.strengths[number]),
            float(ends[number, 0]),
            float(ends[number, 1]),
            found.best[number],
            seen[number],
            beaten[number] / met[number] if met[number] else 0.5,
            number,
            now.rounds.stayed[number] if now.rounds is not None else 0,
        )
        for number in now.order
    ]
    return Ranking(tuple(ranks), len(made), found, votes.spread)


def report(
    field: Field,
    votes: Sequence[Vote],
    by: Sequence[str] = (),
    sure: float = SURE,
    round_votes: int = 0,
    all_alike: bool = False,
    twins: Twins = no_twins,
) -> dict[str, Any]:
    """Everything that the votes say, as JSON: the ranking, one for each group of every axis (by its
    target) or of JUDGE in `by`, effects of these groups, and how far judges agree. With
    `round_votes` the vote was in rounds that have so many together. The last two: see `rank`.
    """
    labels = [one.label for one in field.candidates]
    here = in_field(field, votes)
    whole = rank(comparisons(field, here), labels, sure, round_votes, all_alike, twins)
    alpha, shared = agreement(here)
    found: dict[str, Any] = {
        "axis": field.axis,
        "candidates": labels,
        "votes": whole.votes,
        "elsewhere": len(votes) - len(here),
        "ranking": [asdict(one) for one in whole.ranks],
        "verdict": {"state": whole.verdict.state, "text": whole.verdict.text},
        "leader": labels[whole.verdict.leader],
        "leader_number": whole.verdict.leader,
        "judges": judges(comparable(here)),
        "agreement": {"alpha": alpha, "pictures": shared},
        "rounds": round_votes,
        "by": {},
    }
    for what in by:
        groups = grouped(field, here, what)
        found["by"][what] = {
            "groups": {
                name: [asdict(one) for one in rank(of, labels, sure).ranks]
                for name, of in groups.items()
            },
            "effects": _effects(effects(groups, len(labels), whole.spread**2), labels),
        }
    return found


def grouped(field: Field, votes: Sequence[Vote], by: str) -> dict[str, list[Comparison]]:
    """The comparisons of each judge, or of each value of an axis, by name or label."""
    groups: dict[str, list[Comparison]] = {}
    for vote in comparable(votes):
        comparison, place = field.comparison(vote.shown, vote.order), field.place_of(vote.shown)
        if comparison is not None and place is not None:
            labels = field.places[place].labels
            name = vote.judge if by == JUDGE else labels.get(by)
            if name is not None:
                groups.setdefault(name, []).append(comparison)
    return dict(sorted(groups.items()))


def judges(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Every judge's votes, ties among them, and the share of the left picture among pairs that were
    told apart: far from a half somebody votes by side.
    """
    found = []
    for name in sorted({vote.judge for vote in votes}):
        own = [vote for vote in votes if vote.judge == name]
        told = [vote for vote in own if len(vote.shown) == 2 and vote.order]
        left = sum(vote.order[0] == vote.shown[0] for vote in told)
        found.append(
            {
                "judge": name,
                "votes": len(own),
                "ties": sum(not vote.order for vote in own),
                "both_bad": sum(vote.bad for vote in own),
                "left_share": left / len(told) if told else None,
            }
        )
    return found


def _counts(
    made: Sequence[Comparison],
) -> tuple[dict[int, float], Counter[int], Counter[int]]:
    """For every candidate how many it beat, how many it met, and in how many votes it stood."""
    beaten: dict[int, float] = defaultdict(float)
    met: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for comparison in made:
        last = len(comparison.order)
        at = {
            n: comparison.order.index(n) if n in comparison.order else last
            for n in comparison.shown
        }
        for one, place in at.items():
            seen[one] += 1
            for other, theirs in at.items():
                if other != one:
                    met[one] += 1
                    beaten[one] += (place < theirs) + 0.5 * (place == theirs)
    return beaten, met, seen


def _effects(found: Effects | None, labels: Sequence[str]) -> dict[str, Any] | None:
    if found is None:
        return None
    told = [
        {**asdict(one), "candidate": labels[one.candidate]} for one in found.found[:MOST_EFFECTS]
    ]
    return {"spread": found.spread, "probability": found.probability, "largest": told}
