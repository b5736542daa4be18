"""What a Midjourney message says: `**prompt --parameters** - tail`, as SQL expressions.

The grammar follows what five public parsers agree on. The patterns use only what Python's `re` and
DuckDB's RE2 read in the same way. Other texts (a prompt column of any table) are cleaned like these
but have no tail.
"""

from __future__ import annotations

from collections.abc import Sequence

KINDS = ("grid", "variation", "upscaled", "pan", "zoom", "other")
"""What a message shows. "upscaled" is a picture that somebody picked: `Image #n` or `Upscaled by`.
"""

WHITE = " \t\n\r\f\v\u00a0\u3000"
"""The characters that count as white space."""

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
    """A pattern for a word in any letter case. Like RE2, it takes the long s and the Kelvin sign
    for s and k.
    """
    more = {"s": "\u017f", "k": "\u212a"}
    return "".join(f"[{letter}{letter.upper()}{more.get(letter, '')}]" for letter in word)


_SPACE = rf"[{WHITE}]"
_DASHES = f"(?:^|{_SPACE})(?:--|\u2014|\u2013\u2013)"
_NAMES = "|".join(_any_case(name) for name in sorted(_VALUED + _FLAGS, key=len, reverse=True))
PARAMETERS = rf"(?s){_DASHES}(?:{_NAMES})(?:[{WHITE}0-9,:]|$).*"
VERSION = rf"{_DASHES}(?:{_any_case('version')}|[vV]){_SPACE}*([0-9]+(?:\.[0-9]+)?)"
NIJI = rf"{_DASHES}({_any_case('niji')}){_SPACE}*([0-9]*)"
ASPECT = (
    rf"{_DASHES}(?:{_any_case('aspect')}|{_any_case('ar')}){_SPACE}*"
    r"([0-9]{1,5})[:xX/]([0-9]{1,5})"
)
STYLIZE = rf"{_DASHES}(?:{_any_case('stylize')}|{_any_case('s')}){_SPACE}*([0-9]{{1,9}})"
_RAW_WORDS = ("raw", "Raw", "RAW")
RAW = rf"{_DASHES}(?:{_any_case('style')}{_SPACE}+)?(?:{'|'.join(_RAW_WORDS)})(?:{_SPACE}|$)"

LINK = rf"<?https?://[^{WHITE}<>]+>?"
WEIGHT = rf"{_SPACE}*::-?[0-9]*(?:\.[0-9]+)?{_SPACE}*,?"
NEGATIVE_WEIGHT = r"::-[.0-9]"
WIDE_SPACE = rf"{_SPACE}{{2,}}|[{WHITE[1:]}]"

END = "** - "
MENTION = r"<@!?([0-9]{1,25})>"
NAMED = r"@([^()<>]+)"
PERCENT = r"\([0-9]{1,3}%\)"
STATES = ("(Waiting to start)", "(Stopped)", "(Paused)")
IN_PROGRESS = "Upscaling"
BEGINNINGS: dict[str, tuple[str, ...]] = {
    "upscaled": ("Image #1", "Image #2", "Image #3", "Image #4", "Upscaled", IN_PROGRESS),
    "grid": ("<@", "@"),
    "variation": ("Variations", "Remix"),
    "pan": ("Pan Left", "Pan Right", "Pan Up", "Pan Down"),
    "zoom": ("Zoom Out",),
}
CHOSEN = r"^Image #([1-4])"


def text_literal(text: str) -> str:
    """A constant of this code as SQL. Never use it for text from outside, which must be bound."""
    return "'" + text.replace("'", "''") + "'"


Layer = dict[str, str]
"""Columns by name, each as SQL over the columns of the previous layer."""


def layered(relation: str, layers: list[Layer]) -> str:
    """SQL of a relation with the columns of every layer added, one layer on top of the other.

    This way a column that several others use is computed once; DuckDB leaves out the unused ones.
    """
    for layer in layers:
        columns = ", ".join(f"{sql} AS {name}" for name, sql in layer.items())
        relation = f"(SELECT *, {columns} FROM {relation})"
    return relation


def tail_layers(message: str) -> list[Layer]:
    """`tail`, which is '' where the text is not a message; `message` is the SQL of a text that is
    never NULL.
    """
    is_message = f"{message} LIKE {text_literal('**%' + END + '%')}"
    last = f"split_part({message}, {text_literal(END)}, -1)"
    return [{"tail": f"CASE WHEN {is_message} THEN {last} ELSE '' END"}]


def typed_sql(message: str) -> str:
    """SQL of what was typed, over `tail_layers`."""
    length = f"length({message}) - length(tail) - {len(END) + 2}"
    is_message = f"{message} LIKE {text_literal('**%' + END + '%')}"
    return f"CASE WHEN {is_message} THEN substr({message}, 3, {length}) ELSE '' END"


def kind_sql(tail: str, distinct: Sequence[str] = KINDS) -> str:
    """SQL of the kind; kinds that are not in `distinct` are "other"."""
    cases = " ".join(
        f"WHEN {' OR '.join(f'starts_with({tail}, {text_literal(text)})' for text in texts)}"
        f" THEN {text_literal(kind)}"
        for kind, texts in BEGINNINGS.items()
        if kind in distinct
    )
    return f"CASE {cases} ELSE 'other' END"


