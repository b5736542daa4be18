"""Strengths from votes equal what choix and a general optimiser find, and say how sure they are."""

from __future__ import annotations

from dataclasses import replace

import choix
import numpy
import pytest
from scipy import optimize

from cocktail.nodes.grid.engine.vote.effects import effects
from cocktail.nodes.grid.engine.vote.strengths import (
    TIE_VARIANCE,
    Comparison,
    choices_of,
    fit,
    has_ties,
    posterior,
    probability_best,
)

COUNT = 5
TRUTH = numpy.array([0.8, 0.3, 0.0, -0.4, -0.7])


def fitted(votes, variance, candidates=COUNT):
    return fit(choices_of(votes, candidates, has_ties(votes)), variance)


def wins(number, random, truth=TRUTH):
    """Decided pairs as (winner, loser)."""
    found = []
    for _ in range(number):
        a, b = random.choice(len(truth), 2, replace=False)
        won = random.random() < 1 / (1 + numpy.exp(truth[b] - truth[a]))
        found.append((int(a), int(b)) if won else (int(b), int(a)))
    return found


def of_pairs(found):
    return [Comparison(tuple(sorted(pair)), pair[:1]) for pair in found]


@pytest.mark.parametrize("alpha", [0.5, 1e-6])
def test_pairs_equal_choix(alpha: float):
    found = wins(200, numpy.random.default_rng(1))
    ours = fitted(of_pairs(found), 1 / (2 * alpha)).mean[:-1]
    theirs = choix.opt_pairwise(COUNT, found, alpha=alpha, tol=1e-12)
    assert numpy.abs(ours - (theirs - theirs.mean())).max() < 1e-6


@pytest.mark.parametrize("told", [3, 1])
def test_rankings_of_four_equal_choix(told: int):
    """Whole rankings, and those of which only the best was told."""
    random = numpy.random.default_rng(2)
    orders = []
    for _ in range(50):
        shown = random.choice(COUNT, 4, replace=False)
        noisy = TRUTH[shown] + random.gumbel(size=4)
        orders.append(tuple(int(n) for n in shown[numpy.argsort(-noisy)]))
    votes = [Comparison(tuple(sorted(order)), order[:told]) for order in orders]
    ours = fitted(votes, 1.0).mean[:-1]
    if told == 3:
        theirs = choix.opt_rankings(COUNT, orders, alpha=0.5, tol=1e-12)
    else:
        firsts = [(order[0], order[1:]) for order in orders]
        theirs = choix.opt_top1(COUNT, firsts, alpha=0.5, tol=1e-12)
    assert numpy.abs(ours - (theirs - theirs.mean())).max() < 1e-6


def test_a_candidate_that_wins_all_stays_finite_and_equals_choix():
    found = [(0, 1)] * 50 + [(0, 2)] * 50 + [(1, 2), (2, 1)] * 5
    ours = fitted(of_pairs(found), 1.0, 3)
    theirs = choix.opt_pairwise(3, found, alpha=0.5, tol=1e-12)
    assert numpy.abs(ours.mean[:-1] - (theirs - theirs.mean())).max() < 1e-6
    intervals = posterior(of_pairs(found), 3).intervals()
    assert numpy.isfinite(intervals).all() and intervals[0, 0] > intervals[1:, 1].max()


def test_ties_equal_davidsons_likelihood_maximised_by_another_method():
    """Written out from the paper: a win with odds e^x, a tie with nu e^((x + y) / 2)."""
    votes, counts = [], {(0, 1): (9, 4, 6), (0, 2): (7, 2, 1), (1, 2): (3, 5, 8)}
    for (a, b), (first, second, ties) in counts.items():
        votes += [Comparison((a, b), (a,))] * first + [Comparison((a, b), (b,))] * second
        votes += [Comparison((b, a), ())] * ties

    def minus_log(at):
        value = (at[:3] @ at[:3]) / 2 + at[3] ** 2 / (2 * TIE_VARIANCE)
        for (a, b), (first, second, ties) in counts.items():
            odds = numpy.exp([at[a], at[b], at[3] + (at[a] + at[b]) / 2])
            value -= numpy.log(odds / odds.sum()) @ [first, second, ties]
        return value

    theirs = optimize.minimize(minus_log, numpy.zeros(4), method="BFGS", options={"gtol": 1e-9})
    ours = fitted(votes, 1.0, 3)
    assert numpy.abs(ours.mean - theirs.x).max() < 1e-6
    steps = 1e-3 * numpy.eye(4)
    hessian = [
        [
            sum(i * j * minus_log(theirs.x + i * a + j * b) for i in (-1, 1) for j in (-1, 1))
            for a in steps
        ]
        for b in steps
    ]
    covariance = numpy.linalg.inv(numpy.array(hessian) / 4e-6)
    assert numpy.abs(ours.covariance - covariance).max() < 1e-5


def test_only_ties_and_no_votes_at_all_have_an_answer():
    alike = posterior([Comparison((0, 1), ())] * 200, 2)
    assert abs(alike.strengths).max() < 1e-9 and alike.intervals()[0, 1] < 2.5
    unknown = posterior([], 4)
    assert abs(unknown.strengths).max() == 0 and sum(unknown.weights) == pytest.approx(1)


def test_a_pair_in_the_end_of_a_ranking_cannot_be_a_tie():
    """The last two of four are told apart or not told; ties of pairs say nothing of that."""
    four = Comparison((0, 1, 2, 3), (0, 1, 2))
    alone, beside = (choices_of([four], 4, ties) for ties in (False, True))
    assert (alone.offers == beside.offers).all()


def test_more_votes_narrow_the_intervals_and_the_best_becomes_probable():
    random = numpy.random.default_rng(3)
    few, many = (posterior(of_pairs(wins(n, random)), COUNT) for n in (40, 4000))
    width = [numpy.diff(one.intervals()).mean() for one in (few, many)]
    assert width[1] < width[0] / 3
    best = probability_best(many.samples(2000, 1)[0])
    assert best[0] > 0.99 and best.sum() == pytest.approx(1)
    assert abs(many.strengths - (TRUTH - TRUTH.mean())).max() < 0.2


@pytest.mark.parametrize(("spread", "ties"), [(0.2, 0), (1.2, 0), (1.2, 0.6)])
def test_intervals_hold_the_truth_whether_candidates_are_alike_or_far_apart(spread, ties):
    """13 candidates and 480 pairs, 40 times. A share of all pairs seems equal to the judge."""
    random, held = numpy.random.default_rng(7), []
    for _ in range(40):
        truth = random.normal(0, spread, 13)
        made = of_pairs(wins(480, random, truth))
        equal = random.random(480) < ties
        made = [replace(c, order=()) if tie else c for c, tie in zip(made, equal, strict=True)]
        ends = posterior(made, 13).intervals()
        truth -= truth.mean()
        held.append(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())
    assert 0.925 < numpy.mean(held) < 0.985


def test_what_a_prompt_prefers_is_told_from_noise():
    random = numpy.random.default_rng(4)
    upside_down = {"cat": of_pairs(wins(300, random)), "dog": of_pairs(wins(300, random, -TRUTH))}
    found = effects(upside_down, COUNT, 1.0)
    assert found.probability > 0.99 and found.spread > 0.3
    cat = next(e for e in found.found if (e.group, e.candidate) == ("cat", 0))
    assert 0 < cat.low < cat.effect < cat.high
    alike = {name: of_pairs(wins(300, random)) for name in ("cat", "dog", "cow")}
    assert effects(alike, COUNT, 1.0).probability < 0.5
    assert effects({"cat": []}, COUNT, 1.0) is None
