"""Voting by simulated judges: the questions of this pack beside rounds with a cut.

    python benchmarks/votes.py [--repeats 200] [--simulations 1000] [--at-once 4]
        [--spread 0.4]

Needs numpy alone. 13 candidates with strengths from a normal distribution of that spread in logits;
a judge sees no difference with a probability of 0.3, and chooses by Bradley-Terry or Plackett-Luce
otherwise. Of four pictures a judge names the best, then the next, until there is no difference in
the rest: every answer, "the rest is equal" too, is one click. Prints a table, which targets are
missed and, on the last line, the figures as JSON. Ends with 1 if a target is missed:

clicks_vs_rounds     clicks after which the best of 13 leads as often as it wins the rounds, over
                     the clicks of the rounds, whose questions are pairs; target 0.5 at most
coverage_95          share of the 95 % intervals of strengths that hold the truth, in simulations
                     with pairs drawn at random; target 0.93 to 0.97
coverage_95_active   the same after questions that were chosen for what they tell; the same target
right_when_decided   how often the one that is called the best with a probability of 0.9 is it
clicks_when_decided  the median of clicks until then
"""

from __future__ import annotations

import sys

# Run by its path, this file's folder would put its select.py before the standard library's.
sys.path.insert(0, sys.path.pop(0).removesuffix("benchmarks"))

import argparse
import json
import os
import platform
import statistics
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

ROOT = Path(__file__).resolve().parents[1]
for _name in ("cocktail", "cocktail.nodes"):
    # Their __init__.py are for ComfyUI, which votes do not need.
    _package = types.ModuleType(_name)
    _package.__path__ = [str(ROOT.joinpath(*_name.split(".")[1:]))]
    sys.modules[_name] = _package

from cocktail.merge.card.rounds import cuts, lengths  # noqa: E402
from cocktail.nodes.grid.engine.vote.information import most_telling  # noqa: E402
from cocktail.nodes.grid.engine.vote.questions import RANDOM_SHARE  # noqa: E402
from cocktail.nodes.grid.engine.vote.strengths import (  # noqa: E402
    Comparison,
    posterior,
)
from cocktail.nodes.grid.engine.vote.verdict import DECIDED, verdict  # noqa: E402

COUNT = 13
TIES = 0.3
ROUND_CLICKS = (480, 960)
LOOKS = tuple(range(40, 521, 20))
"""After so many clicks it is looked at who leads."""
RANDOM_VOTES = 480
TARGETS = {
    "clicks_vs_rounds": (0.0, 0.5),
    "coverage_95": (0.93, 0.97),
    "coverage_95_active": (0.93, 0.97),
}
"""The least and the most of some figures."""

Random = numpy.random.Generator


def judged(
    strengths: numpy.ndarray, shown: Sequence[int], random: Random
) -> tuple[Comparison, int]:
    """The answer of a judge, and how many clicks it took."""
    left, order = list(shown), []
    while len(left) > 1 and random.random() >= TIES:
        odds = numpy.exp(strengths[left])
        order.append(left.pop(int(random.choice(len(left), p=odds / odds.sum()))))
    clicks = len(order) + (len(left) > 1)
    return Comparison(tuple(shown), tuple(order)), clicks


def some(candidates: Sequence[int], count: int, random: Random) -> tuple[int, ...]:
    return tuple(int(n) for n in random.choice(candidates, count, replace=False))


def rounds(strengths: numpy.ndarray, clicks: int, random: Random) -> int:
    """Who is left after rounds of random pairs."""
    alive, votes = list(range(COUNT)), []
    stays = cuts(COUNT)
    for keep, length in zip(stays, lengths(clicks, len(stays)), strict=True):
        votes += [judged(strengths, some(alive, 2, random), random)[0] for _ in range(length)]
        found = posterior(votes, COUNT).strengths
        alive = sorted(alive, key=lambda one: -found[one])[:keep]
    return alive[0]


class Active:
    """A vote on `count` pictures at once, whose questions are chosen for what they tell."""

    def __init__(self, strengths: numpy.ndarray, count: int, random: Random) -> None:
        self.leaders: list[int] = []
        self.decided: tuple[int, int] | None = None
        votes: list[Comparison] = []
        clicks = 0
        labels = [str(n) for n in range(COUNT)]
        while True:
            self.posterior = posterior(votes, COUNT)
            if self.decided is None and len(votes) % 5 == 4:
                found = verdict(self.posterior, labels, seed=len(votes))
                if found.state == DECIDED:
                    self.decided = clicks, found.leader
            while len(self.leaders) < len(LOOKS) and clicks >= LOOKS[len(self.leaders)]:
                self.leaders.append(int(self.posterior.strengths.argmax()))
            if len(self.leaders) == len(LOOKS):
                return
            if random.random() < RANDOM_SHARE:
                shown = some(range(COUNT), count, random)
            else:
                seed = int(random.integers(2**32))
                shown = most_telling(self.posterior, range(COUNT), count, seed)[0]
            vote, more = judged(strengths, shown, random)
            votes.append(vote)
            clicks += more


