"""The nodes that plan a grid: resolved to its cells and checked before anything is rendered."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from .. import types
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema
from .axes import ALIASES, CATEGORY
from .engine.axes.axis import Axis
from .engine.cell import files
from .engine.cell.settings import LIMITS, SIDE_STEP, check_limits
from .engine.errors import GridError
from .engine.plan.of_settings import make_plan
from .engine.plan.plan import Plan
from .engine.summary import checked_name, read_plan, summary


class CocktailGridPlan(io.ComfyNode):
    """A grid, resolved to its cells."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailGridPlan",
            display_name="Grid Plan",
            category=CATEGORY,
            description="Turns axes and fixed settings into the cells of a grid, and checks all of "
            "them before anything is rendered. A setting that an axis varies is ignored here.",
            search_aliases=[*ALIASES, "xyz script", "grid generator", "plan"],
            is_output_node=True,
            inputs=[
                *_name_and_first_axes(),
                *_settings_of_all_cells(),
                *_further_axes_and_rules(),
                *_files_of_all_cells(),
            ],
            outputs=[
                types.Grid.Output("grid", display_name="grid", tooltip="The plan, for Render Grid.")
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        name: str | None,
        checkpoint: str | None,
        width: int | None,
        height: int | None,
        vae: str | None = files.NONE,
        lora: str | None = files.NONE,
        image: str | None = files.NONE,
    ) -> bool | str:
        try:
            if name is not None:
                names.check_name(name, "grid")
            chosen = {"checkpoint": checkpoint, "vae": vae, "lora": lora, "image": image}
            for kind, file in chosen.items():
                if file is not None and file != files.NONE:
                    files.readable(kind, file)
            sides = {"width": width, "height": height}
            check_limits({side: value for side, value in sides.items() if value is not None})
        except (names.BadName, GridError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        checkpoint: str | None = None,
        vae: str | None = None,
        lora: str | None = None,
        image: str | None = None,
        **others: Any,
    ) -> list[Any]:
        """Changes when a file is replaced by another one of the same name."""
        chosen = {"checkpoint": checkpoint, "vae": vae, "lora": lora, "image": image}
        return [files.state(kind, name) for kind, name in chosen.items()]

    @classmethod
    def execute(
        cls,
        name: str,
        axis_1: Axis,
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
        axis_2: Axis | None = None,
        axis_3: Axis | None = None,
        axis_4: Axis | None = None,
        axis_5: Axis | None = None,
        axis_6: Axis | None = None,
        axis_7: Axis | None = None,
        axis_8: Axis | None = None,
        rules: str = "",
        vae: str = files.NONE,
        lora: str = files.NONE,
        lora_strength: float = 1.0,
        image: str = files.NONE,
        denoise: float = 1.0,
        batch_size: int = 1,
    ) -> io.NodeOutput:
        fixed = {
            "checkpoint": _file(checkpoint),
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
            "vae": _file(vae),
            "loras": ((lora, lora_strength, lora_strength),) if _file(lora) else (),
            "image": _file(image),
            "denoise": denoise,
            "batch_size": batch_size,
        }
        given = (axis_1, axis_2, axis_3, axis_4, axis_5, axis_6, axis_7, axis_8)
        return planned(
            make_plan(
                checked_name(name),
                fixed,
                [axis for axis in given if axis is not None],
                files.content_sha256,
                rules,
            )
        )


def _name_and_first_axes() -> list[Any]:
    return [
        opt(
            io.String.Input,
            "name",
            default="grid",
            tooltip="Name of the grid and of its folder, output/cocktail/grids/NAME. Up to 64 "
            "letters, digits, dots, hyphens and underscores. You can use a name again: cells that "
            "exist already are not rendered again.",
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
    ]


def _settings_of_all_cells() -> list[Any]:
    import comfy.samplers

    return [
        opt(
            io.Combo.Input,
            "checkpoint",
            options=[files.NONE, *names.checkpoint_names()],
            default=files.NONE,
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
            tooltip="The seed of the starting noise of all cells, from 0 to 2^64 - 1, unless an "
            "axis varies it. It does not change after queueing.",
        ),
        io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=10_000,
            tooltip="Sampling steps, from 1 to 10000, unless an axis varies them. More steps take "
            "longer; 20 to 30 is usual.",
        ),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Classifier-free guidance, from 0 to 100, unless an axis varies it: how "
            "closely the picture follows the prompt. 1 ignores the negative prompt; 7 is usual.",
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
                tooltip=f"{side.capitalize()} of the pictures in pixels, a multiple of "
                f"{SIDE_STEP}, unless an axis varies the size. SD1.5 was made for 512.",
            )
            for side in ("width", "height")
        ),
        io.Int.Input(
            "clip_skip",
            default=1,
            min=1,
            max=12,
            tooltip="Which layer of the text encoder is used, counted from the end, from 1 to 12, "
            "unless an axis varies it: 1 = the last one (-1 in ComfyUI), 2 = the one before it "
            "(-2). Use the number the checkpoint was trained with.",
        ),
    ]


