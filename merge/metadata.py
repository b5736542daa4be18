"""What a merged file says about itself: our recipe, ModelSpec's fields, and the fields that A1111's
web UI writes and reads.

All of it follows from the recipe and the ingredients, and there is no date in it: the same recipe
gives the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import licence as licences
from .ancestry import ingredients_of, read_ingredients, write_ingredients
from .errors import MergeError
from .hashing import Hashes, legacy_hash
from .licence import Licence
from .plan import MergePlan
from .prediction import METADATA as PREDICTION
from .recipe import Ingredient, Recipe, short_name
from .recipe_json import load_json, recipe_hash, to_json
from .safetensors_file import Header
from .text import to_text
from .web_ui import MODELS, has_web_ui_recipe, json_object, read_web_ui_recipe, write_web_ui_recipe
from .web_ui import RECIPE as WEB_UI_RECIPE

RECIPE = "cocktail.recipe"
RECIPE_HASH = "cocktail.recipe_hash"
RECIPE_TEXT = "cocktail.recipe_text"
PRECISION = "cocktail.precision"
VAE_FROM = "cocktail.vae_from"


MOST_BYTES_OF_MODELS = 15_000_000


@dataclass(frozen=True)
class Source:
    """The file given for an ingredient, its hashes, its metadata and its licence."""

    path: Path
    hashes: Hashes
    metadata: Mapping[str, str]
    licence: Licence | None


def make_metadata(
    recipe: Recipe,
    sources: Mapping[Ingredient, Source],
    plan: MergePlan,
    precision: str,
    title: str,
) -> dict[str, str]:
    """The metadata of the file that a bound recipe makes. `sources` has the ingredients that the
    plan uses.
    """
    told = write_web_ui_recipe(recipe, title, precision == "fp16", plan.family.name)
    metadata = {
        "format": "pt",
        RECIPE: json.dumps(to_json(recipe), ensure_ascii=False),
        RECIPE_HASH: recipe_hash(recipe),
        RECIPE_TEXT: to_text(recipe),
        PRECISION: precision,
        **write_ingredients([describe(i, source) for i, source in sources.items()]),
        WEB_UI_RECIPE: json.dumps(told),
        MODELS: _web_ui_models(sources),
    }
    if plan.vae_from:
        metadata[VAE_FROM] = json.dumps(to_json(plan.vae_from), ensure_ascii=False)
    if plan.family.architecture:
        metadata |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": plan.family.architecture,
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.title": title,
            "modelspec.resolution": f"{plan.family.resolution}x{plan.family.resolution}",
            "modelspec.merged_from": ", ".join(short_name(i.name) for i in plan.ingredients),
        }
        if plan.prediction:
            metadata[PREDICTION] = plan.prediction
        names = [source.licence.name for source in sources.values() if source.licence]
        if names and len(names) == len(sources) and all(names):
            metadata["modelspec.license"] = "; ".join(dict.fromkeys(map(str, names)))
    return metadata


def describe(ingredient: Ingredient, source: Source) -> dict[str, Any]:
    """An ingredient for the metadata: name, hashes, size, licence, and its own ingredients."""
    entry: dict[str, Any] = {
        "name": ingredient.name,
        "sha256": source.hashes.sha256,
        "autov2": source.hashes.autov2,
        "autov3": source.hashes.autov3,
        "size_bytes": source.hashes.size_bytes,
        "licence": licences.to_json(source.licence),
        "made_of": read_ingredients(source.metadata),
    }
    return {key: value for key, value in entry.items() if value not in (None, [])}


def ancestors(entries: Sequence[Mapping[str, Any]]) -> dict[str, Licence | None]:
    """The licences of all checkpoints that a merge goes back to, by name. An ingredient without a
    licence of its own counts as its ingredients, if it names them.
    """
    found: dict[str, Licence | None] = {}
    seen: set[object] = set()
    waiting = list(reversed(entries))
    while waiting:
        entry = waiting.pop()
        own = licences.from_json(entry.get("licence"), "recorded")
        older = ingredients_of(entry)
        if own is not None or not older:
            found[short_name(str(entry.get("name")))] = own
        elif entry.get("sha256") not in seen:
            seen.add(entry.get("sha256"))
            waiting += reversed(older)
    return found


def read_recipe(header: Header) -> Recipe:
    """The recipe in a file's metadata: ours, or that of A1111's web UI or supermerger. Raises
    MergeError if there is none.
    """
    text = header.metadata.get(RECIPE)
    if text is not None:
        return load_json(text)
    if has_web_ui_recipe(header.metadata):
        return read_web_ui_recipe(header.metadata)
    raise MergeError(
        f"{header.path} has no recipe in its metadata. Choose a file merged by Cocktail, A1111 or "
        "supermerger."
    )


def read_precision(header: Header) -> str:
    """The precision that a merged file says it was made in."""
    told = json_object(header.metadata.get(WEB_UI_RECIPE))
    return header.metadata.get(PRECISION) or ("fp16" if told.get("save_as_half", True) else "fp32")


def read_title(header: Header) -> str | None:
    """What a merged file calls itself, where it says so."""
    named = json_object(header.metadata.get(WEB_UI_RECIPE)).get("custom_name")
    title = header.metadata.get("modelspec.title", named)
    return title if isinstance(title, str) and title else None


def _web_ui_models(sources: Mapping[Ingredient, Source]) -> str:
    """Every ingredient by its hash, and the models that the ingredients say they were made from, as
    JSON; without the latter where they would make the header too long.
    """
    models: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for ingredient, source in sources.items():
        older = json_object(source.metadata.get(MODELS))
        models |= {sha256: model for sha256, model in older.items() if sha256 not in models}
        own[ingredient.sha256 or ""] = {
            "name": ingredient.name,
            "legacy_hash": legacy_hash(source.path),
            "sd_merge_recipe": json_object(source.metadata.get(WEB_UI_RECIPE)) or None,
        }
        models |= {sha256: own[sha256] for sha256 in (ingredient.sha256 or "",)}
    told = json.dumps(models)
    return told if len(told) <= MOST_BYTES_OF_MODELS else json.dumps(own)
