"""What judges are asked: the pictures that tell the most, blind and balanced, until it is clear."""

from __future__ import annotations

import time
from collections import Counter

import numpy
import pytest

from cocktail.merge.card.rounds import cuts, lengths
from cocktail.nodes.grid.engine.vote.enough import ROUNDS_OVER, progress
from cocktail.nodes.grid.engine.vote.field import field_of
from cocktail.nodes.grid.engine.vote.information import most_telling
from cocktail.nodes.grid.engine.vote.log import FOUR, PAIR
from cocktail.nodes.grid.engine.vote.outcome import outcome
from cocktail.nodes.grid.engine.vote.questions import ROUNDS, comparisons, next_question
from cocktail.nodes.grid.engine.vote.rounds import standing
from cocktail.nodes.grid.engine.vote.strengths import Comparison, posterior
from cocktail.nodes.grid.engine.vote.verdict import (
    ALIKE,
    DECIDED,
    ENOUGH,
    EXHAUSTED,
    LEVEL,
    MORE,
    ROUNDS_DONE,
    verdict,
)

from .voting import at, axis, judged, key_of, made_field, state_of, vote_on


def run(field, strengths, count, most, judge="Ann", seed=1, ties=0.3, **more):
    """The votes of one judge until the vote ends, and how it ended."""
    random, votes, found = numpy.random.default_rng(seed), [], None
    while len(votes) < most:
        question, found = next_question(state_of(field, votes, **more), judge, count)
        if question is None:
            break
        shown = [at(field, key)[1] for key in question.shown]
        order = judged(strengths, shown, random, ties)
        vote = vote_on(field, question.place, shown, order, judge)
        assert vote.shown == question.shown
        votes.append(vote)
    return votes, found


@pytest.mark.parametrize("count", [PAIR, FOUR])
def test_pictures_share_their_place_and_the_same_votes_give_the_same_question(count: int):
    field = made_field(6)
    first, found = next_question(state_of(field), "Ann", count)
    assert found.state == MORE and len(first.shown) == count
    assert {at(field, key)[0] for key in first.shown} == {first.place}
    assert next_question(state_of(field), "Ann", count)[0] == first
    assert next_question(state_of(field), "Bob", count)[0] != first
    assert next_question(state_of(field, seed=2), "Ann", count)[0] != first


def test_sides_and_places_are_balanced():
    field = made_field(5, 4, 3)
    votes, _ = run(field, numpy.zeros(5), PAIR, 60, ties=1.0)
    left, right = (Counter(at(field, v.shown[n])[1] for v in votes) for n in (0, 1))
    assert all(abs(left[n] - right[n]) <= 3 for n in range(5))
    prompts = Counter(field.places[at(field, v.shown[0])[0]].labels["prompt"] for v in votes)
    assert max(prompts.values()) - min(prompts.values()) <= 3
    again, _ = run(field, numpy.zeros(5), PAIR, 60, ties=1.0, seed=2)
    assert [v.shown for v in again] == [v.shown for v in votes]


def test_identical_pictures_and_missing_ones_are_not_shown():
    field = made_field(3, 4, 2)
    twins = {
        key: key_of("same", place)
        for key in field.where
        for place, who in [at(field, key)]
        if who < 2
    }
    missing = {place.keys[2] for place in field.places[:3]}
    votes, found = run(
        field,
        numpy.zeros(3),
        PAIR,
        100,
        pixels=lambda key: twins.get(key, key),
        finished=set(field.where) - missing,
        ties=1.0,
    )
    assert len(votes) == 10 or found.ends
    assert all(2 in {at(field, key)[1] for key in vote.shown} for vote in votes)
    assert not {key for vote in votes for key in vote.shown} & missing


