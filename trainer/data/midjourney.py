"""What a Midjourney message says: `**prompt --parameters** - tail`, read in Python and, by the same patterns, in SQL.

The grammar follows what five public parsers agree on. Patterns keep to what Python's `re` and DuckDB's RE2 read alike.
Other texts (a prompt column of any table) go through the same cleaning, without a tail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = ("grid", "variation", "upscaled", "pan", "zoom", "other")
"""What a message shows. "upscaled" is one picture that somebody chose: `Image #n` or `Upscaled by`."""

WHITE = " \t\n\r\f\v\u00a0\u3000"
"""Characters that count as white space."""

_VALUED = [
    "ar",
    "aspect",
    "v",
    "version",
    "niji",
    "s",
    "stylize",
    "q",
    "quality",
    "c",
    "chaos",
    "weird",
    "w",
    "h",
    "seed",
    "sameseed",
    "stop",
    "iw",
    "style",
    "no",
    "repeat",
    "r",
    "sref",
    "sw",
    "sv",
    "cref",
    "cw",
    "oref",
    "ow",
    "p",
    "profile",
    "exp",
    "video",
]
_FLAGS = [
    "tile",
    "raw",
    "hd",
    "test",
    "testp",
    "creative",
    "uplight",
    "upbeta",
    "fast",
    "relax",
    "turbo",
    "draft",
    "public",
    "stealth",
]


def _any_case(word: str) -> str:
    """A pattern of a word in any letter case. RE2 takes the long s and the Kelvin sign for s and k; so does this."""
    more = {"s": "\u017f", "k": "\u212a"}
    return "".join(f"[{letter}{letter.upper()}{more.get(letter, '')}]" for letter in word)


_SPACE = rf"[{WHITE}]"
_DASHES = f"(?:^|{_SPACE})(?:--|\u2014|\u2013\u2013)"
_NAMES = "|".join(_any_case(name) for name in sorted(_VALUED + _FLAGS, key=len, reverse=True))
_PARAMETERS = rf"(?s){_DASHES}(?:{_NAMES})(?:[{WHITE}0-9,:]|$).*"
_VERSION = rf"{_DASHES}(?:{_any_case('version')}|[vV]){_SPACE}*([0-9]+(?:\.[0-9]+)?)"
_NIJI = rf"{_DASHES}({_any_case('niji')}){_SPACE}*([0-9]*)"
_ASPECT = rf"{_DASHES}(?:{_any_case('aspect')}|{_any_case('ar')}){_SPACE}*([0-9]{{1,5}})[:xX/]([0-9]{{1,5}})"
_STYLIZE = rf"{_DASHES}(?:{_any_case('stylize')}|{_any_case('s')}){_SPACE}*([0-9]{{1,9}})"
_RAW_WORDS = ("raw", "Raw", "RAW")
_RAW = rf"{_DASHES}(?:{_any_case('style')}{_SPACE}+)?(?:{'|'.join(_RAW_WORDS)})(?:{_SPACE}|$)"

_LINK = rf"<?https?://[^{WHITE}<>]+>?"
_WEIGHT = rf"{_SPACE}*::-?[0-9]*(?:\.[0-9]+)?{_SPACE}*,?"
_NEGATIVE_WEIGHT = r"::-[.0-9]"
_WIDE_SPACE = rf"{_SPACE}{{2,}}|[{WHITE[1:]}]"

_END = "** - "
_MENTION = r"<@!?([0-9]{1,25})>"
_NAMED = r"@([^()<>]+)"
_PERCENT = r"\([0-9]{1,3}%\)"
_STATES = ("(Waiting to start)", "(Stopped)", "(Paused)")
_IN_PROGRESS = "Upscaling"
_BEGINNINGS: dict[str, tuple[str, ...]] = {
    "upscaled": ("Image #1", "Image #2", "Image #3", "Image #4", "Upscaled", _IN_PROGRESS),
    "grid": ("<@", "@"),
    "variation": ("Variations", "Remix"),
    "pan": ("Pan Left", "Pan Right", "Pan Up", "Pan Down"),
    "zoom": ("Zoom Out",),
}
_CHOSEN = r"^Image #([1-4])"


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
    """What stands behind the prompt: what the picture shows, and whose it is (an id, or the name after `@`)."""

    kind: str
    image_no: int | None
    user: str | None
    unfinished: bool


def split_message(message: str) -> tuple[str, str]:
    """(what was typed, tail) of a message, cut at the last `** - `; ("", "") when it is no such message."""
    head, found, tail = message.rpartition(_END)
    return (head[2:], tail) if found and head.startswith("**") else ("", "")


def read_prompt(typed: str) -> Prompt:
    """Text before the first known parameter, cleaned, and the parameters.

    Links are removed and counted: they are image prompts. Weights (`::2`) become commas. The first of equal parameters
    holds; an unknown `--word` stays text. Text that ends in `...` was cut by Discord and lost its parameters.
    """
    text = re.sub(_PARAMETERS, "", typed, count=1)
    parameters = typed[len(text) :]
    links = re.findall(_LINK, text)
    plain = re.sub(_LINK, " ", text)
    cleaned = re.sub(_WIDE_SPACE, " ", re.sub(_WEIGHT, ", ", plain)).strip(" ,")
    version = re.search(_VERSION, parameters)
    niji = re.search(_NIJI, parameters)
    aspect = re.search(_ASPECT, parameters)
    stylize = re.search(_STYLIZE, parameters)
    return Prompt(
        prompt=cleaned,
        version=f"niji {niji[2]}".strip() if niji else version[1] if version else None,
        aspect=f"{aspect[1]}:{aspect[2]}" if aspect else None,
        stylize=int(stylize[1]) if stylize else None,
        raw=re.search(_RAW, typed) is not None,
        image_prompts=len(links),
        negative_weight=re.search(_NEGATIVE_WEIGHT, plain) is not None,
        truncated=typed.rstrip(WHITE).endswith(("...", "\u2026")),
    )


def read_tail(tail: str) -> Tail:
    """Kind, number of the chosen picture, user and state, from the text behind the prompt."""
    chosen = re.search(_CHOSEN, tail)
    mention = re.search(_MENTION, tail)
    named = re.search(_NAMED, tail)
    user = mention[1] if mention else named[1].strip(WHITE) if named else ""
    return Tail(
        kind=next((kind for kind, begin in _BEGINNINGS.items() if tail.startswith(begin)), "other"),
        image_no=int(chosen[1]) if chosen else None,
        user=user or None,
        unfinished=tail.startswith(_IN_PROGRESS)
        or any(state in tail for state in _STATES)
        or re.search(_PERCENT, tail) is not None,
    )


def words(prompt: str) -> int:
    """Words of a cleaned prompt."""
    return prompt.count(" ") + 1 if prompt else 0


def text_literal(text: str) -> str:
    """A constant of this code as SQL. Never for text from outside: that is bound."""
    return "'" + text.replace("'", "''") + "'"


def tail_sql(message: str) -> str:
    """SQL of the tail, where `message` is the SQL of a text that is never NULL; '' when it is no message."""
    return (
        f"CASE WHEN {message} LIKE {text_literal('**%' + _END + '%')}"
        f" THEN split_part({message}, {text_literal(_END)}, -1) ELSE '' END"
    )


def typed_sql(message: str, tail: str) -> str:
    """SQL of what was typed."""
    return (
        f"CASE WHEN {message} LIKE {text_literal('**%' + _END + '%')}"
        f" THEN substr({message}, 3, length({message}) - length({tail}) - {len(_END) + 2}) ELSE '' END"
    )


def kind_sql(tail: str) -> str:
    cases = " ".join(
        f"WHEN {' OR '.join(f'starts_with({tail}, {text_literal(text)})' for text in texts)}"
        f" THEN {text_literal(kind)}"
        for kind, texts in _BEGINNINGS.items()
    )
    return f"CASE {cases} ELSE 'other' END"


def image_no_sql(tail: str) -> str:
    return f"TRY_CAST(regexp_extract({tail}, {text_literal(_CHOSEN)}, 1) AS INTEGER)"


def account_sql(tail: str) -> str:
    """SQL of the user's id or name; NULL when there is none."""
    named = f"trim(regexp_extract({tail}, {text_literal(_NAMED)}, 1), {text_literal(WHITE)})"
    mention = f"regexp_extract({tail}, {text_literal(_MENTION)}, 1)"
    return f"coalesce(nullif({mention}, ''), nullif({named}, ''))"


