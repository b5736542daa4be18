"""LoRA files: the difference between two checkpoints as a LoRA, and a LoRA baked into one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from comfy_api.latest import io

from ...merge.blocks import BlockWeights, values_text
from ...merge.errors import MergeError
from ...merge.family import family_of
from ...merge.hashing import file_sha256
from ...merge.presets import read_weights
from ...merge.reading import open_checkpoint
from ...merge.safetensors_file import read_header
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema
from .file_states import file_states
from .presets import own_presets
from .sums import CATEGORY

NAME = (
    "The file name is this and 8 digits that depend on the inputs, so the same file is made only "
    "once and nothing is ever overwritten. Up to 55 letters, digits, dots, hyphens and "
    "underscores."
)


def _file_name(name: str, *made_of: object) -> str:
    digest = hashlib.sha256("\n".join(map(str, made_of)).encode()).hexdigest()[:8]
    return names.check_name(f"{name}-{digest}", "file") + ".safetensors"


def _sha256(path) -> str:
    return file_sha256(path, names.hashes_file(), Progress())


def _refusal(
    name: str | None, checkpoints: tuple[str | None, ...], lora: str | None = None
) -> bool | str:
    """Why a name or a file is refused; True if all are valid. Linked inputs are None and are
    checked once they are known.
    """
    try:
        if name is not None:
            _file_name(name, "")
        paths = [names.checkpoint_path(checkpoint) for checkpoint in checkpoints if checkpoint]
        for path in [*paths, *([names.lora_path(lora)] if lora else [])]:
            read_header(path)
    except (MergeError, names.BadName) as error:
        return str(error)
    return True


def _blocks(written: str, checkpoint: Path) -> BlockWeights | None:
    """The block weights that are written for a checkpoint; None for none. Raises MergeError."""
    if not written.strip():
        return None
    from ...merge.lora import check_layout

    header = open_checkpoint(checkpoint)
    layout = "SDXL" if family_of(header).kind == "SDXL" else "SD1.5"
    blocks = read_weights(written, layout, own=own_presets())
    check_layout(blocks, header)
    return blocks


class CocktailExtractLora(io.ComfyNode):
    """The difference between two checkpoints as a LoRA file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailExtractLora",
            display_name="Extract LoRA",
            category=CATEGORY,
            description="Writes what a fine-tune has learned since its base as a LoRA file for "
            "Load LoRA: the closest LoRA of the chosen rank.",
            search_aliases=["LoRA extract", "svd", "extract difference", "LoraSave"],
            is_output_node=True,
            inputs=[
                opt(
                    io.Combo.Input,
                    "checkpoint",
                    options=names.checkpoint_names(),
                    tooltip="The fine-tuned checkpoint, a .safetensors file.",
                ),
                opt(
                    io.Combo.Input,
                    "base",
                    options=names.checkpoint_names(),
                    tooltip="The checkpoint it was trained from.",
                ),
                opt(
                    io.Int.Input,
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Rank of the LoRA, 1 to 1024. A higher rank keeps more of the "
                    "difference and makes a larger file.",
                ),
                opt(
                    io.String.Input,
                    "name",
                    default="lora",
                    tooltip=f"Name of the file in loras/cocktail. {NAME}",
                ),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "lora",
                    display_name="lora",
                    tooltip="The LoRA's name. Link it to any LoRA input.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, checkpoint: str | None, base: str | None, name: str | None
    ) -> bool | str:
        return _refusal(name, (checkpoint, base))

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint: str | None, base: str | None, **_: object
    ) -> list[list[int]]:
        return file_states([names.checkpoint_path(file) for file in (checkpoint, base) if file])

    @classmethod
    def execute(cls, checkpoint: str, base: str, rank: int, name: str) -> io.NodeOutput:
        from ...merge.lora import extract_lora

        paths = [names.checkpoint_path(file) for file in (checkpoint, base)]
        out = names.lora_dir() / _file_name(name, *map(_sha256, paths), rank)
        told = "already there"
        if not out.exists():
            told = f"{extract_lora(*paths, out, rank, Progress())} weights"
        made = names.lora_name(out)
        show_text(f"{made}: {told}")
        return io.NodeOutput(made, ui={"text": [f"{made}: {told}"], "cocktail": [{"lora": made}]})


