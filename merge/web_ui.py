"""Recipes in the form of A1111's web UI and of supermerger: written into merged files, and read
from the files that those tools have made.

Field names and meanings: A1111's modules/extras.py, supermerger's mergers.py. Their multiplier is
the share of the second model. Both blend the VAE like the text encoder, so a recipe that is read
says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from .blocks import LAYOUTS, BlockWeights, block_weights, parse_rules
from .errors import MergeError
from .numbers import exact
from .recipe import (
    AddDifference,
    BlockSum,
    Ingredient,
    Parts,
    Recipe,
    WeightedSum,
    add_difference,
    flatten,
    short_name,
    used_ingredients,
    weighted_sum,
)
from .recipe_json import SHA256

RECIPE = "sd_merge_recipe"
MODELS = "sd_merge_models"
NO_VAE = (None, "", "None")


def has_web_ui_recipe(metadata: Mapping[str, str]) -> bool:
    """Whether a file's metadata says how A1111 or supermerger made it."""
    return json_object(metadata.get(RECIPE)).get("type") in ("webui", "sd-webui-supermerger")


def read_web_ui_recipe(metadata: Mapping[str, str]) -> Recipe:
    """The recipe in the metadata of a file that A1111's web UI or supermerger has merged.

    Raises MergeError, which says what has no counterpart here.
    """
    told = json_object(metadata.get(RECIPE))
    names = json_object(metadata.get(MODELS))
    if told.get("type") == "webui":
        recipe = _from_web_ui(told, names)
    elif told.get("type") == "sd-webui-supermerger":
        recipe = _from_supermerger(told, names)
    else:
        raise MergeError(
            f"The metadata has no recipe of A1111 or supermerger: {RECIPE} is of another type."
        )
    if told.get("bake_in_vae") not in NO_VAE:
        return Parts(recipe, vae=Ingredient(str(told["bake_in_vae"])))
    is_mixed = not isinstance(recipe, Ingredient) and len(flatten(recipe)) > 1
    return Parts(recipe, vae=recipe) if is_mixed else recipe


def _from_web_ui(told: Mapping[str, Any], names: Mapping[str, Any]) -> Recipe:
    method = told.get("interp_method")
    a = _ingredient(told, names, "primary_model_hash")
    if method == "No interpolation":
        return a
    b = _ingredient(told, names, "secondary_model_hash")
    multiplier = exact(told.get("multiplier"), "the multiplier")
    if method == "Weighted sum":
        return weighted_sum([(a, 1 - multiplier), (b, multiplier)])
    if method == "Add difference":
        return add_difference(a, b, _ingredient(told, names, "tertiary_model_hash"), multiplier)
    raise MergeError(
        f"The file was merged by {method!r}, which recipes here do not have. "
        "Build a similar recipe by hand."
    )


def _from_supermerger(told: Mapping[str, Any], names: Mapping[str, Any]) -> Recipe:
    mode, method = str(told.get("mode")), told.get("calcmode", "normal")
    if method != "normal":
        raise MergeError(
            f"The file was merged by supermerger's {method!r}, which metadata does not fully "
            "describe. "
            "Build the recipe by hand."
        )
    for filter in ("Include", "Exclude"):
        if any(_texts(told, filter)):
            raise MergeError(
                f"The file was merged with supermerger's {filter} filter, which recipes here do "
                "not "
                "have. Build a similar recipe by hand."
            )
    a, b = (_ingredient(told, names, f"model_{side}") for side in "ab")
    alpha = _weights(told, "alpha", ",".join(_texts(told, "elemental_merge")))
    if "Weight" in mode:
        return _sum(a, b, alpha)
    c = _ingredient(told, names, "model_c")
    if "Add" in mode:
        return add_difference(a, b, c, alpha)
    beta = _weights(told, "beta", "")
    if "Triple" in mode:
        return add_difference(add_difference(a, b, a, alpha), c, a, beta)
    if "Twice" in mode:
        return _sum(_sum(a, b, alpha), c, beta)
    raise MergeError(
        f"The file was merged by supermerger's mode {mode!r}, which recipes here do not have. "
        "Build a similar recipe by hand."
    )


def _sum(a: Recipe, b: Recipe, share_of_b: Fraction | BlockWeights) -> Recipe:
    if isinstance(share_of_b, BlockWeights):
        return BlockSum(a, b, share_of_b)
    return weighted_sum([(a, 1 - share_of_b), (b, share_of_b)])


