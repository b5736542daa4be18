"""The next question to a judge: which pictures, side by side and in which order."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

from . import information
from .field import Field, Place
from .log import FOUR, PAIR, Vote, comparable
from .outcome import outcome
from .strengths import Comparison, Posterior
from .verdict import EXHAUSTED, Verdict

ACTIVE, ROUNDS = "active", "rounds"
METHODS = (ACTIVE, ROUNDS)
RANDOM_SHARE = 0.1
"""The share of questions that are drawn at random, so that no candidate is forgotten after bad
luck. With several judges half of these repeat what another judge was asked, to see whether they
agree.
"""
MOST_PAIRS = 20_000
"""So many pairs of candidates are looked through for one that can be asked about."""
MOST_ALIKE = 200
"""After so many sets of candidates whose pictures are identical wherever it was tried, no more of
that size are tried: of 20 candidates with three different pictures all 4,845 fours are in vain.
"""
TRIES = 8
"""In so many places candidates may have identical pictures before they are looked for elsewhere:
in as many drawn ones, and then other candidates are asked for.
"""


@dataclass(frozen=True)
class Question:
    """Pictures of one place, from left to right."""

    id: str
    shown: tuple[str, ...]
    """The keys of the cells."""
    place: int


@dataclass(frozen=True)
class Shown:
    """Pictures that another judge was asked about."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class VoteSoFar:
    """All that questions depend on."""

    field: Field
    votes: Sequence[Vote]
    """The votes that stand, of all judges."""
    finished: Collection[str]
    """The keys of cells that have a picture."""
    pixels: Callable[[str], str | None]
    """A hash of the pixels of such a cell, by its key: identical pictures are not shown, nor ones
    that cannot be read and have None.
    """
    seed: int
    """Draws and orders questions: with other votes it gives others, with the same the same."""
    method: str = ACTIVE
    round_votes: int = 0
    """With ROUNDS: how many votes all rounds have together."""
    most_votes: int = 0
    """The vote is over with so many; 0 if it is only when it is decided."""


def in_field(field: Field, votes: Sequence[Vote]) -> list[Vote]:
    """The votes on pictures that this field compares."""
    return [vote for vote in votes if field.comparison(vote.shown, vote.order) is not None]


def comparisons(field: Field, votes: Sequence[Vote]) -> list[Comparison]:
    """What votes say of the candidates; those on other pictures, such as of a value that is no
    longer in the grid, say nothing.
    """
    found = (field.comparison(vote.shown, vote.order) for vote in comparable(votes))
    return [comparison for comparison in found if comparison is not None]


def all_alike(field: Field, finished: Collection[str], pixels: Callable[[str], str | None]) -> bool:
    """Whether all pictures of the field are there, and in every place they are the same."""
    if not all(key in finished for key in field.where):
        return False
    places = [[key for key in place.keys if key is not None] for place in field.places]
    compared = [keys for keys in places if len(keys) > 1]
    firsts = (pixels(keys[0]) for keys in compared)
    return bool(compared) and all(
        first is not None and all(pixels(key) == first for key in keys[1:])
        for first, keys in zip(firsts, compared, strict=True)
    )


def have_same_pictures(
    field: Field,
    finished: Collection[str],
    pixels: Callable[[str], str | None],
    one: int,
    other: int,
) -> bool:
    """Whether all pictures of two candidates are there, and the same wherever both have one."""
    pairs = [(place.keys[one], place.keys[other]) for place in field.places]
    if not all(key in finished for pair in pairs for key in pair if key is not None):
        return False
    both = [pair for pair in pairs if None not in pair]
    return bool(both) and all(
        a and b and pixels(a) is not None and pixels(a) == pixels(b) for a, b in both
    )


def next_question(state: VoteSoFar, judge: str, count: int) -> tuple[Question | None, Verdict]:
    """The next question of `count` pictures, PAIR or FOUR, to a judge, and how far the vote is.
    None when the vote has ended, or when there is nothing left to ask this judge.
    """
    made = comparisons(state.field, state.votes)
    labels = [one.label for one in state.field.candidates]
    round_votes = state.round_votes if state.method == ROUNDS else 0
    seen = (state.field, state.finished, state.pixels)
    twins = partial(have_same_pictures, *seen)
    alike = not made and all_alike(*seen)
    now = outcome(made, labels, round_votes, state.most_votes, all_alike=alike, twins=twins)
    found = now.verdict
    if found.ends:
        return None, found
    own = sum(vote.judge == judge for vote in state.votes)
    drawn = _random(state.seed, judge, own, count, len(state.votes))
    asker = _Asker(state, judge, drawn)
    alive = now.rounds.alive if now.rounds is not None else tuple(range(len(labels)))
    for wanted in _wanted(state, judge, now.posterior, alive, count, drawn):
        keys = asker.again(wanted) if isinstance(wanted, Shown) else asker.ask(wanted)
        if keys is not None:
            return _question(state, judge, keys, own, drawn), found
    if (keys := asker.any_pair(alive)) is not None:
        return _question(state, judge, keys, own, drawn), found
    text = "You have compared all finished pictures."
    return None, Verdict(EXHAUSTED, found.leader, found.best, text)


