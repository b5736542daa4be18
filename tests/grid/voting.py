"""Fields, votes and judges made by code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy

from cocktail.nodes.grid.engine.vote.field import Field, field_of
from cocktail.nodes.grid.engine.vote.log import Vote
from cocktail.nodes.grid.engine.vote.questions import VoteSoFar


def key_of(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def axis(target: str, *labels: str) -> dict[str, Any]:
    values = [{"label": label, "set": {target: label}} for label in labels]
    return {"label": target, "target": target, "values": values}


def made_field(candidates: int = 4, prompts: int = 3, seeds: int = 2) -> Field:
    """Checkpoints "m0", "m1" ... over prompts "p0" ... and seeds "s0" ..."""
    axes = [
        axis("checkpoint", *(f"m{n}" for n in range(candidates))),
        axis("prompt", *(f"p{n}" for n in range(prompts))),
        axis("seed", *(f"s{n}" for n in range(seeds))),
    ]
    positions = [(c, p, s) for c in range(candidates) for p in range(prompts) for s in range(seeds)]
    return field_of(axes, positions, [key_of(position) for position in positions])


def at(field: Field, key: str) -> tuple[int, int]:
    """Place and candidate of a picture that is in one place."""
    ((place, candidate),) = field.where[key].items()
    return place, candidate


def vote_on(
    field: Field, place: int, shown: Sequence[int], order: Sequence[int], judge: str = "Ann", **more
) -> Vote:
    """A vote on candidates in a place."""
    keys = field.places[place].keys
    shown_keys, order_keys = (tuple(keys[n] or "" for n in numbers) for numbers in (shown, order))
    id = key_of(place, shown, order, judge)[:32]
    return Vote(id, judge, shown_keys, order_keys, **{"bad": False, "time": 1.0, **more})


def state_of(field: Field, votes: Sequence[Vote] = (), **more: Any) -> VoteSoFar:
    """All pictures are there and differ, unless said otherwise."""
    known = {"finished": set(field.where), "pixels": lambda key: key, "seed": 1}
    return VoteSoFar(field, list(votes), **{**known, **more})


def judged(
    strengths: numpy.ndarray, shown: Sequence[int], random: numpy.random.Generator, ties: float
) -> tuple[int, ...]:
    """The order that a judge tells, the best first: each is chosen with odds e^strength, unless he
    sees no difference in what is left, with the probability `ties`.
    """
    left, order = list(shown), []
    while len(left) > 1 and random.random() >= ties:
        odds = numpy.exp(strengths[left])
        best = left[int(random.choice(len(left), p=odds / odds.sum()))]
        left.remove(best)
        order.append(best)
    return tuple(order)
