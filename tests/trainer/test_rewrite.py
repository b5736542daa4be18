"""Rewriting captions: by rules, in order, and never to another pair's picture."""

from __future__ import annotations

import pytest

from cocktail.trainer.data.caption.rewrite import CaptionRules, mix, read_replacements, rewrite
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.errors import TrainerError


def dataset(*captions: str, columns: dict[int, dict[str, str]] | None = None) -> Dataset:
    return Dataset(
        "pairs",
        "/pairs",
        tuple(
            Pair(
                f"id{n}", f"{n}.png", f"{n:064x}", 64, 64, text, captions=(columns or {}).get(n, {})
            )
            for n, text in enumerate(captions)
        ),
    )


def captions(result: Dataset) -> list[str]:
    return [pair.caption for pair in result.pairs]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, "A Cat, on (a) mat\\1, cat"),
        ({"strip": False}, " A  Cat, ,on (a) mat\\1 , cat,"),
        ({"replace": (("cat", "dog"), ("dog", "fox"))}, "A fox, on (a) mat\\1, fox"),
        ({"replace": (("(a)", r"\1 \g<0>"),)}, r"A Cat, on \1 \g<0> mat\1, cat"),
        ({"replace": (("cat", ""),)}, "A, on (a) mat\\1"),
        ({"prefix": "photo of ", "suffix": ", 4k"}, "photo of A Cat, on (a) mat\\1, cat, 4k"),
    ],
)
def test_a_caption_is_rewritten_by_rule(rules, expected):
    result, _ = rewrite(dataset(" A  Cat, ,on (a) mat\\1 , cat,"), CaptionRules(**rules))
    assert captions(result) == [expected]


def test_pairs_keep_their_ids_and_one_whose_caption_is_gone_is_named():
    before = dataset("cat", "a cat", "a dog")
    result, report = rewrite(before, CaptionRules(replace=(("cat", ""),)))
    assert [(p.id, p.image, p.caption) for p in result.pairs] == [
        ("id1", "1.png", "a"),
        ("id2", "2.png", "a dog"),
    ]
    assert report.empty == ("0.png",) and report.changed == 1
    assert str(report).splitlines() == [
        "1 of 3 captions changed",
        "left out, because the caption became empty: 1 (0.png)",
        "- a cat",
        "+ a",
    ]
    with pytest.raises(TrainerError, match="leave every caption empty"):
        rewrite(dataset("cat"), CaptionRules(replace=(("cat", ""),)))


def test_another_column_takes_the_place_of_the_caption_where_there_is_one():
    before = dataset("one", "two", columns={1: {"blip": "a cat"}})
    assert captions(rewrite(before, CaptionRules(column="blip"))[0]) == ["one", "a cat"]
    with pytest.raises(TrainerError, match="There is caption, blip"):
        rewrite(before, CaptionRules(column="wd14"))


def test_how_tags_are_shown_is_set_or_left_as_it_is():
    before, _ = rewrite(
        dataset("a, b"), CaptionRules(shuffle_tags=True, keep_tags=1, tag_dropout=0.1)
    )
    (pair,) = before.pairs
    assert (pair.shuffle_tags, pair.keep_tags, pair.tag_dropout) == (True, 1, 0.1)
    assert rewrite(before, CaptionRules())[0].pairs[0].shuffle_tags is True
    assert rewrite(before, CaptionRules(shuffle_tags=False))[0].pairs[0].shuffle_tags is False


def test_a_replace_list_is_read_line_by_line():
    assert read_replacements("colour => color\n\n by somebody =>\n a=>b => c") == (
        ("colour", "color"),
        ("by somebody", ""),
        ("a", "b => c"),
    )
    with pytest.raises(TrainerError, match="Line 2 of the replace list is 'dog'"):
        read_replacements("cat => dog\ndog")
    with pytest.raises(TrainerError, match="Line 1"):
        read_replacements("=> dog")


def test_columns_are_mixed_by_share():
    before = dataset("one", "two", columns={1: {"blip": "a cat"}})
    assert mix(before, {"caption": 3, "blip": 1}).caption_mix == (("blip", 0.25), ("caption", 0.75))
    assert mix(before, {"caption": 3, "blip": 0}).caption_mix == ()
    with pytest.raises(TrainerError, match="There is blip, caption"):
        mix(before, {"wd14": 1})
    with pytest.raises(TrainerError, match="All shares are 0"):
        mix(before, {"blip": 0})
    with pytest.raises(TrainerError, match="must be 0 or more"):
        mix(before, {"blip": -1})
