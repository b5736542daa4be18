"""Cells of CSV files that people open in a spreadsheet."""

from __future__ import annotations

import re
from typing import Any

FORMULA = (*"=+-@", "\t", "\n", *"\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes for the beginning of a formula, full-width signs too."""
WITHIN = re.compile("(?<=[;\n])(?=[-=+@\uff1d\uff0b\uff0d\uff20])")
"""Where a formula would begin in a spreadsheet that separates cells by `;`, as many of Europe do: a
quotation mark behind a comma is an ordinary sign there, and a line end one of a row.
"""


def as_cell(value: Any) -> Any:
    """A value for a CSV file: a text that a spreadsheet would compute gets an apostrophe before it,
    as it shows text; numbers stay numbers. A carriage return becomes a line feed: Python before
    3.13 does not quote it, and what follows would be a row of its own.
    """
    if isinstance(value, str):
        value = WITHIN.sub("'", value.replace("\r\n", "\n").replace("\r", "\n"))
    if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
