"""Where a checkpoint comes from: its ingredients and theirs, the runs that trained them, and the
bases that those began with.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import licence as licences
from ..ancestry import ingredients_of, read_ingredients
from ..errors import MergeError
from ..hashing import Hashes
from ..licence import Licence
from ..metadata import read_recipe
from ..numbers import written
from ..pickled import is_pickled
from ..recipe import Ingredient, Recipe, flatten, ingredients, layouts
from ..safetensors_file import read_header
from .reading import Unreadable, text, whole
from .runs import Run, RunNote, read_note, read_run, run_of_file

MOST_MODELS = 200
NOT_FOUND = "no file of this name in the models folder"
ANOTHER = "the file of this name in the models folder is another one now"
NOT_READ = "the file of this name in the models folder cannot be read"
BY_METADATA = "its metadata names the run"
BY_NAME = "the run says that it saved a file of this name; no hash proves it"

OF_UNET = "model.diffusion_model.out.2.weight"
SHA256 = re.compile(r"[0-9a-f]{64}")

Find = Callable[[str], Path | None]
"""The file of a checkpoint's name, None if there is none."""
HashOf = Callable[[Path], Hashes]


@dataclass(frozen=True)
class Model:
    """A checkpoint of the lineage. `made_of` are the keys of its ingredients, each with its share
    in words; `run` is the name of the run that trained it, with `evidence` for it.
    """

    key: str
    name: str
    hashes: Hashes | None
    licence: Licence | None
    metadata: Mapping[str, str]
    path: Path | None
    problem: str = ""
    autov3: str = ""
    recipe: Recipe | None = None
    made_of: tuple[tuple[str, str], ...] = ()
    note: RunNote | None = None
    run: str = ""
    evidence: str = ""
    base: str = ""
    """The key of the checkpoint that its run began with."""


@dataclass(frozen=True)
class Lineage:
    """All models by key, the released one first, and all runs by name; where a run's folder cannot
    be read, the reason is in `missing_runs`.
    """

    models: Mapping[str, Model]
    runs: Mapping[str, Run]
    missing_runs: Mapping[str, str]
    cut: bool
    """Whether there are more models than MOST_MODELS."""

    @property
    def released(self) -> Model:
        return next(iter(self.models.values()))


@dataclass(frozen=True)
class _Wanted:
    """A model that another one names."""

    name: str
    sha256: str
    entry: Mapping[str, Any]


def trace(checkpoint: Path, name: str, find: Find, hash_of: HashOf, runs: Path | None) -> Lineage:
    """The lineage of a checkpoint file. Raises MergeError when that file cannot be read."""
    found = _Trace(find, hash_of, runs)
    hashes = hash_of(checkpoint)
    header = read_header(checkpoint)
    own = licences.read_licence(checkpoint, header.metadata)
    autov3 = hashes.autov3 or ""
    first = Model(hashes.sha256, name, hashes, own, header.metadata, checkpoint, "", autov3)
    found.add(first, {})
    while found.waiting and len(found.models) < MOST_MODELS:
        found.take(found.waiting.pop(0))
    return Lineage(found.models, found.runs, found.missing, bool(found.waiting))


