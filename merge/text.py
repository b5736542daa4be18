"""Recipes as people write them: "0.6 vodka + 0.2 epic + 0.2 dream", "base + 0.5 (v3 - v1)",
"mix(a, b, [GRAD_V])".

    sum   = term, then any number of "+ term" or "- term"
    term  = [share] atom
    share = 0.6 | 60% | 3/5, or [block weights] before a difference in parentheses
    atom  = name | (sum) | mix(sum, sum, [block weights]) | method(sum, sum, ...; settings)

Methods and their settings are those of `merge.methods.METHODS`, and triple_sum and sum_twice:
ties(base, a, b; keep 0.2, strength 1).

A recipe, or one in parentheses, can be followed by "with text_encoder atom", "with vae atom" or
both. A name with spaces or signs, or one that begins with a digit, is written in quotation marks.
`parse` reads this form, `to_text` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from .blocks import LAYOUTS, BlockWeights, block_weights, parse_rules, parse_values
from .errors import MergeError, nearest
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
from .tokens import PLAIN_NAME, Tokens

LONGEST = 100_000


@dataclass(frozen=True)
class Difference:
    """b - c, which is not a recipe by itself."""

    b: Recipe
    c: Recipe


Atom: TypeAlias = Recipe | Difference
Share: TypeAlias = Fraction | BlockWeights | None


def parse(text: str, name_of: Callable[[str], str] = str) -> Recipe:
    """The recipe that a text describes; `name_of` gives the checkpoint's name for a name in the
    text. Raises MergeError that says where the text is wrong.
    """
    if len(text) > LONGEST:
        raise MergeError(f"The recipe's text is longer than {LONGEST} characters.")
    return _Parser(text, name_of).recipe()


def parse_settings(text: str) -> dict[str, Fraction | BlockWeights]:
    """A method's settings by name, from a text such as "keep 0.2, strength [GRAD_V]"; an empty text
    has none. Raises MergeError.
    """
    if len(text) > LONGEST:
        raise MergeError(f"The settings are longer than {LONGEST} characters.")
    return _Parser(text, str).settings()


def name_finder(names: Iterable[str], where: str = "") -> Callable[[str], str]:
    """For `parse`: a function that finds the one checkpoint of these `names` that is meant, with or
    without its folder and ending. It raises MergeError if there is none or more than one; `where`
    says in that message where they are.
    """
    known = list(names)

    def find(name: str) -> str:
        if name in known:
            return name
        found = [k for k in known if name in (short_name(k), *_without_ending(k))]
        if len(found) == 1:
            return found[0]
        if found:
            raise MergeError(
                f"{name!r} could be {' or '.join(found)}. Write the full name in quotation marks."
            )
        closest = nearest(name, map(short_name, known))
        raise MergeError(f"There is no checkpoint {name!r}{where}.{closest}")

    return find


def _without_ending(name: str) -> tuple[str, ...]:
    """A name with its folder, and for .sft, which is the same kind of file, without it too."""
    if name.endswith(".sft"):
        return name.removesuffix(".sft"), short_name(name).removesuffix(".sft")
    return (name.removesuffix(".safetensors"),)


def to_text(recipe: Recipe) -> str:
    """The recipe as people write it: "0.6 vodka + 0.2 epic + 0.2 dream". `parse` reads it back."""
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
    """BASE and the blocks in their usual order, then TIME and rules if there are any:
    [0, 1, ...; TIME 0.5; OUT03:attn2:0.5].
    """
    parts = [", ".join(written(value) for value in (weights.base, *weights.blocks))]
    if weights.time != weights.blocks[0]:
        parts.append(f"TIME {written(weights.time)}")
    return "[" + "; ".join([*parts, *map(str, weights.rules)]) + "]"


def _short_names(recipe: Recipe) -> dict[str, str]:
    """What every ingredient is called in a text: its short name unless two share it, in quotation
    marks if it needs them.
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
        self._tokens = Tokens(text)
        self._name_of = name_of
        self._depth = 0

    def recipe(self) -> Recipe:
        found = self._sum()
        if self._tokens.text:
            raise self._tokens.error("the recipe should end here, or go on with + or -")
        if isinstance(found, Difference):
            raise MergeError(
                "A difference alone is not a recipe: its shares add up to 0. "
                "Write what it is added to."
            )
        return found

    def _sum(self) -> Atom:
        self._depth += 1
        if self._depth > DEEPEST:
            raise MergeError(
                f"The recipe is nested more than {DEEPEST} levels deep. Make it flatter."
            )
        terms = [self._term(-1 if self._tokens.take_sign("-") else 1)]
        while self._tokens.text in ("+", "-"):
            terms.append(self._term(1 if self._tokens.take() == "+" else -1))
        found = _combined(terms)
        parts = {}
        while self._tokens.kind == "name" and self._tokens.text == "with":
            start = self._tokens.place
            self._tokens.take()
            field = self._tokens.text
            if field not in ("text_encoder", "vae") or field in parts:
                raise self._tokens.error("text_encoder or vae is expected here, each at most once")
            self._tokens.take()
            parts[field] = self._atom()
            if isinstance(found, Difference) or isinstance(parts[field], Difference):
                raise self._tokens.error("a difference alone is not a recipe", place=start)
        self._depth -= 1
        return Parts(found, **parts) if parts and not isinstance(found, Difference) else found

    def _term(self, sign: int) -> tuple[Share, Atom]:
        share: Share = None
        start = self._tokens.place
        kind, text = self._tokens.kind, self._tokens.text
        if kind == "number":
            self._tokens.take()
            share = sign * _number(text, "a share")
        elif kind == "weights":
            share = self._weights()
            if sign < 0:
                raise self._tokens.error(
                    "block weights can only be added, not subtracted", place=start
                )
        elif sign < 0:
            share = Fraction(-1)
        self._tokens.take_sign("*")
        return share, self._atom()

    def _atom(self) -> Atom:
        kind, text, start = self._tokens.kind, self._tokens.text, self._tokens.place
        if text == "(" and kind == "sign":
            self._tokens.take()
            found = self._sum()
            self._tokens.expect(")")
            return found
        if kind == "quoted":
            self._tokens.take()
            try:
                return Ingredient(self._name_of(json.loads(text)))
            except ValueError:
                raise self._tokens.error("this name cannot be read", place=start) from None
        if kind == "name":
            self._tokens.take()
            if text == "mix" and self._tokens.text == "(":
                return self._mix()
            if (text in METHODS or text in TREES) and self._tokens.text == "(":
                return self._method(text)
            return Ingredient(self._name_of(text))
        raise self._tokens.error("a name or an opening parenthesis is expected here")

    def _mix(self) -> BlockSum:
        self._tokens.expect("(")
        a = self._whole()
        self._tokens.expect(",")
        b = self._whole()
        self._tokens.expect(",")
        if self._tokens.kind != "weights":
            raise self._tokens.error("block weights in brackets are expected here")
        weights = self._weights()
        self._tokens.expect(")")
        return BlockSum(a, b, weights)

    def _method(self, name: str) -> Recipe:
        start = self._tokens.place
        self._tokens.expect("(")
        sides = [self._whole()]
        while self._tokens.take_sign(","):
            sides.append(self._whole())
        settings = self._settings() if self._tokens.take_sign(";") else {}
        self._tokens.expect(")")
        try:
            return (
                TREES[name](*sides, **settings) if name in TREES else method(name, sides, settings)
            )
        except (MergeError, TypeError) as error:
            reason = (
                error
                if name in METHODS or isinstance(error, MergeError)
                else "it takes three recipes and the settings share_of_b and share_of_c"
            )
            raise self._tokens.error(
                f"{name} does not work like this: {reason}", place=start - 1
            ) from None

    def settings(self) -> dict[str, Fraction | BlockWeights]:
        """What `parse_settings` returns."""
        found = self._settings() if self._tokens.kind != "end" else {}
        if self._tokens.kind != "end":
            raise self._tokens.error("a comma and another setting are expected here")
        return found

    def _settings(self) -> dict[str, Fraction | BlockWeights]:
        found: dict[str, Fraction | BlockWeights] = {}
        while True:
            if self._tokens.kind != "name" or self._tokens.text in found:
                raise self._tokens.error(
                    "the name of a setting is expected here, each at most once"
                )
            found |= {self._tokens.take(): self._setting()}
            if not self._tokens.take_sign(","):
                return found

    def _setting(self) -> Fraction | BlockWeights:
        if self._tokens.kind == "weights":
            return self._weights()
        sign = -1 if self._tokens.take_sign("-") else 1
        if self._tokens.kind != "number":
            raise self._tokens.error("a number or block weights in brackets are expected here")
        return sign * _number(self._tokens.take(), "a setting")

    def _whole(self) -> Recipe:
        start = self._tokens.place
        found = self._sum()
        if isinstance(found, Difference):
            raise self._tokens.error("a difference alone is not a recipe", place=start)
        return found

    def _weights(self) -> BlockWeights:
        start = self._tokens.place
        try:
            return _read_weights(self._tokens.take())
        except MergeError as error:
            raise self._tokens.error(f"these block weights are wrong: {error}", start) from None