def image_no_sql(tail: str) -> str:
    return f"TRY_CAST(regexp_extract({tail}, {text_literal(CHOSEN)}, 1) AS INTEGER)"


def account_layers(tail: str, when: str = "true") -> list[Layer]:
    """`account`, the user's id or name; NULL when there is none, and where the SQL `when` is not
    true.
    """
    mention = f"regexp_extract({tail}, {text_literal(MENTION)}, 1)"
    named = f"trim(regexp_extract({tail}, {text_literal(NAMED)}, 1), {text_literal(WHITE)})"
    return [
        {"mention": f"CASE WHEN {when} THEN {mention} END"},
        {"named": f"CASE WHEN mention = '' THEN {named} END"},
        {"account": "CASE WHEN mention <> '' THEN mention WHEN named <> '' THEN named END"},
    ]


def unfinished_sql(tail: str) -> str:
    states = " ".join(f"WHEN contains({tail}, {text_literal(state)}) THEN true" for state in STATES)
    return (
        f"CASE WHEN starts_with({tail}, {text_literal(IN_PROGRESS)}) THEN true {states}"
        f" WHEN contains({tail}, '%)') THEN regexp_matches({tail}, {text_literal(PERCENT)})"
        " ELSE false END"
    )


def raw_sql(typed: str, within: str = "") -> str:
    """SQL of `raw`. It first looks for the plain words, in `within` (a text that contains all of
    `typed`), which is many times faster.
    """
    some = _contains(within or typed, _RAW_WORDS)
    return f"CASE WHEN {some} THEN regexp_matches({typed}, {text_literal(RAW)}) ELSE false END"


def text_sql(typed: str) -> str:
    """SQL of the text before the first known parameter."""
    parameters = f"regexp_replace({typed}, {text_literal(PARAMETERS)}, '')"
    some = _contains(typed, ("--", "\u2014", "\u2013"))
    return f"CASE WHEN {some} THEN {parameters} ELSE {typed} END"


def prompt_layers(text: str) -> list[Layer]:
    """`prompt`, `image_prompts` and `negative_weight`, from the text before the first parameter."""
    link, weight = text_literal(LINK), text_literal(WEIGHT)
    links = f"len(regexp_extract_all({text}, {link}))::INTEGER"
    wide = _contains("weightless", ("  ", *WHITE[1:]))
    return [
        {
            "image_prompts": f"CASE WHEN contains({text}, '://') THEN {links} ELSE 0 END",
            "plain": f"CASE WHEN contains({text}, '://')"
            f" THEN regexp_replace({text}, {link}, ' ', 'g') ELSE {text} END",
        },
        {
            "negative_weight": f"CASE WHEN contains(plain, '::-')"
            f" THEN regexp_matches(plain, {text_literal(NEGATIVE_WEIGHT)}) ELSE false END",
            "weightless": f"CASE WHEN contains(plain, '::')"
            f" THEN regexp_replace(plain, {weight}, ', ', 'g') ELSE plain END",
        },
        {
            "narrow": f"CASE WHEN {wide}"
            f" THEN regexp_replace(weightless, {text_literal(WIDE_SPACE)}, ' ', 'g')"
            " ELSE weightless END"
        },
        {"prompt": trimmed_sql("narrow", " ,")},
    ]


def parameter_layers(parameters: str, typed: str) -> list[Layer]:
    """`version`, `aspect`, `stylize` and `truncated`."""

    def found(pattern: str, group: int = 0) -> str:
        extract = f"regexp_extract({parameters}, {text_literal(pattern)}, {group})"
        return f"CASE WHEN {parameters} <> '' THEN {extract} ELSE '' END"

    ending = f"rtrim({typed}, {text_literal(WHITE)})"
    ends = f"(ends_with({ending}, '...') OR ends_with({ending}, chr({0x2026})))"
    some = _contains(typed, ("...", "\u2026"))
    niji = text_literal(NIJI)
    return [
        {
            "niji_found": found(NIJI),
            "version_found": found(VERSION, 1),
            "aspect_found": found(ASPECT),
            "stylize": f"TRY_CAST({found(STYLIZE, 1)} AS INTEGER)",
            "truncated": f"CASE WHEN {some} THEN {ends} ELSE false END",
        },
        {
            "version": "CASE WHEN niji_found <> ''"
            f" THEN trim('niji ' || regexp_extract(niji_found, {niji}, 2))"
            " WHEN version_found <> '' THEN version_found END",
            "aspect": "CASE WHEN aspect_found <> ''"
            rf" THEN regexp_replace(aspect_found, {text_literal(ASPECT)}, '\1:\2') END",
        },
    ]


def words_sql(prompt: str) -> str:
    spaces = f"length({prompt}) - length(replace({prompt}, ' ', ''))"
    return f"CASE WHEN {prompt} = '' THEN 0 ELSE ({spaces} + 1)::INTEGER END"


def trimmed_sql(column: str, characters: str) -> str:
    """SQL of a text without some characters at its ends. Few texts have them there, and `trim`
    itself is slow.
    """
    some = " OR ".join(
        f"{where}_with({column}, {text_literal(one)})"
        for where in ("starts", "ends")
        for one in characters
    )
    return f"CASE WHEN {some} THEN trim({column}, {text_literal(characters)}) ELSE {column} END"


def _contains(text: str, parts: Sequence[str]) -> str:
    return "(" + " OR ".join(f"contains({text}, {text_literal(part)})" for part in parts) + ")"
