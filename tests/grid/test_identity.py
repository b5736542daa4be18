"""The check of a grid: random cells rendered again in a fresh process."""

from __future__ import annotations

import pytest

from cocktail.nodes.grid.identity import SAME, cause, chosen

HERE = {"torch": "2", "device": "cpu"}


@pytest.mark.parametrize(
    ("alone", "shuffled", "between", "batched", "then", "words"),
    [
        (0, 0, 0, False, HERE, SAME),
        (3, 0, 3, False, HERE, "what was rendered before a cell changes it"),
        (1, 1, 0, False, {"torch": "1", "device": "cpu"}, "torch was 1 and is 2"),
        (1, 1, 0, True, HERE, "sampled in a batch"),
        (9, 9, 0, False, HERE, "has been edited"),
        (9, 9, 0, False, None, "has been edited"),
    ],
)
def test_the_likely_cause_is_named(alone, shuffled, between, batched, then, words):
    assert words in cause(alone, shuffled, between, batched, then, HERE)


def test_cells_are_drawn_by_the_seed_from_those_that_are_finished():
    listed = [{"key": str(n), "status": "finished" if n % 2 else "missing"} for n in range(40)]
    drawn = [[cell["key"] for cell in chosen(listed, 5, seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(int(key) % 2 for key in drawn[0]) and len(set(drawn[0])) == 5
    assert len(chosen(listed, 100, 0)) == 20
