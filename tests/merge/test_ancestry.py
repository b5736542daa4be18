"""Mixes of mixes of the same files: everything they go back to is stored once."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cocktail.merge import ancestry
from cocktail.merge.ancestry import (
    ANCESTORS,
    INGREDIENTS,
    ingredients_of,
    read_ingredients,
    shortened,
    write_ingredients,
)
from cocktail.merge.checkpoint import SAME_FILE, bind_to_files, make_checkpoint, notes_of, remake
from cocktail.merge.errors import MergeError
from cocktail.merge.inspection import inspect_file, report
from cocktail.merge.licence import parse_by_hand
from cocktail.merge.metadata import ancestors
from cocktail.merge.reading import open_checkpoint
from cocktail.merge.safetensors_file import LONGEST_HEADER, lay_out
from cocktail.merge.text import parse

from .conftest import UNET

GENERATIONS = 18


def entry(name, made_of=()):
    found = {"name": name, "sha256": f"{name:0>64}", "size_bytes": 1}
    return {**found, "made_of": list(made_of)} if made_of else found


def test_eighteen_generations_of_two_mixes_stay_small_and_reach_the_first(tmp_path, write):
    tensors = {UNET + "input_blocks.0.0.weight": torch.ones(8, 4, 3, 3).half()}
    for name in "ab":
        write(f"{name}0", {k: v * (2 if name == "b" else 1) for k, v in tensors.items()})
    licences = parse_by_hand("a0: CreativeML Open RAIL-M")
    for n in range(GENERATIONS):
        for name, text in (("a", f"0.7 a{n} + 0.3 b{n}"), ("b", f"0.3 a{n} + 0.7 b{n}")):
            bound = bind_to_files(
                parse(text),
                lambda one: tmp_path / f"{one}.safetensors",
                licences=licences if n == 0 else None,
            )
            make_checkpoint(bound, tmp_path / f"{name}{n + 1}.safetensors")
    last = tmp_path / f"a{GENERATIONS}.safetensors"
    assert last.stat().st_size < 200_000
    metadata = open_checkpoint(last).metadata
    assert len(json.loads(metadata[ANCESTORS])) == 2 * (GENERATIONS - 1)
    assert set(ancestors(read_ingredients(metadata))) == {"a0", "b0"}
    told = " ".join(notes_of(bound, "fp16"))
    assert "Licence: unknown for b0" in told
    tree = report(inspect_file(last))
    assert "made of a0" in tree and len(tree.splitlines()) < 200
    again = tmp_path / "again.safetensors"
    assert remake(last, again, lambda one: tmp_path / f"{one}.safetensors") == SAME_FILE


def test_a_small_tree_is_stored_as_before():
    tree = [entry("c", [entry("a"), entry("b")]), entry("a")]
    stored = write_ingredients(tree)
    assert stored == {INGREDIENTS: json.dumps(tree, ensure_ascii=False)}
    assert read_ingredients(stored) == tree


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=30))
def test_any_ancestry_is_read_back_and_stored_once(shape):
    made = []
    for number, older in enumerate(shape):
        made.append(entry(f"n{number}", [made[i % number] for i in older] if number else ()))
        if older and number:
            seen = {e["sha256"]: e for e in made[-1]["made_of"]}
            made[-1]["made_of"] = list(seen.values())
    stored = write_ingredients([made[-1]])
    assert sum(map(len, stored.values())) < 40_000
    (found,) = read_ingredients(stored)
    waiting, seen = [(found, made[-1])], set()
    while waiting:
        ours, theirs = waiting.pop()
        assert ours["name"] == theirs["name"] and ours["sha256"] == theirs["sha256"]
        sides = ingredients_of(ours), ingredients_of(theirs)
        assert [e["sha256"] for e in sides[0]] == [e["sha256"] for e in sides[1]]
        if ours["sha256"] not in seen:
            seen.add(ours["sha256"])
            waiting += zip(*sides, strict=True)


def test_a_file_of_the_old_form_that_doubled_is_read_and_written_once():
    tree = entry("n0")
    for number in range(1, 12):
        tree = entry(f"n{number}", [tree, tree])
    old = {INGREDIENTS: json.dumps([tree])}
    stored = write_ingredients(read_ingredients(old))
    assert sum(map(len, stored.values())) < 5000 < len(old[INGREDIENTS]) / 50
    assert set(ancestors(read_ingredients(stored))) == {"n0"}


def test_a_thousand_generations_are_no_deeper_than_two():
    tree = entry("n0")
    for number in range(1, 1000):
        tree = entry(f"n{number}", [tree])
    assert set(ancestors(read_ingredients(write_ingredients([tree])))) == {"n0"}


def test_hashes_that_go_round_in_a_circle_end():
    a, b = "a" * 64, "b" * 64
    stored = {
        INGREDIENTS: json.dumps([{"name": "x", "sha256": a, "made_of": [{"sha256": b}]}]),
        ANCESTORS: json.dumps({a: {"name": "a", "made_of": [b]}, b: {"name": "b", "made_of": [a]}}),
    }
    assert ancestors(read_ingredients(stored)) == {}


def test_no_header_is_written_that_nobody_reads():
    with pytest.raises(MergeError, match="no program reads more than 100"):
        lay_out([("x", "F16", (1,))], {"long": "x" * LONGEST_HEADER})


def test_of_an_ancestry_that_is_too_large_the_oldest_are_stored_as_hashes_alone(monkeypatch):
    tree = entry("n0") | {"licence": {"name": "CreativeML Open RAIL-M"}}
    for number in range(1, 400):
        tree = entry(f"n{number}", [tree]) | {"note": "x" * 100}
    whole = write_ingredients([tree])
    assert shortened([tree]) == 0
    monkeypatch.setattr(ancestry, "MOST_BYTES", 40_000)
    stored, short = write_ingredients([tree]), shortened([tree])
    header, _ = lay_out([("x", "F16", (1,))], stored)
    assert 200 < short < 399 and len(header) < 40_000 + 80 * short < len(str(whole))
    named = [one["sha256"].lstrip("0") for one in chain(read_ingredients(stored)[0])]
    assert named[:100] == [f"n{n}" for n in range(399, 299, -1)]
    assert list(ancestors(read_ingredients(stored)).values()) == [None]
    again = read_ingredients(write_ingredients(read_ingredients(stored)))
    assert len(list(chain(again[0]))) == len(named)


def chain(entry):
    """An entry and its only ancestors, back to the last that is known."""
    yield entry
    for older in ingredients_of(entry):
        yield from chain(older)


def test_a_merge_says_that_ancestors_were_shortened(tmp_path, write, monkeypatch):
    tensors = {UNET + "input_blocks.0.0.weight": torch.ones(8, 4, 3, 3).half()}
    tree = entry("n0")
    for number in range(1, 300):
        tree = entry(f"n{number}", [tree])
    write("a", tensors, write_ingredients([tree]))
    write("b", {k: 2 * v for k, v in tensors.items()})
    bound = bind_to_files(parse("0.5 a + 0.5 b"), lambda one: tmp_path / f"{one}.safetensors")
    assert not any("oldest ancestors" in note for note in notes_of(bound, "fp16"))
    monkeypatch.setattr(ancestry, "MOST_BYTES", 20_000)
    told = (
        r"The file's header would be longer than programs read: of the \d+ oldest ancestors it "
        r"holds the hash alone, without name and licence\."
    )
    assert len([note for note in notes_of(bound, "fp16") if re.fullmatch(told, note)]) == 1
    made = tmp_path / "made" / "out.safetensors"
    make_checkpoint(bound, made)
    assert (
        remake(
            made,
            tmp_path / "made" / "again.safetensors",
            lambda one: tmp_path / f"{one}.safetensors",
        )
        == SAME_FILE
    )
