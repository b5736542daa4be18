"""Recipes as people write them: "0.6 vodka + 0.2 epic + 0.2 dream", "base + 0.5 (v3 - v1)", "mix(a,
b, [GRAD_V])".

    sum   = term, then any number of "+ term" or "- term"
    term  = [share] atom       a share is 0.6, 60%, 3/5, or [block weights] before a difference in parentheses
    atom  = name | (sum) | mix(sum, sum, [block weights]) | method(sum, sum, ...; setting value,
    setting value, ...)

The methods and their settings are those of `merge.methods.METHODS`, and triple_sum and sum_twice:
ties(base, a, b; keep 0.2, strength 1).

A whole recipe or one in parentheses can go on with "with text_encoder atom", "with vae atom" or
both.

Names that hold blanks or signs, or begin with a digit, stand in quotation marks.
`to_text` writes this form.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from .blocks import LAYOUTS, BlockWeights, block_weights, parse_rules, parse_values
from .errors import MergeError
from .methods import METHODS
from .numbers import exact, written
from .presets import preset
from .recipe import (
    DEEPEST,
    TREES,
    BlockSum,
    Ingredient,
    Method,
    Parts,
    Recipe,
    WeightedSum,
    add_difference,
    given_parts,
    ingredients,
    method,
    short_name,
    weighted_sum,
)

LONGEST = 100_000
PLAIN_NAME = re.compile(r"[^\W\d][\w./\\@-]*")
"""A name that stands in a recipe's text without quotation marks."""
TOKEN = re.compile(
    rf'\s*(?:(?P<number>\d+(?:\.\d+)?(?:/\d+)?%?)|(?P<name>{PLAIN_NAME.pattern})|(?P<quoted>"(?:[^"\\]|\\.)*")'
    r"|(?P<weights>\[[^\]]*\])|(?P<sign>[-+()*,;]))"
)


@dataclass(frozen=True)
class Difference:
    """b - c, which is no recipe by itself."""

    b: Recipe
    c: Recipe


Atom: TypeAlias = Recipe | Difference
Share: TypeAlias = Fraction | BlockWeights | None


def parse(text: str, name_of: Callable[[str], str] = str) -> Recipe:
    """The recipe that a text means; `name_of` gives the checkpoint's name for a name in the text.

    Raises MergeError that says where the text is not a recipe.
    """
    if len(text) > LONGEST:
        raise MergeError(f"The recipe's text is longer than {LONGEST} characters.")
    return _Parser(text, name_of).recipe()


def parse_settings(text: str) -> dict[str, Fraction | BlockWeights]:
    """The settings of a method by name, of a text such as "keep 0.2, strength [GRAD_V]"; none of an
    empty one. Raises MergeError.
    """
    if len(text) > LONGEST:
        raise MergeError(f"The settings are longer than {LONGEST} characters.")
    return _Parser(text, str).settings()


