"""Searching for a good mix: tries for a grid, and the scores that come back."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ...merge import search
from ...merge.errors import MergeError
from ...merge.recipe import Recipe
from ...merge.text import to_text
from .. import types
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema
from .sums import CATEGORY, SIDES, bind

NAME = (
    "the same in Cocktail Search and in Score Recipe. Up to 64 letters, digits, dots, hyphens and "
    "underscores"
)


def table_of(name: str):
    """The file with the scores of a search, one line of JSON each (see merge/search.py). Other
    programs may add scores too.
    """
    return names.cocktail_dir("searches", names.check_name(name, "search"), "scores.jsonl")


class CocktailSearch(io.ComfyNode):
    """Mixes to try next, as text for a grid's axis."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSearch",
            display_name="Cocktail Search",
            category=CATEGORY,
            description="Proposes mixes of two to six recipes: random ones, all in steps, or ones "
            "close to what has scored well. No files are made: link recipes to a grid's axis, "
            "score the mixes, and queue again.",
            search_aliases=[
                "auto merge",
                "bayesian merger",
                "optuna",
                "random merge",
                "simplex",
                "hyperparameter search",
            ],
            is_output_node=True,
            inputs=[
                types.Recipe.Input("a", tooltip="A recipe to mix."),
                types.Recipe.Input("b", tooltip="A recipe to mix."),
                opt(
                    io.String.Input,
                    "name",
                    default="search",
                    tooltip=f"Name of the search, {NAME}.",
                ),
                opt(
                    io.Combo.Input,
                    "method",
                    options=list(search.METHODS),
                    default=search.RANDOM,
                    tooltip="random: evenly spread over all mixes. grid: all mixes in steps. "
                    "bayesian: close to what has scored well (needs Optuna); random until 4 mixes "
                    "have scores.",
                ),
                opt(
                    io.Int.Input,
                    "tries",
                    default=8,
                    min=1,
                    max=search.MOST_TRIES,
                    tooltip="How many mixes to propose, 1 to 1000. Not used with grid.",
                ),
                opt(
                    io.Int.Input,
                    "step",
                    default=20,
                    min=1,
                    max=50,
                    tooltip="For grid: the step between shares in percent, which must divide 100. "
                    "A step of 20 gives 21 mixes of three recipes.",
                ),
                opt(
                    io.Int.Input,
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    tooltip="The same seed and the same scores give the same mixes.",
                ),
                *(
                    types.Recipe.Input(
                        side, optional=True, tooltip="One more recipe to mix. Optional."
                    )
                    for side in SIDES[2:]
                ),
            ],
            outputs=[
                io.String.Output(
                    "recipes",
                    display_name="recipes",
                    tooltip="The mixes as text, one per line, for an axis with the target recipe.",
                ),
                types.Recipe.Output(
                    "best",
                    display_name="best",
                    tooltip="The recipe with the best score so far, or the first mix if there are "
                    "no scores.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="The scores so far, best first."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None, method: str | None, step: int | None) -> bool | str:
        try:
            if name is not None:
                names.check_name(name, "search")
            if method == search.GRID and step is not None:
                search.propose(method, 2, 1, 0, step)
        except (MergeError, names.BadName) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, name: str | None, **_: object) -> list[int]:
        """Makes the node run again when there are new scores."""
        if name is None:
            return []
        table = table_of(name)
        return [table.stat().st_size, table.stat().st_mtime_ns] if table.exists() else []

    @classmethod
    def execute(
        cls,
        a: Recipe,
        b: Recipe,
        name: str,
        method: str,
        tries: int,
        step: int,
        seed: int,
        c: Recipe | None = None,
        d: Recipe | None = None,
        e: Recipe | None = None,
        f: Recipe | None = None,
    ) -> io.NodeOutput:
        recipes = [bind(recipe).recipe for recipe in (a, b, c, d, e, f) if recipe is not None]
        if len(set(recipes)) < len(recipes):
            raise MergeError("Two of the recipes are the same. Disconnect one of them.")
        scored = search.read_scores(table_of(name))
        known = search.known_shares(recipes, scored)
        found = search.propose(method, len(recipes), tries, seed, step, known)
        mixes = [search.mix(recipes, shares) for shares in found]
        if not mixes and not scored:
            raise MergeError("There is no mix left to try. Choose another seed or a smaller step.")
        lines = [to_text(mix) for mix in mixes]
        told = [f"{entry.score:g}  {to_text(entry.recipe)}" for entry in scored]
        report = "\n".join(told) or "No scores yet. Add some with Score Recipe."
        show_text(f"{len(mixes)} mixes, {len(scored)} scored")
        result = {"shares": [list(shares) for shares in found], "scored": len(scored)}
        return io.NodeOutput(
            "\n".join(lines),
            scored[0].recipe if scored else mixes[0],
            report,
            ui={"text": [report], "cocktail": [result]},
        )


class CocktailScoreRecipe(io.ComfyNode):
    """A score for a recipe, saved for the search."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailScoreRecipe",
            display_name="Score Recipe",
            category=CATEGORY,
            description="Saves how good a recipe is, judged by you or by a metric, for the next "
            "proposals of Cocktail Search.",
            search_aliases=["rate merge", "vote", "metric", "score"],
            is_output_node=True,
            inputs=[
                types.Recipe.Input("recipe", tooltip="The recipe that was tried."),
                opt(
                    io.String.Input,
                    "name",
                    default="search",
                    tooltip=f"Name of the search, {NAME}.",
                ),
                opt(
                    io.Float.Input,
                    "score",
                    default=0.0,
                    min=-1e9,
                    max=1e9,
                    step=0.1,
                    round=False,
                    tooltip="The higher the better, in any unit. You can link a node that "
                    "measures pictures.",
                ),
                opt(
                    io.String.Input,
                    "judge",
                    default="me",
                    tooltip="Who or what gives the score. A new score from the same judge "
                    "replaces the old one; the scores of several judges are averaged.",
                ),
            ],
            outputs=[
                types.Recipe.Output(
                    "scored", display_name="recipe", tooltip="The recipe, unchanged."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, name: str | None, judge: str | None, score: float | None
    ) -> bool | str:
        try:
            if name is not None:
                names.check_name(name, "search")
        except names.BadName as error:
            return str(error)
        if judge is not None and not judge.strip():
            return "The judge is empty. Enter who gives the score."
        if score is not None and not math.isfinite(score):
            return "The score must be a number."
        return True

    @classmethod
    def execute(cls, recipe: Recipe, name: str, score: float, judge: str) -> io.NodeOutput:
        bound = bind(recipe).recipe
        search.add_score(table_of(name), bound, score, judge)
        told = f"{score:g}  {to_text(bound)}"
        show_text(told)
        return io.NodeOutput(recipe, ui={"text": [told]})


NODES: list[type[io.ComfyNode]] = [CocktailSearch, CocktailScoreRecipe]
