"""The nodes for grids over any workflow: an axis on any input, the plan over the graph they stand
in, and the queue.
"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import types
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema
from .axes import ALIASES, CATEGORY
from .engine.axes.axis import Axis
from .engine.axes.inputs import input_axis
from .engine.errors import GridError
from .engine.feed import feeds
from .engine.feed import servers as feed_settings
from .engine.plan.of_workflow import workflow_plan
from .engine.plan.plan import Plan
from .engine.store import cell_file
from .engine.summary import checked_name
from .plan import planned

AXES = ("axis_1", "axis_2", "axis_3", "axis_4")
HERE, ALL, RAY = "this ComfyUI", "all allowed servers", "Ray cluster"
SERVERS = {HERE: [feed_settings.THIS], ALL: "all", RAY: feed_settings.RAY}


class CocktailAxisInput(io.ComfyNode):
    """An axis on any input of any node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAxisInput",
            display_name="Grid Axis of Any Input",
            category=CATEGORY,
            description="Varies any input of any node of the workflow that it stands in, or that a plan as JSON brings, with one value a line.",
            search_aliases=[*ALIASES, "any input", "widget", "parameter sweep", "iterate"],
            inputs=[
                io.String.Input(
                    "target",
                    default="KSampler.cfg",
                    tooltip="What varies, as NODE.INPUT: the node by its id, title or class, the input as it is called in the API prompt, "
                    "such as KSampler.cfg or 3.seed.",
                ),
                opt(
                    io.String.Input,
                    "values",
                    multiline=True,
                    default="",
                    placeholder="one value a line",
                    tooltip="One value a line; blank lines do not count. Numbers also with commas and as ranges: 1-5, 1-9 (+2), 1-10 [4], "
                    "1, 2, .., 8, and 4 seeds. Names in lists with * for all that match. Switches: true or false. A line in double quotes is a text as it stands.",
                ),
                opt(
                    io.String.Input,
                    "labels",
                    multiline=True,
                    default="",
                    optional=True,
                    placeholder="labels, one a line (optional)",
                    tooltip="How sheets call the values: line 1 for the first, and so on. A blank line, or none: the value itself.",
                ),
            ],
            outputs=[
                types.Axis.Output(
                    "axis",
                    display_name="axis",
                    tooltip="The axis, for Grid Plan of This Workflow, or for Combine Axes before it.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, target: str | None, values: str | None, labels: str | None = ""
    ) -> bool | str:
        try:
            if target is not None and values is not None and labels is not None:
                _axis(target, values, labels)
        except GridError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, target: str, values: str, labels: str = "") -> io.NodeOutput:
        return io.NodeOutput(_axis(target, values, labels))