def _wanted(
    state: VoteSoFar,
    judge: str,
    votes: Posterior,
    alive: Sequence[int],
    count: int,
    drawn: random.Random,
) -> Iterator[tuple[int, ...] | Shown]:
    """Sets of candidates to ask about, or pictures that others saw; the one to try first first."""
    count = min(count, len(alive)) if count == FOUR and len(alive) >= FOUR else PAIR
    shuffled = drawn.sample(list(alive), len(alive))
    if state.method == ROUNDS or drawn.random() < RANDOM_SHARE:
        if state.method == ACTIVE and drawn.random() < 0.5:
            yield from _asked_of_others(state, judge, count)
        yield tuple(shuffled[:count])
    else:
        yield from information.most_telling(votes, alive, count, drawn.getrandbits(32))
    yield from itertools.islice(itertools.combinations(shuffled, PAIR), MOST_PAIRS)


def _asked_of_others(state: VoteSoFar, judge: str, count: int) -> Iterator[Shown]:
    """The pictures that others were asked about, the last ones first."""
    for vote in reversed(state.votes):
        if vote.judge != judge and len(vote.shown) == count:
            yield Shown(vote.shown)


class _Asker:
    """Where candidates can be shown to a judge: places where all their pictures are finished and
    differ, and that the judge has not seen, the ones asked about least first.
    """

    def __init__(self, state: VoteSoFar, judge: str, drawn: random.Random) -> None:
        self._state = state
        self._drawn = drawn
        self._seen = {frozenset(v.shown) for v in state.votes if v.judge == judge}
        asked: Counter[object] = Counter()
        for vote in state.votes:
            place = state.field.place_of(vote.shown)
            if place is not None:
                asked[place] += 1
                asked.update(state.field.places[place].labels.items())
        places = list(enumerate(state.field.places))
        drawn.shuffle(places)
        places.sort(key=lambda p: (asked[p[0]], sum(asked[label] for label in p[1].labels.items())))
        self._places = [place for _, place in places]
        self._finished = [self._bits(place) for place in self._places]
        self._pixels = cache(state.pixels)
        self._alike: Counter[int] = Counter()

    def _bits(self, place: Place) -> int:
        """A bit for every candidate that has a picture in a place."""
        finished = self._state.finished
        return sum(1 << number for number, key in enumerate(place.keys) if key in finished)

    def again(self, shown: Shown) -> tuple[str, ...] | None:
        """The keys of these very pictures, None if they cannot be shown to the judge."""
        known = self._state.field.comparison(shown.keys, ()) is not None
        fresh = known and frozenset(shown.keys) not in self._seen
        return shown.keys if fresh and self._differ(shown.keys) else None

    def ask(self, candidates: Sequence[int]) -> tuple[str, ...] | None:
        """The keys of pictures of these candidates; None if they cannot be shown to the judge, or
        are identical wherever it was tried.
        """
        count, needed = len(candidates), sum(1 << number for number in candidates)
        if self._alike[count] >= MOST_ALIKE:
            return None
        fresh = []
        for place, finished in zip(self._places, self._finished, strict=True):
            if finished & needed != needed:
                continue
            keys = tuple(place.keys[number] or "" for number in candidates)
            if len(set(keys)) == count and frozenset(keys) not in self._seen:
                if len(fresh) < TRIES and self._differ(keys):
                    return keys
                fresh.append(keys)
        others = fresh[TRIES:]
        drawn = self._drawn.sample(others, min(TRIES, len(others)))
        found = next(filter(self._differ, drawn), None)
        self._alike[count] += found is None and bool(fresh)
        return found

    def any_pair(self, candidates: Sequence[int]) -> tuple[str, ...] | None:
        """The keys of two pictures of any of these candidates that the judge has not seen. All
        pictures may have to be read for it.
        """
        for place in self._places:
            keys = [key for n in candidates if (key := place.keys[n]) in self._state.finished]
            there = [key for key in keys if key is not None]
            if len({self._pixels(key) for key in there} - {None}) > 1:
                for pair in itertools.combinations(there, PAIR):
                    if frozenset(pair) not in self._seen and self._differ(pair):
                        return pair
        return None

    def _differ(self, keys: Sequence[str]) -> bool:
        """Whether the pictures are there, and no two of them identical."""
        if not all(key in self._state.finished for key in keys):
            return False
        pixels = {self._pixels(key) for key in keys}
        return len(pixels) == len(keys) and None not in pixels


def _question(
    state: VoteSoFar, judge: str, keys: tuple[str, ...], own: int, drawn: random.Random
) -> Question:
    """The question with its pictures in an order that leaves every candidate as often on the left
    as on the right, as far as that goes.
    """
    place = state.field.place_of(keys)
    if place is None:
        raise ValueError("these cells are not of one place")
    lean: Counter[int] = Counter()
    for vote in state.votes:
        comparison = state.field.comparison(vote.shown, vote.order)
        if comparison is not None:
            middle = (len(comparison.shown) - 1) / 2
            for at, candidate in enumerate(comparison.shown):
                lean[candidate] += (at > middle) - (at < middle)
    shuffled = drawn.sample(keys, len(keys))
    shown = tuple(sorted(shuffled, key=lambda key: -lean[state.field.where[key][place]]))
    text = repr((state.seed, judge, own, len(state.votes), shown))
    return Question(hashlib.sha256(text.encode("utf-8")).hexdigest()[:32], shown, place)


def _random(*what: object) -> random.Random:
    """A generator that depends on these values alone."""
    return random.Random(hashlib.sha256(repr(what).encode("utf-8")).digest())
