"""What a Midjourney message says: `**prompt --parameters** - tail`, read in Python and, by the same
patterns, in SQL.

The grammar follows what five public parsers agree on. Patterns keep to what Python's `re` and
DuckDB's RE2 read alike. Other texts (a prompt column of any table) go through the same cleaning,
without a tail.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = ("grid", "variation", "upscaled", "pan", "zoom", "other")
"""What a message shows. "upscaled" is one picture that somebody chose: `Image #n` or `Upscaled by`.
"""

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
    """A pattern of a word in any letter case. RE2 takes the long s and the Kelvin sign for s and k;
    so does this.
    """
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
    head, found, tail = message.rpartition(_END)
    return (head[2:], tail) if found and head.startswith("**") else ("", "")


def read_prompt(typed: str) -> Prompt:
    """Text before the first known parameter, cleaned, and the parameters.

    Links are removed and counted: they are image prompts. Weights (`::2`) become commas. The first
    of equal parameters holds; an unknown `--word` stays text. Text that ends in `...` was cut by
    Discord and lost its parameters.
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


Layer = dict[str, str]
"""Columns by name, each as SQL over the columns of the layer before."""


def layered(relation: str, layers: list[Layer]) -> str:
    """SQL of a relation with the columns of every layer added, one layer upon the other.

    A column that several others use is computed once that way; DuckDB leaves out those that nobody
    uses.
    """
    for layer in layers:
        columns = ", ".join(f"{sql} AS {name}" for name, sql in layer.items())
        relation = f"(SELECT *, {columns} FROM {relation})"
    return relation


def tail_layers(message: str) -> list[Layer]:
    """`tail`, '' where the text is no message; `message` is the SQL of a text that is never NULL."""
    is_message = f"{message} LIKE {text_literal('**%' + _END + '%')}"
    last = f"split_part({message}, {text_literal(_END)}, -1)"
    return [{"tail": f"CASE WHEN {is_message} THEN {last} ELSE '' END"}]


def typed_sql(message: str) -> str:
    """SQL of what was typed, over `tail_layers`."""
    length = f"length({message}) - length(tail) - {len(_END) + 2}"
    is_message = f"{message} LIKE {text_literal('**%' + _END + '%')}"
    return f"CASE WHEN {is_message} THEN substr({message}, 3, {length}) ELSE '' END"


def kind_sql(tail: str, told: Sequence[str] = KINDS) -> str:
    """SQL of the kind; those that are not to be told apart are "other"."""
    cases = " ".join(
        f"WHEN {' OR '.join(f'starts_with({tail}, {text_literal(text)})' for text in texts)}"
        f" THEN {text_literal(kind)}"
        for kind, texts in _BEGINNINGS.items()
        if kind in told
    )
    return f"CASE {cases} ELSE 'other' END"


def image_no_sql(tail: str) -> str:
    return f"TRY_CAST(regexp_extract({tail}, {text_literal(_CHOSEN)}, 1) AS INTEGER)"


def account_layers(tail: str, when: str = "true") -> list[Layer]:
    """`account`, the user's id or name; NULL when there is none, and where the SQL `when` does not
    hold.
    """
    mention = f"regexp_extract({tail}, {text_literal(_MENTION)}, 1)"
    named = f"trim(regexp_extract({tail}, {text_literal(_NAMED)}, 1), {text_literal(WHITE)})"
    return [
        {"mention": f"CASE WHEN {when} THEN {mention} END"},
        {"named": f"CASE WHEN mention = '' THEN {named} END"},
        {"account": "CASE WHEN mention <> '' THEN mention WHEN named <> '' THEN named END"},
    ]


def unfinished_sql(tail: str) -> str:
    states = " ".join(
        f"WHEN contains({tail}, {text_literal(state)}) THEN true" for state in _STATES
    )
    return (
        f"CASE WHEN starts_with({tail}, {text_literal(_IN_PROGRESS)}) THEN true {states}"
        f" WHEN contains({tail}, '%)') THEN regexp_matches({tail}, {text_literal(_PERCENT)}) ELSE false END"
    )


