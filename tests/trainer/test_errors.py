"""The name that a person may have meant."""

from __future__ import annotations

import difflib
from pathlib import PurePosixPath

import pytest

from cocktail.merge import errors as merge_errors
from cocktail.trainer import errors
from cocktail.trainer.errors import CLOSER_LOOKS, LONGEST_NAME, nearest

OPTIMIZERS = ("adamw", "adafactor", "prodigy", "d-adapt adam")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("adanw", " Did you mean adamw?"),
        ("Prodigi", " Did you mean prodigy?"),
        ("apt", " Did you mean d-adapt adam?"),
        ("sophia", ""),
        ("", ""),
    ],
)
def test_the_most_similar_name_is_offered_and_none_if_none_is_similar(name, hint):
    assert nearest(name, OPTIMIZERS) == merge_errors.nearest(name, OPTIMIZERS) == hint


def test_only_the_part_that_counts_is_compared_and_the_whole_name_is_offered():
    files = ["a/very/long/folder/epoch-05.safetensors", "epoch/5/other.safetensors"]
    hint = nearest("epoch-5", files, lambda file: PurePosixPath(file).stem)
    assert hint == " Did you mean a/very/long/folder/epoch-05.safetensors?"


@pytest.mark.parametrize("of", [errors, merge_errors])
def test_long_and_many_names_cost_little(monkeypatch, of):
    compared = set()

    class Counting(difflib.SequenceMatcher):
        def ratio(self):
            compared.add(self.a)
            return super().ratio()

    monkeypatch.setattr(of.difflib, "SequenceMatcher", Counting)
    many = [f"{number:05d}" + "ab" * 40 for number in range(20 * CLOSER_LOOKS)]
    assert of.nearest("ba" * 42, many)
    assert 0 < len(compared) <= CLOSER_LOOKS
    compared.clear()
    assert of.nearest("a" * (LONGEST_NAME + 1), ["a" * LONGEST_NAME]) == ""
    assert of.nearest("a" * 9, ["a" * (LONGEST_NAME + 1)]) == ""
    assert not compared
