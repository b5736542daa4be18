"""Pairs that stand out are ranked by an open formula, found where they were planted, and left out
of a dataset without touching it.
"""

from __future__ import annotations

import csv
import io

import numpy
import pytest

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.figures import pairs
from cocktail.trainer.figures.curves import NotRecorded

from .run_folders import made_pairs, made_run, record_validation

LEVELS = numpy.array([0.3, 0.12, 0.06, 0.03])
PLANTED = 8


def validations(count: int, planted: int, by: float, seed: int = 0):
    """Three validations of `count` pairs, some easier than others, all learning; the losses of the
    first `planted` fall less, above all where there is much noise.
    """
    draw = numpy.random.default_rng(seed)
    own = draw.lognormal(0, 0.1, (count, 1)) * draw.lognormal(0, 0.05, (count, 4)) * LEVELS
    found = []
    for step, learned in enumerate((1.0, 0.7, 0.6)):
        losses = own * learned * draw.lognormal(0, 0.01, (count, 4))
        if step:
            losses[:planted] *= 1 + by * numpy.array([0.1, 0.5, 1, 2])
        ids = [f"{n:016x}" for n in range(count)]
        found.append(
            {
                "epoch": step,
                "step": step,
                "levels": dict(zip(ids, losses.tolist(), strict=True)),
            }
        )
    return found


def robust(values):
    """Spreads above the median, written once more."""
    apart = values - numpy.median(values, axis=0)
    return apart / (1.4826 * numpy.median(abs(apart), axis=0))


def test_scores_and_trends_are_those_of_the_formula():
    recorded = validations(50, 2, by=0.5)
    losses = numpy.array([list(line["levels"].values()) for line in recorded])
    logs = numpy.log(losses)
    now = (logs[1] + logs[2]) / 2
    score = robust(robust(now).mean(axis=1))
    trend = robust(robust(now - logs[0]).mean(axis=1))
    found = {standing.id: standing for standing in pairs.rank(recorded)}
    for n in range(50):
        standing = found[f"{n:016x}"]
        assert standing.score == pytest.approx(score[n])
        assert standing.trend == pytest.approx(trend[n])
        assert standing.levels == pytest.approx(robust(now)[n])


def test_planted_pairs_come_first_and_almost_alone():
    recorded = validations(400, PLANTED, by=0.5)
    ranked = pairs.rank(recorded)
    first = {standing.id for standing in ranked[: 2 * PLANTED]}
    planted = {f"{n:016x}" for n in range(PLANTED)}
    assert len(first & planted) >= 0.8 * PLANTED
    assert all(standing.trend > 3 for standing in ranked if standing.id in planted)


def test_without_planted_pairs_hardly_any_stands_out():
    far = [s for s in pairs.rank(validations(400, 0, by=0.0)) if s.score > 3]
    assert len(far) <= 4


def test_training_pairs_are_compared_with_training_pairs():
    recorded = validations(20, 0, by=0.0)
    for line in recorded:
        line["training"] = {
            f"{100 + n:016x}": [0.1 * loss for loss in losses]
            for n, losses in enumerate(line["levels"].values())
        }
    ranked = pairs.rank(recorded)
    scores = {
        part: sorted(s.score for s in ranked if s.part == part)
        for part in (pairs.TRAINING, pairs.VALIDATION)
    }
    assert scores[pairs.TRAINING] == pytest.approx(scores[pairs.VALIDATION])
    assert {s.part for s in pairs.chosen(ranked, 40, pairs.TRAINING)} == {pairs.TRAINING}
    assert pairs.note(ranked) == "20 validation pairs and 20 training pairs are ranked."


def test_the_words_carry_their_figures():
    standing = pairs.Standing("0" * 16, pairs.TRAINING, 4.25, 2.04, (0.0, 1.0, 2.0, 8.0))
    assert standing.words == (
        "loss 4.2 spreads above what is usual, most at composition, t 750-999 (+8.0); it has "
        "fallen less than others' (+2.0)"
    )
    assert "changed as others' have" in pairs.Standing("0", "training", 1, 0.2, (1.0,)).words


def test_pairs_that_are_all_alike_do_not_stand_out():
    same = {f"{n:016x}": [0.1, 0.2] for n in range(10)}
    found = pairs.rank([{"levels": same}])
    assert [s.score for s in found] == [0] * 10 and found[0].trend is None
    assert (pairs.spreads(numpy.array([1.0] * 9 + [2.0])) > [0] * 9 + [2.9]).tolist()[-1]


def test_few_pairs_and_old_runs_are_refused_in_words(tmp_path):
    run = made_run(tmp_path, "old", made_pairs(["train", "validation"]))
    losses = {f"{n:016x}": [0.1 + n] for n in range(pairs.FEWEST)}
    record_validation(run, 0, 0, losses, with_levels=False)
    with pytest.raises(NotRecorded, match="older Cocktail"):
        pairs.standings(run)
    record_validation(run, 1, 5, losses)
    assert len(pairs.standings(run)) == pairs.FEWEST


def test_the_table_names_every_pair_and_is_read_back_as_its_ids():
    dataset = made_pairs(["validation"] * 20)
    known = {pair.id: pair for pair in dataset.pairs}
    ranked = pairs.rank(validations(20, 1, by=1.0))
    text = pairs.as_csv(ranked[:5], known)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["id"] for row in rows] == [s.id for s in ranked[:5]] == pairs.read_ids(text)
    assert rows[0]["caption"] == "caption 0" and float(rows[0]["score"]) == pytest.approx(
        ranked[0].score, abs=1e-3
    )


@pytest.mark.parametrize("text", ["0" * 15, "G" * 16, "../etc/passwd", "0" * 16 + "-x", "<b>"])
def test_what_is_no_id_is_refused(text):
    with pytest.raises(TrainerError, match="is not the id of a pair"):
        pairs.read_ids(text)


def test_ids_are_read_as_people_write_them():
    first, second = "0" * 16, "ab" * 8 + "-2"
    assert pairs.read_ids(f" {first},{second}\n\n{first} ") == [first, second]
    assert pairs.read_ids("") == []


def test_a_dataset_without_the_listed_pairs_is_a_new_one():
    dataset = made_pairs(["train"] * 5 + ["validation"] * 2)
    ids = [dataset.pairs[1].id, dataset.pairs[6].id, "f" * 16]
    kept, gone, absent = pairs.leave_out(dataset, ids)
    assert [pair.id for pair in gone] == ids[:2] and absent == ids[2:]
    assert [pair.id for pair in kept.pairs] == [p.id for p in dataset.pairs if p.id not in ids]
    assert len(dataset.pairs) == 7 and kept.fingerprint != dataset.fingerprint
    assert kept.history[-1] == "2 pairs left out by a list"
    assert pairs.leave_out(dataset, ["f" * 16])[0].fingerprint == dataset.fingerprint
    with pytest.raises(TrainerError, match="leaves out all 7 pairs"):
        pairs.leave_out(dataset, [pair.id for pair in dataset.pairs])
