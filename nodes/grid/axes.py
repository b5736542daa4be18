"""The nodes that make axes: of typed values, of checkpoints, and of the epochs of runs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...trainer.data.manifest import Dataset
from ...trainer.runs import Run
from .. import types
from ..host import names
from ..schema import opt, schema
from .engine.axes import prompts, typed
from .engine.axes.axis import Axis, combine, follow
from .engine.axes.checkpoints import checkpoint_axis, runs_axis
from .engine.axes.choices import choices
from .engine.cell import files
from .engine.errors import GridError

CATEGORY = "cocktail/grid"
TOGETHER, FOLLOWING = "together", "one after the other"
WAYS = (TOGETHER, "every combination", FOLLOWING)
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
            description="One thing that varies over a grid, such as prompts, seeds or sizes, "
            "with one value per line.",
            search_aliases=[*ALIASES, "x values", "y values", "z values", "seeds", "prompt list"],
            inputs=[
                opt(
                    io.Combo.Input,
                    "target",
                    options=list(typed.TARGETS),
                    default=typed.TARGETS[0],
                    tooltip="What varies. Clip skip counts from the end of the text encoder: 1 "
                    "= the last layer (-1 in ComfyUI), 2 = the one before it (-2).",
                ),
                opt(
                    io.String.Input,
                    "values",
                    multiline=True,
                    default="",
                    placeholder="one value per line",
                    tooltip="One value per line; blank lines are ignored. Prompts: the text, or "
                    '"" for an empty one. Other values can share a line, separated by commas. '
                    "Numbers can be ranges: 1-5, 1-9 (+2), 1-10 [4] or 1, 2, .., 8; seeds can be "
                    "drawn: 4 seeds. Sizes in pixels, multiples of 8: 512x768, or 512 for a "
                    "square. Files: names, with * for all that match; LoRAs with a strength, "
                    "FILE:0.8.",
                ),
                opt(
                    io.String.Input,
                    "search",
                    default="",
                    optional=True,
                    placeholder="what to replace",
                    tooltip="Only for search and replace: the words in the prompt to replace "
                    "with each value, written exactly as they are there. A value equal to these "
                    "words leaves the prompt unchanged.",
                ),
                opt(
                    io.String.Input,
                    "labels",
                    multiline=True,
                    default="",
                    optional=True,
                    placeholder="labels, one per line (optional)",
                    tooltip="Labels for sheets: line 1 for the first value, and so on. A value "
                    "without one is shown as it is.",
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
        target: str | None,
        values: str | None,
        search: str | None = "",
        labels: str | None = "",
    ) -> bool | str:
        if target is None or values is None or search is None or labels is None:
            return True
        try:
            typed.typed_axis(target, values, choices(), search, labels)
        except GridError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, target: str | None = None, values: str | None = None, **others: Any
    ) -> list[Any]:
        """Changes when a file is replaced, or when a pattern may match other files."""
        kind = "checkpoint" if target == "recipe" else typed.FILES.get(target or "")
        return [[name, files.state(kind, name)] for name in files.listed(kind)] if kind else []

    @classmethod
    def execute(cls, target: str, values: str, search: str = "", labels: str = "") -> io.NodeOutput:
        return io.NodeOutput(typed.typed_axis(target, values, choices(), search, labels))


class CocktailAxisCheckpoints(io.ComfyNode):
    """An axis of checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisCheckpoints",
            display_name="Grid Axis: Checkpoints",
            category=CATEGORY,
            description="Up to eight checkpoints as an axis of a grid. Choose each one here, or "
            "link it from a node that picks or makes one.",
            search_aliases=[*ALIASES, "checkpoint name", "model comparison", "compare models"],
            inputs=[
                *(
                    opt(
                        io.Combo.Input,
                        name,
                        options=[files.NONE, *names.checkpoint_names()],
                        default=files.NONE,
                        tooltip=f"Checkpoint number {number} of the axis, or none. Can be linked. "
                        "A checkpoint that is chosen twice is shown once.",
                    )
                    for number, name in enumerate(CHECKPOINT_INPUTS, start=1)
                ),
                opt(
                    io.String.Input,
                    "labels",
                    multiline=True,
                    optional=True,
                    default="",
                    placeholder="labels, one per line (optional)",
                    tooltip="Labels for sheets: line 1 for checkpoint_1, and so on. A "
                    "checkpoint without one is shown by its file name.",
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
        checkpoint_1: str | None = files.NONE,
        checkpoint_2: str | None = files.NONE,
        checkpoint_3: str | None = files.NONE,
        checkpoint_4: str | None = files.NONE,
        checkpoint_5: str | None = files.NONE,
        checkpoint_6: str | None = files.NONE,
        checkpoint_7: str | None = files.NONE,
        checkpoint_8: str | None = files.NONE,
    ) -> bool | str:
        chosen = (
            checkpoint_1, checkpoint_2, checkpoint_3, checkpoint_4,
            checkpoint_5, checkpoint_6, checkpoint_7, checkpoint_8,
        )  # fmt: skip
        if all(checkpoint == files.NONE for checkpoint in chosen):
            return "The checkpoint axis is empty. Choose at least one checkpoint."
        for name, checkpoint in zip(CHECKPOINT_INPUTS, chosen, strict=True):
            if checkpoint is not None and checkpoint != files.NONE:
                try:
                    files.readable("checkpoint", checkpoint)
                except GridError as error:
                    return f"{name}: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, labels: str | None = "", **chosen: str | None) -> list[Any]:
        """Changes when a file is replaced by another one of the same name."""
        return [files.state("checkpoint", chosen.get(name)) for name in CHECKPOINT_INPUTS]

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
        pairs = [pair for pair in zip(chosen, lines, strict=True) if pair[0] != files.NONE]
        return io.NodeOutput(checkpoint_axis(pairs))


class CocktailAxisRuns(io.ComfyNode):
    """An axis of all saved checkpoints of runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisRuns",
            display_name="Grid Axis: Epochs of Runs",
            category=CATEGORY,
            description="Every saved checkpoint of up to four runs as an axis of a grid, "
            "labelled with run and epoch.",
            search_aliases=[
                *ALIASES,
                "epochs",
                "compare epochs",
                "training progress",
                "all checkpoints",
            ],
            inputs=[
                types.Run.Input(
                    "run_1",
                    tooltip="A run. Link it through Wait for Run, so that its checkpoints exist.",
                ),
                *(
                    types.Run.Input(
                        f"run_{number}",
                        optional=True,
                        tooltip="Another run, whose checkpoints follow those above. Optional.",
                    )
                    for number in (2, 3, 4)
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
                    f"The run {run.name} has not saved a checkpoint yet. Put Wait for Run between "
                    "it and the axis."
                )
            saved += [
                (run.name, c.epoch, c.step, names.checkpoint_name(c.file)) for c in saved_by_run
            ]
        return io.NodeOutput(runs_axis(saved))


class CocktailAxisPrompts(io.ComfyNode):
    """An axis of prompts from a dataset or a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisPrompts",
            display_name="Grid Axis: Prompts",
            category=CATEGORY,
            description="Prompts as an axis of a grid: captions from a dataset, or the prompts "
            "in a text file or table in the input folder.",
            search_aliases=[
                *ALIASES,
                "prompt list",
                "captions",
                "prompts from file",
                "validation captions",
            ],
            inputs=[
                types.Dataset.Input(
                    "dataset",
                    optional=True,
                    tooltip="Use the captions of this dataset. Without it, the file is read.",
                ),
                opt(
                    io.Combo.Input,
                    "part",
                    options=["validation", "training", "all"],
                    default="validation",
                    tooltip="Which pairs of the dataset to use: those held back for validation, "
                    "those for training, or all.",
                ),
                opt(
                    io.Combo.Input,
                    "file",
                    options=[files.NONE, *prompts.listed()],
                    default=files.NONE,
                    tooltip="A file in the input folder, or in a folder directly in it: .txt "
                    "with one prompt per line, or .csv, .tsv or .jsonl with a column of prompts.",
                ),
                io.String.Input(
                    "column",
                    default="prompt",
                    tooltip="The column of the table that holds the prompts.",
                ),
                io.String.Input(
                    "label_column",
                    default="",
                    tooltip="The column of the table that holds labels for sheets. Empty: the "
                    "prompts are their own labels.",
                ),
                io.Int.Input(
                    "most",
                    default=20,
                    min=1,
                    max=10_000,
                    tooltip="The most prompts to use, from 1 to 10000: the first ones of a "
                    "file, or captions spread evenly over a dataset.",
                ),
            ],
            outputs=[
                types.Axis.Output(
                    "axis", display_name="axis", tooltip="The axis, for an axis input of Grid Plan."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        try:
            if file is not None and file != files.NONE:
                prompts.path_of(file)
        except GridError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **others: Any) -> list[Any]:
        """Changes when the file is edited."""
        return prompts.state(file)

    @classmethod
    def execute(
        cls,
        part: str,
        file: str,
        column: str,
        label_column: str,
        most: int,
        dataset: Dataset | None = None,
    ) -> io.NodeOutput:
        if dataset is not None:
            found = prompts.captions(dataset, part, most)
        elif file != files.NONE:
            found = prompts.of_file(prompts.path_of(file), column, label_column, most)
        else:
            raise GridError(
                "Grid Axis: Prompts has neither a dataset nor a file. Link a dataset, or choose "
                "a file."
            )
        return io.NodeOutput(prompts.prompt_axis(found))


class CocktailCombineAxes(io.ComfyNode):
    """Several axes as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailCombineAxes",
            display_name="Combine Axes",
            category=CATEGORY,
            description="Joins several axes into one. Their values either move together, such "
            "as each checkpoint with its own size, or are combined in every way, or follow each "
            "other.",
            search_aliases=[*ALIASES, "zip", "combined axis", "nested axis", "move together"],
            inputs=[
                types.Axis.Input("axis_1", tooltip="The first axis."),
                types.Axis.Input("axis_2", tooltip="The second axis."),
                *(
                    types.Axis.Input(
                        f"axis_{number}", optional=True, tooltip="One more axis. Optional."
                    )
                    for number in (3, 4)
                ),
                opt(
                    io.Combo.Input,
                    "how",
                    options=list(WAYS),
                    default=TOGETHER,
                    tooltip="together: first values with first values, second with second, and "
                    "so on; all axes need the same number of values. every combination: each "
                    "value of axis 1 with each of axis 2, the last axis changing fastest. "
                    "one after the other: axes of the same thing become one, such as the epochs "
                    "of a run followed by other people's checkpoints.",
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
        axis_1: Axis,
        axis_2: Axis,
        how: str,
        axis_3: Axis | None = None,
        axis_4: Axis | None = None,
    ) -> io.NodeOutput:
        given = [axis for axis in (axis_1, axis_2, axis_3, axis_4) if axis is not None]
        return io.NodeOutput(follow(given) if how == FOLLOWING else combine(given, how == TOGETHER))
