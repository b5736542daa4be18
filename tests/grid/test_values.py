"""How lists of values can be written."""

from __future__ import annotations

import re

import pytest

from cocktail.nodes.grid.engine.axes.lists import numbers, seeds, texts
from cocktail.nodes.grid.engine.errors import GridError


@pytest.mark.parametrize(
    ("line", "whole", "expected"),
    [
        ("1, 2,3", True, "1 2 3"),
        ("1-5", True, "1 2 3 4 5"),
        ("5-1", True, "5 4 3 2 1"),
        ("1-9 (+2)", True, "1 3 5 7 9"),
        ("1-8 (+3)", True, "1 4 7"),
        ("10-5 (-3)", True, "10 7"),
        ("1-10 [4]", True, "1 4 7 10"),
        ("1-10 [5]", True, "1 3 5 7 10"),
        ("0-1 [5]", False, "0 0.25 0.5 0.75 1"),
        ("1-2 (+0.25)", False, "1 1.25 1.5 1.75 2"),
        ("-2-2 (+2)", True, "-2 0 2"),
        ("1, 2, .., 5", True, "1 2 3 4 5"),
        ("4, 6, ..., 10, 20", True, "4 6 8 10 20"),
        ("1, .., 4", True, "1 2 3 4"),
        ("10, 7.5, .., 0", False, "10 7.5 5 2.5 0"),
        ("0.1, 0.2, .., 0.5", False, "0.1 0.2 0.3 0.4 0.5"),
        (".1, .2, .., .5", False, ".1 .2 0.3 0.4 0.5"),
        ("1e-6, 2e-6, .., 4e-6", False, "1e-6 2e-6 3e-06 4e-06"),
        ("3, 1-2", True, "3 1 2"),
        ("word", True, "word"),
    ],
)
def test_numbers_are_lists_ranges_or_go_on(line: str, whole: bool, expected: str):
    assert numbers(line, whole) == expected.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1-5 (-1)", "is an empty range"),
        ("1-5 (+0)", "is an empty range"),
        ("1-5 (+0.5)", "not whole"),
        ("1-5 [1]", "a count from 2"),
        ("1-1000000000", "is the most"),
        (".., 5", "between numbers"),
        ("1, ..", "between numbers"),
        ("1, 2, .., 0", "cannot go from 2 to 0"),
        ("a, .., 3", "is not one"),
        ("1, .., 1e999999999", "is not one"),
        ("0.5-1", "contains numbers that are not whole"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(line: str, words: str):
    with pytest.raises(GridError, match=re.escape(words)):
        numbers(line, whole=True)


def test_a_range_of_fractions_needs_a_step():
    with pytest.raises(GridError, match=re.escape("0.5-1 (+0.1), or how many numbers, 0.5-1 [6]")):
        numbers("0.5-1", whole=False)


def test_numbers_too_long_to_be_meant_are_no_range():
    long = "9" * 5000
    assert numbers(f"1-{long}", whole=True) == [f"1-{long}"]
    assert seeds(f"{long} seeds") is None


def test_drawn_seeds_are_the_same_every_time_and_exact_in_javascript():
    four = seeds("4 seeds")
    assert four is not None
    assert four[:2] == seeds("2 seeds") == ["3399012036751255", "7364257129514928"]
    assert len(set(four)) == 4
    assert seeds("1 seed from 7") != seeds("1 seed")
    assert all(0 <= int(seed) < 2**53 for seed in four)
    assert seeds("7") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a red circle, large", ["a red circle, large"]),
        ('""', [""]),
        ('"a, b", "c ""d"""', ["a, b", 'c "d"']),
        ('"quoted" words, and more', ['"quoted" words, and more']),
        ('"all in quotes"', ["all in quotes"]),
        ('"red", "blue"', ["red", "blue"]),
        ('"", "blurry"', ["", "blurry"]),
        ('"said ""so"""', ['said "so"']),
        ('"" , "red" , "blue"', ["", "red", "blue"]),
    ],
)
def test_commas_separate_prompts_only_between_quotes(line: str, expected: list[str]):
    assert texts(line) == expected