def unfinished_sql(tail: str) -> str:
    states = "".join(f" OR contains({tail}, {text_literal(state)})" for state in _STATES)
    percent = f"(contains({tail}, '%)') AND regexp_matches({tail}, {text_literal(_PERCENT)}))"
    return f"(starts_with({tail}, {text_literal(_IN_PROGRESS)}) OR {percent}{states})"


def raw_sql(typed: str) -> str:
    """SQL of `raw`. The words are looked for first: that is many times faster than the pattern."""
    some = " OR ".join(f"contains({typed}, {text_literal(word)})" for word in _RAW_WORDS)
    return f"(({some}) AND regexp_matches({typed}, {text_literal(_RAW)}))"


def text_sql(typed: str) -> str:
    """SQL of the text before the first known parameter."""
    return (
        f"CASE WHEN contains({typed}, '--') OR contains({typed}, '\u2014') OR contains({typed}, '\u2013')"
        f" THEN regexp_replace({typed}, {text_literal(_PARAMETERS)}, '') ELSE {typed} END"
    )


def links_sql(text: str) -> dict[str, str]:
    """SQL of image_prompts and of the text without links."""
    link = text_literal(_LINK)
    has = f"contains({text}, '://')"
    return {
        "image_prompts": f"CASE WHEN {has} THEN len(regexp_extract_all({text}, {link}))::INTEGER ELSE 0 END",
        "plain": f"CASE WHEN {has} THEN regexp_replace({text}, {link}, ' ', 'g') ELSE {text} END",
    }


