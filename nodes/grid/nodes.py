"""XYZ grids: axes, a plan that is checked before anything runs, the rendering of its cells, and sheets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...merge.errors import MergeError
from ...merge.hashing import file_sha256
from ...merge.safetensors_file import read_header
from ...trainer.runs import Run
from .. import names, types
from ..progress import Progress, show_text
from ..schema import opt, schema
from . import axes, plan, sampling, sheet
from .cell import LIMITS, SIDE_STEP, check_limits
from .errors import GridError
from .store import Store

if TYPE_CHECKING:
    import torch

CATEGORY = "cocktail/grid"
ALIASES = ["xyz plot", "x/y/z plot", "xy plot", "grid", "comparison"]
NONE = "none"
CHECKPOINT_INPUTS = tuple(f"checkpoint_{number}" for number in range(1, 9))
OUTPUT_PIXELS = 128_000_000
"""The IMAGE outputs of all pages hold no more than this together (12 bytes each); the files are as large as they are."""

_last_failures: dict[str, float] = {}
"""Grids whose last rendering had failed cells, and when that was: queueing such a grid again tries them again."""


class CocktailAxis(io.ComfyNode):
    """An axis of typed values."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxis",
            display_name="Grid Axis",
            category=CATEGORY,
            description="One thing that varies over a grid - prompts, seeds, sizes and so on - with one value a line.",
            search_aliases=[*ALIASES, "x values", "y values", "z values", "seeds", "prompt list"],
            inputs=[
                opt(
                    io.Combo.Input,
                    "target",
                    options=list(axes.TARGETS),
                    default=axes.TARGETS[0],
                    tooltip="What varies. Clip skip counts from the end of the text encoder: 1 = last layer (-1 in ComfyUI), 2 = the "
                    "one before it (-2).",
                ),
                opt(
                    io.String.Input,
                    "values",
                    multiline=True,
                    default="",
                    placeholder="one value a line",
                    tooltip='One value a line; blank lines do not count. Prompts: the text, "" for an empty one. Sizes in pixels: '
                    "512x768, or 512 for a square; multiples of 8. Seeds, steps, clip skip: whole numbers. Samplers and "
                    "schedulers: names as on KSampler.",
                ),
            ],
            outputs=[
                types.Axis.Output(
                    "axis", display_name="axis", tooltip="The axis, for an axis input of Grid Plan."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, target: str | None, values: str | None) -> bool | str:
        if target is None or values is None:
            return True
        try:
            axes.typed_axis(target, values, _choices())
        except GridError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, target: str, values: str) -> io.NodeOutput:
        return io.NodeOutput(axes.typed_axis(target, values, _choices()))