def test_without_two_pictures_that_differ_the_vote_is_over_at_once():
    field = made_field(3, 2, 1)
    place = {key: key_of(at(field, key)[0]) for key in field.where}
    question, found = next_question(state_of(field, pixels=place.get), "Ann", PAIR)
    assert question is None and found.ends and found.state == ALIKE
    assert found.text == "All pictures are alike: there is nothing to compare."
    (one, *_) = place
    for other in (
        {"pixels": {**place, one: "another"}.get},
        {"pixels": {**place, one: None}.get},
        {"pixels": place.get, "finished": set(place) - {one}},
    ):
        _, found = next_question(state_of(field, **other), "Ann", PAIR)
        assert not found.ends


def twins_0_and_1(field):
    """Pixels by which 0 and 1 are the same in every place."""

    def pixels(key):
        place, who = at(field, key)
        return key_of("twins", place) if who < 2 else key

    return pixels


def test_twins_that_nobody_can_tell_apart_win_together():
    field, strengths = made_field(4, 20, 5), numpy.array([3.0, 3.0, 0, 0])
    votes, found = run(field, strengths, PAIR, 200, pixels=twins_0_and_1(field))
    assert found.state == DECIDED and len(votes) < 80 and found.leader in (0, 1)
    assert found.best[0] + found.best[1] >= 0.9 > max(found.best)
    assert "and m" in found.text and "whose pictures are alike, are the best with a" in found.text
    votes, found = run(field, strengths, PAIR, len(votes))
    assert found.state == MORE, "pictures that differ are not twins"


def test_rounds_end_where_only_twins_are_left():
    field, strengths = made_field(4, 5, 4), numpy.array([6.0, 6.0, 0, 0])
    rules = {"ties": 0, "method": ROUNDS, "round_votes": 30}
    votes, found = run(field, strengths, PAIR, 200, pixels=twins_0_and_1(field), **rules)
    assert found.ends and len(votes) <= lengths(30, 2)[0]
    made = [Comparison((good, bad), (good,)) for good in (0, 1) for bad in (2, 3)] * 2
    now = outcome(made, list("abcd"), 14, sure=1.0, twins=lambda one, other: True)
    assert now.rounds.alive == (0, 1) and now.rounds.votes_left
    now = outcome(made * 2, list("abcd"), 28, sure=2.0, twins=lambda a, b: {a, b} == {0, 1})
    assert now.verdict.state == ROUNDS_DONE and "in round 2 of 2: the rounds" in now.verdict.text
    assert progress(made * 2, now.verdict, ROUNDS_OVER, 28).ends
    assert (
        "pictures of those that are left are alike"
        in progress(made * 2, now.verdict, ROUNDS_OVER, 28).text
    )


@pytest.mark.parametrize("differ", [1, 12])
def test_a_pair_that_is_alike_in_most_places_is_asked_about_in_the_others(differ: int):
    field = made_field(2, 20, 2)
    pixels = {key: key if at(field, key)[0] >= 40 - differ else "same" for key in field.where}
    votes, found = run(field, numpy.zeros(2), PAIR, 50, pixels=pixels.get, ties=1.0)
    assert len(votes) == differ and found.state == EXHAUSTED
    votes, _ = run(field, numpy.zeros(2), PAIR, 50, pixels=pixels.get, ties=1.0, seed=2)
    assert all(at(field, key)[0] >= 40 - differ for vote in votes for key in vote.shown)


def test_the_vote_ends_when_one_is_best_and_says_who():
    votes, found = run(made_field(4, 20, 5), numpy.array([0, 0, 0, 3.0]), PAIR, 200)
    assert found.state == DECIDED and found.leader == 3 and len(votes) < 60
    assert found.best[3] >= 0.9 and "m3 is the best with a probability of 9" in found.text


def test_the_vote_ends_when_more_votes_would_not_separate_them():
    """200 votes each way: nothing more to find out."""
    even = [Comparison((0, 1), (n % 2,)) for n in range(400)]
    found = verdict(posterior(even, 2), ["red", "blue"])
    assert found.state == LEVEL and "hardly separate" in found.text
    assert "red" in found.text and "blue" in found.text and "55 of 100" in found.text
    assert verdict(posterior(even[:4], 2), ["red", "blue"]).state == MORE


