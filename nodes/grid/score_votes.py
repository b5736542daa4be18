"""The node that hands the votes on a grid of mixes to Cocktail Search."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...merge import search
from ...merge.recipe import Ingredient, Recipe
from .. import types
from ..host import names
from ..host.progress import show_text
from ..merge.search import table_of
from ..merge.sums import bind
from ..schema import opt, schema
from .engine.cell.mix import read
from .engine.errors import GridError
from .engine.plan.plan import Plan
from .engine.store.store import Store
from .engine.vote.ballot import Ballot
from .vote import AS_IT_STANDS, report_of, votes_state, when_input

CATEGORY = "cocktail/select"
RECIPE = "recipe"


class CocktailScoreVotes(io.ComfyNode):
    """The votes on mixes as scores of a search."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailScoreVotes",
            display_name="Score Recipes from Votes",
            category=CATEGORY,
            description="Saves the strengths of the recipes in a vote as their scores, for the "
            "next proposals of Cocktail Search. Put the best recipe so far into every new grid: "
            "it brings the scores of two votes to the same scale.",
            search_aliases=["vote", "score", "search", "Bradley-Terry", "auto merge"],
            is_output_node=True,
            inputs=[
                types.Grid.Input("grid", tooltip="The grid with an axis of recipes."),
                opt(
                    io.String.Input,
                    "name",
                    default="search",
                    tooltip="Name of the search, the same as in Cocktail Search.",
                ),
                when_input(),
            ],
            outputs=[
                io.String.Output(
                    "report", display_name="report", tooltip="The scores, the best first."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        """Changes with every vote."""
        return votes_state()

    @classmethod
    def execute(cls, grid: Plan, name: str, when: str = AS_IT_STANDS) -> io.NodeOutput:
        table = table_of(name)
        report = report_of(grid, RECIPE, [], when)
        field = Ballot(Store(names.cocktail_dir("grids", grid.name)), RECIPE, grid).field
        strengths: dict[Recipe, float] = {}
        labels: dict[str, float] = {}
        for rank in sorted(report["ranking"], key=lambda one: -one["strength"]):
            if rank["votes"]:
                settings = field.candidates[rank["number"]].set
                mix = settings.get(RECIPE)
                recipe = read(mix) if mix else Ingredient(settings["checkpoint"])
                strengths[bind(recipe).recipe] = rank["strength"]
                labels[rank["label"]] = rank["strength"]
        if not strengths:
            raise GridError(f"No recipe of the grid {grid.name} has a vote yet.")
        level = search.add_strengths(table, strengths, f"votes on {grid.name}")
        text = "\n".join(f"{strength + level:+.2f}  {label}" for label, strength in labels.items())
        show_text(f"{len(strengths)} recipes scored")
        result = {"name": grid.name, "search": name, "scored": len(strengths), "level": level}
        return io.NodeOutput(text, ui={"text": [text], "cocktail": [result]})


NODES: list[type[io.ComfyNode]] = [CocktailScoreVotes]
