"""Votes go to disk one by one, stay with their pictures, and are taken back by lines of their
own.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.vote.agreement import agreement
from cocktail.nodes.grid.engine.vote.chart import table
from cocktail.nodes.grid.engine.vote.field import field_of
from cocktail.nodes.grid.engine.vote.log import VoteLog, judge_name
from cocktail.nodes.grid.engine.vote.questions import comparisons
from cocktail.nodes.grid.engine.vote.ranking import JUDGE, grouped, report
from cocktail.nodes.grid.engine.vote.strengths import Comparison

from .voting import axis, key_of, made_field, vote_on

HTML = "<img src=x onerror=alert(1)> 🍸"


def test_votes_come_back_as_they_were_cast_and_undo_is_a_line(tmp_path: Path):
    field, log = made_field(), VoteLog(tmp_path)
    votes = [
        vote_on(field, 0, (0, 1), (1,), HTML),
        vote_on(field, 0, (0, 1), (), "Bob", bad=True),
        vote_on(field, 1, (3, 1, 0, 2), (0, 3, 1)),
    ]
    assert log.read().standing == ()
    for vote in votes:
        log.add(vote)
    assert log.read().standing == tuple(votes)
    assert log.undo(HTML) == votes[0]
    read = VoteLog(tmp_path).read()
    assert read.standing == tuple(votes[1:]) and read.undone == 1 and not read.problem()
    assert len((tmp_path / "votes.jsonl").read_bytes().splitlines()) == 4
    with pytest.raises(GridError, match="no vote here"):
        log.undo(HTML)
    log.add(votes[0])
    assert log.read().standing == (*votes[1:], votes[0])


def test_nobody_takes_back_the_vote_of_another(tmp_path: Path):
    field, log = made_field(), VoteLog(tmp_path)
    log.add(vote_on(field, 0, (0, 1), (1,), "Ann"))
    with pytest.raises(GridError, match="Bob has no vote"):
        log.undo("Bob")
    line = {"kind": "undo", "vote": log.read().standing[0].id, "judge": "Bob", "time": 1}
    with (tmp_path / "votes.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert len(log.read().standing) == 1


def test_a_file_that_is_cut_anywhere_keeps_its_whole_lines_and_says_so(tmp_path: Path):
    field, log = made_field(), VoteLog(tmp_path)
    for place in range(3):
        log.add(vote_on(field, place, (0, 1), (1,)))
    data = (tmp_path / "votes.jsonl").read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for size in range(ends[1] + 1, ends[2], 7):
        (tmp_path / "votes.jsonl").write_bytes(data[:size])
        read = log.read()
        assert len(read.standing) == 2 and read.cut
        assert "1 line of votes.jsonl is damaged or cut off" in read.problem()
    (tmp_path / "votes.jsonl").write_bytes(data[: ends[1] + 9])
    log.add(vote_on(field, 4, (0, 1), (1,)))
    assert len(log.read().standing) == 3 and log.read().damaged == 1 and not log.read().cut


@pytest.mark.parametrize(
    "change",
    [
        {"order": ["x"]},
        {"shown": []},
        {"shown": "ab"},
        {"id": 1},
        {"judge": ""},
        {"time": None},
        {"bad": 1},
        {"kind": "other"},
        {"order": [key_of("not shown")]},
        {"bad": True},
    ],
)
def test_lines_that_are_no_votes_are_counted_and_hide_nothing(tmp_path: Path, change):
    log = VoteLog(tmp_path)
    vote = vote_on(made_field(), 0, (0, 1), (1,))
    log.add(vote)
    file = tmp_path / "votes.jsonl"
    line = json.loads(file.read_text())
    file.write_text(json.dumps({**line, **change}) + "\n" + "[1]\n" + json.dumps(line) + "\n")
    read = log.read()
    assert read.standing == (vote,) and read.damaged == 2


def test_what_is_no_vote_is_refused(tmp_path: Path):
    field, log = made_field(), VoteLog(tmp_path)
    for shown, order in (((0, 0), ()), ((0, 1, 2), (1,)), ((0, 1), (2,))):
        with pytest.raises(GridError, match="two or four different ones"):
            log.add(vote_on(field, 0, shown, order))
    assert not (tmp_path / "votes.jsonl").exists()
    for name in ("", "  ", "x" * 61, "two\nlines", "\0"):
        with pytest.raises(GridError, match="Enter a judge's name"):
            judge_name(name)
    assert judge_name(f" {HTML} ") == HTML


def test_several_may_vote_at_once_and_one_question_is_answered_once(tmp_path: Path):
    field = made_field(prompts=20)

    def cast(judge: str) -> None:
        for place in range(20):
            VoteLog(tmp_path).add(vote_on(field, place, (0, 1), (1,), judge))

    threads = [threading.Thread(target=cast, args=(name,)) for name in ("Ann", "Bob", "Ann")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = VoteLog(tmp_path).read()
    assert len(read.standing) == 40 and read.damaged == 0


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path):
    (tmp_path / "elsewhere").write_text("")
    try:
        (tmp_path / "votes.jsonl").symlink_to(tmp_path / "elsewhere")
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(OSError):
        VoteLog(tmp_path).add(vote_on(made_field(), 0, (0, 1), (1,)))
    assert (tmp_path / "elsewhere").read_text() == ""


def test_votes_stay_with_their_pictures_when_the_grid_is_planned_again():
    before = made_field(3, 2, 1)
    votes = [vote_on(before, 0, (0, 1), (0,)), vote_on(before, 1, (2, 1), (2,))]
    # The first checkpoint is gone, the others have changed places, a prompt came in between.
    positions = [(c, p) for c in (0, 1) for p in (0, 1, 2)]
    again = {(0, 2): (1, 1, 0), (1, 2): (2, 1, 0)}
    keys = [key_of(again.get(position, ("new", position))) for position in positions]
    axes = [axis("checkpoint", "m1", "m2"), axis("prompt", "p0", "new", "p1")]
    field = field_of(axes, positions, keys)
    assert comparisons(field, votes) == [Comparison((1, 0), (1,))]
    told = report(field, votes)
    assert told["votes"] == 1 and told["elsewhere"] == 1 and told["leader"] == "m2"


def test_values_with_the_same_pictures_are_one_candidate_and_one_alone_is_refused():
    axes = [axis("seed", "1", "2"), axis("checkpoint", "a", "copy of a", "b")]
    positions = [(s, c) for s in range(2) for c in range(3)]
    keys = [key_of(s, 0 if c == 1 else c) for s, c in positions]
    field = field_of(axes, positions, keys)
    assert [one.label for one in field.candidates] == ["a = copy of a", "b"]
    assert field.axis == "checkpoint" and field.places[1].labels == {"seed": "2"}
    assert field_of(axes, positions, keys, "seed").axis == "seed"
    of_any_workflow = [axes[0], {**axes[1], "target": "loader.ckpt_name"}]
    assert field_of(of_any_workflow, positions, keys).axis == "loader.ckpt_name"
    with pytest.raises(GridError, match="no axis 'steps'.*seed, checkpoint"):
        field_of(axes, positions, keys, "steps")
    with pytest.raises(GridError, match="nothing to vote on"):
        field_of(axes, positions, [key_of(s) for s, _ in positions])


def test_a_judges_new_answer_to_the_same_pictures_replaces_the_old_one():
    field = made_field()
    votes = [vote_on(field, 0, (0, 1), (0,)), vote_on(field, 0, (1, 0), (1,))]
    assert comparisons(field, votes) == [Comparison((1, 0), (1,))]
    both = [votes[0], vote_on(field, 0, (1, 0), (1,), "Bob")]
    assert len(comparisons(field, both)) == 2


def test_rankings_by_prompt_and_judge_with_their_effects():
    field = made_field(3, 2, 6)
    votes = []
    for place, at in enumerate(field.places):
        order = (0, 1) if at.labels["prompt"] == "p0" else (1, 0)
        for judge in ("Ann", "Bob"):
            votes.append(vote_on(field, place, (0, 1), order[:1], judge))
            votes.append(vote_on(field, place, (2, order[0]), (order[0],), judge))
    told = report(field, votes, ["prompt", JUDGE])
    assert [r["label"] for r in told["ranking"]][2] == "m2"
    groups = told["by"]["prompt"]["groups"]
    assert groups["p0"][0]["label"] == "m0" and groups["p1"][0]["label"] == "m1"
    assert told["by"]["prompt"]["effects"]["probability"] > 0.6
    assert told["by"][JUDGE]["effects"]["probability"] < 0.5
    assert told["agreement"] == {"alpha": 1.0, "pictures": 24}
    assert [j["judge"] for j in told["judges"]] == ["Ann", "Bob"]
    assert list(grouped(field, votes, "size")) == []
    text = table(told)
    assert "Some candidates do better with one prompt than with others" in text
    assert "- m0 does better with the prompt p0: +" in text
    assert "- m0 does worse with the prompt p1: -" in text and "the judge Ann:" not in text
    wins = {r["label"]: r["wins"] for r in told["ranking"]}
    assert wins == pytest.approx({"m0": 2 / 3, "m1": 2 / 3, "m2": 0})


def test_each_size_has_its_own_ranking_and_its_own_votes():
    axes = [
        axis("checkpoint", "m0", "m1"),
        axis("size", "512 x 512", "768 x 768"),
        axis("seed", *"123456"),
    ]
    positions = [(c, s, n) for c in range(2) for s in range(2) for n in range(6)]
    field = field_of(axes, positions, [key_of(position) for position in positions])
    votes = [
        vote_on(field, place, (0, 1), (at.labels["size"] == "768 x 768",))
        for place, at in enumerate(field.places)
    ]
    groups = report(field, votes, ["size"])["by"]["size"]["groups"]
    assert [(size, ranks[0]["label"]) for size, ranks in groups.items()] == [
        ("512 x 512", "m0"), ("768 x 768", "m1"),
    ]  # fmt: skip
    for size, best in (("512 x 512", "m0"), ("768x768", "m1")):
        told = report(field.only(f"size = {size}"), votes)
        assert (told["leader"], told["votes"], told["elsewhere"]) == (best, 6, 6)
    one = report(field.only("size = 512X512\nseed=3"), votes)
    assert (one["leader"], one["votes"]) == ("m0", 1)
    for where, said in (
        ("size = 521 x 512", "no value '521 x 512'. Did you mean 512 x 512"),
        ("512", "write target = label"),
        ("checkpoint = m0", "other axes .size, seed."),
        ("size = 512x512\nsize = 768x768", "has size = 512x512 and size = 768x768 at once"),
    ):
        with pytest.raises(GridError, match=said):
            field.only(where)


def test_a_label_with_a_line_break_is_chosen_with_a_blank_for_it():
    axes = [axis("checkpoint", "m0", "m1"), axis("prompt", "a red\n  car", "a\u2028bus")]
    positions = [(c, p) for c in range(2) for p in range(2)]
    field = field_of(axes, positions, [key_of(position) for position in positions])
    for label, place in (("a red car", 0), ("a bus", 1)):
        assert field.only(f"prompt = {label}").places == (field.places[place],)
    with pytest.raises(GridError, match="no value 'a red'. Did you mean a red car[?]"):
        field.only("prompt = a red\ncar")
    with pytest.raises(GridError, match="It has these: a red car, a bus[.]"):
        field.only("prompt = a red dog")


def test_the_rounds_of_an_axis_are_noted_in_the_file_and_no_vote_is_lost(tmp_path: Path):
    log = VoteLog(tmp_path)
    log.add(vote_on(made_field(), 0, (0, 1), (1,)))
    for votes in (240, 0, 90):
        log.set_rounds("checkpoint", votes)
        read = log.read()
        assert read.rounds == {"checkpoint": votes} and len(read.standing) == 1
        assert not read.problem()
    for wrong in ({"votes": -1}, {"votes": True}, {"votes": 10**9}, {"axis": 1}):
        line = {"kind": "rounds", "axis": "checkpoint", "votes": 5, **wrong}
        with (tmp_path / "votes.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    assert log.read().rounds == {"checkpoint": 90} and log.read().damaged == 4


def test_only_judges_of_votes_that_count_here_are_told_each_vote_once():
    field, other = made_field(3, 2, 1), made_field(3, 5, 4)
    elsewhere = next(n for n, p in enumerate(other.places) if not set(p.keys) & set(field.where))
    votes = [
        vote_on(field, 0, (0, 1), (0,)), vote_on(field, 0, (1, 0), (1,)),
        vote_on(other, elsewhere, (0, 1), (0,), "Zoe"),
    ]  # fmt: skip
    told = report(field, votes)
    assert [(j["judge"], j["votes"]) for j in told["judges"]] == [("Ann", 1)]
    assert (told["votes"], told["elsewhere"]) == (1, 1)


def test_agreement_is_that_of_the_library_and_none_without_common_pictures():
    field = made_field()
    ann = [vote_on(field, place, (0, 1), order) for place, order in enumerate([(0,), (1,), ()])]
    bob = [vote_on(field, place, (0, 1), (0,), "Bob") for place in range(3)]
    assert agreement(ann) == (None, 0)
    alpha, shared = agreement([*ann, *bob])
    assert shared == 3 and -1 < alpha < 0.5
    alike = [
        vote_on(field, p, (0, 1), vote.order and (0, 1)[vote.order != bob[p].order :][:1], "Cy")
        for p, vote in enumerate(ann)
    ]
    assert agreement([*ann, *alike])[0] == pytest.approx(1)
    four = vote_on(field, 4, (0, 1, 2, 3), (2, 0))
    two = vote_on(field, 4, (2, 3), (2,), "Bob")
    assert agreement([four, two]) == (None, 1)
