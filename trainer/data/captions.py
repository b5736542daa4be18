"""The caption that a pair is shown with: its own or another column, with its tags in order,
shuffled or thinned out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .manifest import Pair

OWN = "caption"
"""The column that every pair has."""


def vary(pair: Pair, mix: Sequence[tuple[str, float]], key: str) -> str:
    """The caption of one showing; it depends only on the pair and `key`.

    `mix` gives columns and their chances, which need not add up to 1. A pair whose chosen column is
    missing or empty is shown with its own caption. Tags are separated by commas: the first
    `keep_tags` stay, each other one is left out with the chance `tag_dropout`, and the rest is
    shuffled if the pair says so (as in kohya's sd-scripts).
    """
    draw = random.Random(key)
    caption = pair.caption
    if mix:
        (column,) = draw.choices(
            [name for name, _ in mix], weights=[max(0.0, chance) for _, chance in mix]
        )
        if column != OWN:
            caption = pair.captions.get(column) or pair.caption
    if not pair.shuffle_tags and not pair.tag_dropout:
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    head, tail = tags[: pair.keep_tags], tags[pair.keep_tags :]
    tail = [tag for tag in tail if draw.random() >= pair.tag_dropout]
    if pair.shuffle_tags:
        draw.shuffle(tail)
    return ", ".join(head + tail)


def texts(pair: Pair, mix: Sequence[tuple[str, float]]) -> set[str]:
    """The captions that a pair can be shown with, before its tags are varied."""
    columns = {name for name, chance in mix if chance > 0}
    found = {pair.captions[name] for name in columns if pair.captions.get(name)}
    return found | {pair.caption}