def _further_axes_and_rules() -> list[Any]:
    return [
        *(
            types.Axis.Input(
                f"axis_{number}",
                optional=True,
                tooltip="More pages: one for each combination of the values of axis 3 and later "
                "axes. Optional. Combine Axes takes even more.",
            )
            for number in range(5, 9)
        ),
        opt(
            io.String.Input,
            "rules",
            multiline=True,
            default="",
            optional=True,
            advanced=True,
            placeholder="cells to leave out (optional)",
            tooltip="Cells to leave out, one rule per line: checkpoint = *768* and size = 512x512. "
            "Use the names of settings and axes. * stands for any text, and != means anything "
            "but. A pattern is compared with values and with their labels.",
        ),
    ]


def _files_of_all_cells() -> list[Any]:
    return [
        opt(
            io.Combo.Input,
            "vae",
            options=[files.NONE, *files.listed("vae")],
            default=files.NONE,
            optional=True,
            advanced=True,
            tooltip="The VAE of all cells, unless an axis varies it; none: the checkpoint's own.",
        ),
        opt(
            io.Combo.Input,
            "lora",
            options=[files.NONE, *files.listed("lora")],
            default=files.NONE,
            optional=True,
            advanced=True,
            tooltip="A LoRA on all cells, unless an axis varies it.",
        ),
        opt(
            io.Float.Input,
            "lora_strength",
            default=1.0,
            min=-100.0,
            max=100.0,
            step=0.05,
            round=0.01,
            optional=True,
            advanced=True,
            tooltip="Strength of that LoRA on model and text encoder, from -100 to 100, unless an "
            "axis varies it. 0 turns it off.",
        ),
        opt(
            io.Combo.Input,
            "image",
            options=[files.NONE, *files.listed("image")],
            default=files.NONE,
            optional=True,
            advanced=True,
            tooltip="A picture in the input folder to start from, scaled and cropped to the size "
            "of each cell; none: start from noise alone.",
        ),
        opt(
            io.Float.Input,
            "denoise",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            round=0.001,
            optional=True,
            advanced=True,
            tooltip="How much of the starting picture is replaced, from 0.01 to 1, unless an axis "
            "varies it: a low value keeps most of it, 1 replaces all. Without a picture it must "
            "be 1.",
        ),
        opt(
            io.Int.Input,
            "batch_size",
            default=1,
            min=1,
            max=64,
            optional=True,
            advanced=True,
            tooltip="How many cells are sampled in one pass, from 1 to 64. 1 is exact: each cell "
            "is the picture of the stock nodes to the last bit. More can be faster, but can "
            "change last bits; such cells are marked and kept apart from exact ones.",
        ),
    ]


class CocktailGridPlanJson(io.ComfyNode):
    """A grid from a plan as JSON."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailGridPlanJson",
            display_name="Grid Plan from JSON",
            category=CATEGORY,
            description="Reads a plan from JSON: the object that a grid's plan.json holds and "
            "POST /cocktail/grids/plan takes.",
            search_aliases=[*ALIASES, "json plan", "recipe", "import grid"],
            is_output_node=True,
            inputs=[
                opt(
                    io.String.Input,
                    "plan",
                    multiline=True,
                    default="",
                    placeholder='{"name": ..., "fixed": {...}, "axes": [...]}',
                    tooltip="The plan: name, fixed settings, rules, and axes whose values are text "
                    "or objects with label and set. The help page has an example.",
                )
            ],
            outputs=[
                types.Grid.Output("grid", display_name="grid", tooltip="The plan, for Render Grid.")
            ],
        )

    @classmethod
    def validate_inputs(cls, plan: str | None) -> bool | str:
        try:
            if plan is not None:
                read_plan(_json(plan), lambda kind, name: name)
        except GridError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, plan: str | None = None) -> list[Any]:
        """Changes when a file is replaced, or when one appears that a pattern could match."""
        return [
            [kind, name, files.state(kind, name)]
            for kind in ("checkpoint", "vae", "lora")
            for name in files.listed(kind)
        ]

    @classmethod
    def execute(cls, plan: str) -> io.NodeOutput:
        return planned(read_plan(_json(plan), files.content_sha256))


def planned(grid: Plan) -> io.NodeOutput:
    """The output of a node that makes a plan."""
    result = summary(grid)
    lines = [result["text"], *result["notes"]]
    show_text("\n".join(lines))
    return io.NodeOutput(grid, ui={"text": lines, "cocktail": [result]})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise GridError(f"The plan is not JSON: {error}.") from None


def _file(chosen: str) -> str:
    return "" if chosen == files.NONE else chosen
