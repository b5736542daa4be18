"""Searching for a mix: proposals in the simplex, scores that survive, and a search that comes
closer.
"""

from __future__ import annotations

import json

import pytest

from cocktail.merge.errors import MergeError
from cocktail.merge.recipe import Ingredient, weighted_sum
from cocktail.merge.search import (
    add_score,
    add_strengths,
    known_shares,
    mix,
    propose,
    read_scores,
)

RECIPES = tuple(Ingredient(name, digit * 64) for name, digit in zip("xyz", "abc", strict=True))


def test_random_tries_are_spread_over_all_mixes_and_the_same_for_a_seed():
    tries = propose("random", 3, 600, seed=1)
    assert tries == propose("random", 3, 600, seed=1) != propose("random", 3, 600, seed=2)
    assert len(set(tries)) == 600 and all(
        sum(shares) == 100 and min(shares) >= 0 for shares in tries
    )
    for side in range(3):
        assert abs(sum(shares[side] for shares in tries) / 600 - 33.3) < 3
        # A share spread evenly over a triangle is below 10 % in 1 - 0.9^2 of all cases.
        assert abs(sum(shares[side] < 10 for shares in tries) / 600 - 0.19) < 0.06


def test_a_grid_has_every_mix_in_steps_once():
    assert propose("grid", 3, 1, 0, step=50) == [
        (0, 0, 100),
        (0, 50, 50),
        (0, 100, 0),
        (50, 0, 50),
        (50, 50, 0),
        (100, 0, 0),
    ]
    assert len(set(propose("grid", 3, 1, 0, step=20))) == 21
    for step, words in ((30, "divide 100"), (1, "Choose a larger step")):
        with pytest.raises(MergeError, match=words):
            propose("grid", 4, 1, 0, step=step)


def test_scores_come_back_by_recipe_and_damaged_lines_do_no_harm(tmp_path):
    table = tmp_path / "searches" / "scores.jsonl"
    assert read_scores(table) == []
    good, bad = (mix(RECIPES, shares) for shares in ((60, 20, 20), (0, 100, 0)))
    add_score(table, bad, 3, "me")
    add_score(table, bad, 1, "me")
    with table.open("ab") as file:
        file.write(b'{"recipe_hash": "cut o')
    add_score(table, good, 4, "me")
    add_score(table, good, 5, "metric")
    found = read_scores(table)
    assert [(entry.recipe, entry.score) for entry in found] == [(good, 4.5), (bad, 1)]
    with table.open("ab") as file:
        entry = json.loads(table.read_bytes().splitlines()[0])
        for score in ("1" + "0" * 400, "[" * 5_000, '"x"'):
            line = json.dumps({**entry, "judge": "odd", "score": "S"}).replace('"S"', score)
            file.write(line.encode() + b"\n")
        file.write(b"\0" * 3_000_000 + b"\n")
    assert read_scores(table) == found
    foreign = weighted_sum([(Ingredient("w", "d" * 64), 1), (RECIPES[0], 1)])
    add_score(table, foreign, 9, "me")
    assert known_shares(RECIPES, read_scores(table)) == {(60, 20, 20): 4.5, (0, 100, 0): 1}
    with pytest.raises(MergeError, match="must be a number"):
        add_score(table, good, float("nan"), "me")


def test_strengths_of_two_votes_are_on_one_level_by_the_recipe_that_both_have(tmp_path):
    table = tmp_path / "scores.jsonl"
    one, two, three, four = (mix(RECIPES, (share, 100 - share, 0)) for share in (10, 20, 30, 40))

    def scores():
        return {entry.recipe: entry.score for entry in read_scores(table)}

    assert add_strengths(table, {one: -0.5, two: 0.5}, "votes on a") == 0
    assert add_strengths(table, {two: -1.0, three: 1.0}, "votes on b") == 1.5
    assert scores() == {one: -0.5, two: 0.5, three: 2.5}
    assert add_strengths(table, {two: -0.25, three: 0.25}, "votes on b") == 0.75, "asked again"
    assert scores() == {one: -0.5, two: 0.5, three: 1.0}
    with pytest.raises(MergeError, match="the best one so far in this grid too"):
        add_strengths(table, {four: 0.0}, "votes on c")


def test_the_bayesian_search_comes_nearer_to_the_best_mix_than_chance():
    """The best mix is 60/20/20; both searches see 40 mixes, ten at a time after the first."""

    def score(shares):
        return -sum((share - best) ** 2 for share, best in zip(shares, (60, 20, 20), strict=True))

    def best_of(method, seed):
        known = {}
        for round_ in range(10):
            tries = propose(method, 3, 4, seed * 100 + round_, known=known)
            assert len(tries) == 4 and not set(tries) & known.keys()
            known |= {shares: score(shares) for shares in tries}
        return sum(sorted(known.values())[-8:])

    seeds = range(3)
    assert sum(best_of("bayesian", s) for s in seeds) > sum(best_of("random", s) for s in seeds)
