"""Looking into checkpoints and writing smaller copies: inspect, compare, prune and convert."""

from __future__ import annotations

from comfy_api.latest import io

from ...merge.conversion import EMA_CHOICES, KEEP
from ...merge.errors import MergeError
from ...merge.inspection import inspect_file, report, tree, tree_text
from ...merge.plan import PRECISIONS
from ...merge.reading import open_checkpoint
from ...merge.recipe_json import to_json
from ...merge.safetensors_file import ENDINGS, read_header
from ...merge.text import to_text
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..pictures import keep_png, read_image
from ..schema import opt, schema
from .file_states import file_states
from .sums import CATEGORY

NONE = "none"
QUANTISES_ALONE = (
    "quantise_like decides itself how weights are stored: set precision to 'as it is' and ema to "
    "'drop', and switch convert_vae off."
)


def _checkpoint_input(id: str, tooltip: str) -> io.Input:
    return opt(io.Combo.Input, id, options=names.checkpoint_names(), tooltip=tooltip)


def _refusal(*checkpoints: str | None) -> bool | str:
    """Why one of these is not a valid checkpoint; True if all are. Linked inputs are None and are
    checked once they are known.
    """
    try:
        for checkpoint in checkpoints:
            if checkpoint is not None:
                read_header(names.checkpoint_path(checkpoint))
    except (MergeError, names.BadName) as error:
        return str(error)
    return True


def _states(*checkpoints: str | None) -> list[list[int]]:
    return file_states(names.checkpoint_path(name) for name in checkpoints if name is not None)


