"""A Midjourney message read in plain Python, by the patterns that the SQL uses: what the SQL must
agree with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cocktail.trainer.data.table.midjourney import (
    ASPECT,
    BEGINNINGS,
    CHOSEN,
    END,
    IN_PROGRESS,
    LINK,
    MENTION,
    NAMED,
    NEGATIVE_WEIGHT,
    NIJI,
    PARAMETERS,
    PERCENT,
    RAW,
    STATES,
    STYLIZE,
    VERSION,
    WEIGHT,
    WHITE,
    WIDE_SPACE,
)


@dataclass(frozen=True)
class Prompt:
    """What was typed. `version`, `aspect` and `stylize` are None where nothing was given."""

    prompt: str
    version: str | None
    aspect: str | None
    stylize: int | None
    raw: bool
    image_prompts: int
    negative_weight: bool
    truncated: bool


@dataclass(frozen=True)
class Tail:
    """What stands behind the prompt: what the picture shows, and whose it is (an id, or the name
    after `@`).
    """

    kind: str
    image_no: int | None
    user: str | None
    unfinished: bool


def split_message(message: str) -> tuple[str, str]:
    """(what was typed, tail) of a message, cut at the last `** - `; ("", "") when it is no such
    message.
    """
    head, found, tail = message.rpartition(END)
    return (head[2:], tail) if found and head.startswith("**") else ("", "")


def read_prompt(typed: str) -> Prompt:
    """Text before the first known parameter, cleaned, and the parameters.

    Links are removed and counted: they are image prompts. Weights (`::2`) become commas. The first
    of equal parameters holds; an unknown `--word` stays text. Text that ends in `...` was cut by
    Discord and lost its parameters.
    """
    text = re.sub(PARAMETERS, "", typed, count=1)
    parameters = typed[len(text) :]
    links = re.findall(LINK, text)
    plain = re.sub(LINK, " ", text)
    cleaned = re.sub(WIDE_SPACE, " ", re.sub(WEIGHT, ", ", plain)).strip(" ,")
    version = re.search(VERSION, parameters)
    niji = re.search(NIJI, parameters)
    aspect = re.search(ASPECT, parameters)
    stylize = re.search(STYLIZE, parameters)
    return Prompt(
        prompt=cleaned,
        version=f"niji {niji[2]}".strip() if niji else version[1] if version else None,
        aspect=f"{aspect[1]}:{aspect[2]}" if aspect else None,
        stylize=int(stylize[1]) if stylize else None,
        raw=re.search(RAW, typed) is not None,
        image_prompts=len(links),
        negative_weight=re.search(NEGATIVE_WEIGHT, plain) is not None,
        truncated=typed.rstrip(WHITE).endswith(("...", "\u2026")),
    )


def read_tail(tail: str) -> Tail:
    """Kind, number of the chosen picture, user and state, from the text behind the prompt."""
    chosen = re.search(CHOSEN, tail)
    mention = re.search(MENTION, tail)
    named = re.search(NAMED, tail)
    user = mention[1] if mention else named[1].strip(WHITE) if named else ""
    return Tail(
        kind=next((kind for kind, begin in BEGINNINGS.items() if tail.startswith(begin)), "other"),
        image_no=int(chosen[1]) if chosen else None,
        user=user or None,
        unfinished=tail.startswith(IN_PROGRESS)
        or any(state in tail for state in STATES)
        or re.search(PERCENT, tail) is not None,
    )


def words(prompt: str) -> int:
    """Words of a cleaned prompt."""
    return prompt.count(" ") + 1 if prompt else 0
