"""Own presets of block weights."""

from __future__ import annotations

from comfy_api.latest import io

from ...merge.errors import MergeError
from ...merge.presets import read_presets, read_weights, save_preset
from .. import names
from ..progress import show_text
from ..schema import opt, schema
from .sums import CATEGORY


class CocktailSaveBlockPreset(io.ComfyNode):
    """Block weights under a name of one's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSaveBlockPreset",
            display_name="Save Block Preset",
            category=CATEGORY,
            description="Keeps block weights under a name of your own, in output/cocktail/block_presets.txt. No preset is ever overwritten.",
            search_aliases=["MBW preset", "block weights preset", "mbwpresets"],
            is_output_node=True,
            inputs=[
                opt(io.String.Input, "name", default="", placeholder="MY_CURVE", tooltip="Name of the preset: up to 64 letters, digits, '_', '-', '+', '*' and '/', beginning with a letter."),
                opt(
                    io.String.Input,
                    "weights",
                    default=", ".join(["0.5"] * 26),
                    multiline=True,
                    tooltip="As in Block Weights: 25 or 19 numbers, one more in front for BASE, or the name of a preset.",
                ),
            ],
            outputs=[io.String.Output("preset", display_name="weights", tooltip="The preset's name; link it to the weights of Block Weights.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, name: str | None, weights: str | None) -> bool | str:
        try:
            if name is not None and not name.strip():
                return "Give the preset a name."
            if weights is not None:
                read_weights(weights, own=read_presets(_file()))
        except MergeError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, name: str, weights: str) -> io.NodeOutput:
        name = name.strip()
        made = save_preset(_file(), name, read_weights(weights, own=read_presets(_file())))
        told = f"{name}: {'saved' if made else 'there already'}"
        show_text(told)
        return io.NodeOutput(name, ui={"text": [told]})


def _file():
    return names.cocktail_dir("block_presets.txt")


NODES: list[type[io.ComfyNode]] = [CocktailSaveBlockPreset]
