"""What a checkpoint is: family, parts and their types, hashes, licence and its recipe, as data, as
text and as a tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import health
from .ancestry import ingredients_of, read_ingredients
from .errors import MergeError
from .family import family_of
from .hashing import Hashes, file_hashes, legacy_hash
from .key_names import PARTS, part_of, with_usual_names
from .licence import Licence, read_licence
from .metadata import read_recipe, read_title
from .numbers import written
from .quantised import with_numbers
from .recipe import (
    AddDifference,
    BlockSum,
    Ingredient,
    Parts,
    Recipe,
    WeightedSum,
    children,
    short_name,
)
from .safetensors_file import Header, read_header
from .text import to_text

DEEPEST = 20
"""Of the lines of a tree."""


@dataclass(frozen=True)
class PartOfFile:
    """How many tensors and numbers a part of a checkpoint has, and how many of its tensors are of
    each type.
    """

    name: str
    tensors: int
    elements: int
    size_bytes: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True)
class Inspection:
    """What `inspect_file` finds. `recipe` is None if the file has none that can be read; `notes`
    say what is unusual.
    """

    path: Path
    family: str
    resolution: int | None
    parts: tuple[PartOfFile, ...]
    hashes: Hashes
    legacy_hash: str
    title: str | None
    licence: Licence | None
    recipe: Recipe | None
    ingredients: Sequence[Mapping[str, Any]]
    notes: tuple[str, ...]


def inspect_file(
    path: Path,
    hash_cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Read a safetensors file's header and hash it; `progress(done_bytes, total_bytes)` follows the
    hashing.

    Raises MergeError when the file is missing or damaged.
    """
    plain = read_header(path)
    usual = with_usual_names(plain)
    header, problem = usual, ""
    try:
        header = with_numbers(usual)
    except MergeError as error:
        problem = str(error)
    family = family_of(header)
    recipe, notes = None, [f"{note}: read under the usual names" for note in usual.notes]
    notes += [problem] if problem else header.notes[len(usual.notes) :]
    try:
        recipe = read_recipe(plain)
    except MergeError as error:
        if "sd_merge_recipe" in plain.metadata or "cocktail.recipe" in plain.metadata:
            notes.append(f"its recipe cannot be read: {error}")
    if not problem:
        notes += health.notes(header, health.examine(header))
    return Inspection(
        path=path,
        family=family.name,
        resolution=family.resolution,
        parts=tuple(_parts(usual)),
        hashes=file_hashes(path, hash_cache, progress),
        legacy_hash=legacy_hash(path),
        title=read_title(plain),
        licence=read_licence(path, plain.metadata),
        recipe=recipe,
        ingredients=read_ingredients(plain.metadata),
        notes=tuple(notes),
    )


def _parts(header: Header) -> Iterator[PartOfFile]:
    for part in PARTS:
        tensors = [t for t in header.tensors.values() if part_of(t.name) == part]
        if tensors:
            yield PartOfFile(
                part,
                len(tensors),
                sum(t.elements for t in tensors),
                sum(t.size_bytes for t in tensors),
                dict(Counter(t.dtype for t in tensors).most_common()),
            )


def report(found: Inspection) -> str:
    """An inspection as a person reads it."""
    lines = [
        f"{found.path.name}: {found.family}"
        + (f", {found.resolution} px" if found.resolution else "")
        + f", {found.hashes.size_bytes / 1e6:.1f} MB"
    ]
    if found.title and found.title != found.path.stem:
        lines.append(f"title: {found.title}")
    for part in found.parts:
        types = ", ".join(f"{count} {dtype}" for dtype, count in part.dtypes.items())
        lines.append(
            f"{part.name}: {part.tensors} tensors ({types}), {part.elements / 1e6:.2f} M numbers, "
            f"{part.size_bytes / 1e6:.1f} MB"
        )
    lines += [
        f"SHA-256: {found.hashes.sha256}",
        f"AutoV2: {found.hashes.autov2}   AutoV3: {found.hashes.autov3}   "
        f"AutoV1: {found.legacy_hash}",
    ]
    if found.licence:
        lines.append(f"licence: {found.licence} ({found.licence.source})")
    if found.recipe is not None:
        lines += [f"recipe: {to_text(found.recipe)}", *tree_text(tree(found))]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


@dataclass(frozen=True)
class Branch:
    """A line of a tree and how deep it stands."""

    depth: int
    text: str


def tree(found: Inspection) -> list[Branch]:
    """The recipe of a file line by line, and below an ingredient that was merged itself its own
    ingredients.
    """
    if found.recipe is None:
        return [Branch(0, f"{short_name(found.path.name)}: no recipe")]
    older = {entry["sha256"]: ingredients_of(entry) for entry in found.ingredients}
    seen: set[str] = set()
    return [Branch(0, short_name(found.path.name)), *_branches(found.recipe, 1, "", older, seen)]


def _branches(
    recipe: Recipe, depth: int, label: str, older: Mapping[str, Any], seen: set[str]
) -> Iterator[Branch]:
    sides: list[tuple[str, Recipe]] = []
    if isinstance(recipe, Ingredient):
        sha256 = f"  {recipe.sha256[:10]}" if recipe.sha256 else ""
        yield Branch(depth, f"{label}{short_name(recipe.name)}{sha256}")
        yield from _older(older.get(recipe.sha256 or "", ()), depth + 1, seen)
        return
    if isinstance(recipe, WeightedSum):
        what = "weighted sum"
        sides = [(f"{written(100 * p.weight)} %  ", p.recipe) for p in recipe.parts]
    elif isinstance(recipe, AddDifference):
        blocks = not hasattr(recipe.multiplier, "numerator")
        what = "add difference, " + ("by blocks" if blocks else f"x {written(recipe.multiplier)}")  # type: ignore[arg-type]
        sides = [("A  ", recipe.a), ("+ B  ", recipe.b), ("- C  ", recipe.c)]
    elif isinstance(recipe, BlockSum):
        what = "mix by blocks"
        sides = [("A  ", recipe.a), ("B  ", recipe.b)]
    elif isinstance(recipe, Parts):
        what = "parts"
        sides = [("UNet  " if recipe.text_encoder else "", recipe.recipe)]
        sides += [("text encoder  ", recipe.text_encoder)] if recipe.text_encoder else []
        sides += [("VAE  ", recipe.vae)] if recipe.vae else []
    else:
        what = str(getattr(recipe, "method", type(recipe).__name__))
        sides = [("", child) for child in children(recipe)]
    yield Branch(depth, label + what)
    for side, child in sides:
        yield from _branches(child, depth + 1, side, older, seen)


def _older(entries: Sequence[Mapping[str, Any]], depth: int, seen: set[str]) -> Iterator[Branch]:
    """What an ingredient was made of; what was `seen` above is not unfolded again."""
    if depth > DEEPEST:
        return
    for entry in entries:
        name, sha256 = short_name(str(entry.get("name"))), str(entry.get("sha256"))
        older = ingredients_of(entry)
        again = bool(older) and sha256 in seen
        seen.add(sha256)
        yield Branch(depth, f"made of {name}  {sha256[:10]}{' (see above)' if again else ''}")
        if not again:
            yield from _older(older, depth + 1, seen)


def tree_text(branches: Sequence[Branch]) -> list[str]:
    """The tree in lines of text."""
    return ["   " * branch.depth + branch.text for branch in branches]
