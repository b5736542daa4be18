"""Whatever is sent to our routes, the answer is a word and no accident of the server."""

from __future__ import annotations

import json
import random
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

SPEC = Path(__file__).parents[2] / "web" / "openapi.json"
NAMES = (
    *("x", "..", "%2e%2e", "a%00b", "con", "%ff", "one", "x" * 100, "%F0%9F%98%80", "a%20b", "-1"),
)
ASKED = ("", "-1", "1e9", "\u0663", "9" * 30, "null", "x", "true", "NaN")
BODIES = (
    *(b"", b"{", b"[]", b"null", b"\xff"),
    *(b'{"a":' * 2000, b"[" * 100_000, b'{"a": NaN}', b"1" * 5000),
)
HEADERS = ({}, {"Content-Type": "application/json; charset=latin-99"}, {"Content-Type": "text/x"})
WORDS = (
    *("name", "plan", "workflow", "axes", "target", "values", "fixed", "rules", "output", "format"),
    *("servers", "in_flight", "save_as", "settings", "epochs", "step", "pinned", "title", "set"),
    *("prompts", "policy", "label", "key", "loras", "seed", "sampler", "recipe", "batch_size"),
    *("class_type", "inputs", "_meta", "labels", "search", "cells", "with_checkpoints"),
)
PLAN: dict[str, Any] = {
    "name": "hostile",
    "workflow": {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0},
        },
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    },
    "axes": [{"target": "1.color", "values": "1, 2"}],
}


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def odd(chance: random.Random, depth: int = 0) -> Any:
    """A JSON value that nobody would send by accident."""
    kind = chance.random()
    if depth < 4 and kind > 0.8:
        return [odd(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    if depth < 4 and kind > 0.5:
        names = (chance.choice(WORDS) for _ in range(chance.randint(0, 5)))
        return {name: odd(chance, depth + 1) for name in names}
    plain = (None, True, 0, -1, 1e308, 10**17, "", "../x", "\ud800", "a" * 5000, "\0", "*", "1-5")
    return chance.choice((*plain, deep(400), {"": None}, "[1]", "con", ".hidden"))


def mutated(chance: random.Random) -> dict[str, Any]:
    """A plan in which something is replaced, added or left out."""
    whole = place = json.loads(json.dumps(PLAN))
    while True:
        key = chance.choice([*place, "new"]) if isinstance(place, dict) else 0
        inner = place.get(key) if isinstance(place, dict) else place[key]
        if not (isinstance(inner, dict | list) and inner and chance.random() < 0.7):
            break
        place = inner
    if isinstance(place, dict) and chance.random() < 0.2:
        place.pop(key, None)
    else:
        place[key] = odd(chance)
    return whole


def status(comfy, path: str, body: bytes | None, headers: dict[str, str]) -> int:
    given = {"Content-Type": "application/json", **headers} if body is not None else {}
    request = urllib.request.Request(comfy.url + path, body, given)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("method", ["get", "post"])
def test_every_route_answers_hostile_requests_in_words(comfy, method):
    chance = random.Random(method)
    for path, operations in json.loads(SPEC.read_text(encoding="utf-8"))["paths"].items():
        for _ in range(5 if method in operations else 0):
            named = re.sub(r"\{[^}]*\}", lambda _: chance.choice(NAMES), path)
            query = urllib.parse.urlencode({chance.choice(WORDS): chance.choice(ASKED)})
            body = None
            if method == "post":
                sent = json.dumps(odd(chance)).encode()
                body = sent if chance.random() < 0.7 else chance.choice(BODIES)
            found = status(comfy, f"{named}?{query}", body, chance.choice(HEADERS))
            assert found < 500, (named, query, body)


def test_every_plan_that_is_a_little_wrong_is_answered_in_words(comfy):
    chance = random.Random(7)
    for _ in range(150):
        body = json.dumps({"plan": mutated(chance), "cells": True}).encode()
        assert status(comfy, "/cocktail/grids/plan", body, {}) < 500, body[:1000]