def covered(found: numpy.ndarray, strengths: numpy.ndarray) -> float:
    """The share of intervals [candidates, 2] that hold the strength relative to the mean."""
    truth = strengths - strengths.mean()
    return float(((found[:, 0] <= truth) & (truth <= found[:, 1])).mean())


def drawn(spread: float, *keys: int) -> tuple[numpy.ndarray, Random]:
    random = numpy.random.default_rng(keys)
    return random.normal(0.0, spread, COUNT), random


def coverage(spread: float, simulations: int) -> float:
    """With RANDOM_VOTES random pairs in each simulation."""
    held = []
    for number in range(simulations):
        strengths, random = drawn(spread, 1, number)
        votes = [
            judged(strengths, some(range(COUNT), 2, random), random)[0] for _ in range(RANDOM_VOTES)
        ]
        held.append(covered(posterior(votes, COUNT).intervals(), strengths))
    return statistics.mean(held)


def first_click(rates: Sequence[float], wanted: float) -> float:
    """After how many clicks the rate is reached, between two looks by proportion; infinite if it
    is not. Rates that fall by chance are taken for what they were before.
    """
    before, at = 0.0, 0
    for look, rate in zip(LOOKS, numpy.maximum.accumulate(rates), strict=True):
        if rate >= wanted:
            share = (wanted - before) / max(rate - before, 1e-9)
            return at + max(share, 0.0) * (look - at)
        before, at = rate, look
    return float("inf")


def tournaments(spread: float, repeats: int, count: int) -> dict[str, object]:
    """Rounds of pairs beside votes on `count` pictures at once."""
    won = dict.fromkeys(ROUND_CLICKS, 0)
    right = numpy.zeros(len(LOOKS))
    held: list[float] = []
    ends: list[tuple[int, bool]] = []
    for number in range(repeats):
        strengths, _ = drawn(spread, 2, number)
        best = int(strengths.argmax())
        for clicks in ROUND_CLICKS:
            won[clicks] += rounds(strengths, clicks, drawn(spread, 3, number, clicks)[1]) == best
        vote = Active(strengths, count, drawn(spread, 4, number)[1])
        right += numpy.array(vote.leaders) == best
        held.append(covered(vote.posterior.intervals(), strengths))
        if vote.decided is not None:
            ends.append((vote.decided[0], vote.decided[1] == best))
        print(f"\r{number + 1} of {repeats}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rates = {clicks: won[clicks] / repeats for clicks in ROUND_CLICKS}
    for clicks, rate in rates.items():
        print(f"rounds of {clicks} clicks: the best wins in {rate:.3f}")
    for look, rate in zip(LOOKS, right / repeats, strict=True):
        print(f"{count} at once, {look} clicks: the best leads in {rate:.3f}")
    needed = {clicks: first_click(right / repeats, rates[clicks]) for clicks in ROUND_CLICKS}
    return {
        "clicks_vs_rounds": max(needed[clicks] / clicks for clicks in ROUND_CLICKS),
        "clicks_needed": needed,
        "rounds_right": rates,
        "coverage_95_active": statistics.mean(held),
        "decided_share": len(ends) / repeats,
        "right_when_decided": statistics.mean(ok for _, ok in ends) if ends else None,
        "clicks_when_decided": statistics.median(clicks for clicks, _ in ends) if ends else None,
    }


def missed(found: Mapping[str, Any]) -> list[str]:
    """A sentence for every target that is missed."""
    return [
        f"missed: {name} is {found[name]:.3f}, target {least:g} to {most:g}"
        for name, (least, most) in TARGETS.items()
        if not least <= found[name] <= most
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200, help="tournaments")
    parser.add_argument("--simulations", type=int, default=1000, help="for the coverage")
    parser.add_argument("--at-once", type=int, default=4, choices=(2, 4), help="pictures")
    parser.add_argument("--spread", type=float, default=0.4, help="of the strengths, in logits")
    options = parser.parse_args()
    found: dict[str, Any] = {"spread": options.spread, "repeats": options.repeats}
    found["at_once"] = options.at_once
    found["coverage_95"] = coverage(options.spread, options.simulations)
    print(f"95 % intervals hold the truth in {found['coverage_95']:.3f}")
    found.update(tournaments(options.spread, options.repeats, options.at_once))
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    print(f"{machine}, numpy {numpy.__version__}")
    short = missed(found)
    print("\n".join(short or ["all targets are met"]))
    print(json.dumps({**found, "machine": machine}))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