def name_finder(names: Iterable[str]) -> Callable[[str], str]:
    """For `parse`: finds a checkpoint by its name, with or without folder and ending, among those
    that are there.

    What it returns raises MergeError for a name that is not there or stands for several.
    """
    known = list(names)

    def find(name: str) -> str:
        if name in known:
            return name
        found = [k for k in known if name in (short_name(k), k.removesuffix(".safetensors"))]
        if len(found) == 1:
            return found[0]
        if found:
            raise MergeError(
                f"{name!r} can be {' or '.join(found)}. Write the whole name in quotation marks."
            )
        near = difflib.get_close_matches(name, [short_name(k) for k in known], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise MergeError(f"There is no checkpoint {name!r}.{hint}")

    return find


def to_text(recipe: Recipe) -> str:
    """The recipe as a person writes it: "0.6 vodka + 0.2 epic + 0.2 dream". `parse` reads it
    back.
    """
    names = _short_names(recipe)

    def term(node: Recipe) -> str:
        text = write(node)
        return text if isinstance(node, Ingredient | BlockSum | Method) else f"({text})"

    def write(node: Recipe) -> str:
        if isinstance(node, Ingredient):
            return names[node.name]
        if isinstance(node, WeightedSum):
            text = " + ".join(f"{written(p.weight)} {term(p.recipe)}" for p in node.parts)
            return text.replace(" + -", " - ")
        if isinstance(node, BlockSum):
            return f"mix({write(node.a)}, {write(node.b)}, {_weights_text(node.share_of_b)})"
        if isinstance(node, Method):
            settings = ", ".join(f"{k} {_setting_text(v)}" for k, v in node.settings)
            sides = ", ".join(map(write, node.recipes))
            return f"{node.method}({sides}{'; ' if settings else ''}{settings})"
        if isinstance(node, Parts):
            whole, *others = ((k, child) for k, child in given_parts(node).items())
            start = term(node.recipe) if isinstance(node.recipe, Parts) else write(whole[1])
            return " ".join([start, *(f"with {field} {term(child)}" for field, child in others)])
        multiplier = node.multiplier
        if isinstance(multiplier, BlockWeights):
            sign, number = "+", _weights_text(multiplier)
        else:
            sign, number = "-" if multiplier < 0 else "+", written(abs(multiplier))
        return f"{term(node.a)} {sign} {number} ({term(node.b)} - {term(node.c)})"

    return write(recipe)


def _setting_text(value: Fraction | BlockWeights) -> str:
    return _weights_text(value) if isinstance(value, BlockWeights) else written(value)


def _weights_text(weights: BlockWeights) -> str:
    """BASE and the blocks in the field's order, then TIME and rules where there are any: [0, 1,
    ...; TIME 0.5; OUT03:attn2:0.5].
    """
    parts = [", ".join(written(value) for value in (weights.base, *weights.blocks))]
    if weights.time != weights.blocks[0]:
        parts.append(f"TIME {written(weights.time)}")
    return "[" + "; ".join([*parts, *map(str, weights.rules)]) + "]"


def _short_names(recipe: Recipe) -> dict[str, str]:
    """What every ingredient is called in a text: shortly where that is clear, in quotation marks
    where it needs them.
    """
    names = {ingredient.name for ingredient in ingredients(recipe)}
    short = {name: short_name(name) for name in names}
    taken = list(short.values())
    labels = {name: label if taken.count(label) == 1 else name for name, label in short.items()}
    return {
        name: label
        if PLAIN_NAME.fullmatch(label) and label != "mix"
        else json.dumps(label, ensure_ascii=False)
        for name, label in labels.items()
    }


class _Parser:
    def __init__(self, text: str, name_of: Callable[[str], str]) -> None:
        self._text = text
        self._name_of = name_of
        self._tokens: list[tuple[str, str, int]] = []
        self._next = 0
        self._depth = 0
        end = 0
        while text[end:].strip():
            match = TOKEN.match(text, end)
            if not match or match.lastgroup is None:
                raise self._error("this is no part of a recipe", end)
            kind = match.lastgroup
            self._tokens.append((kind, match[kind], match.start(kind)))
            end = match.end()

    def recipe(self) -> Recipe:
        found = self._sum()
        if self._peek():
            raise self._error("here the recipe should end, or go on with + or -")
        if isinstance(found, Difference):
            raise MergeError(
                "A difference alone is no recipe: its shares add up to 0. Write what it is added to."
            )
        return found

    def _sum(self) -> Atom:
        self._depth += 1
        if self._depth > DEEPEST:
            raise MergeError(f"The recipe is nested more than {DEEPEST} deep. Write it flatter.")
        terms = [self._term(-1 if self._take("-") else 1)]
        while self._peek() in ("+", "-"):
            terms.append(self._term(1 if self._take_any() == "+" else -1))
        found = self._combine(terms)
        parts = {}
        while self._kind() == "name" and self._peek() == "with":
            start = self._next
            self._take_any()
            field = self._peek()
            if field not in ("text_encoder", "vae") or field in parts:
                raise self._error("here should be text_encoder or vae, each once")
            self._take_any()
            parts[field] = self._atom()
            if isinstance(found, Difference) or isinstance(parts[field], Difference):
                raise self._error("a difference is no recipe by itself", start=start)
        self._depth -= 1
        return Parts(found, **parts) if parts and not isinstance(found, Difference) else found

    def _term(self, sign: int) -> tuple[Share, Atom]:
        share: Share = None
        start = self._next
        kind, text = self._kind(), self._peek()
        if kind == "number":
            self._take_any()
            share = sign * exact(text.rstrip("%"), "a share") / (100 if text.endswith("%") else 1)
        elif kind == "weights":
            self._take_any()
            share = self._weights(text, start)
            if sign < 0:
                raise self._error("block weights are added, not taken away", start=start)
        elif sign < 0:
            share = Fraction(-1)
        self._take("*")
        return share, self._atom()

    def _atom(self) -> Atom:
        kind, text, start = self._kind(), self._peek(), self._next
        if text == "(" and kind == "sign":
            self._take_any()
            found = self._sum()
            self._expect(")")
            return found
        if kind == "quoted":
            self._take_any()
            try:
                return Ingredient(self._name_of(json.loads(text)))
            except ValueError:
                raise self._error("this name cannot be read", start=start) from None
        if kind == "name":
            self._take_any()
            if text == "mix" and self._peek() == "(":
                return self._mix()
            if (text in METHODS or text in TREES) and self._peek() == "(":
                return self._method(text)
            return Ingredient(self._name_of(text))
        raise self._error("here should be a name or a parenthesis")

    def _mix(self) -> BlockSum:
        self._expect("(")
        a = self._whole()
        self._expect(",")
        b = self._whole()
        self._expect(",")
        start = self._next
        if self._kind() != "weights":
            raise self._error("here should be block weights in brackets")
        weights = self._weights(self._take_any(), start)
        self._expect(")")
        return BlockSum(a, b, weights)

    def _method(self, name: str) -> Recipe:
        start = self._next
        self._expect("(")
        sides = [self._whole()]
        while self._take(","):
            sides.append(self._whole())
        settings = self._settings() if self._take(";") else {}
        self._expect(")")
        try:
            return (
                TREES[name](*sides, **settings) if name in TREES else method(name, sides, settings)
            )
        except (MergeError, TypeError) as error:
            reason = (
                error if name in METHODS else "it takes three recipes, share_of_b and share_of_c"
            )
            raise self._error(f"{name} cannot be made: {reason}", start=start - 1) from None

    def settings(self) -> dict[str, Fraction | BlockWeights]:
        """What `parse_settings` returns."""
        found = self._settings() if self._tokens else {}
        if self._kind() != "end":
            raise self._error("here should be a comma and another setting")
        return found

    def _settings(self) -> dict[str, Fraction | BlockWeights]:
        found: dict[str, Fraction | BlockWeights] = {}
        while True:
            if self._kind() != "name" or self._peek() in found:
                raise self._error("here should be the name of a setting, each once")
            found |= {self._take_any(): self._setting()}
            if not self._take(","):
                return found

    def _setting(self) -> Fraction | BlockWeights:
        start = self._next
        if self._kind() == "weights":
            return self._weights(self._take_any(), start)
        sign = -1 if self._take("-") else 1
        if self._kind() != "number":
            raise self._error("here should be a number or block weights in brackets")
        number = self._take_any()
        return sign * exact(number.rstrip("%"), "a setting") / (100 if number.endswith("%") else 1)

    def _whole(self) -> Recipe:
        start = self._next
        found = self._sum()
        if isinstance(found, Difference):
            raise self._error("a difference is no recipe by itself", start=start)
        return found

    def _combine(self, terms: list[tuple[Share, Atom]]) -> Atom:
        plain = [(share, atom) for share, atom in terms if not isinstance(atom, Difference)]
        if any(isinstance(share, BlockWeights) for share, _ in plain):
            raise MergeError(
                "Block weights stand before a difference, [..] (b - c), or in mix(a, b, [..])."
            )
        if [share for share, _ in terms] == [None, -1] and len(plain) == 2:
            return Difference(plain[0][1], plain[1][1])
        differences = [(share, atom) for share, atom in terms if isinstance(atom, Difference)]
        if not plain:
            if len(terms) == 1 and terms[0][0] is None:
                return terms[0][1]
            raise MergeError(
                "A recipe of differences alone adds up to 0. Write what they are added to."
            )
        whole = self._weighted([(share, atom) for share, atom in plain], bool(differences))
        for share, difference in differences:
            whole = add_difference(
                whole, difference.b, difference.c, Fraction(1) if share is None else share
            )
        return whole

    def _weighted(self, terms: list[tuple[Share, Recipe]], has_differences: bool) -> Recipe:
        shares = [Fraction(1) if share is None else Fraction(share) for share, _ in terms]  # type: ignore[arg-type]
        if len(terms) == 1 and shares == [1] and (terms[0][0] is None or has_differences):
            return terms[0][1]
        total = sum(shares, Fraction(0))
        if total not in (1, 100):
            raise MergeError(
                f"The shares add up to {written(total)}, not to 1 or 100. Write every share, such as 0.6 a + 0.4 b; "
                "differences are written in parentheses, such as a + 0.5 (b - c)."
            )
        return weighted_sum((atom, share) for share, (_, atom) in zip(shares, terms, strict=True))

    def _weights(self, text: str, start: int) -> BlockWeights:
        values, *rest = text.strip("[]").split(";")
        try:
            words = values.split()
            if words and words[-1][0].isalpha() and len(words) <= 2:
                found = preset(words[-1], words[0] if len(words) == 2 else "SD1.5")
            else:
                found = block_weights(parse_values(values))
            time, rules = found.time, []
            for part in filter(str.strip, rest):
                if part.split()[0] == "TIME" and ":" not in part:
                    time = exact(part.split(None, 1)[1].strip(), "the weight of TIME")
                else:
                    rules += parse_rules(part, found.layout)
        except (MergeError, KeyError, IndexError) as error:
            reason = (
                str(error) if isinstance(error, MergeError) else f"known are {', '.join(LAYOUTS)}"
            )
            raise self._error(f"these are no block weights: {reason}", start=start) from None
        return BlockWeights(found.layout, found.base, time, found.blocks, tuple(rules))

    def _kind(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else "end"

    def _peek(self) -> str:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def _take_any(self) -> str:
        self._next += 1
        return self._tokens[self._next - 1][1]

    def _take(self, sign: str) -> bool:
        found = self._kind() == "sign" and self._peek() == sign
        self._next += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._error(f"here should be {sign!r}")

    def _error(self, what: str, at: int | None = None, start: int | None = None) -> MergeError:
        """A message that shows the text from the character `at`, or from the token `start` (else
        the next one) on.
        """
        if at is None:
            index = self._next if start is None else start
            at = self._tokens[index][2] if index < len(self._tokens) else len(self._text)
        rest = self._text[at : at + 30].strip() or "the end"
        return MergeError(f"The recipe's text is not one at {rest!r}: {what}.")
