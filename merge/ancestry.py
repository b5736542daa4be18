"""What a merged file says about its ingredients, and about theirs, back to the first.

A small family tree is stored as a tree: each entry holds those that it was made of. Mixes of mixes
of the same files would double it with every generation, so a larger one is stored as a graph:
every ancestor once, by its hash, in a field of its own. No reader takes a header of more than 100
MB, so of a graph that would be too large the oldest ancestors are stored as their hashes alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

INGREDIENTS = "cocktail.ingredients"
ANCESTORS = "cocktail.ancestors"
MADE_OF = "made_of"
MOST_INGREDIENTS = 1000
MOST_BYTES = 60_000_000
"""How much of a file's header all that may take."""
LARGEST_TREE = 200
DEEPEST_TREE = 20

Entry: TypeAlias = Mapping[str, Any]
"""An ingredient: name, hashes, size, licence, and in `MADE_OF` its own ingredients. Entries are
shared, so a walk through them has to remember where it has been.
"""


def read_ingredients(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The entries of a merged file; empty if it says nothing that can be read."""
    value = _json(metadata.get(INGREDIENTS, "[]"))
    if not isinstance(value, list) or len(value) > MOST_INGREDIENTS:
        return []
    entries = [entry for entry in value if isinstance(entry, dict) and "sha256" in entry]
    stored = _json(metadata.get(ANCESTORS, "{}"))
    if isinstance(stored, dict) and stored:
        known = {
            k: {"name": f"SHA-256 {k[:12]}", **v, "sha256": k}
            for k, v in stored.items()
            if isinstance(v, dict)
        }
        for entry in (*known.values(), *entries):
            entry[MADE_OF] = [known[k] for k in _hashes(entry.get(MADE_OF)) if k in known]
    return entries


def ingredients_of(entry: Entry) -> list[dict[str, Any]]:
    """The entries that an entry was made of."""
    found = entry.get(MADE_OF)
    return [older for older in found if isinstance(older, dict)] if isinstance(found, list) else []


def write_ingredients(entries: Sequence[Entry]) -> dict[str, str]:
    """The metadata fields from which `read_ingredients` reads these entries back, but for what
    `shortened` counts.
    """
    return _fields(entries)[0]


def shortened(entries: Sequence[Entry]) -> int:
    """Of how many ancestors, the oldest ones, `write_ingredients` stores the hash alone."""
    return _fields(entries)[1]


def _fields(entries: Sequence[Entry]) -> tuple[dict[str, str], int]:
    if _is_small(entries):
        tree = json.dumps(entries, ensure_ascii=False)
        if _bytes(tree) <= MOST_BYTES:
            return {INGREDIENTS: tree}, 0
    known: dict[str, Entry] = {}
    waiting = [older for entry in entries for older in ingredients_of(entry)]
    for entry in waiting:
        sha256 = str(entry.get("sha256"))
        if sha256 not in known:
            known[sha256] = entry
            waiting += ingredients_of(entry)
    ancestors = {
        sha256: {k: v for k, v in _with(entry, _hashes(ingredients_of(entry))).items() if v}
        for sha256, entry in known.items()
    }
    direct = [
        _with(e, [{k: o.get(k) for k in ("name", "sha256")} for o in ingredients_of(e)])
        for e in entries
    ]
    told = json.dumps(direct, ensure_ascii=False)
    room, short = MOST_BYTES - _bytes(told), 0
    for sha256, entry in ancestors.items():
        room -= _bytes(json.dumps({sha256: entry}, ensure_ascii=False))
        if room < 0:
            ancestors[sha256] = {}
            short += 1
    return {INGREDIENTS: told, ANCESTORS: json.dumps(ancestors, ensure_ascii=False)}, short


def _bytes(text: str) -> int:
    """What a text takes in a header, where it is written as JSON once more."""
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))


def _with(entry: Entry, made_of: Sequence[Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != MADE_OF}
    return {**kept, MADE_OF: list(made_of)} if made_of else kept


def _is_small(entries: Sequence[Entry]) -> bool:
    waiting = [(entry, 1) for entry in entries]
    count = 0
    while waiting:
        entry, depth = waiting.pop()
        count += 1
        if count > LARGEST_TREE or depth > DEEPEST_TREE:
            return False
        waiting += [(older, depth + 1) for older in ingredients_of(entry)]
    return True


def _hashes(found: Any) -> list[str]:
    """The hashes of entries, or those that stand for them."""
    found = found if isinstance(found, list) else []
    named = (one.get("sha256") if isinstance(one, dict) else one for one in found)
    return list(dict.fromkeys(one for one in named if isinstance(one, str)))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
