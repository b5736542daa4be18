"""Counting CLIP's tokens: the same numbers as transformers' own tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cocktail.trainer.data.tokens import count_tokens
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.model.text import load_tokenizer


@pytest.fixture(scope="module")
def theirs(tokenizer):
    return load_tokenizer(tokenizer)


@settings(max_examples=300, deadline=None)
@given(some.lists(some.text(some.characters(exclude_categories=["Cs"]), max_size=60), min_size=1))
def test_any_text_has_as_many_tokens_as_transformers_makes_of_it(theirs, tokenizer, texts):
    wanted = [len(ids) for ids in theirs(texts, add_special_tokens=False).input_ids]
    assert count_tokens(texts, tokenizer) == wanted


PLAIN = some.characters(min_codepoint=32, max_codepoint=126)
PARTS = some.sampled_from(
    [
        "cat",
        " ",
        "'s",
        "'",
        "'re",
        "42",
        "<|endoftext|>",
        "<|",
        "--ar 16:9",
        "!!",
        "Dog's",
        ",",
        "x",
    ]
)


@settings(max_examples=300, deadline=None)
@given(some.lists(some.one_of(some.text(PLAIN, max_size=40), some.lists(PARTS).map("".join))))
def test_plain_text_too_where_each_word_is_encoded_once(theirs, tokenizer, texts):
    wanted = [len(theirs(text, add_special_tokens=False).input_ids) for text in texts]
    assert count_tokens(texts, tokenizer) == wanted


def test_a_prompt_as_people_write_it(tokenizer):
    assert count_tokens(["a photo of an astronaut riding a horse on mars", ""], tokenizer) == [
        10,
        0,
    ]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(TrainerError, match="no CLIP tokenizer"):
        count_tokens(["a"], tmp_path)