class CocktailWorkflowPlan(io.ComfyNode):
    """A grid over the workflow that this node stands in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailWorkflowPlan",
            display_name="Grid Plan of This Workflow",
            category=CATEGORY,
            description="Resolves axes on inputs of the workflow that it stands in to the cells of a grid, and checks them all before anything "
            "is rendered. Queue Grid after it renders them.",
            search_aliases=[*ALIASES, "any workflow", "parameter sweep", "queue grid"],
            is_output_node=True,
            inputs=[
                opt(
                    io.String.Input,
                    "name",
                    default="workflow_grid",
                    tooltip="Name of the grid and of its folder, output/cocktail/grids/NAME. Up to 64 letters, digits, dots, hyphens and "
                    "underscores. Cells that are there under this name are not rendered again.",
                ),
                types.Axis.Input(
                    "axis_1", tooltip="The columns of the sheets: a Grid Axis of Any Input."
                ),
                types.Axis.Input(
                    "axis_2", optional=True, tooltip="The rows of the sheets. Optional."
                ),
                types.Axis.Input(
                    "axis_3",
                    optional=True,
                    tooltip="One page of the sheets for each value. Optional.",
                ),
                types.Axis.Input(
                    "axis_4",
                    optional=True,
                    tooltip="One page of the sheets for each value. Optional.",
                ),
                opt(
                    io.String.Input,
                    "output",
                    default="",
                    optional=True,
                    placeholder="node that shows the picture",
                    tooltip="The node that saves or previews the picture of a cell, by id, title or class. Empty: the only one that there is.",
                ),
                opt(
                    io.String.Input,
                    "rules",
                    multiline=True,
                    default="",
                    optional=True,
                    placeholder="rules that leave cells out (optional)",
                    tooltip="Cells to leave out, one rule a line: TARGET = PATTERN, several conditions joined by 'and'. TARGET is what an axis is "
                    "called, such as KSampler.cfg; * stands for anything.",
                ),
            ],
            outputs=[
                types.Grid.Output("grid", display_name="grid", tooltip="The plan, for Queue Grid.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        """Never equal: the workflow around the node may have changed, and planning costs next to
        nothing.
        """
        return float("nan")

    @classmethod
    def execute(
        cls, name: str, output: str = "", rules: str = "", **axes: Axis | None
    ) -> io.NodeOutput:
        found = [axes[axis] for axis in AXES if axes.get(axis) is not None]
        workflow = cls.hidden.prompt
        grid = workflow_plan(checked_name(name), workflow, found, {}, rules, output)
        return planned(grid)


class CocktailQueueGrid(io.ComfyNode):
    """A grid's cells as prompts of their own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailQueueGrid",
            display_name="Queue Grid",
            category=CATEGORY,
            description="Renders the cells of a grid as prompts of their own, a few of them in the queue at a time, and returns at once. Goes on when "
            "the page is closed and after ComfyUI is restarted. Queue the graph again to see how far it is.",
            search_aliases=[
                *ALIASES,
                "feeder",
                "batch queue",
                "background",
                "farm",
                "several servers",
            ],
            is_output_node=True,
            inputs=[
                types.Grid.Input(
                    "grid", tooltip="The plan: of this workflow, from JSON, or a Grid Plan."
                ),
                io.Int.Input(
                    "in_flight",
                    default=3,
                    min=feeds.IN_FLIGHT[0],
                    max=feeds.IN_FLIGHT[1],
                    optional=True,
                    tooltip="How many prompts are in the queue of a server at a time, from 2 to 4. More would only make the queue long.",
                ),
                opt(
                    io.Combo.Input,
                    "save_as",
                    options=list(cell_file.SUFFIXES),
                    default=cell_file.PNG,
                    optional=True,
                    tooltip="The format of new cells, both without loss. Cells that are there stay as they are.",
                ),
                opt(
                    io.Combo.Input,
                    "servers",
                    options=[*SERVERS],
                    default=HERE,
                    optional=True,
                    tooltip="Where cells are rendered: here, or on all ComfyUI servers that the file user/cocktail/servers.json allows as well, "
                    "or on ComfyUIs that the Ray cluster of that file keeps.",
                ),
                io.Boolean.Input(
                    "retry_failed",
                    default=True,
                    optional=True,
                    label_on="try again",
                    label_off="leave",
                    tooltip="What happens to cells that failed before when the graph is queued again: they are tried again, or left.",
                ),
            ],
            outputs=[
                types.Grid.Output(
                    "queued_grid",
                    display_name="grid",
                    tooltip="The same grid, for Grid Sheet, which shows the cells that are there by now.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        """Never equal: the grid gets on in the meantime."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        grid: Plan,
        in_flight: int = 3,
        save_as: str = cell_file.PNG,
        servers: str = HERE,
        retry_failed: bool = True,
    ) -> io.NodeOutput:
        found = feeds.start(
            grid,
            SERVERS[servers],
            in_flight,
            save_as,
            retry_failed=retry_failed,
        )
        if found["finished"] == found["pictures"]:
            text = f"{found['pictures']} pictures, all there"
        else:
            text = f"{found['pictures']} pictures: {found['finished']} there, {found['failed']} failed, feeding is {found['state']}"
        text += f". {found['message']}" if found["message"] else ""
        show_text(text)
        folder = names.cocktail_dir("grids", grid.name).relative_to(names.cocktail_dir().parent)
        result = {**found, "folder": folder.as_posix()}
        return io.NodeOutput(grid, ui={"text": [text], "cocktail": [result]})


def _axis(target: str, values: str, labels: str) -> Axis:
    if "." not in target.strip().strip("."):
        raise GridError(
            f"{target!r} names no input. Write NODE.INPUT, such as KSampler.cfg or 3.cfg."
        )
    return input_axis(target.strip(), values, labels)
