"""Your own presets of block weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from comfy_api.latest import io

from ...merge.blocks import BlockWeights
from ...merge.errors import MergeError
from ...merge.presets import (
    CUSTOM,
    PRESETS,
    OwnPresets,
    read_own_presets,
    read_weights,
    save_preset,
)
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema
from .sums import CATEGORY


class CocktailSaveBlockPreset(io.ComfyNode):
    """Block weights saved under a name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSaveBlockPreset",
            display_name="Save Block Preset",
            category=CATEGORY,
            description="Saves block weights under a name of your choice, in "
            "output/cocktail/block_presets.txt. No preset is ever overwritten.",
            search_aliases=["MBW preset", "block weights preset", "mbwpresets"],
            is_output_node=True,
            inputs=[
                opt(
                    io.String.Input,
                    "name",
                    default="",
                    placeholder="MY_CURVE",
                    tooltip="Name of the preset: up to 64 letters, digits, '_', '-', '+', '*' and "
                    "'/', beginning with a letter.",
                ),
                opt(
                    io.String.Input,
                    "weights",
                    default=", ".join(["0.5"] * 26),
                    multiline=True,
                    tooltip="As in Block Weights: 25 or 19 numbers, with one more in front for "
                    "BASE, or the name of a preset.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "preset",
                    display_name="weights",
                    tooltip="The preset's name. Link it to weights of Block Weights. Once it is "
                    "saved, press R to see it in the list of presets too.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None, weights: str | None) -> bool | str:
        try:
            if name is not None and not name.strip():
                return "Give the preset a name."
            if weights is not None:
                read_weights(weights, own=own_presets())
        except MergeError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, name: str, weights: str) -> io.NodeOutput:
        name = name.strip()
        file = names.block_presets_file()
        made = save_preset(file, name, read_weights(weights, own=own_presets()))
        told = f"{name}: {'saved' if made else 'already there'}"
        show_text(told)
        return io.NodeOutput(name, ui={"text": [told]})


def own_presets() -> Mapping[str, BlockWeights]:
    """Your own presets as they are now. Lines of their file that are none are skipped, and named
    once in the log.
    """
    return _own().weights


def preset_problems() -> tuple[str, ...]:
    """What is wrong with lines of the file of your own presets."""
    return _own().problems


def preset_names() -> list[str]:
    """What the combo of presets lists: the built-in ones, then your own."""
    own = own_presets()
    return [*PRESETS, *(name for name in own if name not in PRESETS and name != CUSTOM)]


def _own() -> OwnPresets:
    file = names.block_presets_file()
    try:
        state = file.stat()
    except OSError:
        return OwnPresets({})
    return _read(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _read(file: Path, changed: int, size: int) -> OwnPresets:
    found = read_own_presets(file)
    for problem in found.problems:
        logging.warning("Cocktail: %s The line is skipped.", problem)
    return found


NODES: list[type[io.ComfyNode]] = [CocktailSaveBlockPreset]