def prompt_sql(plain: str) -> dict[str, str]:
    """SQL of prompt and negative_weight, from the text without links."""
    has = f"contains({plain}, '::')"
    weightless = f"CASE WHEN {has} THEN regexp_replace({plain}, {text_literal(_WEIGHT)}, ', ', 'g') ELSE {plain} END"
    return {
        "prompt": f"trim(regexp_replace({weightless}, {text_literal(_WIDE_SPACE)}, ' ', 'g'), ' ,')",
        "negative_weight": f"({has} AND regexp_matches({plain}, {text_literal(_NEGATIVE_WEIGHT)}))",
    }


def parameters_sql(parameters: str, typed: str) -> dict[str, str]:
    """SQL of version, aspect, stylize and truncated."""

    def found(pattern: str, group: int = 1) -> str:
        return f"regexp_extract({parameters}, {text_literal(pattern)}, {group})"

    ending = f"rtrim({typed}, {text_literal(WHITE)})"
    version = (
        f"CASE WHEN {found(_NIJI)} <> '' THEN trim('niji ' || {found(_NIJI, 2)})"
        f" ELSE nullif({found(_VERSION)}, '') END"
    )
    aspect = (
        f"CASE WHEN {found(_ASPECT)} <> '' THEN {found(_ASPECT)} || ':' || {found(_ASPECT, 2)} END"
    )
    return {
        "version": f"CASE WHEN {parameters} = '' THEN NULL ELSE {version} END",
        "aspect": f"CASE WHEN {parameters} = '' THEN NULL ELSE {aspect} END",
        "stylize": f"CASE WHEN {parameters} = '' THEN NULL ELSE TRY_CAST({found(_STYLIZE)} AS INTEGER) END",
        "truncated": f"(ends_with({ending}, '...') OR ends_with({ending}, '\u2026'))",
    }


def words_sql(prompt: str) -> str:
    return f"CASE WHEN {prompt} = '' THEN 0 ELSE (length({prompt}) - length(replace({prompt}, ' ', '')) + 1)::INTEGER END"