def raw_sql(typed: str, within: str = "") -> str:
    """SQL of `raw`. The words are looked for first, in `within` that holds all of `typed`: that is
    many times faster.
    """
    some = _contains(within or typed, _RAW_WORDS)
    return f"CASE WHEN {some} THEN regexp_matches({typed}, {text_literal(_RAW)}) ELSE false END"


def text_sql(typed: str) -> str:
    """SQL of the text before the first known parameter."""
    parameters = f"regexp_replace({typed}, {text_literal(_PARAMETERS)}, '')"
    return f"CASE WHEN {_contains(typed, ('--', chr(0x2014), chr(0x2013)))} THEN {parameters} ELSE {typed} END"


def prompt_layers(text: str) -> list[Layer]:
    """`prompt`, `image_prompts` and `negative_weight`, from the text before the first parameter."""
    link, weight = text_literal(_LINK), text_literal(_WEIGHT)
    links = f"len(regexp_extract_all({text}, {link}))::INTEGER"
    wide = _contains("weightless", ("  ", *WHITE[1:]))
    return [
        {
            "image_prompts": f"CASE WHEN contains({text}, '://') THEN {links} ELSE 0 END",
            "plain": f"CASE WHEN contains({text}, '://') THEN regexp_replace({text}, {link}, ' ', 'g') ELSE {text} END",
        },
        {
            "negative_weight": f"CASE WHEN contains(plain, '::-')"
            f" THEN regexp_matches(plain, {text_literal(_NEGATIVE_WEIGHT)}) ELSE false END",
            "weightless": f"CASE WHEN contains(plain, '::')"
            f" THEN regexp_replace(plain, {weight}, ', ', 'g') ELSE plain END",
        },
        {
            "narrow": f"CASE WHEN {wide}"
            f" THEN regexp_replace(weightless, {text_literal(_WIDE_SPACE)}, ' ', 'g') ELSE weightless END"
        },
        {"prompt": trimmed_sql("narrow", " ,")},
    ]


def parameter_layers(parameters: str, typed: str) -> list[Layer]:
    """`version`, `aspect`, `stylize` and `truncated`."""

    def found(pattern: str, group: int = 0) -> str:
        pattern = text_literal(pattern)
        return f"CASE WHEN {parameters} <> '' THEN regexp_extract({parameters}, {pattern}, {group}) ELSE '' END"

    ending = f"rtrim({typed}, {text_literal(WHITE)})"
    ends = f"(ends_with({ending}, '...') OR ends_with({ending}, chr({0x2026})))"
    return [
        {
            "niji_found": found(_NIJI),
            "version_found": found(_VERSION, 1),
            "aspect_found": found(_ASPECT),
            "stylize": f"TRY_CAST({found(_STYLIZE, 1)} AS INTEGER)",
            "truncated": f"CASE WHEN {_contains(typed, ('...', chr(0x2026)))} THEN {ends} ELSE false END",
        },
        {
            "version": f"CASE WHEN niji_found <> '' THEN trim('niji ' || regexp_extract(niji_found, {text_literal(_NIJI)}, 2))"
            " WHEN version_found <> '' THEN version_found END",
            "aspect": "CASE WHEN aspect_found <> ''"
            rf" THEN regexp_replace(aspect_found, {text_literal(_ASPECT)}, '\1:\2') END",
        },
    ]


def words_sql(prompt: str) -> str:
    return f"CASE WHEN {prompt} = '' THEN 0 ELSE (length({prompt}) - length(replace({prompt}, ' ', '')) + 1)::INTEGER END"


def trimmed_sql(column: str, characters: str) -> str:
    """SQL of a text without some characters at its ends, which few texts have there: `trim` itself
    is slow.
    """
    some = " OR ".join(
        f"{where}_with({column}, {text_literal(one)})"
        for where in ("starts", "ends")
        for one in characters
    )
    return f"CASE WHEN {some} THEN trim({column}, {text_literal(characters)}) ELSE {column} END"


def _contains(text: str, parts: Sequence[str]) -> str:
    return "(" + " OR ".join(f"contains({text}, {text_literal(part)})" for part in parts) + ")"
