"""Captions that are drawn from the lines of a file and from words in braces."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from cocktail.trainer.data.caption.apply import apply_captions
from cocktail.trainer.data.caption.rewrite import CaptionRules, rewrite
from cocktail.trainer.data.captions import chosen, vary
from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.errors import TrainerError

from .folders import load, picture, text

TEXT = "a {red|blue} cat\n\n  a {big|{very |}small} dog\rone bird"
ALL = {
    "a red cat": 1 / 6,
    "a blue cat": 1 / 6,
    "a big dog": 1 / 6,
    "a very small dog": 1 / 12,
    "a small dog": 1 / 12,
    "one bird": 1 / 3,
}


@pytest.fixture
def drawn(tmp_path) -> Dataset:
    picture(tmp_path, "a.png")
    text(tmp_path, "a.txt", TEXT)
    picture(tmp_path, "b.png")
    text(tmp_path, "b.txt", "a {plain} line")
    return load(tmp_path, caption_text="drawn line", on_problem="stop")[0]


def test_every_choice_is_drawn_as_often_as_its_chance(drawn):
    pair = drawn.pairs[0]
    assert pair.caption == "a red cat", "the first choice, for validation"
    found = Counter(vary(pair, (), f"{number}") for number in range(6000))
    assert set(found) == set(ALL)
    for caption, chance in ALL.items():
        assert found[caption] / 6000 == pytest.approx(chance, abs=0.025)
    assert vary(pair, (), "7") == vary(pair, (), "7"), "one showing has one caption"


def test_a_text_without_a_choice_is_a_plain_caption(drawn):
    assert (drawn.pairs[1].caption, drawn.pairs[1].choices) == ("a {plain} line", "")
    assert chosen("{a|b", random.choice) == "{a|b" and chosen("", random.choice) == ""


def test_choices_are_part_of_the_dataset_and_survive_a_manifest(drawn, tmp_path):
    drawn.save(tmp_path / "d.parquet")
    assert Dataset.load(tmp_path / "d.parquet") == drawn
    assert load(tmp_path)[0].fingerprint != drawn.fingerprint
    assert load(tmp_path)[0].pairs[0].caption == "a {red|blue} cat", "braces are text otherwise"


def test_what_changes_captions_changes_the_choices(drawn):
    rules = CaptionRules(replace=(("cat", "lynx"),), prefix="photo, ")
    pair = rewrite(drawn, rules)[0].pairs[0]
    assert {vary(pair, (), f"{number}") for number in range(300)} == {
        f"photo, {caption.replace('cat', 'lynx')}" for caption in ALL
    }
    pair = apply_captions(drawn, "", {drawn.pairs[0].id: "night"}, "append")[0].pairs[0]
    assert {vary(pair, (), f"{number}") for number in range(300)} == {f"{c}, night" for c in ALL}
    pair = apply_captions(drawn, "", {drawn.pairs[0].id: "night"}, "replace")[0].pairs[0]
    assert {vary(pair, (), f"{number}") for number in range(9)} == {"night"}


@pytest.mark.parametrize("mode", ["append", "prepend"])
def test_a_text_that_joins_choices_is_one_line_and_is_not_drawn_from(drawn, mode):
    given = "a night\n\n  with {stars|clouds} and \\{x|y}"
    pair = apply_captions(drawn, "", {drawn.pairs[0].id: given}, mode)[0].pairs[0]
    line = "a night with {stars|clouds} and \\{x|y}"
    joined = {f"{c}, {line}" if mode == "append" else f"{line}, {c}" for c in ALL}
    assert {vary(pair, (), f"{number}") for number in range(300)} == joined


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("{a {b} c|d} {e|f}", "{a {b} c|d} e"),
        ("a} {b|c", "a} {b|c"),
        ("{x|{y|z} {p|q}}, {r|s}", "x, r"),
        ("{a|{b|c}", "{a|b"),
        (r"\{a|b} {c\}|d}", "{a|b} c}"),
        ("{|a}b", "b"),
    ],
)
def test_braces_within_braces(text, first):
    assert chosen(text, lambda several: several[0]) == first


@pytest.mark.parametrize(
    "text", ["{" + "|" * 200_000, "{a|" * 60_000, "{a|" * 20_000 + "}" * 20_000]
)
def test_a_long_caption_of_braces_is_drawn_from_at_once(text):
    before = time.process_time()
    assert chosen(text, lambda several: several[0])
    assert time.process_time() - before < 2


def test_other_layouts_refuse_drawn_lines(tmp_path):
    picture(tmp_path, "a.png")
    text(tmp_path, "multiply.txt", "2")
    with pytest.raises(TrainerError, match="is for the layouts plain and kohya"):
        load(tmp_path, caption_text="drawn line")
