"""The nodes for grids over any workflow: an axis on any input, a plan over the graph around them,
and the queue.
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
from .engine.cell import node_inputs
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
            description="Varies any input of any node of this workflow, or of the workflow in a "
            "plan as JSON, with one value per line.",
            search_aliases=[*ALIASES, "any input", "widget", "parameter sweep", "iterate"],
            inputs=[
                io.String.Input(
                    "target",
                    default="KSampler.cfg",
                    tooltip="What varies, as NODE.INPUT: the node's id, title or class, and the "
                    "name of the input in the API prompt, such as KSampler.cfg or 3.seed.",
                ),
                opt(
                    io.String.Input,
                    "values",
                    multiline=True,
                    default="",
                    placeholder="one value per line",
                    tooltip="One value per line; blank lines are ignored. Numbers can be "
                    "separated by commas or be ranges: 1-5, 1-9 (+2), 1-10 [4], 1, 2, .., 8; "
                    "seeds can be drawn: 4 seeds. Names from a list can have * for all that "
                    "match. Switches: true or false. A line in double quotes is taken literally. "
                    "For an input that takes text, every line is a text.",
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
                opt(
                    io.String.Input,
                    "search",
                    default="",
                    optional=True,
                    placeholder="what to replace (optional)",
                    tooltip="For an input that takes text: the words in it to replace with each "
                    "value, written exactly as they are there. Several axes can search in one "
                    "text. Empty: each value is the whole text.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                types.Axis.Output(
                    "axis",
                    display_name="axis",
                    tooltip="The axis, for Grid Plan of This Workflow or Combine Axes.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        target: str | None,
        values: str | None,
        labels: str | None = "",
        search: str | None = "",
    ) -> bool | str:
        """The input's type is not known yet: its values are refused if they fit neither texts nor
        numbers.
        """
        try:
            if None not in (target, values, labels, search):
                _check_target(str(target))
                _check_values(str(target), str(values), str(labels), str(search))
        except GridError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        """Never equal: the type of the input may have changed, and reading a list is cheap."""
        return float("nan")

    @classmethod
    def execute(cls, target: str, values: str, labels: str = "", search: str = "") -> io.NodeOutput:
        _check_target(target)
        workflow = cls.hidden.prompt
        kind = node_inputs.kind_of(workflow, *node_inputs.find_input(workflow, target.strip()))
        return io.NodeOutput(input_axis(target.strip(), values, labels, kind, search))


class CocktailWorkflowPlan(io.ComfyNode):
    """A grid over the workflow that this node is part of."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailWorkflowPlan",
            display_name="Grid Plan of This Workflow",
            category=CATEGORY,
            description="Turns axes on inputs of this workflow into the cells of a grid, and "
            "checks all of them before anything is rendered. Queue Grid renders them.",
            search_aliases=[*ALIASES, "any workflow", "parameter sweep", "queue grid"],
            is_output_node=True,
            inputs=[
                opt(
                    io.String.Input,
                    "name",
                    default="workflow_grid",
                    tooltip="Name of the grid and of its folder, output/cocktail/grids/NAME. Up "
                    "to 64 letters, digits, dots, hyphens and underscores. Cells that exist "
                    "already under this name are not rendered again.",
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
                    tooltip="The node that saves or previews the picture of a cell: its id, "
                    "title or class. May be empty if there is only one.",
                ),
                opt(
                    io.String.Input,
                    "rules",
                    multiline=True,
                    default="",
                    optional=True,
                    placeholder="rules that leave cells out (optional)",
                    tooltip="Cells to leave out, one rule per line: TARGET = PATTERN, several "
                    "conditions joined by 'and'. TARGET is the name of an axis, such as "
                    "KSampler.cfg; * stands for any text.",
                ),
            ],
            outputs=[
                types.Grid.Output("grid", display_name="grid", tooltip="The plan, for Queue Grid.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        """Never equal: the workflow around the node may have changed, and planning is cheap."""
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
    """Renders the cells of a grid as separate prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailQueueGrid",
            display_name="Queue Grid",
            category=CATEGORY,
            description="Renders each cell of a grid as a prompt of its own, with a few in the "
            "queue at a time, and returns at once. It goes on when you close the page and after "
            "a restart of ComfyUI. Queue the graph again to see the progress.",
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
                types.Grid.Input("grid", tooltip="The plan, from any of the Grid Plan nodes."),
                io.Int.Input(
                    "in_flight",
                    default=3,
                    min=feeds.IN_FLIGHT[0],
                    max=feeds.IN_FLIGHT[1],
                    optional=True,
                    tooltip="How many prompts are in a server's queue at a time, from 2 to 4. "
                    "More would only make the queue longer.",
                ),
                opt(
                    io.Combo.Input,
                    "save_as",
                    options=list(cell_file.SUFFIXES),
                    default=cell_file.PNG,
                    optional=True,
                    tooltip="The format of new cells; both are lossless. Existing cells keep "
                    "their format.",
                ),
                opt(
                    io.Combo.Input,
                    "servers",
                    options=[*SERVERS],
                    default=HERE,
                    optional=True,
                    tooltip="Where cells are rendered: here; here and on all ComfyUI servers "
                    "that the file user/cocktail/servers.json allows; or on ComfyUIs in the Ray "
                    "cluster named in that file.",
                ),
                io.Boolean.Input(
                    "retry_failed",
                    default=True,
                    optional=True,
                    label_on="try again",
                    label_off="leave",
                    tooltip="What happens to failed cells when the graph is queued again: they "
                    "are tried again, or left as they are.",
                ),
            ],
            outputs=[
                types.Grid.Output(
                    "queued_grid",
                    display_name="grid",
                    tooltip="The same grid, for Grid Sheet, which shows the cells that are "
                    "finished so far.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        """Never equal: the grid makes progress in the meantime."""
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
            text = f"{found['pictures']} pictures, all finished"
        else:
            text = (
                f"{found['pictures']} pictures: {found['finished']} finished, "
                f"{found['failed']} failed, feeding is {found['state']}"
            )
        text += f". {found['message']}" if found["message"] else ""
        show_text(text)
        folder = names.cocktail_dir("grids", grid.name).relative_to(names.cocktail_dir().parent)
        result = {**found, "folder": folder.as_posix()}
        return io.NodeOutput(grid, ui={"text": [text], "cocktail": [result]})


def _check_target(target: str) -> None:
    if "." not in target.strip().strip("."):
        raise GridError(
            f"{target!r} does not name an input. Write NODE.INPUT, such as KSampler.cfg or 3.cfg."
        )


def _check_values(target: str, values: str, labels: str, search: str) -> None:
    """Raise GridError for values that are wrong whatever the type of the input."""
    try:
        input_axis(target, values, labels, "STRING", search)
    except GridError as error:
        try:
            input_axis(target, values, labels, None, search)
        except GridError:
            raise error from None
