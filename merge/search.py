"""Cocktail search: mixes to try next, and the scores of those tried so far.

A try is a weighted sum with shares in whole percent; it is a recipe, never a file. A grid shows
tries side by side (its axis "recipe" reads them as text), people vote or a metric judges, and each
score is kept in a table by the hash of its recipe (`add_score`). The next proposals and the best
try come from that table. A score is a number, the higher the better; a judge's new score for a
recipe replaces the old one, and the scores of several judges are averaged.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from .errors import MergeError
from .recipe import Part, Recipe, WeightedSum, weighted_sum
from .recipe_json import from_json, recipe_hash, to_json

RANDOM, GRID, BAYESIAN = METHODS = ("random", "grid", "bayesian")
WHOLE = 100
MOST_TRIES = 1000
MOST_BYTES, MOST_LINE = 256 << 20, 1 << 20
"""Of a table of scores. A longer line is damaged."""
FIRST_RANDOM = 4
"""The number of scored tries before a model of them is of use."""

Shares = tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """A recipe that was tried and its mean score over the judges."""

    recipe_hash: str
    recipe: Recipe
    score: float


def propose(
    method: str,
    count: int,
    tries: int,
    seed: int,
    step: int = 20,
    known: Mapping[Shares, float] | None = None,
) -> list[Shares]:
    """Shares in percent of `count` ingredients for the next tries, each adding up to 100, none
    twice.

    random: evenly spread over all mixes. grid: all mixes in steps of `step` percent; `tries` is not
    used. bayesian: proposed by Optuna's tree-structured Parzen estimator from the scores of `known`
    tries, and random until there are `FIRST_RANDOM` of them. The same arguments give the same
    tries. Raises MergeError if an argument is out of range or Optuna is missing.
    """
    if count < 2:
        raise MergeError("A search needs two or more recipes to mix.")
    if not 1 <= tries <= MOST_TRIES:
        raise MergeError(f"A search proposes 1 to {MOST_TRIES} tries at a time.")
    known = known or {}
    if method == GRID:
        return _grid(count, step)
    if method == RANDOM or (method == BAYESIAN and len(known) < FIRST_RANDOM):
        return _random(count, tries, seed, known)
    if method == BAYESIAN:
        return _bayesian(count, tries, seed, known)
    raise MergeError(f"{method!r} is not a search method. Choose one of {', '.join(METHODS)}.")


def _grid(count: int, step: int) -> list[Shares]:
    if not 1 <= step <= 50 or WHOLE % step:
        raise MergeError(
            "The step of a grid must divide 100: 50, 25, 20, 10, 5, 4, 2 or 1 percent."
        )
    steps = WHOLE // step
    total = math.comb(steps + count - 1, count - 1)
    if total > MOST_TRIES:
        raise MergeError(
            f"Steps of {step} percent give {total} mixes of {count} recipes, but at most "
            f"{MOST_TRIES} "
            "are allowed. Choose a larger step."
        )
    return [
        tuple(part * step for part in _parts(cuts, steps, count))
        for cuts in combinations(range(steps + count - 1), count - 1)
    ]


def _parts(cuts: Sequence[int], total: int, count: int) -> list[int]:
    """The sizes of the parts into which bars at `cuts` divide `total` stars. Every division has
    exactly one set of cuts.
    """
    edges = (-1, *cuts, total + count - 1)
    return [after - before - 1 for before, after in pairwise(edges)]


def _random(count: int, tries: int, seed: int, known: Mapping[Shares, float]) -> list[Shares]:
    numbers = random.Random(seed)
    found: dict[Shares, None] = {}
    for _ in range(tries * 20):
        cuts = sorted(numbers.sample(range(WHOLE + count - 1), count - 1))
        shares = tuple(_parts(cuts, WHOLE, count))
        if shares not in known:
            found[shares] = None
        if len(found) == tries:
            break
    return list(found)


def _bayesian(count: int, tries: int, seed: int, known: Mapping[Shares, float]) -> list[Shares]:
    try:
        import optuna
    except ImportError:
        raise MergeError(
            "The bayesian search needs Optuna. Install it (pip install optuna), or choose random "
            "or "
            "grid."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    share = optuna.distributions.FloatDistribution(0, 1)
    ranges: dict[str, Any] = {f"share_{n}": share for n in range(count)}
    sampler = optuna.samplers.TPESampler(
        seed=seed + len(known), n_startup_trials=FIRST_RANDOM, constant_liar=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for shares, score in sorted(known.items()):
        values = {f"share_{n}": share / WHOLE for n, share in enumerate(shares)}
        study.add_trial(optuna.create_trial(params=values, distributions=ranges, value=score))
    found: dict[Shares, None] = {}
    for _ in range(tries * 20):
        trial = study.ask(ranges)
        shares = _percent([trial.params[name] for name in ranges])
        if shares not in known:
            found[shares] = None
        if len(found) == tries:
            break
    return list(found)


def _percent(weights: Sequence[float]) -> Shares:
    """Whole percents in these proportions that add up to 100, with the largest remainders rounded
    up.
    """
    total = sum(weights)
    exact = [WHOLE * (weight / total if total > 0 else 1 / len(weights)) for weight in weights]
    parts = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda n: (parts[n] - exact[n], n))
    for n in order[: WHOLE - sum(parts)]:
        parts[n] += 1
    return tuple(parts)


def mix(recipes: Sequence[Recipe], shares: Shares) -> Recipe:
    """The mix with these shares of the recipes; a recipe with a share of 100 is itself the mix."""
    used = [(recipe, share) for recipe, share in zip(recipes, shares, strict=True) if share]
    return used[0][0] if len(used) == 1 else weighted_sum(used)


def add_score(table: Path, recipe: Recipe, score: float, judge: str) -> None:
    """Append a score to a table, a file of JSON lines. `recipe` is bound to its files
    (`recipe.bind`).

    A line is {"recipe_hash", "recipe", "score", "judge"}; other programs with votes or metrics may
    write such lines too. Raises MergeError if the score is not a number.
    """
    if not math.isfinite(score):
        raise MergeError(f"A score must be a number; it is {score}.")
    entry = {
        "recipe_hash": recipe_hash(recipe),
        "recipe": to_json(recipe),
        "score": score,
        "judge": judge,
    }
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("ab+") as file:
            # If a crash cut off the last line, this one must not be joined to it.
            if file.tell() and not _ends_with_line(file):
                line = "\n" + line
            file.write(line.encode("utf-8"))
    except OSError as error:
        raise MergeError(f"{table} cannot be written: {error.strerror}.") from error


def _ends_with_line(file: Any) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def read_scores(table: Path, without: str | None = None) -> list[Scored]:
    """The scored recipes of a table, the best first; none without a file. Damaged lines are
    skipped, and so are the scores of the judge `without`.
    """
    by_judge: dict[str, dict[str, float]] = {}
    recipes: dict[str, Recipe] = {}
    for entry in _lines(table):
        try:
            key, judge, score = entry["recipe_hash"], entry["judge"], float(entry["score"])
            recipe = from_json(entry["recipe"])
        except (KeyError, TypeError, ValueError, OverflowError, MergeError):
            continue
        if judge == without:
            continue
        if isinstance(key, str) and isinstance(judge, str) and math.isfinite(score):
            by_judge.setdefault(key, {})[judge] = score
            recipes[key] = recipe
    found = [Scored(key, recipes[key], fmean(scores.values())) for key, scores in by_judge.items()]
    return sorted(found, key=lambda scored: (-scored.score, scored.recipe_hash))


def _lines(table: Path) -> Iterator[Any]:
    if not table.exists():
        return
    if not table.is_file() or table.stat().st_size > MOST_BYTES:
        raise MergeError(f"{table} cannot be read: it is no file, or a far too large one. Move it.")
    try:
        with table.open("rb") as file:
            lines = list(iter(lambda: file.readline(MOST_LINE), b""))
    except OSError as error:
        raise MergeError(f"{table} cannot be read: {error.strerror}.") from error
    for line in lines:
        try:
            yield json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue


def add_strengths(table: Path, strengths: Mapping[Recipe, float], judge: str) -> float:
    """Add the strengths of recipes in a vote as scores, and return what was added to each.

    Strengths are relative to the mean of what was voted on. So that those of two votes compare,
    they are moved until recipes with scores of others have these on average. Raises MergeError if
    there are such scores but of none of these recipes.
    """
    known = {scored.recipe_hash: scored.score for scored in read_scores(table, judge)}
    shared = [
        known[key] - strength
        for recipe, strength in strengths.items()
        if (key := recipe_hash(recipe)) in known
    ]
    if known and not shared:
        raise MergeError(
            "The scores of two votes compare only if both have a recipe in common, and this grid "
            "has none that has a score so far. Render the best one so far in this grid too."
        )
    level = fmean(shared) if shared else 0.0
    for recipe, strength in strengths.items():
        add_score(table, recipe, strength + level, judge)
    return level


def known_shares(recipes: Sequence[Recipe], scored: Sequence[Scored]) -> dict[Shares, float]:
    """Scores by the shares of these recipes, for the scored recipes that are mixes of them in whole
    percent.
    """
    known = {}
    for entry in scored:
        tried = entry.recipe
        parts = tried.parts if isinstance(tried, WeightedSum) else (Part(tried, Fraction(1)),)
        weights = dict.fromkeys(recipes, Fraction(0))
        for part in parts:
            weights[part.recipe] = weights.get(part.recipe, Fraction(0)) + part.weight * WHOLE
        whole = all(weight.denominator == 1 for weight in weights.values())
        if whole and len(weights) == len(recipes):
            known[tuple(int(weights[recipe]) for recipe in recipes)] = entry.score
    return known
