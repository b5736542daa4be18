"""The nodes that make axes: of typed values, of checkpoints, and of the epochs of runs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...trainer.runs import Run
from .. import names, types
from ..schema import opt, schema
from . import axes, checkpoints
from .errors import GridError

CATEGORY = "cocktail/grid"
ALIASES = ["xyz plot", "x/y/z plot", "xy plot", "grid", "comparison"]
CHECKPOINT_INPUTS = tuple(f"checkpoint_{number}" for number in range(1, 9))


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
                        options=[checkpoints.NONE, *names.checkpoint_names()],
                        default=checkpoints.NONE,
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
        checkpoint_1: str | None = checkpoints.NONE,
        checkpoint_2: str | None = checkpoints.NONE,
        checkpoint_3: str | None = checkpoints.NONE,
        checkpoint_4: str | None = checkpoints.NONE,
        checkpoint_5: str | None = checkpoints.NONE,
        checkpoint_6: str | None = checkpoints.NONE,
        checkpoint_7: str | None = checkpoints.NONE,
        checkpoint_8: str | None = checkpoints.NONE,
    ) -> bool | str:
        chosen = (
            checkpoint_1, checkpoint_2, checkpoint_3, checkpoint_4,
            checkpoint_5, checkpoint_6, checkpoint_7, checkpoint_8,
        )  # fmt: skip
        if all(checkpoint == checkpoints.NONE for checkpoint in chosen):
            return "The checkpoint axis is empty. Choose at least one checkpoint."
        for name, checkpoint in zip(CHECKPOINT_INPUTS, chosen, strict=True):
            if checkpoint is not None and checkpoint != checkpoints.NONE:
                try:
                    checkpoints.readable(checkpoint)
                except GridError as error:
                    return f"{name}: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, labels: str | None = "", **chosen: str | None) -> list[Any]:
        """A file that was replaced under the same name is another checkpoint."""
        return [checkpoints.file_state(chosen.get(name)) for name in CHECKPOINT_INPUTS]

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
        pairs = [pair for pair in zip(chosen, lines, strict=True) if pair[0] != checkpoints.NONE]
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
            saved_by_run = run.checkpoints()
            if not saved_by_run:
                raise GridError(
                    f"The run {run.name} has saved no checkpoint yet. Put Wait for Run between it and the axis."
                )
            saved += [
                (run.name, c.epoch, c.step, names.checkpoint_name(c.file)) for c in saved_by_run
            ]
        return io.NodeOutput(axes.runs_axis(saved))  # fmt: skip


def _choices() -> dict[str, list[str]]:
    import comfy.samplers

    sampler = comfy.samplers.KSampler
    return {"sampler": list(sampler.SAMPLERS), "scheduler": list(sampler.SCHEDULERS)}
