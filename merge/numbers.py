"""Numbers as people mean them: exact fractions from what they type, and back."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any, TypeAlias

from .errors import MergeError

LARGEST = 1_000_000
EXACT_NUMBER = re.compile(r"-?[0-9]{1,60}(/[0-9]{1,60}|\.[0-9]{1,60})?")

Number: TypeAlias = int | float | str | Fraction


def exact(number: Any, what: str) -> Fraction:
    """A number as an exact fraction, the way people mean it: 0.1 is 1/10. Texts such as "0.1" and
    "1/3" are numbers too. Raises MergeError, which calls the number `what`.
    """
    value: Fraction | None = None
    if isinstance(number, Fraction | int) and not isinstance(number, bool):
        value = Fraction(number)
    elif isinstance(number, float) and math.isfinite(number) and abs(number) <= LARGEST:
        value = Fraction(repr(number))
    elif isinstance(number, str) and EXACT_NUMBER.fullmatch(number):
        numerator, _, denominator = number.partition("/")
        if not denominator or int(denominator):
            value = Fraction(numerator) / (int(denominator) if denominator else 1)
    if value is None or abs(value) > LARGEST:
        raise MergeError(
            f"{shown(number)} is not {what}. Write a number such as 0.6, "
            'or a fraction such as "1/3".'
        )
    return value


def decimal(number: Fraction) -> str:
    """A fraction as a decimal number: exact if it has few digits, otherwise with four."""
    text = f"{float(number):.6f}".rstrip("0").rstrip(".")
    return text if Fraction(text) == number else f"{float(number):.4f}"


def written(number: Fraction) -> str:
    """A number as text that `exact` reads back unchanged: a decimal if it has few digits, otherwise
    a fraction.
    """
    text = decimal(number)
    return text if Fraction(text) == number else str(number)


def json_number(number: Fraction) -> int | float | str:
    """The number for JSON: a JSON number if that is exact, otherwise a text such as "1/3"."""
    if number.denominator == 1:
        return number.numerator
    value = float(number)
    return value if Fraction(repr(value)) == number else str(number)


def shown(value: Any) -> str:
    """Any value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