def _combined(terms: list[tuple[Share, Atom]]) -> Atom:
    """The sum of terms with their shares; a difference where they are "b - c" alone."""
    plain = [(share, atom) for share, atom in terms if not isinstance(atom, Difference)]
    if any(isinstance(share, BlockWeights) for share, _ in plain):
        raise MergeError(
            "Block weights belong before a difference, as in a + [..] (b - c), "
            "or into mix(a, b, [..])."
        )
    if [share for share, _ in terms] == [None, -1] and len(plain) == 2:
        return Difference(plain[0][1], plain[1][1])
    differences = [(share, atom) for share, atom in terms if isinstance(atom, Difference)]
    if not plain:
        if len(terms) == 1 and terms[0][0] is None:
            return terms[0][1]
        raise MergeError(
            "A recipe made only of differences adds up to 0. Write what they are added to."
        )
    whole = _weighted(plain, bool(differences))
    for share, difference in differences:
        whole = add_difference(
            whole, difference.b, difference.c, Fraction(1) if share is None else share
        )
    return whole


def _weighted(terms: list[tuple[Share, Recipe]], has_differences: bool) -> Recipe:
    shares = [Fraction(1) if share is None else share for share, _ in terms]
    numbers = [share for share in shares if isinstance(share, Fraction)]
    if len(terms) == 1 and numbers == [1] and (terms[0][0] is None or has_differences):
        return terms[0][1]
    total = sum(numbers, Fraction(0))
    if total not in (1, 100):
        raise MergeError(
            f"The shares add up to {written(total)}, not to 1 or 100. Write every share, such as "
            "0.6 a + 0.4 b, and differences in parentheses, such as a + 0.5 (b - c)."
        )
    return weighted_sum((atom, share) for share, (_, atom) in zip(numbers, terms, strict=True))


def _read_weights(text: str) -> BlockWeights:
    """Block weights in brackets: a preset, with its layout or without, or numbers; then TIME and
    rules.
    """
    values, *rest = text.strip("[]").split(";")
    words = values.split()
    if words and words[-1][0].isalpha() and len(words) <= 2:
        layout = words[0] if len(words) == 2 else "SD1.5"
        if layout not in LAYOUTS:
            raise MergeError(f"there is no layout {layout!r}. Choose one of {', '.join(LAYOUTS)}.")
        found = preset(words[-1], layout)
    else:
        found = block_weights(parse_values(values))
    time, rules = found.time, []
    for part in filter(str.strip, rest):
        word, *value = part.split(None, 1)
        if word == "TIME" and ":" not in part:
            time = exact("".join(value).strip(), "the weight of TIME")
        else:
            rules += parse_rules(part, found.layout)
    return BlockWeights(found.layout, found.base, time, found.blocks, tuple(rules))


def _number(text: str, what: str) -> Fraction:
    """The number of a token such as 0.6, 3/5 or 60%."""
    return exact(text.rstrip("%"), what) / (100 if text.endswith("%") else 1)
