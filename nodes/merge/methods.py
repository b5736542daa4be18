"""Methods beyond weighted sums, as one node."""

from __future__ import annotations

from comfy_api.latest import io

from ...merge.errors import MergeError
from ...merge.methods import METHODS
from ...merge.recipe import Ingredient, Recipe, method
from ...merge.text import parse_settings
from .. import types
from ..schema import opt, schema
from .sums import CATEGORY, SIDES


class CocktailMergeMethod(io.ComfyNode):
    """The result of a merge method on two to six recipes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailMergeMethod",
            display_name="Merge Method",
            category=CATEGORY,
            description="Mixes recipes by a method other than a weighted sum: train difference, "
            "SLERP, TIES, DARE and others. The result is a recipe like any other.",
            search_aliases=[
                "TIES",
                "DARE",
                "DELLA",
                "SLERP",
                "train difference",
                "smooth add",
                "cosine",
                "model stock",
                "karcher",
                "geometric median",
                "supermerger",
                "mergekit",
            ],
            inputs=[
                types.Recipe.Input(
                    "a",
                    tooltip="The first recipe: the one to change, or the base that the others "
                    "were trained from.",
                ),
                types.Recipe.Input("b", tooltip="The second recipe."),
                opt(
                    io.Combo.Input,
                    "method",
                    options=list(METHODS),
                    default="slerp",
                    tooltip="How the recipes are mixed. "
                    + " ".join(
                        f"{name} ({', '.join(m.operands)}{', ...' if m.more else ''}): {m.about}"
                        for name, m in METHODS.items()
                    ),
                ),
                opt(
                    io.String.Input,
                    "settings",
                    default="",
                    placeholder="empty: the method's defaults",
                    tooltip="The method's settings, such as keep 0.2, strength 1. Block weights "
                    "or a preset in brackets give each block its own number: strength [GRAD_V]. "
                    "Empty: "
                    + "; ".join(
                        f"{name}: {', '.join(f'{s.name} {float(s.default):g}' for s in m.settings)}"
                        for name, m in METHODS.items()
                        if m.settings
                    )
                    + ".",
                ),
                *(
                    types.Recipe.Input(
                        side,
                        optional=True,
                        tooltip="One more recipe, for methods that take three or more.",
                    )
                    for side in SIDES[2:]
                ),
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe", display_name="recipe", tooltip="The mix, as a recipe."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, method: str | None, settings: str | None) -> bool | str:
        """Checks the settings with as many recipes as the method takes; how many are connected is
        only known when it runs.
        """
        if method is None or settings is None:
            return True
        try:
            _made(method, [Ingredient("a")] * len(METHODS[method].operands), settings)
        except MergeError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        a: Recipe,
        b: Recipe,
        method: str,
        settings: str = "",
        c: Recipe | None = None,
        d: Recipe | None = None,
        e: Recipe | None = None,
        f: Recipe | None = None,
    ) -> io.NodeOutput:
        connected = [recipe for recipe in (a, b, c, d, e, f) if recipe is not None]
        return io.NodeOutput(_made(method, connected, settings))


def _made(name: str, recipes: list[Recipe], settings: str) -> Recipe:
    return method(name, recipes, parse_settings(settings))


NODES: list[type[io.ComfyNode]] = [CocktailMergeMethod]