def test_a_judge_who_has_seen_all_pictures_is_told_so():
    votes, found = run(made_field(2, 2, 1), numpy.zeros(2), PAIR, 50, ties=1.0)
    assert len(votes) == 2 and found.state == EXHAUSTED
    assert found.text == "You have compared all finished pictures."


def test_what_is_still_open_is_asked_about():
    """0 and 1 win all against 2 and 3, and nothing is known of 4 or of 0 against 1."""
    made = [Comparison((a, b), (a,)) for a in (0, 1) for b in (2, 3)] * 12
    votes = posterior(made, 5)
    assert set(most_telling(votes, range(4), 2, 1)[0]) == {0, 1}
    assert any(4 in pair for pair in most_telling(votes, range(5), 2, 1)[:3])
    first, *_, last = most_telling(votes, range(5), 4, 1)
    assert {0, 1, 4} <= set(first) and set(last) != set(first)
    many = most_telling(posterior([], 40), range(40), 4, 1)
    assert 1000 < len(many) <= 2000 and all(len(set(one)) == 4 for one in many)


def test_four_of_three_candidates_are_pairs():
    question, _ = next_question(state_of(made_field(3)), "Ann", FOUR)
    assert len(question.shown) == PAIR


def test_the_next_question_comes_at_once():
    """13 candidates, 168 places, 400 votes: below 50 ms of a processor."""
    field = made_field(13, 21, 8)
    random, strengths = numpy.random.default_rng(1), numpy.linspace(-0.4, 0.4, 13)
    votes = []
    for number in range(400):
        shown = [int(n) for n in random.choice(13, 2, replace=False)]
        order = judged(strengths, shown, random, 0.3)
        votes.append(vote_on(field, number % 168, shown, order, f"judge {number % 3}"))
    for count in (PAIR, FOUR):
        taken = []
        for _ in range(5):
            began = time.thread_time()
            question, _ = next_question(state_of(field, votes), "Ann", count)
            taken.append(time.thread_time() - began)
            assert question is not None
        assert min(taken) < 0.05


def test_four_that_differ_nowhere_are_not_looked_for_everywhere():
    """A grid of 20,000 cells: 20 candidates with three different pictures in each of 1,000 places,
    and one of which three candidates are rendered so far.
    """
    field = made_field(20, 100, 10)
    pixels = {key: f"{place} {who % 3}" for key in field.where for place, who in [at(field, key)]}
    rendered = {key for key in field.where if at(field, key)[1] < 3}
    for state in (state_of(field, pixels=pixels.get), state_of(field, finished=rendered)):
        began = time.process_time()
        question, _ = next_question(state, "Ann", FOUR)
        assert time.process_time() - began < 2 and len(question.shown) == PAIR


def test_judges_are_sometimes_asked_the_same_so_that_their_agreement_shows():
    field = made_field(6, 10, 2)
    before = [vote_on(field, p, (0, 1), ()) for p in range(20)]
    votes = list(before)
    for _ in range(40):
        question, _ = next_question(state_of(field, votes), "Bob", PAIR)
        shown = [at(field, key)[1] for key in question.shown]
        votes.append(vote_on(field, question.place, shown, (), "Bob"))
    asked = {frozenset(v.shown) for v in before}
    assert any(frozenset(v.shown) in asked for v in votes[20:])


def test_rounds_cut_the_weaker_half_and_end_with_one():
    assert cuts(13) == (6, 3, 1) and cuts(2) == (1,)
    assert lengths(480, 3) == [192, 144, 144]
    field, strengths = made_field(13, 21, 2), numpy.linspace(0, 6, 13)
    votes, found = run(field, strengths, PAIR, 200, ties=0, method=ROUNDS, round_votes=90)
    made = comparisons(field, votes)
    after = standing(made[:36], 13, 90)
    assert after.round == 2 and len(after.alive) == 6 and 12 in after.alive
    assert {n for c in made[36:63] for n in c.shown} <= set(after.alive)
    assert found.state in (ROUNDS_DONE, DECIDED) and "m12" in found.text
    over = standing([*made, *made[:1] * 90], 13, 90)
    assert over.votes_left == 0 and len(over.alive) == 1


