"""From a recipe to a checkpoint file: find and hash the ingredients, and make the file unless it
exists already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from .ancestry import read_ingredients, shortened
from .engine import Progress, write_file
from .errors import MergeError, listed
from .hashing import file_hashes, file_sha256, tensors_sha256
from .licence import Licence, from_json, read_licence, warnings
from .metadata import (
    PRECISION,
    RECIPE_HASH,
    RECIPE_TEXT,
    Source,
    ancestors,
    describe,
    make_metadata,
    read_precision,
    read_recipe,
    read_title,
)
from .pickled import is_pickled, safetensors_of
from .plan import MergePlan, check_precision, make_plan
from .reading import open_checkpoint
from .recipe import Ingredient, Recipe, bind, ingredients, short_name
from .recipe_json import recipe_hash
from .safetensors_file import Header, read_header
from .text import to_text

SAME_FILE = "the same file, bit for bit"
SAME_TENSORS = "the same tensors, bit for bit, with other metadata"
DIFFERENT = "another result"


@dataclass(frozen=True)
class BoundRecipe:
    """A recipe whose ingredients are files: each with its content hash and its checked header."""

    recipe: Recipe
    headers: Mapping[Ingredient, Header]
    sources: Mapping[Ingredient, Source]
    is_mixed_prediction_allowed: bool = False
    _plans: dict[str, MergePlan] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def hash(self) -> str:
        """What the recipe makes (`recipe_json.recipe_hash`)."""
        return recipe_hash(self.recipe)

    def plan(self, precision: str) -> MergePlan:
        """What the recipe makes in this precision, tensor by tensor; planned once. Raises
        MergeError when the ingredients do not fit together.
        """
        if precision not in self._plans:
            self._plans[precision] = make_plan(
                self.recipe, self.headers, precision, self.is_mixed_prediction_allowed
            )
        return self._plans[precision]

    def metadata(self, precision: str, title: str) -> dict[str, str]:
        """The metadata of the file that it makes, which calls itself `title`."""
        plan = self.plan(precision)
        used = {ingredient: self.sources[ingredient] for ingredient in plan.ingredients}
        return make_metadata(self.recipe, used, plan, precision, title)


def bind_to_files(
    recipe: Recipe,
    path_of: Callable[[str], Path],
    hash_cache: Path | None = None,
    progress: Progress | None = None,
    converted: Path | None = None,
    licences: Mapping[str, Licence] | None = None,
) -> BoundRecipe:
    """Find every ingredient with `path_of(name)`, check its header, and bind the recipe to its
    content hash.

    All headers are checked before the first file is hashed. `progress(done_bytes, total_bytes)`
    follows the hashing of each file. With `converted`, a folder, ingredients can be pickled
    checkpoints too: each is converted once to a safetensors file there. `licences` are given by
    hand, by the ingredient's name; the others are read from the files or from files beside them.
    Raises MergeError for a file that is missing or damaged, or whose hash is not the recipe's.
    """
    paths = {i.name: path_of(i.name) for i in ingredients(recipe)}
    pickled = {name for name, path in paths.items() if converted and is_pickled(path)}
    headers = {name: open_checkpoint(path) for name, path in paths.items() if name not in pickled}
    for name in pickled:
        check_file(paths[name])
    if converted:
        for name in sorted(pickled):
            copy = safetensors_of(paths[name], converted, hash_cache, progress)
            headers[name] = open_checkpoint(copy)
    hashes = {name: file_hashes(path, hash_cache, progress) for name, path in paths.items()}
    bound = bind(recipe, lambda name: hashes[name].sha256)
    used = tuple(ingredients(bound))
    told = _by_short_name(licences or {})
    sources = {}
    for ingredient in used:
        path, metadata = paths[ingredient.name], headers[ingredient.name].metadata
        # A merge's own field only repeats the licences of its ingredients, which it also lists.
        own = {} if read_ingredients(metadata) else metadata
        licence = told.get(short_name(ingredient.name)) or read_licence(path, own)
        sources[ingredient] = Source(path, hashes[ingredient.name], metadata, licence)
    unknown = set(told) - {short_name(ingredient.name) for ingredient in used}
    if unknown:
        raise MergeError(
            f"A licence is given for {listed(sorted(unknown))}, but the ingredients are "
            f"{listed(sorted({short_name(i.name) for i in used}))}. Use their names."
        )
    return BoundRecipe(bound, {i: headers[i.name] for i in used}, sources)


def _by_short_name(licences: Mapping[str, Licence]) -> dict[str, Licence]:
    return {short_name(name): licence for name, licence in licences.items()}


def check_file(path: Path) -> None:
    """Raise MergeError unless `path` can be an ingredient, as far as can be seen without opening a
    pickle.
    """
    if not is_pickled(path):
        read_header(path)
    elif not path.is_file():
        raise MergeError(f"{path} cannot be read: there is no such file.")


def notes_of(bound: BoundRecipe, precision: str) -> tuple[str, ...]:
    """What happens where the ingredients are not alike, and what their licences ask for, one
    sentence each.
    """
    plan = bound.plan(precision)
    described = [describe(i, bound.sources[i]) for i in plan.ingredients]
    short = shortened(described)
    told = (
        f"The file's header would be longer than programs read: of the {short} oldest ancestors it "
        "holds the hash alone, without name and licence.",
    )
    return (*plan.notes, *warnings(ancestors(described)), *(told if short else ()))


def default_name(bound: BoundRecipe, precision: str) -> str:
    """The name of a merge without one: the recipe's hash, and the precision unless it is fp16."""
    return f"merge-{bound.hash[:12]}" + ("" if precision == "fp16" else f"-{precision}")


