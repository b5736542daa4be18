"""The caption that a pair is shown with: its own, one of its choices or another column, with its
tags in order, shuffled or thinned out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from .manifest import Pair

OWN = "caption"
"""The column that every pair has."""
BRACE = re.compile(r"(\\?[{}])")
"""A brace; one with a backslash before it is a brace of the text."""


def chosen(text: str, choose: Callable[[Sequence[str]], str]) -> str:
    """One of the lines of a text, and in it one of the words of every `{a|b}`, the inner ones first
    (the wildcard notation of kohya's sd-scripts). `choose` takes one of several. Braces without a
    choice stay, and so do those written as `\\{` and `\\}`, without the backslash.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    open_: list[list[str]] = [[]]
    for part in BRACE.split(choose(lines) if lines else ""):
        if part == "{":
            open_.append([])
        elif part == "}" and len(open_) > 1:
            _close(open_, choose)
        else:
            open_[-1].append(part)
    while len(open_) > 1:
        inside = open_.pop()
        open_[-1] += ["{", "".join(inside)]
    return re.sub(r"\\([{}])", r"\1", "".join(open_[0])).strip()


def _close(open_: list[list[str]], choose: Callable[[Sequence[str]], str]) -> None:
    """Put what the last of the open braces has become into the one before it."""
    inside = open_.pop()
    words = "".join(inside)
    if "|" in words and "{" not in inside and "}" not in inside:
        open_[-1].append(choose(words.split("|")))
    else:
        open_[-1] += ["{", words, "}"]


def as_choices(text: str) -> str:
    """A plain text as one line that `chosen` gives back: nothing in it is drawn."""
    return re.sub(r"([{}])", r"\\\1", " ".join(text.split()))


def vary(pair: Pair, mix: Sequence[tuple[str, float]], key: str) -> str:
    """The caption of one showing; it depends only on the pair and `key`.

    `mix` gives columns and their chances, which need not add up to 1. A pair whose chosen column is
    missing or empty is shown with its own caption. The own caption is one of the pair's `choices`,
    if it has any (see `chosen`). Tags are separated by commas: the first
    `keep_tags` stay, each other one is left out with the chance `tag_dropout`, and the rest is
    shuffled if the pair says so (as in kohya's sd-scripts).
    """
    draw = random.Random(key)
    caption = ""
    if mix:
        (column,) = draw.choices(
            [name for name, _ in mix], weights=[max(0.0, chance) for _, chance in mix]
        )
        if column != OWN:
            caption = pair.captions.get(column, "")
    caption = caption or chosen(pair.choices, draw.choice) or pair.caption
    if not pair.shuffle_tags and not pair.tag_dropout:
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    head, tail = tags[: pair.keep_tags], tags[pair.keep_tags :]
    tail = [tag for tag in tail if draw.random() >= pair.tag_dropout]
    if pair.shuffle_tags:
        draw.shuffle(tail)
    return ", ".join(head + tail)


def texts(pair: Pair, mix: Sequence[tuple[str, float]]) -> set[str]:
    """The captions that a pair can be shown with, before its tags are varied; of its choices only
    the first.
    """
    columns = {name for name, chance in mix if chance > 0}
    found = {pair.captions[name] for name in columns if pair.captions.get(name)}
    return found | {pair.caption}
