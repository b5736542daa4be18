"""Which checkpoints people prefer, where they are in grids, and how far their losses agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.ballot import Ballot
from cocktail.nodes.grid.engine.vote.chart import table
from cocktail.nodes.grid.engine.vote.correlation import Loss, spearman, with_losses
from cocktail.nodes.grid.engine.vote.log import VoteLog
from cocktail.nodes.grid.engine.vote.ranking import report
from cocktail.nodes.grid.engine.vote.winners import columns_of, winner_among

from .drawn import drawn_plan
from .voting import made_field, vote_on


def voted(folder: Path, winner: int, votes: int) -> None:
    """A grid of three models with votes for one of them."""
    store = Store(folder)
    store.save_plan(drawn_plan(checkpoints=3))
    field = Ballot(store).field
    other = (winner + 1) % 3
    for number in range(votes):
        judge = f"judge {number}"
        place = number % len(field.places)
        VoteLog(folder).add(vote_on(field, place, (other, winner), (winner,), judge))


def test_the_winner_of_a_run_is_that_of_a_vote_that_is_over_and_else_of_most_votes(tmp_path: Path):
    voted(tmp_path / "few", 0, 2)
    voted(tmp_path / "many", 2, 5)
    voted(tmp_path / "none", 1, 0)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "votes.jsonl").write_text('{"kind": "vote"}\n')
    found = winner_among(tmp_path, {"model 0", "model 2"})
    assert found and (found.grid, found.checkpoint, found.votes) == ("many", "model 2", 5)
    found = winner_among(tmp_path, {"model 0"})
    assert found and (found.grid, found.decided) == ("few", False)
    assert winner_among(tmp_path, {"model 1"}) is None
    voted(tmp_path / "few", 2, 40)
    found = winner_among(tmp_path, {"model 2"})
    assert found and (found.grid, found.decided) == ("few", True), "more votes are noticed"


def test_the_columns_of_checkpoints_are_found_in_every_grid(tmp_path: Path):
    voted(tmp_path / "g", 0, 0)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "plan.json").write_text("{")
    found = columns_of(tmp_path, {"model 1", "model 2", "elsewhere"})
    assert found == [{"grid": "g", "axes": 3, "axis": 2, "columns": {"model 1": 1, "model 2": 2}}]
    assert columns_of(tmp_path, {"elsewhere"}) == []


@pytest.mark.parametrize(
    ("one", "other", "rho"),
    [
        ((1, 2, 3), (10, 20, 21), 1.0),
        ((1, 2, 3), (3, 2, 1), -1.0),
        ((106, 100, 86, 101, 99, 103, 97, 113, 112, 110), (7, 27, 2, 50, 28, 29, 20, 12, 6, 17),
         -29 / 165),
        ((1, 2, 2, 3), (1, 2, 3, 4), 3 / 10**0.5),
        ((1, 1, 1), (1, 2, 3), None),
    ],
)  # fmt: skip
def test_the_rank_correlation_is_spearmans(one, other, rho):
    found = spearman(one, other)
    assert found is None if rho is None else found == pytest.approx(rho)


def test_a_ranking_tells_losses_of_each_run_and_how_far_they_agree():
    field = made_field(4)
    votes = [vote_on(field, place, (0, n), (n,)) for n in (1, 2, 3) for place in range(2)]
    votes += [vote_on(field, place, (1, 2), (2,)) for place in range(2)]
    losses = {"m0": Loss("a", 0.4), "m1": Loss("a", 0.3), "m2": Loss("a", 0.2)}
    checkpoints = [one.label for one in field.candidates]
    found = with_losses(report(field, votes), checkpoints, {**losses, "m3": Loss("b", 9.0)})
    told = {one["label"]: one["validation_loss"] for one in found["ranking"]}
    assert told == {"m0": 0.4, "m1": 0.3, "m2": 0.2, "m3": 9.0}
    (agrees,) = found["losses"]
    assert (agrees["run"], agrees["checkpoints"]) == ("a", 3) and agrees[
        "spearman"
    ] == pytest.approx(1)
    text = table(found)
    assert "| validation loss |" in text and "| 0.4000 |" in text
    assert "over 3 checkpoints of the run a: Spearman's rank correlation +1.00" in text
    assert "validation loss" not in table(with_losses(report(field, votes), checkpoints, {}))
