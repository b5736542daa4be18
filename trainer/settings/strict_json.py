"""JSON that a person wrote: one object, and words for what is wrong with it."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from .. import bounded_json
from ..errors import TrainerError


def parse_object(text: str, file: str) -> dict[str, Any]:
    """The object in a text. Raises TrainerError with line and column: comments, trailing commas,
    keys that are there twice.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(found)
        if len(value) != len(found):
            twice = next(key for key, times in Counter(k for k, _ in found).items() if times > 1)
            raise TrainerError(f"{file}: the key {twice!r} appears twice. Leave one of them out.")
        return value

    try:
        value = bounded_json.parse(text.lstrip("\ufeff"), object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise TrainerError(
            f"{file} is not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{_reason(error)}."
        ) from error
    except ValueError as error:
        raise TrainerError(f"{file} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise TrainerError(f"{file} must be a JSON object, {{ ... }}.")
    return value


def _reason(error: json.JSONDecodeError) -> str:
    here, before = error.doc[error.pos :].lstrip(), error.doc[: error.pos].rstrip()
    if here.startswith(("//", "#", "/*")):
        return "JSON has no comments, remove it"
    if (before.endswith(",") and here[:1] in "}]") or re.match(r",\s*[}\]]", here):
        return "remove the comma before the closing bracket"
    if "escape" in error.msg:
        return "a backslash in a text must be doubled; in paths a forward slash does as well"
    return error.msg[:1].lower() + error.msg[1:]
