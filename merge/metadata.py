"""What a merged file says about itself: our recipe, ModelSpec's fields, and the fields that A1111's web UI writes and reads.

Everything here follows from the recipe and the ingredients, and no date is written: the same recipe gives the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from .errors import MergeError
from .hashing import legacy_hash
from .plan import Plan
from .recipe import (
    AddDifference,
    Ingredient,
    Recipe,
    WeightedSum,
    ingredients,
    load_json,
    recipe_hash,
    short_name,
    to_json,
    to_text,
)
from .safetensors_file import Header

RECIPE = "cocktail.recipe"
RECIPE_HASH = "cocktail.recipe_hash"
RECIPE_TEXT = "cocktail.recipe_text"
PRECISION = "cocktail.precision"
VAE_FROM = "cocktail.vae_from"


def make_metadata(
    recipe: Recipe, headers: Mapping[Ingredient, Header], plan: Plan, precision: str, title: str
) -> dict[str, str]:
    """The metadata of the file that a bound recipe makes."""
    metadata = {
        "format": "pt",
        RECIPE: json.dumps(to_json(recipe), ensure_ascii=False),
        RECIPE_HASH: recipe_hash(recipe),
        RECIPE_TEXT: to_text(recipe),
        PRECISION: precision,
        "sd_merge_recipe": json.dumps(_web_ui_recipe(recipe, plan, precision, title)),
        "sd_merge_models": json.dumps(_web_ui_models(headers)),
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
    return metadata


def read_recipe(header: Header) -> Recipe:
    """The recipe in a file's metadata. Raises MergeError when it has none."""
    text = header.metadata.get(RECIPE)
    if text is None:
        raise MergeError(f"{header.path} has no recipe in its metadata: Cocktail did not merge it.")
    return load_json(text)


def read_title(header: Header) -> str | None:
    """What a merged file calls itself, where it says so."""
    named = _json_object(header.metadata.get("sd_merge_recipe")).get("custom_name")
    title = header.metadata.get("modelspec.title", named)
    return title if isinstance(title, str) and title else None


def _web_ui_recipe(recipe: Recipe, plan: Plan, precision: str, title: str) -> dict[str, Any]:
    """The recipe in A1111's terms, where it has terms for it; its multiplier is the share of the second model."""
    method, multiplier = "Cocktail", None
    models = list(plan.ingredients)
    if isinstance(recipe, WeightedSum) and len(recipe.parts) == 2:
        if all(isinstance(part.recipe, Ingredient) for part in recipe.parts):
            method, multiplier = "Weighted sum", float(recipe.parts[1].weight)
            models = list(ingredients(recipe))
    elif isinstance(recipe, AddDifference) and isinstance(recipe.multiplier, Fraction):
        sides = (recipe.a, recipe.b, recipe.c)
        if all(isinstance(side, Ingredient) for side in sides):
            method, multiplier = "Add difference", float(recipe.multiplier)
            models = list(ingredients(recipe))
    hashes = [*(model.sha256 for model in models), None, None, None]
    return {
        "type": "webui" if multiplier is not None else "cocktail",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2],
        "interp_method": method,
        "multiplier": multiplier,
        "save_as_half": precision == "fp16",
        "custom_name": title,
        "config_source": 0,
        "bake_in_vae": None,
        "discard_weights": "^model_ema\\.",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }


def _web_ui_models(headers: Mapping[Ingredient, Header]) -> dict[str, Any]:
    """Every ingredient by its hash, together with what the ingredients say of their own ancestors."""
    models: dict[str, Any] = {}
    for ingredient, header in headers.items():
        ancestors = _json_object(header.metadata.get("sd_merge_models"))
        models |= {sha256: model for sha256, model in ancestors.items() if sha256 not in models}
        models[ingredient.sha256 or ""] = {
            "name": ingredient.name,
            "legacy_hash": legacy_hash(header.path),
            "sd_merge_recipe": _json_object(header.metadata.get("sd_merge_recipe")) or None,
        }
    return models


def _json_object(text: str | None) -> dict[str, Any]:
    """The object that a foreign metadata field holds; empty when it holds none."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