class _Trace:
    """A walk from a checkpoint to what it was made of."""

    def __init__(self, find: Find, hash_of: HashOf, runs: Path | None) -> None:
        self.find, self.hash_of, self.runs_folder = find, hash_of, runs
        self.models: dict[str, Model] = {}
        self.runs: dict[str, Run] = {}
        self.missing: dict[str, str] = {}
        self.waiting: list[_Wanted] = []

    def take(self, wanted: _Wanted) -> None:
        key = _key(wanted.sha256, wanted.name)
        if key in self.models:
            return
        told = licences.from_json(wanted.entry.get("licence"), "recorded in the mix")
        noted = _hashes(wanted)
        path, problem, metadata, found = None, NOT_FOUND, {}, None
        try:
            path = self.find(wanted.name)
            if path is not None:
                found = self.hash_of(path)
                problem = "" if wanted.sha256 in ("", found.sha256) else ANOTHER
                if not problem:
                    metadata = _metadata(path)
        except Unreadable as error:
            problem = str(error)
        except (MergeError, OSError):  # their words name folders of this machine
            problem = NOT_READ
        if problem or path is None:
            path, found = None, None
        licence = told or (licences.read_licence(path, metadata) if path else None)
        autov3 = (found and found.autov3) or text(wanted.entry.get("autov3"), 12)
        model = Model(key, wanted.name, found or noted, licence, metadata, path, problem, autov3)
        self.add(model, wanted.entry)

    def add(self, model: Model, entry: Mapping[str, Any]) -> None:
        """Note a model and what it names."""
        model = self._with_ingredients(model, entry)
        if not model.made_of:
            model = self._with_run(model)
        self.models[model.key] = model

    def _with_ingredients(self, model: Model, entry: Mapping[str, Any]) -> Model:
        recipe = None
        with contextlib.suppress(MergeError):
            recipe = read_recipe_of(model)
        entries = read_ingredients(model.metadata) or ingredients_of(entry)
        older = {one["sha256"]: one for one in entries if _is_hash(one.get("sha256"))}
        shares = _shares(recipe) if recipe is not None else {}
        named = [_Wanted(text(i.name, 300), i.sha256 or "", {}) for i in _listed(recipe)]
        if not named:
            named = [
                _Wanted(text(one.get("name"), 300), text(sha256, 64), one)
                for sha256, one in older.items()
            ]
        children = []
        for one in named:
            one = replace(one, entry=older.get(one.sha256, one.entry))
            key = _key(one.sha256, one.name)
            if key != model.key and key not in dict(children):
                children.append((key, shares.get(key, "")))
                self.waiting.append(one)
        return replace(model, recipe=recipe, made_of=tuple(children))

    def _with_run(self, model: Model) -> Model:
        note = read_note(model.metadata)
        run, evidence = (note.name, BY_METADATA) if note else ("", "")
        if not run and self.runs_folder and (found := run_of_file(self.runs_folder, model.name)):
            run, evidence = found, BY_NAME
        if not run:
            return model
        if run not in self.runs and run not in self.missing:
            self._read(run)
        known = self.runs.get(run)
        if known is not None and note is not None and not _is_same(known, note, model):
            known = None
            del self.runs[run]
            self.missing[run] = "the folder of this name holds another run"
        base_name, sha256 = "", ""
        if note is not None:
            base_name, sha256 = note.base_name, note.base_sha256
        elif known is not None:
            base_name, sha256 = known.base_name, known.base_sha256
        base = ""
        if base_name and _key(sha256, base_name) != model.key:
            base = _key(sha256, base_name)
            self.waiting.append(_Wanted(base_name, sha256, {}))
        return replace(model, note=note, run=run, evidence=evidence, base=base)

    def _read(self, run: str) -> None:
        if self.runs_folder is None:
            self.missing[run] = "no folder of runs was given"
            return
        try:
            self.runs[run] = read_run(self.runs_folder, run)
        except Unreadable as error:
            self.missing[run] = str(error)


def _metadata(path: Path) -> Mapping[str, str]:
    """What an ingredient says of itself; a pickled checkpoint says nothing."""
    return {} if is_pickled(path) else read_header(path).metadata


def read_recipe_of(model: Model) -> Recipe:
    """The recipe in a model's metadata. Raises MergeError if it has none."""
    if model.path is None:
        raise MergeError("It has no file.")
    return read_recipe(read_header(model.path))


def _is_same(run: Run, note: RunNote, model: Model) -> bool:
    """Whether a folder is that of the run in a checkpoint's metadata, perhaps with more epochs."""
    if run.id == note.id:
        return True
    plain = model.name.replace("\\", "/").split("/")[-1]
    same = run.base_sha256 == note.base_sha256
    return same and run.dataset["fingerprint"] == note.dataset["fingerprint"] and plain in run.files


def _shares(recipe: Recipe) -> dict[str, str]:
    """The share of every ingredient of the UNet in words, by its key."""
    if layouts(recipe):
        return {_key(i.sha256 or "", i.name): "by blocks" for i in ingredients(recipe)}
    found: dict[str, str] = {}
    try:
        for atom, weight in flatten(recipe, OF_UNET):
            if isinstance(atom, Ingredient):
                found[_key(atom.sha256 or "", atom.name)] = f"{written(100 * weight)} %"
    except (MergeError, ValueError, TypeError):
        return {}
    return found


def _listed(recipe: Recipe | None) -> list[Ingredient]:
    return [] if recipe is None else list(dict.fromkeys(ingredients(recipe)))


def _hashes(wanted: _Wanted) -> Hashes | None:
    """What an entry says of its file's hashes; the hash of its tensors is known in short form only,
    and so left out.
    """
    size = whole(wanted.entry.get("size_bytes")) or 0
    return Hashes(size, wanted.sha256, None) if wanted.sha256 else None


def _key(sha256: str, name: str) -> str:
    return sha256 or f"name:{name}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None
