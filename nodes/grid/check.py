"""The nodes that check whether a grid can be trusted: do its axes have an effect, and are its cells
what they should be?
"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import types
from ..host import names
from ..host.progress import Progress, show_text, stop_if_interrupted
from ..schema import opt, schema
from ..waiting import take_turns
from .axes import ALIASES, CATEGORY
from .engine.check import result as identity
from .engine.check import twins
from .engine.errors import GridError
from .engine.plan.plan import Plan
from .engine.store.store import Store


class CocktailFindTwins(io.ComfyNode):
    """Values of axes that change no pixel."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailFindTwins",
            display_name="Find Twins in Grid",
            category=CATEGORY,
            description="Finds values of a grid's axes that should change the picture but do "
            "not change a single pixel, such as a clip skip that a checkpoint ignores, and lists "
            "them by label.",
            search_aliases=[
                *ALIASES,
                "dead axis",
                "twin cells",
                "identical images",
                "duplicates",
                "compare cells",
            ],
            is_output_node=True,
            inputs=[
                types.Grid.Input(
                    "grid",
                    tooltip="The grid, from Render Grid or Queue Grid. Missing and failed cells "
                    "are left out.",
                )
            ],
            outputs=[
                types.Grid.Output("checked_grid", display_name="grid", tooltip="The same grid."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="A sentence for each group of twins: the axis, the labels, and in "
                    "how many places they are equal. Values that are equal everywhere come first.",
                ),
            ],
        )

    @classmethod
    def execute(cls, grid: Plan) -> io.NodeOutput:
        store = Store(names.cocktail_dir("grids", grid.name))
        show_text("reading the cells")
        pixels = twins.pixel_hashes(grid, store, Progress())
        if not pixels:
            raise GridError(
                f"The grid {grid.name} has no finished cells. Put Render Grid before this node."
            )
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


class CocktailCheckGrid(io.ComfyNode):
    """Random cells, rendered again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailCheckGrid",
            display_name="Check Grid",
            category=CATEGORY,
            description="Renders random cells of a grid again in a fresh process, first each "
            "one alone, then all in shuffled order. Says whether they equal the files on disk to "
            "the last bit and, if not, how much they differ and why.",
            search_aliases=[
                *ALIASES,
                "identity check",
                "reproducible",
                "determinism",
                "verify cells",
                "render again",
            ],
            is_output_node=True,
            inputs=[
                types.Grid.Input("grid", tooltip="The grid, from Render Grid."),
                io.Int.Input(
                    "cells",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="How many finished cells are rendered again, twice each, from 1 to "
                    "1000.",
                ),
                opt(
                    io.Int.Input,
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=False,
                    tooltip="Seed that selects the cells, from 0 to 2^32 - 1: another number "
                    "selects other cells.",
                ),
            ],
            outputs=[
                types.Grid.Output("checked_grid", display_name="grid", tooltip="The same grid."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many cells are equal, and a sentence for each that is not: "
                    "labels, largest difference, likely cause.",
                ),
            ],
        )

    @classmethod
    def execute(cls, grid: Plan, cells: int, seed: int) -> io.NodeOutput:
        import comfy.model_management

        if not grid.rendered_here:
            raise GridError(
                f"Check Grid cannot render the grid {grid.name}, because it varies a workflow. "
                "Queue single cells by hand to compare them."
            )
        store = Store(names.cocktail_dir("grids", grid.name))
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        with take_turns(comfy.model_management.get_torch_device()):
            show_text("starting a fresh process")
            found = identity.in_fresh_process(store, cells, seed, show_text, stop_if_interrupted)
        show_text(found.text())
        return io.NodeOutput(
            grid, found.text(), ui={"text": [found.text()], "cocktail": [found.to_json()]}
        )
