"""Splitting: exact shares, choices that additions do not move, groups that stay together,
validation sets of their own.
"""

from __future__ import annotations

import dataclasses

import pytest

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.data.split import METHODS, TOGETHER, add_validation_set, split
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import sha256_text


def pairs(
    count: int, start: int = 0, caption: str = "caption", group: str = ""
) -> tuple[Pair, ...]:
    return tuple(
        Pair(f"id{n}", f"{n}.png", sha256_text(str(n)), 64, 64, f"{caption} {n}", group=group)
        for n in range(start, start + count)
    )


def dataset(*found: Pair, root: str = "/pairs") -> Dataset:
    return Dataset("pairs", root, found)


def held_back(result: Dataset) -> set[str]:
    return {pair.id for pair in result.validation}


def test_15_percent_of_11475_pairs_are_1722():
    assert len(split(dataset(*pairs(11_475)), 0.15, 555).validation) == 1722


def test_by_hash_an_added_pair_moves_no_other():
    few, many = dataset(*pairs(500)), dataset(*pairs(1500))
    first = held_back(split(few, 0.2, 1, "by hash"))
    then = held_back(split(many, 0.2, 1, "by hash"))
    assert then & {pair.id for pair in few.pairs} == first
    assert 250 < len(then) < 350
    assert held_back(split(many, 0.2, 2, "by hash")) != then


def test_with_an_exact_share_an_added_pair_moves_few():
    first = held_back(split(dataset(*pairs(1000)), 0.2, 1))
    then = held_back(split(dataset(*pairs(1001)), 0.2, 1))
    assert len(first) == 200 and len(then) == 201
    assert len(first ^ then) <= 3


@pytest.mark.parametrize("method", METHODS)
def test_a_group_stays_on_one_side(method):
    found = [
        pair for number in range(40) for pair in pairs(10, number * 10, group=f"user {number}")
    ]
    result = split(dataset(*found), 0.25, 1, method, "same group")
    sides: dict[str, set[str]] = {}
    for pair in result.pairs:
        sides.setdefault(pair.group, set()).add(pair.split)
    assert all(len(side) == 1 for side in sides.values())
    assert len(result.validation) >= 100 or method == "by hash"


def test_the_four_pictures_of_one_prompt_stay_on_one_side():
    found = [
        dataclasses.replace(pair, caption=("A  cat", "a cat")[number % 2] + f" {number // 4}")
        for number, pair in enumerate(pairs(400))
    ]
    result = split(dataset(*found), 0.15, 1, together="same caption")
    both = {p.caption.lower() for p in result.train} & {
        p.caption.lower() for p in result.validation
    }
    assert {" ".join(caption.split()) for caption in both} == set()
    assert len(result.validation) >= 60


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("method", METHODS)
def test_both_sides_need_a_pair(method, together):
    with pytest.raises(TrainerError, match="Both need at least one"):
        split(dataset(*pairs(1)), 0.5, 1, method, together)


def test_a_folder_of_its_own_and_named_sets_are_measured_and_never_trained_on():
    training = dataset(*pairs(20))
    own = Dataset("held back", "/elsewhere", (*pairs(5, 100), training.pairs[3]))
    faces = Dataset("faces", "/faces", pairs(3, 200))
    result = add_validation_set(add_validation_set(training, own), faces, "faces")
    sets = result.validation_sets
    assert {name: len(found) for name, found in sets.items()} == {"validation": 6, "faces": 3}
    assert training.pairs[3].image_hash not in {pair.image_hash for pair in result.train}
    assert len(result.train) == 19
    assert str(result.path(sets["faces"][0])).replace("\\", "/").endswith("/faces/200.png")
    assert "1 left out of training" in result.history[0]
    with pytest.raises(TrainerError, match="already has a validation set faces"):
        add_validation_set(result, Dataset("more", "/more", pairs(3, 300)), "faces")
    with pytest.raises(TrainerError, match="cannot name a validation set"):
        add_validation_set(training, faces, "../faces")
    with pytest.raises(TrainerError, match="All pictures to train on are also in pairs"):
        add_validation_set(training, training)
    with pytest.raises(TrainerError, match="same background"):
        add_validation_set(training, dataclasses.replace(faces, background="#000000"))


@pytest.mark.parametrize("together", TOGETHER)
def test_pairs_that_all_belong_together_are_refused_with_the_reason(together):
    copies = tuple(
        dataclasses.replace(pair, image_hash="a" * 64, group="one", caption="one")
        for pair in pairs(3)
    )
    with pytest.raises(TrainerError, match=f"All 3 pairs have the {together}.*Add pairs that diff"):
        split(dataset(*copies), 0.15, 1, together=together)