def _texts(told: Mapping[str, Any], field: str) -> list[str]:
    found = told.get(field) or []
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list):
        raise MergeError(f"{field} in the file's metadata is not a list of texts.")
    return [str(one or "") for one in found]


def _weights(told: Mapping[str, Any], which: str, rules: str) -> Fraction | BlockWeights:
    base = exact(told.get(f"base_{which}"), f"base_{which}")
    values = told.get(f"weights_{which}")
    if not told.get("mbw"):
        if not rules.strip():
            return base
        values = [base] * len(LAYOUTS["SD1.5"])
    if not isinstance(values, list):
        raise MergeError(f"weights_{which} in the file's metadata is not a list of numbers.")
    if len(values) == len(LAYOUTS["SDXL"]) + 1:
        # supermerger adds a slot for the VAE, which it does not use.
        values = values[:-1]
    found = block_weights(values, base=base)
    return block_weights(values, base=base, rules=parse_rules(rules, found.layout))


def _ingredient(told: Mapping[str, Any], names: Mapping[str, Any], field: str) -> Ingredient:
    sha256 = told.get(field)
    model = names.get(sha256) if isinstance(sha256, str) else None
    name = model.get("name") if isinstance(model, Mapping) else None
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise MergeError(f"The file's metadata does not say which model its {field} is.")
    return Ingredient(name if isinstance(name, str) and name.strip() else sha256, sha256)


def write_web_ui_recipe(recipe: Recipe, title: str, half: bool, family: str) -> dict[str, Any]:
    """The recipe in A1111's or supermerger's terms if they can express it; otherwise only its
    ingredients.
    """
    whole, vae = recipe, None
    if isinstance(recipe, Parts):
        whole = recipe.recipe
        vae = short_name(recipe.vae.name) if isinstance(recipe.vae, Ingredient) else None
    if blocked := _as_supermerger(whole):
        return blocked
    method, multiplier = "Cocktail", None
    models: list[Recipe] = list(used_ingredients(flatten(recipe)))
    if isinstance(whole, WeightedSum) and len(whole.parts) == 2:
        if all(isinstance(part.recipe, Ingredient) for part in whole.parts):
            method, multiplier = "Weighted sum", float(whole.parts[1].weight)
            models = [part.recipe for part in whole.parts]
    elif isinstance(whole, AddDifference) and isinstance(whole.multiplier, Fraction):
        sides = (whole.a, whole.b, whole.c)
        if all(isinstance(side, Ingredient) for side in sides):
            method, multiplier = "Add difference", float(whole.multiplier)
            models = list(sides)
    hashes = [*(m.sha256 for m in models if isinstance(m, Ingredient)), None, None, None]
    return {
        "type": "webui" if multiplier is not None else "cocktail",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2],
        "interp_method": method,
        "multiplier": multiplier,
        "save_as_half": half,
        "custom_name": title,
        "config_source": 0,
        "bake_in_vae": vae,
        "discard_weights": "^model_ema\\.",
        "is_inpainting": family.endswith(" inpainting"),
        "is_instruct_pix2pix": family.endswith(" instruct-pix2pix"),
    }


def _as_supermerger(recipe: Recipe) -> dict[str, Any] | None:
    """Block weights of two ingredients or on a difference, which A1111 cannot express."""
    if isinstance(recipe, BlockSum):
        mode, weights, sides = "Weight sum", recipe.share_of_b, (recipe.a, recipe.b)
    elif isinstance(recipe, AddDifference) and isinstance(recipe.multiplier, BlockWeights):
        mode, weights = "Add difference", recipe.multiplier
        sides = (recipe.a, recipe.b, recipe.c)
    else:
        return None
    is_theirs = weights.time == weights.blocks[0] and not weights.rules
    if not is_theirs or not all(isinstance(side, Ingredient) for side in sides):
        return None
    values = [float(value) for value in weights.blocks]
    models = [*(side.sha256 for side in sides if isinstance(side, Ingredient)), None]
    return {
        "type": "sd-webui-supermerger",
        "weights_alpha": values,
        "weights_beta": None,
        "weights_alpha_orig": ",".join(f"{value:g}" for value in [float(weights.base), *values]),
        "weights_beta_orig": None,
        "model_a": models[0],
        "model_b": models[1],
        "model_c": models[2],
        "base_alpha": float(weights.base),
        "base_beta": None,
        "mode": mode,
        "mbw": True,
        "elemental_merge": "",
        "calcmode": "normal",
    }


def json_object(text: str | None) -> dict[str, Any]:
    """The object in a metadata field of another tool; empty if there is none."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