def test_the_survivor_of_the_rounds_is_the_winner_even_if_one_that_is_out_is_stronger():
    """In the first round 2 and 3 lose; later votes prefer 3."""
    first = [Comparison((n, out), (n,)) for n in (0, 1) for out in (2, 3)] * 2
    later = [Comparison((1, 0), (1,))] * 2 + [Comparison((3, n), (3,)) for n in (0, 1)] * 5
    labels = ["m0", "m1", "m2", "m3"]
    freely, rounds = outcome([*first, *later], labels), outcome([*first, *later], labels, 20)
    assert freely.order[0] == 3
    assert rounds.verdict.state == ROUNDS_DONE and rounds.verdict.ends
    assert (rounds.order, rounds.verdict.leader) == ((1, 0, 3, 2), 1)
    assert rounds.rounds.alive == (1,) and rounds.rounds.stayed == (1, 2, 0, 0)
    assert "All 2 rounds are over; m1 is left, the best with a prob" in rounds.verdict.text


def test_the_leader_is_the_first_of_the_order_whatever_the_votes():
    for number in range(15):
        random = numpy.random.default_rng(number)
        strengths, made = random.normal(0, 0.4, 7), []
        for _ in range(40):
            shown = tuple(int(n) for n in random.choice(7, 2, replace=False))
            made.append(Comparison(shown, judged(strengths, shown, random, 0.2)))
        for votes in (0, 30, 60):
            now = outcome(made, list("abcdefg"), votes)
            assert now.verdict.leader == now.order[0]
            assert not votes or now.order[0] in now.rounds.alive
            if now.verdict.state == DECIDED:
                assert now.verdict.best[now.order[0]] >= 0.9


def test_a_vote_of_so_many_votes_ends_with_them():
    votes, found = run(made_field(4, 8, 2), numpy.zeros(4), PAIR, 100, most_votes=5)
    assert len(votes) == 5 and found.state == ENOUGH and found.ends
    assert found.text.startswith("There are 5 votes, as many as were wanted.")


def test_a_picture_of_several_places_is_asked_about_and_counted():
    """Without a LoRA its strength changes nothing."""
    axes = [axis("LoRA", "none", "ink", "oil"), axis("strength", "0.5", "1")]
    positions = [(lora, strength) for lora in range(3) for strength in range(2)]
    keys = [key_of("none") if not lora else key_of(lora, strength) for lora, strength in positions]
    field = field_of(axes, positions, keys, "LoRA")
    for number in range(20):
        question, _ = next_question(state_of(field, seed=number), "Ann", PAIR)
        assert field.comparison(question.shown, question.shown[:1]) is not None
        assert set(question.shown) <= set(field.places[question.place].keys)


def test_some_questions_are_those_that_other_judges_were_asked():
    field = made_field(4, 10, 5)
    ann, _ = run(field, numpy.zeros(4), PAIR, 20, ties=1.0)
    seen, repeated = {frozenset(vote.shown) for vote in ann}, 0
    for number in range(100):
        question, _ = next_question(state_of(field, ann, seed=number), "Bob", PAIR)
        repeated += frozenset(question.shown) in seen
    assert 1 <= repeated <= 20


def test_a_long_axis_is_asked_about_four_at_a_time():
    began = time.process_time()
    assert next_question(state_of(made_field(150, 1, 1)), "Ann", FOUR)[0] is not None
    assert time.process_time() - began < 2


def test_without_ties_few_votes_that_would_separate_two_are_asked_for():
    votes = [Comparison((0, 1), (0,))] * 38 + [Comparison((0, 1), (1,))] * 32
    assert verdict(posterior(votes, 2), ["a", "b"]).state == MORE