class CocktailAxisCheckpoints(io.ComfyNode):
    """An axis of checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisCheckpoints",
            display_name="Grid Axis: Checkpoints",
            category=CATEGORY,
            description="Up to eight checkpoints as an axis of a grid. Each can be chosen here or linked from a node that picks or makes one.",
            search_aliases=[*ALIASES, "checkpoint name", "model comparison", "compare models"],
            inputs=[
                *(
                    opt(
                        io.Combo.Input,
                        name,
                        options=[NONE, *names.checkpoint_names()],
                        default=NONE,
                        tooltip=f"Checkpoint number {number} of the axis, or none. Can be linked. One that is there twice is "
                        "shown once.",
                    )
                    for number, name in enumerate(CHECKPOINT_INPUTS, start=1)
                ),
                opt(
                    io.String.Input,
                    "labels",
                    multiline=True,
                    optional=True,
                    default="",
                    placeholder="labels, one a line (optional)",
                    tooltip="How sheets call the checkpoints: line 1 for checkpoint_1, and so on. A blank line, or none: the file's name.",
                ),
            ],
            outputs=[
                types.Axis.Output(
                    "axis", display_name="axis", tooltip="The axis, for an axis input of Grid Plan."
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls,
        checkpoint_1: str | None = NONE,
        checkpoint_2: str | None = NONE,
        checkpoint_3: str | None = NONE,
        checkpoint_4: str | None = NONE,
        checkpoint_5: str | None = NONE,
        checkpoint_6: str | None = NONE,
        checkpoint_7: str | None = NONE,
        checkpoint_8: str | None = NONE,
    ) -> bool | str:
        chosen = (
            checkpoint_1, checkpoint_2, checkpoint_3, checkpoint_4,
            checkpoint_5, checkpoint_6, checkpoint_7, checkpoint_8,
        )  # fmt: skip
        if all(checkpoint == NONE for checkpoint in chosen):
            return "The checkpoint axis is empty. Choose at least one checkpoint."
        for name, checkpoint in zip(CHECKPOINT_INPUTS, chosen, strict=True):
            if checkpoint is not None and checkpoint != NONE:
                try:
                    _readable(checkpoint)
                except GridError as error:
                    return f"{name}: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, labels: str | None = "", **chosen: str | None) -> list[Any]:
        """A file that was replaced under the same name is another checkpoint."""
        return [_file_state(chosen.get(name)) for name in CHECKPOINT_INPUTS]

    @classmethod
    def execute(
        cls,
        checkpoint_1: str,
        checkpoint_2: str,
        checkpoint_3: str,
        checkpoint_4: str,
        checkpoint_5: str,
        checkpoint_6: str,
        checkpoint_7: str,
        checkpoint_8: str,
        labels: str = "",
    ) -> io.NodeOutput:
        chosen = (
            checkpoint_1, checkpoint_2, checkpoint_3, checkpoint_4,
            checkpoint_5, checkpoint_6, checkpoint_7, checkpoint_8,
        )  # fmt: skip
        lines = [line.strip() for line in labels.splitlines()]
        if len(lines) > len(chosen):
            raise GridError(f"There are {len(lines)} labels for {len(chosen)} checkpoints.")
        lines += [""] * (len(chosen) - len(lines))
        pairs = [pair for pair in zip(chosen, lines, strict=True) if pair[0] != NONE]
        return io.NodeOutput(axes.checkpoint_axis(pairs))


class CocktailAxisRuns(io.ComfyNode):
    """An axis of all saved checkpoints of runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisRuns",
            display_name="Grid Axis: Epochs of Runs",
            category=CATEGORY,
            description="Every saved checkpoint of up to four runs as an axis of a grid, called by run and epoch.",
            search_aliases=[*ALIASES, "epochs", "compare epochs", "training progress", "all checkpoints"],
            inputs=[
                types.Run.Input(
                    "run_1",
                    tooltip="A run. Link it through Wait for Run, so that its checkpoints are there.",
                ),
                *(
                    types.Run.Input(
                        f"run_{number}",
                        optional=True,
                        tooltip="A further run, whose checkpoints follow those above. Optional.",
                    )
                    for number in (2, 3, 4)
                ),
            ],
            outputs=[
                types.Axis.Output(
                    "axis", display_name="axis", tooltip="The axis, for an axis input of Grid Plan."
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        run_1: Run,
        run_2: Run | None = None,
        run_3: Run | None = None,
        run_4: Run | None = None,
    ) -> io.NodeOutput:
        saved = []
        for run in (run_1, run_2, run_3, run_4):
            if run is None:
                continue
            checkpoints = run.checkpoints()
            if not checkpoints:
                raise GridError(
                    f"The run {run.name} has saved no checkpoint yet. Put Wait for Run between it and the axis."
                )
            saved += [
                (run.name, c.epoch, c.step, names.checkpoint_name(c.file)) for c in checkpoints
            ]
        return io.NodeOutput(axes.runs_axis(saved))  # fmt: skip


class CocktailGridPlan(io.ComfyNode):
    """A grid, resolved to its cells."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        import comfy.samplers

        return schema(
            node_id="CocktailGridPlan",
            display_name="Grid Plan",
            category=CATEGORY,
            description="Resolves axes and fixed settings to the cells of a grid, and checks them all before anything is rendered. What an "
            "axis varies takes the place of the setting here.",
            search_aliases=[*ALIASES, "xyz script", "grid generator", "plan"],
            is_output_node=True,
            inputs=[
                opt(
                    io.String.Input,
                    "name",
                    default="grid",
                    tooltip="Name of the grid and of its folder, output/cocktail/grids/NAME. Up to 64 letters, digits, dots, hyphens "
                    "and underscores. A name can be used again: cells that are the same are not rendered again.",
                ),
                types.Axis.Input("axis_1", tooltip="The columns of the sheets."),
                types.Axis.Input("axis_2", optional=True, tooltip="The rows of the sheets. Optional."),
                types.Axis.Input(
                    "axis_3", optional=True, tooltip="One page of the sheets for each value. Optional."
                ),
                types.Axis.Input(
                    "axis_4",
                    optional=True,
                    tooltip="More pages: one for each pair of values of axis 3 and 4. Optional.",
                ),
                opt(
                    io.Combo.Input,
                    "checkpoint",
                    options=[NONE, *names.checkpoint_names()],
                    default=NONE,
                    tooltip="The checkpoint of all cells, unless an axis varies it. Can be linked.",
                ),
                opt(
                    io.String.Input,
                    "prompt",
                    multiline=True,
                    default="",
                    placeholder="prompt",
                    tooltip="The prompt of all cells, unless an axis varies it.",
                ),
                opt(
                    io.String.Input,
                    "negative_prompt",
                    multiline=True,
                    default="",
                    placeholder="negative prompt",
                    tooltip="The negative prompt of all cells, unless an axis varies it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="The seed of the noise that all cells begin with, from 0 to 2^64 - 1, unless an axis varies it. It stays "
                    "as it is after queueing.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=10_000,
                    tooltip="Sampling steps, from 1 to 10000, unless an axis varies them. More take longer; 20 to 30 is usual.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Classifier-free guidance, from 0 to 100, unless an axis varies it: how closely the prompt is followed. 1 "
                    "ignores the negative prompt; 7 is usual.",
                ),
                opt(
                    io.Combo.Input,
                    "sampler",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="euler",
                    tooltip="The sampler, as on KSampler, unless an axis varies it.",
                ),
                opt(
                    io.Combo.Input,
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="normal",
                    tooltip="The scheduler, as on KSampler, unless an axis varies it.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=512,
                        min=int(LIMITS[side][0]),
                        max=int(LIMITS[side][1]),
                        step=SIDE_STEP,
                        tooltip=f"{side.capitalize()} of the pictures in pixels, a multiple of {SIDE_STEP}, unless an axis varies "
                        "the size. SD1.5 was made for 512.",
                    )
                    for side in ("width", "height")
                ),
                io.Int.Input(
                    "clip_skip",
                    default=1,
                    min=1,
                    max=12,
                    tooltip="Which layer of the text encoder is used, counted from the end, from 1 to 12, unless an axis varies it: 1 = "
                    "the last one (-1 in ComfyUI), 2 = the one before it (-2). Use the number the checkpoint was trained with.",
                ),
            ],
            outputs=[
                types.Grid.Output(
                    "grid", display_name="grid", tooltip="The plan, for Render Grid."
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, name: str | None, checkpoint: str | None, width: int | None, height: int | None
    ) -> bool | str:
        try:
            if name is not None:
                names.check_name(name, "grid")
            if checkpoint is not None and checkpoint != NONE:
                _readable(checkpoint)
            sides = {"width": width, "height": height}
            check_limits({side: value for side, value in sides.items() if value is not None})
        except (names.BadName, GridError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **others: Any) -> list[Any]:
        """A file that was replaced under the same name is another checkpoint."""
        return [_file_state(checkpoint)]

    @classmethod
    def execute(
        cls,
        name: str,
        axis_1: axes.Axis,
        checkpoint: str,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler: str,
        scheduler: str,
        width: int,
        height: int,
        clip_skip: int,
        axis_2: axes.Axis | None = None,
        axis_3: axes.Axis | None = None,
        axis_4: axes.Axis | None = None,
    ) -> io.NodeOutput:
        try:
            names.check_name(name, "grid")
        except names.BadName as error:
            raise GridError(str(error)) from None
        fixed = {
            "checkpoint": "" if checkpoint == NONE else checkpoint,
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "steps": steps,
            "cfg": cfg,
            "sampler": sampler,
            "scheduler": scheduler,
            "width": width,
            "height": height,
            "clip_skip": clip_skip,
        }
        given = [axis for axis in (axis_1, axis_2, axis_3, axis_4) if axis is not None]
        grid = plan.make_plan(name, fixed, given, _checkpoint_sha256)
        missing = _store(grid).missing(grid)
        loads = len({cell.settings.checkpoint for cell in missing})
        text = grid.size_words() + (
            f": {len(missing)} to render, {loads} checkpoint{'s' * (loads != 1)} to load"
            if missing
            else ": all rendered already"
        )
        if grid.repeats:
            text += (
                f"; {grid.repeats} show a picture twice, because checkpoints have the same content"
            )
        result = {
            "name": name,
            "cells": len(grid.cells),
            "missing": len(missing),
            "loads": loads,
            "repeats": grid.repeats,
        }
        return io.NodeOutput(grid, ui={"text": [text], "cocktail": [result]})


class CocktailRenderGrid(io.ComfyNode):
    """The cells of a grid, on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRenderGrid",
            display_name="Render Grid",
            category=CATEGORY,
            description="Renders the cells of a grid that are not there yet and saves each at once, with its own workflow in it. Each is the "
            "picture that ComfyUI's stock nodes make.",
            search_aliases=[*ALIASES, "xyz script", "batch", "sampler", "render"],
            is_output_node=True,
            inputs=[
                types.Grid.Input(
                    "grid",
                    tooltip="The plan. Checkpoints are loaded one after the other, each once, whatever the order of the axes.",
                )
            ],
            outputs=[
                types.Grid.Output(
                    "rendered_grid",
                    display_name="grid",
                    tooltip="The same grid, after its cells have been rendered.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        """Changes after failed cells, so that queueing again tries them again; else the node stays cached."""
        return sorted(_last_failures.items())

    @classmethod
    def execute(cls, grid: plan.Plan) -> io.NodeOutput:
        started = time.monotonic()
        store = _store(grid)
        store.save_plan(grid)
        missing = store.missing(grid)
        outcome = sampling.render(missing, store, show_text)
        failed = len(outcome.reasons)
        _last_failures.pop(grid.name, None)
        if failed:
            _last_failures[grid.name] = time.time()
        reused = len(grid.render_order) - len(missing)
        if failed and not reused and not outcome.rendered:
            raise GridError(f"No cell of the grid {grid.name} was rendered: {outcome.reasons[0]}")
        text = f"{len(grid.cells)} cells: {outcome.rendered} rendered"
        if outcome.rendered:
            text += f" in {time.monotonic() - started:.0f} s"
        text += f", {reused} there already"
        if failed:
            text += f", {failed} FAILED ({outcome.reasons[0]}). Queue again to try them again."
        show_text(text)
        result = {
            "name": grid.name,
            "folder": _relative_to_output(store.folder),
            "cells": len(grid.cells),
            "rendered": outcome.rendered,
            "reused": reused,
            "failed": failed,
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
            description="Draws a grid as labelled sheets: axis 1 as columns, axis 2 as rows, and a page for each value of the other axes.",
            search_aliases=[*ALIASES, "contact sheet", "image grid", "labelled grid", "legend"],
            is_output_node=True,
            inputs=[
                types.Grid.Input(
                    "grid", tooltip="The grid, from Render Grid. Cells that failed or are missing are marked."
                ),
                io.Int.Input(
                    "max_width",
                    default=8192,
                    min=256,
                    max=16_384,
                    tooltip="Widest a sheet may be, in pixels, from 256 to 16384. Pictures are made smaller to fit; small ones are "
                    "enlarged, so that labels can be read.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    is_output_list=True,
                    tooltip="The pages, one picture each. They are saved in the grid's folder as well.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, grid: plan.Plan, max_width: int) -> io.NodeOutput:
        store = _store(grid)
        paths = sheet.make_sheets(grid, store, max_width, Progress())
        folder = _relative_to_output(store.folder / "sheets")
        images = [{"filename": p.name, "subfolder": folder, "type": "output"} for p in paths]
        return io.NodeOutput(_read_images(paths), ui={"images": images})


def _choices() -> dict[str, list[str]]:
    import comfy.samplers

    sampler = comfy.samplers.KSampler
    return {"sampler": list(sampler.SAMPLERS), "scheduler": list(sampler.SCHEDULERS)}


def _store(grid: plan.Plan) -> Store:
    return Store(names.cocktail_dir("grids", grid.name))


def _relative_to_output(folder: Path) -> str:
    return folder.relative_to(names.cocktail_dir().parent).as_posix()


def _readable(checkpoint: str) -> Path:
    """The file of a checkpoint, if it is there and sound; otherwise GridError."""
    try:
        path = names.checkpoint_path(checkpoint)
        if path.suffix == ".safetensors":
            read_header(path)
    except (names.BadName, MergeError) as error:
        raise GridError(str(error)) from None
    return path


def _checkpoint_sha256(checkpoint: str) -> str:
    try:
        show_text(f"reading {checkpoint}")
        return file_sha256(_readable(checkpoint), names.cocktail_dir("hashes.json"), Progress())
    except MergeError as error:
        raise GridError(str(error)) from None


def _file_state(checkpoint: str | None) -> list[int]:
    """Size and modification time of a chosen checkpoint; nothing for a linked or missing one."""
    if checkpoint is None or checkpoint == NONE:
        return []
    try:
        status = names.checkpoint_path(checkpoint).stat()
    except (names.BadName, OSError):
        return []
    return [status.st_size, status.st_mtime_ns]


def _read_images(paths: list[Path]) -> list[torch.Tensor]:
    """Sheets as IMAGE [1, height, width, 3] from 0 to 1, made smaller if they are too much for memory together."""
    import numpy
    import torch
    from PIL import Image

    sizes = []
    for path in paths:
        with Image.open(path) as file:
            sizes.append(file.size)
    shrink = min(1.0, (OUTPUT_PIXELS / sum(width * height for width, height in sizes)) ** 0.5)
    images = []
    for path, (width, height) in zip(paths, sizes, strict=True):
        with Image.open(path) as file:
            picture = file.convert("RGB")
        if shrink < 1:
            picture = picture.resize((max(1, int(width * shrink)), max(1, int(height * shrink))))
        images.append(torch.from_numpy(numpy.asarray(picture, numpy.float32) / 255.0)[None])
    return images


NODES: list[type[io.ComfyNode]] = [
    CocktailAxis,
    CocktailAxisCheckpoints,
    CocktailAxisRuns,
    CocktailGridPlan,
    CocktailRenderGrid,
    CocktailGridSheet,
]