class CocktailInspectCheckpoint(io.ComfyNode):
    """What a checkpoint is, and a picture of its recipe."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailInspectCheckpoint",
            display_name="Inspect Checkpoint",
            category=CATEGORY,
            description="Shows what a checkpoint is: family, parts and their types, hashes, "
            "licence, and its merge recipe as a tree that goes back to the ingredients of its "
            "ingredients.",
            search_aliases=[
                "model info",
                "checkpoint info",
                "metadata",
                "model hash",
                "AutoV2",
                "AutoV3",
                "recipe tree",
                "lineage",
            ],
            is_output_node=True,
            inputs=[
                _checkpoint_input(
                    "checkpoint",
                    "The checkpoint, a .safetensors file. Its header is read and the file is "
                    "hashed.",
                )
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="Everything as text."),
                io.Image.Output(
                    "tree",
                    display_name="tree",
                    tooltip="The recipe's tree as a picture; a single line if the file has no "
                    "recipe.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        return _refusal(checkpoint)

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None) -> list[list[int]]:
        return _states(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        from ...merge.picture import draw_tree

        path = names.checkpoint_path(checkpoint)
        found = inspect_file(path, names.hashes_file(), Progress())
        branches = tree(found)
        content = "\n".join(["recipe tree", *tree_text(branches)])
        image = keep_png(draw_tree(branches), "charts", content)
        told = report(found)
        show_text(told.split("\n", 1)[0])
        result = {
            "checkpoint": checkpoint,
            "family": found.family,
            "sha256": found.hashes.sha256,
            "autov2": found.hashes.autov2,
            "autov3": found.hashes.autov3,
            "parts": {p.name: {"tensors": p.tensors, "dtypes": p.dtypes} for p in found.parts},
            "recipe": to_text(found.recipe) if found.recipe else None,
            "recipe_json": to_json(found.recipe) if found.recipe else None,
        }
        picture = read_image(names.cocktail_dir("charts", image["filename"]))
        return io.NodeOutput(
            told, picture, ui={"text": [told], "images": [image], "cocktail": [result]}
        )


class CocktailCompareCheckpoints(io.ComfyNode):
    """How much two checkpoints differ, block by block."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailCompareCheckpoints",
            display_name="Compare Checkpoints",
            category=CATEGORY,
            description="Draws how much B differs from A in every block: the norm of the "
            "difference in percent of A's norm. Both files are read piece by piece, with tens "
            "of megabytes of memory.",
            search_aliases=[
                "model diff",
                "difference",
                "ASimilarity",
                "cosine similarity",
                "compare models",
                "block difference",
            ],
            is_output_node=True,
            inputs=[
                _checkpoint_input("checkpoint_a", "Checkpoint A, a .safetensors file."),
                _checkpoint_input(
                    "checkpoint_b", "Checkpoint B, a .safetensors file of the same family."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "chart",
                    display_name="chart",
                    tooltip="A bar for each block, 1200 x 480 pixels.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Difference, cosine similarity, largest difference and number of "
                    "equal tensors of every block as text.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint_a: str | None, checkpoint_b: str | None) -> bool | str:
        return _refusal(checkpoint_a, checkpoint_b)

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint_a: str | None, checkpoint_b: str | None
    ) -> list[list[int]]:
        return _states(checkpoint_a, checkpoint_b)

    @classmethod
    def execute(cls, checkpoint_a: str, checkpoint_b: str) -> io.NodeOutput:
        from ...merge import comparison
        from ...merge.picture import draw_differences

        a, b = checkpoint_a, checkpoint_b
        headers = [open_checkpoint(names.checkpoint_path(name)) for name in (a, b)]
        found = comparison.compare(*headers, progress=Progress())
        told = comparison.report(found, a, b)
        image = keep_png(draw_differences(found.differences, a, b), "charts", told)
        show_text(told.split("\n", 1)[0])
        result = {
            "equal": found.is_equal,
            "blocks": {
                d.slot: {"relative": _finite(d.relative), "cosine": d.cosine, "largest": d.largest}
                for d in found.differences
            },
        }
        picture = read_image(names.cocktail_dir("charts", image["filename"]))
        return io.NodeOutput(
            picture, told, ui={"text": [told], "images": [image], "cocktail": [result]}
        )


def _finite(number: float) -> float | None:
    """JSON has no infinity: a block that is zero only in A has no relative difference."""
    return number if number != float("inf") else None


class CocktailPruneCheckpoint(io.ComfyNode):
    """A copy of a checkpoint in another precision and without leftovers of training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailPruneCheckpoint",
            display_name="Prune / Convert",
            category=CATEGORY,
            description="Writes a copy of a checkpoint in another precision, without averaged "
            "copies (EMA) and leftovers of training. The original is left alone, and no file is "
            "ever overwritten.",
            search_aliases=[
                "prune",
                "convert",
                "fp16",
                "bf16",
                "fp8",
                "ckpt to safetensors",
                "remove EMA",
                "shrink checkpoint",
            ],
            is_output_node=True,
            inputs=[
                _checkpoint_input(
                    "checkpoint",
                    "The checkpoint: a .safetensors file, or a .ckpt file with tensors and no "
                    "code.",
                ),
                opt(
                    io.String.Input,
                    "name",
                    default="",
                    placeholder="empty: named after the original",
                    tooltip="Name of the new checkpoint: cocktail/NAME.safetensors in the first "
                    "checkpoints folder. Up to 64 letters, digits, dots, hyphens and underscores. "
                    "Empty: the first 12 digits of the original's hash and the choices below.",
                ),
                opt(
                    io.Combo.Input,
                    "precision",
                    options=[KEEP, *PRECISIONS],
                    default="fp16",
                    tooltip="How UNet and text encoder are stored: fp16 and bf16 take 2 bytes per "
                    "number, fp32 takes 4, fp8 takes 1 in the UNet and 2 in the text encoder.",
                ),
                opt(
                    io.Combo.Input,
                    "ema",
                    options=list(EMA_CHOICES),
                    default="drop",
                    tooltip="What to do with averaged copies (model_ema.*): drop them, keep them, "
                    "or use them as the UNet's weights.",
                ),
                opt(
                    io.Boolean.Input,
                    "convert_vae",
                    default=False,
                    tooltip="On: the VAE is stored in this precision too (fp16 for fp8). Off: it "
                    "stays as it is, byte for byte.",
                ),
                opt(
                    io.Combo.Input,
                    "quantise_like",
                    options=[NONE, *names.checkpoint_names()],
                    default=NONE,
                    optional=True,
                    advanced=True,
                    tooltip="A quantised checkpoint: the weights that are quantised in it are "
                    "quantised in the same way (fp8, int8 and int4 with scales, MXFP8, NVFP4, NF4, "
                    "FP4). Set precision to 'as it is'. Best for a mix in fp32.",
                ),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "converted",
                    display_name="checkpoint",
                    tooltip="The new checkpoint's name. Link it to any checkpoint input.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        checkpoint: str | None,
        name: str | None,
        precision: str | None,
        ema: str | None,
        convert_vae: bool | None,
        quantise_like: str | None = NONE,
    ) -> bool | str:
        try:
            if name:
                names.check_name(name, "checkpoint")
            if quantise_like not in (None, NONE):
                if (precision or KEEP, ema or "drop", bool(convert_vae)) != (KEEP, "drop", False):
                    return QUANTISES_ALONE
                if (told := _refusal(quantise_like)) is not True:
                    return told
            if checkpoint is not None:
                names.checkpoint_path(checkpoint)
                if checkpoint.lower().endswith(ENDINGS):
                    return _refusal(checkpoint)
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint: str | None, quantise_like: str | None = NONE, **_: object
    ) -> list[list[int]]:
        return _states(checkpoint, None if quantise_like == NONE else quantise_like)

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        name: str,
        precision: str,
        ema: str,
        convert_vae: bool,
        quantise_like: str = NONE,
    ) -> io.NodeOutput:
        from ...merge.conversion import find_or_convert
        from ...merge.requantise import find_or_quantise_like

        path, folder = names.checkpoint_path(checkpoint), names.checkpoint_dir()
        hashes = names.hashes_file()
        if quantise_like != NONE:
            if (precision, ema, convert_vae) != (KEEP, "drop", False):
                raise MergeError(QUANTISES_ALONE)
            like = names.checkpoint_path(quantise_like)
            out, done = find_or_quantise_like(
                path, folder, name, like, checkpoint, hashes, Progress()
            )
        else:
            out, done = find_or_convert(
                path,
                folder,
                name,
                precision,
                ema,
                convert_vae,
                checkpoint,
                hashes,
                names.cocktail_dir("converted"),
                Progress(),
            )
        made = names.checkpoint_name(out)
        told = f"{made}: {done or 'already there'}"
        show_text(told)
        result = {"checkpoint": made, "made": done is not None}
        return io.NodeOutput(made, ui={"text": [told], "cocktail": [result]})


NODES: list[type[io.ComfyNode]] = [
    CocktailInspectCheckpoint,
    CocktailCompareCheckpoints,
    CocktailPruneCheckpoint,
]