class CocktailBakeLora(io.ComfyNode):
    """A checkpoint with a LoRA added to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailBakeLora",
            display_name="Bake LoRA",
            category=CATEGORY,
            description="Writes a copy of a checkpoint with a LoRA added to its weights, and "
            "reports parts of the LoRA that match no weight. The original is left alone.",
            search_aliases=["merge LoRA", "LoRA to checkpoint", "fuse LoRA", "supermerger"],
            is_output_node=True,
            inputs=[
                opt(
                    io.Combo.Input,
                    "checkpoint",
                    options=names.checkpoint_names(),
                    tooltip="The checkpoint, a .safetensors file.",
                ),
                opt(
                    io.Combo.Input,
                    "lora",
                    options=names.lora_names(),
                    tooltip="The LoRA, a .safetensors file.",
                ),
                opt(
                    io.Float.Input,
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How much of the LoRA is added, as in Load LoRA: 1 = all.",
                ),
                opt(
                    io.String.Input,
                    "name",
                    default="baked",
                    tooltip=f"Name of the file in checkpoints/cocktail. {NAME}",
                ),
                opt(
                    io.String.Input,
                    "block_weights",
                    default="",
                    multiline=True,
                    optional=True,
                    placeholder="a number for each block (optional)",
                    tooltip="A factor for the strength in each block: 25 for SD1.5 and SD2, 19 for "
                    "SDXL, with one more in front for BASE (the text encoder), or the name of a "
                    "preset, including your own. Empty: 1 for all. Without a number for BASE the "
                    "text encoder gets nothing from the LoRA.",
                ),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "baked",
                    display_name="checkpoint",
                    tooltip="The new checkpoint's name. Link it to any checkpoint input.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        checkpoint: str | None,
        lora: str | None,
        name: str | None,
        block_weights: str | None = "",
    ) -> bool | str:
        if (refusal := _refusal(name, (checkpoint,), lora)) is not True:
            return refusal
        try:
            if checkpoint is not None and block_weights is not None:
                _blocks(block_weights, names.checkpoint_path(checkpoint))
        except MergeError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint: str | None, lora: str | None, block_weights: str | None = "", **_: object
    ) -> list[list[int] | str]:
        """Makes the node run again also when your own preset is edited in its file."""
        files = [names.checkpoint_path(checkpoint)] if checkpoint else []
        own = own_presets().get((block_weights or "").strip())
        states = file_states([*files, *([names.lora_path(lora)] if lora else [])])
        return [*states, values_text(own) if own else ""]

    @classmethod
    def execute(
        cls, checkpoint: str, lora: str, strength: float, name: str, block_weights: str = ""
    ) -> io.NodeOutput:
        from ...merge.lora import bake_lora

        paths = names.checkpoint_path(checkpoint), names.lora_path(lora)
        blocks = _blocks(block_weights, paths[0])
        made_of = [*map(_sha256, paths), strength, *([values_text(blocks)] if blocks else [])]
        out = names.checkpoint_dir() / _file_name(name, *made_of)
        told = "already there"
        if not out.exists():
            done = bake_lora(*paths, out, strength, Progress(), blocks)
            told = (
                f"{len(done.matched)} weights changed, "
                f"{len(done.unmatched)} of the LoRA match no weight"
            )
        made = names.checkpoint_name(out)
        show_text(f"{made}: {told}")
        result = {"checkpoint": made}
        return io.NodeOutput(made, ui={"text": [f"{made}: {told}"], "cocktail": [result]})


NODES: list[type[io.ComfyNode]] = [CocktailExtractLora, CocktailBakeLora]
