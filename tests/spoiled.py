"""Something odd at any place of a sound JSON document."""

from __future__ import annotations

import json
import random
from typing import Any

ODD = (
    *("null", "{}", "[]", "-1", "true", '"x"', '"\\ud800"', '"../x"', "[[1]]", '[{"a": null}]'),
    *("1" + "0" * 400, "1" + "0" * 250, "1e308", "1e999", "NaN"),
    *("[" * 700 + "]" * 700, '{"a":' * 700 + "1" + "}" * 700),
)
"""As texts: Python writes no JSON that is nested so deeply."""


def spoiled(chance: random.Random, text: str, odd: str) -> str:
    """A document in which one value, at any place, is that odd one."""
    whole: Any = {"": json.loads(text)}
    place, key = whole, ""
    while isinstance(inner := place[key], dict | list) and inner and chance.random() < 0.85:
        keys = [*inner] if isinstance(inner, dict) else range(len(inner))
        place, key = inner, chance.choice(keys)
    place[key] = "ODD"
    indent = chance.choice([None, 1])
    return json.dumps(whole[""], indent=indent).replace('"ODD"', odd)