def make_checkpoint(
    bound: BoundRecipe,
    path: Path,
    precision: str = "fp16",
    threads: int | None = None,
    progress: Progress | None = None,
    title: str | None = None,
    device: str = "cpu",
) -> bool:
    """Write the checkpoint of a bound recipe to `path`; False if this very checkpoint is there
    already.

    `precision` (see `plan.PRECISIONS`) is how blended tensors are stored; the VAE keeps its own.
    `title` is what the file calls itself, by default its name. Methods compute on `device`; other
    kinds of devices may round their last bits differently. Raises MergeError when the ingredients
    do not fit together or `path` is another file, which is left alone.
    """
    if path.suffix != ".safetensors":
        raise MergeError(f"The name {path.name} must end in .safetensors.")
    check_precision(precision)
    if path.exists():
        _check_same_product(bound, path, precision)
        return False
    metadata = bound.metadata(precision, title or path.stem)
    try:
        write_file(bound.plan(precision), path, metadata, threads, progress=progress, device=device)
    except MergeError:
        if not path.exists():
            raise
        # Someone else has made a file of that name in the meantime.
        _check_same_product(bound, path, precision)
        return False
    return True


def remake(
    file: Path,
    out: Path,
    path_of: Callable[[str], Path],
    others: Iterable[Path] = (),
    hash_cache: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    converted: Path | None = None,
) -> str:
    """Make a merged checkpoint again from its own metadata, as `out`, and compare the two:
    SAME_FILE, SAME_TENSORS or DIFFERENT.

    An ingredient that is not where `path_of` says, or is a different file now, is looked for by its
    hash among `others`. Raises MergeError when the file has no recipe, an ingredient cannot be
    found, `out` is another file, or `out` is `file` itself.
    """
    header = read_header(file)
    if out.exists() and out.samefile(file):
        raise MergeError(f"{out.name} is the original file itself. Choose another name.")
    recipe, precision = read_recipe(header), read_precision(header)
    places = _find(recipe, path_of, others, hash_cache, progress)
    bound = bind_to_files(recipe, places.__getitem__, hash_cache, progress, converted)
    bound = _with_recorded_licences(bound, header)
    make_checkpoint(bound, out, precision, threads, progress, read_title(header))
    if file_sha256(file) == file_sha256(out):
        return SAME_FILE
    return SAME_TENSORS if tensors_sha256(file) == tensors_sha256(out) else DIFFERENT


def _with_recorded_licences(bound: BoundRecipe, header: Header) -> BoundRecipe:
    """The recipe with the licences recorded in a merged file, whatever the files beside its
    ingredients say now.
    """
    noted = {e["sha256"]: e.get("licence") for e in read_ingredients(header.metadata)}
    sources = {
        i: replace(
            source, licence=from_json(noted[i.sha256], "") if i.sha256 in noted else source.licence
        )
        for i, source in bound.sources.items()
    }
    # What was mixed once may be mixed again.
    return replace(bound, sources=sources, is_mixed_prediction_allowed=True)


def _find(
    recipe: Recipe,
    path_of: Callable[[str], Path],
    others: Iterable[Path],
    hash_cache: Path | None,
    progress: Progress | None,
) -> dict[str, Path]:
    """The file of every ingredient: the one of its name, or else the first of `others` with its
    hash.
    """
    places: dict[str, Path] = {}
    for ingredient in ingredients(recipe):
        named = path_of(ingredient.name)
        candidates = [named, *(path for path in others if path != named)]
        if ingredient.sha256 is None:
            candidates = [named]
        places[ingredient.name] = next(
            (
                path
                for path in candidates
                if path.is_file()
                and ingredient.sha256 in (None, file_sha256(path, hash_cache, progress))
            ),
            named,
        )
    return places


def _check_same_product(bound: BoundRecipe, path: Path, precision: str) -> None:
    try:
        metadata = read_header(path).metadata
    except MergeError:
        metadata = {}
    if metadata.get(RECIPE_HASH) == bound.hash and metadata.get(PRECISION) == precision:
        return
    other = "not a merge of Cocktail"
    if RECIPE_HASH in metadata:
        other = f"{metadata.get(RECIPE_TEXT)} in {metadata.get(PRECISION)}"
    raise MergeError(
        f"{path} exists already and is {other}, not {to_text(bound.recipe)} in {precision}. "
        "Nothing is overwritten: choose another name, or leave the name empty."
    )
