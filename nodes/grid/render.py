"""The nodes that render a grid and draw its sheets, and the list of all nodes of grids."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..pictures import as_image
from ..schema import opt, schema
from . import baseline, card, score_votes, vote
from .axes import (
    ALIASES,
    CATEGORY,
    CocktailAxis,
    CocktailAxisCheckpoints,
    CocktailAxisPrompts,
    CocktailAxisRuns,
    CocktailCombineAxes,
)
from .check import CocktailCheckGrid, CocktailFindTwins
from .engine.errors import GridError
from .engine.plan.plan import Plan
from .engine.render import execution, sampling
from .engine.sheet import sheet
from .engine.store import cell_file, events, export
from .engine.store.picture import open_picture
from .engine.store.store import Store
from .engine.view import thumbnails
from .mixes import CocktailAxisMerge, CocktailAxisRecipes
from .plan import CocktailGridPlan, CocktailGridPlanJson
from .queue import CocktailAxisInput, CocktailQueueGrid, CocktailWorkflowPlan

if TYPE_CHECKING:
    import torch

OUTPUT_PIXELS = 128_000_000
"""The most pixels that the IMAGE outputs of all pages have together, at 12 bytes each. The files
keep their size.
"""

_last_failures: dict[str, float] = {}
"""When grids were last rendered with failed cells. Queueing such a grid again tries these cells
again.
"""


class CocktailRenderGrid(io.ComfyNode):
    """The cells of a grid, on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRenderGrid",
            display_name="Render Grid",
            category=CATEGORY,
            description="Renders the missing cells of a grid and saves each one at once, "
            "together with its own workflow. Each is the picture that ComfyUI's stock nodes make.",
            search_aliases=[*ALIASES, "xyz script", "batch", "sampler", "render"],
            is_output_node=True,
            inputs=[
                types.Grid.Input(
                    "grid",
                    tooltip="The plan. Each checkpoint is loaded once, whatever the order of "
                    "the axes.",
                ),
                opt(
                    io.Combo.Input,
                    "save_as",
                    options=list(cell_file.SUFFIXES),
                    default=cell_file.PNG,
                    optional=True,
                    tooltip="The format of new cells; both are lossless. PNG opens everywhere, "
                    "lossless WebP saves in a quarter of the time. Existing cells keep their "
                    "format.",
                ),
                io.Boolean.Input(
                    "retry_failed",
                    default=True,
                    optional=True,
                    label_on="try again",
                    label_off="leave",
                    tooltip="What happens to cells that failed before: they are tried again, or "
                    "left as they are and shown on sheets with the reason.",
                ),
            ],
            outputs=[
                types.Grid.Output(
                    "rendered_grid",
                    display_name="grid",
                    tooltip="The same grid, after its cells have been rendered.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        """Changes after cells failed, so that queueing again tries them again. Otherwise the
        node stays cached.
        """
        return sorted(_last_failures.items())

    @classmethod
    def execute(
        cls, grid: Plan, save_as: str = cell_file.PNG, retry_failed: bool = True
    ) -> io.NodeOutput:
        from comfy.cli_args import args

        if not grid.rendered_here:
            raise GridError(
                f"Render Grid cannot render the grid {grid.name}, because it varies a workflow. "
                "Use Queue Grid instead."
            )
        started = time.monotonic()
        store = events.ShownStore(names.cocktail_dir("grids", grid.name))
        with execution.disk(store):
            store.save_plan(grid)
            show_text("checking the cells on disk")
            damaged = len(store.set_aside_damaged(grid))
        missing = store.missing(grid)
        left = {} if retry_failed else store.failures()
        renderer = sampling.ComfyRenderer(grid.contents)
        outcome = execution.render(
            [cell for cell in missing if cell.key not in left],
            store,
            renderer,
            show_text,
            save_as,
            with_graphs=not args.disable_metadata,
            written=lambda file, px: thumbnails.keep(file, px, names.thumbnails_dir()),
        )
        with execution.disk(store):
            export.write(store)
        failures = store.failures()
        reasons = [failures.get(cell.key, "unknown") for cell in store.missing(grid)]
        failed = len(reasons)
        _last_failures.pop(grid.name, None)
        if outcome.reasons:
            _last_failures[grid.name] = time.time()
        reused = len(grid.render_order) - outcome.rendered - failed
        if failed and not reused and not outcome.rendered:
            raise GridError(f"No cell of the grid {grid.name} was rendered: {reasons[0]}")
        text = f"{len(grid.cells)} cells: {outcome.rendered} rendered"
        if outcome.rendered:
            text += f" in {time.monotonic() - started:.0f} s"
        text += f", {reused} there already" + _problems(damaged, reasons, retry_failed)
        show_text(text)
        result = {
            "name": grid.name,
            "folder": _relative_to_output(store.folder),
            "cells": len(grid.cells),
            "rendered": outcome.rendered,
            "reused": reused,
            "failed": failed,
            "damaged": damaged,
            "loads": renderer.loads,
            "encodings": renderer.passes,
        }
        return io.NodeOutput(grid, ui={"text": [text], "cocktail": [result]})


class CocktailGridSheet(io.ComfyNode):
    """Pictures of a whole grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailGridSheet",
            display_name="Grid Sheet",
            category=CATEGORY,
            description="Draws a grid as labelled sheets: axis 1 as columns, axis 2 as rows, "
            "and a page for each combination of values of the other axes.",
            search_aliases=[*ALIASES, "contact sheet", "image grid", "labelled grid", "legend"],
            is_output_node=True,
            inputs=[
                types.Grid.Input(
                    "grid",
                    tooltip="The grid, from Render Grid or Queue Grid. Failed and missing cells "
                    "are marked.",
                ),
                io.Int.Input(
                    "max_width",
                    default=8192,
                    min=256,
                    max=16_384,
                    tooltip="The largest width of a sheet in pixels, from 256 to 16384. "
                    "Pictures are scaled down to fit; small ones are enlarged so that labels can "
                    "be read.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    is_output_list=True,
                    tooltip="The pages, one picture each. They are also saved in the grid's "
                    "folder.",
                )
            ],
        )

    @classmethod
    def execute(cls, grid: Plan, max_width: int) -> io.NodeOutput:
        store = _store(grid)
        paths = sheet.make_sheets(grid, store, max_width, Progress())
        folder = _relative_to_output(store.folder / "sheets")
        images = [{"filename": p.name, "subfolder": folder, "type": "output"} for p in paths]
        return io.NodeOutput(_read_images(paths), ui={"images": images})


def _problems(damaged: int, reasons: Sequence[str], retry_failed: bool) -> str:
    """The end of the sentence under Render Grid, "" if nothing went wrong."""
    text = ""
    if damaged:
        text += f", {damaged} had damaged files, which were moved to the folder 'damaged'"
    if reasons:
        text += f", {len(reasons)} FAILED ({reasons[0]}). "
        text += "Queue again" if retry_failed else "Set retry_failed"
        text += " to try them again."
    return text


def _store(grid: Plan) -> Store:
    return Store(names.cocktail_dir("grids", grid.name))


def _relative_to_output(folder: Path) -> str:
    return folder.relative_to(names.cocktail_dir().parent).as_posix()


def _read_images(paths: list[Path]) -> list[torch.Tensor]:
    """Sheets as IMAGE [1, height, width, 3] from 0 to 1, scaled down if together they would take
    too much memory.
    """
    sizes = []
    for path in paths:
        with open_picture(path) as file:
            sizes.append(file.size)
    shrink = min(1.0, (OUTPUT_PIXELS / sum(width * height for width, height in sizes)) ** 0.5)
    images = []
    for path, (width, height) in zip(paths, sizes, strict=True):
        with open_picture(path) as file:
            picture = file.convert("RGB")
        if shrink < 1:
            picture = picture.resize((max(1, int(width * shrink)), max(1, int(height * shrink))))
        images.append(as_image(picture))
    return images


NODES: list[type[io.ComfyNode]] = [
    CocktailAxis,
    CocktailAxisCheckpoints,
    CocktailAxisRuns,
    CocktailAxisPrompts,
    CocktailCombineAxes,
    CocktailGridPlan,
    CocktailGridPlanJson,
    CocktailRenderGrid,
    CocktailGridSheet,
    CocktailFindTwins,
    CocktailCheckGrid,
    CocktailAxisInput,
    CocktailWorkflowPlan,
    CocktailQueueGrid,
    CocktailAxisMerge,
    CocktailAxisRecipes,
    *vote.NODES,
    *baseline.NODES,
    *score_votes.NODES,
    *card.NODES,
]
