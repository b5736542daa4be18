"""Block weights by a slider for each part of the UNet."""

from __future__ import annotations

from comfy_api.latest import io

from ...merge.blocks import GROUPS, LAYOUTS, by_group, values_text
from ..host.progress import show_text
from ..schema import opt, schema
from .sums import CATEGORY

ABOUT = {
    "base": "the text encoder (BASE)",
    "in_shallow": "the first third of the input blocks: IN00..IN03, for SDXL IN00..IN02. The time "
    "embedding gets the share of IN00",
    "in_middle": "the second third of the input blocks: IN04..IN07, for SDXL IN03..IN05",
    "in_deep": "the last third of the input blocks: IN08..IN11, for SDXL IN06..IN08",
    "middle": "the middle block, M00",
    "out_deep": "the first third of the output blocks: OUT00..OUT03, for SDXL OUT00..OUT02",
    "out_middle": "the second third of the output blocks: OUT04..OUT07, for SDXL OUT03..OUT05",
    "out_shallow": "the last third of the output blocks, closest to the picture: OUT08..OUT11, "
    "for SDXL OUT06..OUT08",
}


class CocktailBlockWeightsByGroup(io.ComfyNode):
    """The numbers for Block Weights, from a slider for each group of blocks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailBlockWeightsByGroup",
            display_name="Block Weights by Group",
            category=CATEGORY,
            description="Makes block weights from eight sliders: the text encoder, three depths "
            "of the input blocks, the middle block, and three depths of the output blocks. Link "
            "the result to Block Weights.",
            search_aliases=[
                "MBW",
                "block weights sliders",
                "shallow",
                "deep",
                "ModelMergeBlocks",
                "input middle out",
            ],
            inputs=[
                *(_slider(group, about) for group, about in ABOUT.items()),
                opt(
                    io.Combo.Input,
                    "layout",
                    options=list(LAYOUTS),
                    default="SD1.5",
                    tooltip="The kind of UNet: SD1.5 (and SD2) has 25 blocks, SDXL has 19.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "weights",
                    display_name="weights",
                    tooltip="BASE and the blocks as numbers. Link them to weights of Block "
                    "Weights (with preset = custom) or of Save Block Preset.",
                )
            ],
        )

    @classmethod
    def execute(cls, base: float, layout: str, **groups: float) -> io.NodeOutput:
        text = values_text(by_group([groups[group] for group in GROUPS], base, layout))
        show_text(text)
        return io.NodeOutput(text)


def _slider(group: str, about: str) -> io.Input:
    return opt(
        io.Float.Input,
        group,
        default=0.5,
        min=0.0,
        max=1.0,
        step=0.01,
        round=0.001,
        display_mode=io.NumberDisplay.slider,
        tooltip=f"Share of B, from 0 to 1, in {about}.",
    )


NODES: list[type[io.ComfyNode]] = [CocktailBlockWeightsByGroup]
