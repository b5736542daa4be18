"""How rules are read."""

from __future__ import annotations

import pytest

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.rules import read_rules

KNOWN = ("checkpoint", "size", "prompt", "prompt search and replace: red")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("size = 512x512", [("size", "512x512", False)]),
        ("Checkpoint=*768*  and  size != 768x768", [
            ("checkpoint", "*768*", False),
            ("size", "768x768", True),
        ]),
        ("prompt = black and white", [("prompt", "black and white", False)]),
        ("prompt = black and white and size=64x64", [
            ("prompt", "black and white", False),
            ("size", "64x64", False),
        ]),
        ("size=64x64 and prompt search and replace: red = in blue", [
            ("size", "64x64", False),
            ("prompt search and replace: red", "in blue", False),
        ]),
    ],
)  # fmt: skip
def test_a_rule_is_conditions_joined_by_and(line: str, expected: list[tuple[str, str, bool]]):
    (rule,) = read_rules(f"\n{line}\n", KNOWN)
    assert [(c.name, c.pattern, c.unlike) for c in rule.conditions] == expected
    assert rule.text == line


def test_patterns_fit_any_of_the_names_whatever_the_case():
    (rule,) = read_rules("checkpoint = V*-768", KNOWN)
    assert rule.leaves_out(lambda name: ["x.safetensors", "v3-768"])
    assert not rule.leaves_out(lambda name: ["v3-512"])


def test_an_unknown_name_behind_and_is_not_taken_for_a_part_of_a_pattern():
    with pytest.raises(GridError, match="is not a condition"):
        read_rules("size = 64x64 and mood = good", KNOWN)
