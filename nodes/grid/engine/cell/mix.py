"""The recipe of a cell whose model is merged in memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .....merge.errors import MergeError
from .....merge.recipe import Ingredient, Recipe, bind
from .....merge.recipe_json import load_json, recipe_hash, to_json
from .....trainer.files import canonical_json
from ..errors import GridError


def recipe_set(recipe: Recipe) -> dict[str, Any]:
    """The settings that make a recipe the checkpoint of a cell. An ingredient alone is set as that
    checkpoint.
    """
    if isinstance(recipe, Ingredient):
        return {"checkpoint": recipe.name, "recipe": ""}
    return {"checkpoint": "", "recipe": canonical_json(to_json(recipe))}


@lru_cache(maxsize=1024)
def read(text: str) -> Recipe:
    """The recipe that a cell holds as JSON. Raises GridError."""
    try:
        return load_json(text)
    except MergeError as error:
        raise GridError(str(error)) from None


def content(text: str, sha256_of: Mapping[str, str]) -> str:
    """The hash of what a recipe makes of ingredients with these contents. Raises GridError."""
    try:
        return recipe_hash(bind(read(text), sha256_of.__getitem__))
    except MergeError as error:
        raise GridError(str(error)) from None
