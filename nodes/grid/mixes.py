"""The nodes that make axes of recipes: mixes that vary, and recipes side by side."""

from __future__ import annotations

from comfy_api.latest import io

from ...merge.blocks import LAYOUTS
from ...merge.errors import MergeError
from ...merge.recipe import Ingredient, Recipe
from .. import types
from ..merge.presets import own_presets
from ..schema import opt, schema
from .axes import ALIASES, CATEGORY
from .engine.axes import mixes
from .engine.errors import GridError

RECIPE_INPUTS = tuple(f"recipe_{number}" for number in range(1, 9))


class CocktailAxisMerge(io.ComfyNode):
    """An axis of mixes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisMerge",
            display_name="Grid Axis: Merge",
            category=CATEGORY,
            description="Mixes of A and B as an axis of a grid: by the share of B, the "
            "multiplier of B - C, or block weights. They are merged in memory while the grid is "
            "rendered; no checkpoint is written.",
            search_aliases=[
                *ALIASES,
                "merge ratio",
                "weighted sum",
                "add difference",
                "MBW",
                "block weights",
                "supermerger",
            ],
            inputs=[
                types.Recipe.Input("a", tooltip="The recipe that B is mixed into."),
                types.Recipe.Input("b", tooltip="The recipe whose share varies."),
                opt(
                    io.Combo.Input,
                    "kind",
                    options=list(mixes.KINDS),
                    default=mixes.SHARE,
                    tooltip="share of B: (1 - x) A + x B. multiplier of B - C: A + x (B - C). "
                    "block weights: a share of B for every block of the UNet, or, if C is "
                    "linked, a multiplier of B - C for every block.",
                ),
                opt(
                    io.String.Input,
                    "values",
                    multiline=True,
                    default="0-1 [5]",
                    placeholder="0-1 [5]",
                    tooltip="Shares or multipliers, usually from 0 to 1: one per line, separated "
                    "by commas, or as a range: 0-1 [5] is 0, 0.25, 0.5, 0.75, 1. Block weights: "
                    "one set per line, either 25 or 26 numbers separated by commas (19 or 20 for "
                    "SDXL) or the name of a preset such as WRAP08.",
                ),
                types.Recipe.Input(
                    "c",
                    optional=True,
                    tooltip="The recipe that is subtracted from B, for multipliers of B - C. "
                    "Optional.",
                ),
                opt(
                    io.String.Input,
                    "labels",
                    multiline=True,
                    optional=True,
                    default="",
                    placeholder="labels, one per line (optional)",
                    tooltip="Labels for sheets: line 1 for the first value, and so on. A value "
                    "without one is shown as it is.",
                ),
                opt(
                    io.Combo.Input,
                    "layout",
                    options=list(LAYOUTS),
                    default="SD1.5",
                    optional=True,
                    tooltip="The UNet for which presets of block weights are meant: SD1.5 has "
                    "25 blocks, SDXL 19.",
                ),
            ],
            outputs=[
                types.Axis.Output(
                    "axis", display_name="axis", tooltip="The axis, for an axis input of Grid Plan."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        kind: str | None,
        values: str | None,
        labels: str | None = "",
        layout: str | None = "SD1.5",
    ) -> bool | str:
        """Tries the values on ingredients in place of the linked recipes, which are not known
        yet.
        """
        if None in (kind, values, labels, layout):
            return True
        if kind not in mixes.KINDS:
            return f"kind must be one of {', '.join(mixes.KINDS)}, not {kind!r}."
        a, b, c = Ingredient("a"), Ingredient("b"), Ingredient("c")
        try:
            cls._axis(kind, values, a, b, c if kind == mixes.MULTIPLIER else None, labels, layout)
        except (GridError, MergeError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        a: Recipe,
        b: Recipe,
        kind: str,
        values: str,
        c: Recipe | None = None,
        labels: str = "",
        layout: str = "SD1.5",
    ) -> io.NodeOutput:
        return io.NodeOutput(cls._axis(kind, values, a, b, c, labels, layout))

    @classmethod
    def _axis(cls, kind, values, a, b, c, labels, layout):
        return mixes.merge_axis(kind, values, a, b, c, labels, layout, own_presets())


class CocktailAxisRecipes(io.ComfyNode):
    """An axis of recipes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisRecipes",
            display_name="Grid Axis: Recipes",
            category=CATEGORY,
            description="Up to eight recipes as an axis of a grid. They are merged in memory "
            "while the grid is rendered; no checkpoint is written. An Ingredient alone is that "
            "checkpoint itself.",
            search_aliases=[*ALIASES, "compare merges", "recipe as checkpoint", "mixes"],
            inputs=[
                types.Recipe.Input(RECIPE_INPUTS[0], tooltip="A recipe, or an Ingredient."),
                *(
                    types.Recipe.Input(
                        name,
                        optional=True,
                        tooltip="Another recipe. Optional. A recipe that is linked twice is "
                        "shown once.",
                    )
                    for name in RECIPE_INPUTS[1:]
                ),
                opt(
                    io.String.Input,
                    "labels",
                    multiline=True,
                    optional=True,
                    default="",
                    placeholder="labels, one per line (optional)",
                    tooltip="Labels for sheets: line 1 for the first linked recipe, and so on. "
                    "A recipe without one is shown as text.",
                ),
            ],
            outputs=[
                types.Axis.Output(
                    "axis", display_name="axis", tooltip="The axis, for an axis input of Grid Plan."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        recipe_1: Recipe,
        recipe_2: Recipe | None = None,
        recipe_3: Recipe | None = None,
        recipe_4: Recipe | None = None,
        recipe_5: Recipe | None = None,
        recipe_6: Recipe | None = None,
        recipe_7: Recipe | None = None,
        recipe_8: Recipe | None = None,
        labels: str = "",
    ) -> io.NodeOutput:
        given = (recipe_1, recipe_2, recipe_3, recipe_4, recipe_5, recipe_6, recipe_7, recipe_8)
        recipes = [recipe for recipe in given if recipe is not None]
        return io.NodeOutput(mixes.recipes_axis(recipes, labels))
