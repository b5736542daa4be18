"""The node that asks whether a grid's axes have done anything."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import names, types
from ..progress import Progress, show_text
from ..schema import schema
from . import plan, twins
from .axis_nodes import ALIASES, CATEGORY
from .errors import GridError
from .store import Store


class CocktailFindTwins(io.ComfyNode):
    """Values of axes that change no pixel."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailFindTwins",
            display_name="Find Twins in Grid",
            category=CATEGORY,
            description="Finds values of a grid's axes that should change the picture and change no pixel of it, such as a clip skip that a "
            "checkpoint does not react to, and names them by their labels.",
            search_aliases=[*ALIASES, "dead axis", "twin cells", "identical images", "duplicates", "compare cells"],
            is_output_node=True,
            inputs=[
                types.Grid.Input(
                    "grid", tooltip="The grid, from Render Grid. Cells that are missing or failed are left out."
                )
            ],
            outputs=[
                types.Grid.Output("checked_grid", display_name="grid", tooltip="The same grid."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="A sentence for each group of twins with the axis, the labels and in how many places they are equal; values that "
                    "are equal everywhere come first.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, grid: plan.Plan) -> io.NodeOutput:
        store = Store(names.cocktail_dir("grids", grid.name))
        show_text("reading the cells")
        pixels = twins.pixel_hashes(grid, store, Progress())
        if not pixels:
            raise GridError(f"The grid {grid.name} has no finished cells. Put Render Grid before this node.")  # fmt: skip
        found = twins.find(grid, pixels)
        read = f"{len(pixels)} of {len(grid.render_order)} cells compared"
        text = "\n".join([read + (":" if found else "; no twins."), *(t.sentence() for t in found)])
        show_text(text)
        result: dict[str, Any] = {
            "name": grid.name,
            "compared": len(pixels),
            "twins": [twin.to_json() for twin in found],
        }
        return io.NodeOutput(grid, text, ui={"text": [text], "cocktail": [result]})
