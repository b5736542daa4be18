"""Lists as people type them on axes: one value per line, separated by commas, or as a range."""

from __future__ import annotations

import csv
import hashlib
import re
from fractions import Fraction

from .....merge.errors import MergeError
from .....merge.numbers import exact
from ..errors import GridError

NUMBER = r"[+-]?\d{1,30}(?:\.\d{1,30})?"
"""A number in a range. Exponents are not allowed: exact arithmetic on 1e999999999 would never end.
"""
RANGE = re.compile(
    rf"({NUMBER})\s*-\s*({NUMBER})\s*(?:\(([+-]\d{{1,30}}(?:\.\d{{1,30}})?)\)|\[(\d{{1,30}})\])?"
)
SEEDS = re.compile(r"(\d{1,30})\s+seeds?(?:\s+from\s+(\d{1,30}))?", re.IGNORECASE)
SERIES = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:e[+-]?\d{1,2})?", re.IGNORECASE)
DOTS = ("..", "...", "…")

MOST_VALUES = 20_000
MOST_LINES = 100_000
LARGEST_SEED = 2**53
"""Drawn seeds stay below this, so that JavaScript does not round them."""


def lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers. Raises GridError for too many."""
    if (count := text.count("\n") + 1) > MOST_LINES:
        raise GridError(f"The text has {count:,} lines; {MOST_LINES:,} is the most.")
    return [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]


def texts(line: str) -> list[str]:
    """The line itself as one text; or the texts in quotes, separated by commas, if there is nothing
    else in it. `""` in quotes is a quotation mark.
    """
    found = _quoted(line) if line.startswith('"') else None
    return [line] if found is None else found


def names(line: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in _fields(line) if name.strip()]


def numbers(line: str, whole: bool) -> list[str]:
    """The numbers of a line, as they are written: a list, ranges as in A1111, or both.

    `1-5`, `1-5 (+2)` with a step, `1-5 [3]` with a count, `1, 2, .., 10` to continue a series. Ends
    are included. Raises GridError.
    """
    found: list[str] = []
    parts = names(line)
    for place, part in enumerate(parts):
        if part in DOTS:
            if not found or place + 1 == len(parts):
                raise GridError(f"{part!r} must be between numbers: 1, 2, .., 10.")
            continue
        match = RANGE.fullmatch(part)
        if match:
            found += _range(part, *match.groups(), whole=whole)
        elif place and parts[place - 1] in DOTS:
            found += _go_on(found, part, whole)
        else:
            found.append(part)
        if len(found) > MOST_VALUES:
            raise GridError(f"{part!r} makes more than {MOST_VALUES:,} values.")
    return found


def number(text: str) -> float:
    """A number as recipes take it too: 0.6, 3/5 or 60%. Raises ValueError."""
    plain = text.removesuffix("%").rstrip()
    if plain == text and "/" not in text:
        return float(text)
    try:
        return float(exact(plain, "a number") / (1 if plain == text else 100))
    except MergeError as error:
        raise ValueError(str(error)) from None


def seeds(line: str) -> list[str] | None:
    """The seeds of "4 seeds" or "4 seeds from 7", the same ones every time; None for any other
    line.
    """
    match = SEEDS.fullmatch(line)
    if match is None:
        return None
    count = int(match[1])
    if not 0 < count <= MOST_VALUES:
        raise GridError(f"{line!r}: give a number of seeds from 1 to {MOST_VALUES:,}.")
    start = int(match[2] or 0)
    return [
        str(
            int.from_bytes(hashlib.sha256(f"{start} {number}".encode()).digest(), "big")
            % LARGEST_SEED
        )
        for number in range(count)
    ]


def _range(
    text: str, first: str, last: str, step: str | None, count: str | None, whole: bool
) -> list[str]:
    low, high = Fraction(first), Fraction(last)
    if count is not None:
        return _spread(text, low, high, int(count), whole)
    by = Fraction(step) if step else Fraction(1 if high >= low else -1)
    if whole and not step and not low.denominator == high.denominator == 1:
        raise GridError(f"{text!r} contains numbers that are not whole.")
    if not step and (high - low).denominator != 1:
        raise GridError(
            f"{text!r} in steps of 1 would not reach {last}. Write the step, "
            f"{first}-{last} (+0.1), or how many numbers, {first}-{last} [6]."
        )
    if by == 0 or (high - low) * by < 0:
        raise GridError(
            f"{text!r} is an empty range: its step must lead from the first number to the last."
        )
    return _steps(text, low, high, by, whole)


def _spread(text: str, low: Fraction, high: Fraction, count: int, whole: bool) -> list[str]:
    """`count` evenly spaced numbers; whole ones are rounded down, as in A1111."""
    if not 2 <= count <= MOST_VALUES:
        raise GridError(f"{text!r}: give a count from 2 to {MOST_VALUES:,}.")
    found = [low + (high - low) * place / (count - 1) for place in range(count)]
    return [str(int(number)) if whole else _words(number) for number in found]


def _go_on(found: list[str], last: str, whole: bool) -> list[str]:
    """The numbers after `found`, in the same steps, up to `last`."""
    for text in [*found[-2:], last]:
        if not SERIES.fullmatch(text):
            raise GridError(f"'..' must be between plain numbers; {text[:40]!r} is not one.")
    here, end = Fraction(found[-1]), Fraction(last)
    by = here - Fraction(found[-2]) if len(found) > 1 else Fraction(1 if end >= here else -1)
    if by == 0 or (end - here) * by < 0:
        raise GridError(f"'..' cannot go from {found[-1]} to {last} in steps of {_words(by)}.")
    return _steps(f".., {last}", here, end, by, whole)[1:]


def _steps(text: str, low: Fraction, high: Fraction, by: Fraction, whole: bool) -> list[str]:
    count = (high - low) // by + 1
    if count > MOST_VALUES:
        raise GridError(f"{text!r} makes {count:,} values; {MOST_VALUES:,} is the most.")
    found = [low + by * place for place in range(int(count))]
    if whole and any(number.denominator != 1 for number in found):
        raise GridError(f"{text!r} contains numbers that are not whole.")
    return [_words(number) for number in found]


def _words(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.10g}"


def _quoted(line: str) -> list[str] | None:
    """The fields of a line in which every field is in quotes."""
    if not re.fullmatch(r'\s*"(?:[^"]|"")*"\s*(?:,\s*"(?:[^"]|"")*"\s*)*', line):
        return None
    return [field.replace('""', '"') for field in re.findall(r'"((?:[^"]|"")*)"', line)]


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line], skipinitialspace=True), [])
    except csv.Error as error:
        raise GridError(f"{line[:40]!r}... cannot be read as a list: {error}.") from None
