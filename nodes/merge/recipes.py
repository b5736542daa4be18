"""Recipes with a share for every block, recipes written as text, and recipes from merged
checkpoints.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from comfy_api.latest import io

from ...merge.blocks import LAYOUTS, BlockWeights, values_text
from ...merge.checkpoint import SAME_FILE, remake
from ...merge.errors import MergeError, nearest
from ...merge.hashing import file_sha256, known_files
from ...merge.metadata import read_recipe
from ...merge.presets import CUSTOM, OTHER_NAMES, PRESETS, read_weights
from ...merge.recipe import BlockSum, Ingredient, Recipe, add_difference, ingredients, renamed
from ...merge.recipe_json import load_json, recipe_hash
from ...merge.safetensors_file import ENDINGS, read_header
from ...merge.text import name_finder, parse, to_text
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema
from .file_states import file_states
from .presets import own_presets, preset_names, preset_problems
from .sums import CATEGORY


class CocktailBlockWeights(io.ComfyNode):
    """A mix of two recipes, or an added difference, with a share for every block of the UNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailBlockWeights",
            display_name="Block Weights",
            category=CATEGORY,
            description="Mixes B into A with a share of B for every block of the UNet: 25 numbers "
            "for SD1.5, 19 for SDXL, or a preset. With C connected: A + weights x (B - C).",
            search_aliases=[
                "MBW",
                "merge block weighted",
                "supermerger",
                "block merge",
                "layer weights",
                "ModelMergeBlocks",
            ],
            inputs=[
                types.Recipe.Input(
                    "a", tooltip="The recipe that B is mixed into. The VAE comes from A."
                ),
                types.Recipe.Input("b", tooltip="The recipe that has a share in every block."),
                opt(
                    io.Combo.Input,
                    "preset",
                    options=[CUSTOM, *preset_names()],
                    default=CUSTOM,
                    tooltip="custom: the numbers in weights. Otherwise one of the curves that "
                    "merging tools share (all but ALL_B keep the text encoder of A, BASE = 0), or "
                    "one of your own from Save Block Preset (press R to list new ones).",
                ),
                opt(
                    io.String.Input,
                    "weights",
                    default=", ".join(["0.5"] * 26),
                    multiline=True,
                    tooltip="Used with preset = custom. Shares of B, usually 0 to 1: 25 numbers "
                    "IN00..IN11, M00, OUT00..OUT11 for SD1.5 and SD2, 19 for SDXL; put one more "
                    "in front for BASE (the text encoder). Or the name of a preset, including "
                    "your own in output/cocktail/block_presets.txt.",
                ),
                opt(
                    io.String.Input,
                    "base",
                    default="",
                    placeholder="empty: as in the weights",
                    tooltip="Share of B in the text encoder (BASE), such as 0.5. Empty: the first "
                    "of 26 or 20 numbers, otherwise 0.",
                ),
                opt(
                    io.String.Input,
                    "time_embed",
                    default="",
                    placeholder="empty: as IN00",
                    tooltip="Share of B in the time embedding, which acts on all blocks; tools "
                    "disagree about the block it belongs to. Empty: the share of IN00, as in "
                    "merge-block-weighted and supermerger.",
                ),
                opt(
                    io.String.Input,
                    "rules",
                    default="",
                    multiline=True,
                    tooltip="Shares for parts of blocks, one rule per line: BLOCKS:ELEMENTS:SHARE, "
                    "such as OUT03-OUT06:attn2:0.5. An element is a part of a tensor's name, or "
                    "ATTENTION, FEED_FORWARD, CONVOLUTION, NORM. NOT in front of a field means "
                    "all others; the last rule that applies wins. Empty: none.",
                ),
                opt(
                    io.Combo.Input,
                    "layout",
                    options=list(LAYOUTS),
                    default="SD1.5",
                    tooltip="The kind of UNet a preset is for: SD1.5 (and SD2) has 25 blocks, "
                    "SDXL has 19. With numbers of your own, their count decides.",
                ),
                types.Recipe.Input(
                    "c",
                    optional=True,
                    tooltip="Optional. If connected, the difference B - C is added to A, with the "
                    "weights as multipliers.",
                ),
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe", display_name="recipe", tooltip="The mix, as a recipe."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        preset: str | None,
        weights: str | None,
        base: str | None,
        time_embed: str | None,
        rules: str | None,
        layout: str | None,
    ) -> bool | str:
        """Linked inputs are None here and are checked once they are known."""
        if None in (preset, weights, base, time_embed, rules, layout):
            return True
        try:
            cls._weights(preset, weights, base, time_embed, rules, layout)
        except MergeError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, preset: str | None, weights: str | None, **_: object) -> str:
        """Makes the node run again when your own preset is edited in its file."""
        chosen = weights if preset == CUSTOM else preset
        own = own_presets().get((chosen or "").strip())
        return values_text(own) if own else ""

    @classmethod
    def execute(
        cls,
        a: Recipe,
        b: Recipe,
        preset: str,
        weights: str,
        base: str,
        time_embed: str,
        rules: str,
        layout: str,
        c: Recipe | None = None,
    ) -> io.NodeOutput:
        found = cls._weights(preset, weights, base, time_embed, rules, layout)
        if c is not None:
            return io.NodeOutput(add_difference(a, b, c, found))
        return io.NodeOutput(BlockSum(a, b, found))

    @classmethod
    def _weights(cls, preset, weights, base, time_embed, rules, layout) -> BlockWeights:
        own = own_presets()
        if preset not in (CUSTOM, *PRESETS, *OTHER_NAMES, *own):
            raise MergeError(
                f"There is no preset {preset!r}, built in or in "
                f"output/cocktail/{names.block_presets_file().name}."
                f"{nearest(preset, [*PRESETS, *own])} "
                "Choose another one, or save it with Save Block Preset and press R."
                + "".join(f" {problem}" for problem in preset_problems())
            )
        chosen = weights if preset == CUSTOM else preset
        return read_weights(chosen, layout, base.strip(), time_embed.strip(), rules, own)


class CocktailRecipeFromText(io.ComfyNode):
    """A recipe written as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRecipeFromText",
            display_name="Recipe from Text",
            category=CATEGORY,
            description="Reads a recipe from text: 0.6 vodka + 0.2 epic + 0.2 dream, or base + "
            "0.5 (v3 - v1), or a recipe's JSON.",
            search_aliases=["merge expression", "formula", "recipe json", "paste recipe"],
            inputs=[
                opt(
                    io.String.Input,
                    "text",
                    default="",
                    multiline=True,
                    placeholder="0.6 vodka + 0.2 epic + 0.2 dream",
                    tooltip="A sum of shares (0.6, 60% or 3/5, adding up to 1 or 100) and "
                    "checkpoints, with differences in parentheses. Write the checkpoints' names "
                    "without folder and ending; put names with spaces in quotation marks.",
                )
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe", display_name="recipe", tooltip="The recipe that the text describes."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None) -> bool | str:
        if text is None:
            return True
        try:
            cls._recipe(text)
        except (MergeError, names.BadName) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, text: str | None) -> list[list[int]]:
        if text is None:
            return []
        return _states(*(ingredient.name for ingredient in ingredients(cls._recipe(text))))

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        recipe = cls._recipe(text)
        show_text(to_text(recipe))
        return io.NodeOutput(recipe)

    @classmethod
    def _recipe(cls, text: str) -> Recipe:
        if text.lstrip().startswith("{"):
            recipe = load_json(text)
        else:
            recipe = parse(text, name_finder([*names.checkpoint_names(), *names.vae_names()]))
        for ingredient in ingredients(recipe):
            names.ingredient_path(ingredient.name)
        return recipe


class CocktailRecipeFromFile(io.ComfyNode):
    """The recipe in a merged checkpoint's metadata."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRecipeFromFile",
            display_name="Recipe from File",
            category=CATEGORY,
            description="Reads the recipe in a merged checkpoint, so that you can make it again "
            "or build on it. Understands files from Cocktail, A1111's checkpoint merger and "
            "supermerger. The ingredients must be the same files as then.",
            search_aliases=[
                "merge recipe",
                "remake merge",
                "read metadata",
                "recipe from checkpoint",
            ],
            inputs=[
                opt(
                    io.Combo.Input,
                    "checkpoint",
                    options=names.checkpoint_names(),
                    tooltip="A checkpoint made by Merge to File, A1111's web UI or supermerger.",
                )
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe",
                    display_name="recipe",
                    tooltip="The recipe with the hashes of its ingredients: a different file "
                    "under an ingredient's name is refused.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        if checkpoint is None:
            return True
        try:
            read_recipe(read_header(names.checkpoint_path(checkpoint)))
        except (MergeError, names.BadName) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None) -> list[list[int]]:
        return _states(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        recipe = read_recipe(read_header(names.checkpoint_path(checkpoint)))
        recipe = renamed(recipe, _name_now)
        show_text(to_text(recipe))
        return io.NodeOutput(recipe)


class CocktailRemakeFromFile(io.ComfyNode):
    """A merged checkpoint made again from its own metadata, and compared with the original."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRemakeFromFile",
            display_name="Remake from File",
            category=CATEGORY,
            description="Makes a merged checkpoint again from its own metadata: its recipe, "
            "precision, title and licences. Reports whether the result is the same file, bit for "
            "bit. Renamed ingredients are found by their content.",
            search_aliases=[
                "reproduce merge",
                "rebuild checkpoint",
                "verify merge",
                "bit-identical",
                "provenance",
            ],
            is_output_node=True,
            inputs=[
                opt(
                    io.Combo.Input,
                    "checkpoint",
                    options=names.checkpoint_names(),
                    tooltip="A checkpoint made by Merge to File, A1111's web UI or supermerger.",
                ),
                opt(
                    io.String.Input,
                    "name",
                    default="",
                    placeholder="empty: named by the recipe's hash",
                    tooltip="Name of the new checkpoint: cocktail/NAME.safetensors in the first "
                    "checkpoints folder. Up to 64 letters, digits, dots, hyphens and underscores. "
                    "Empty: remade- and the first 12 digits of the recipe's hash.",
                ),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "remade",
                    display_name="checkpoint",
                    tooltip="The new checkpoint's name. Link it to any checkpoint input.",
                ),
                io.Boolean.Output(
                    "is_same_file",
                    display_name="same file",
                    tooltip="Whether the new file equals the original bit for bit, including the "
                    "metadata.",
                ),
                io.String.Output(
                    "verdict",
                    display_name="verdict",
                    tooltip="The same file, the same tensors with other metadata, or a different "
                    "result.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None, name: str | None) -> bool | str:
        try:
            if name:
                names.check_name(name, "merge")
            if checkpoint is not None:
                read_recipe(read_header(names.checkpoint_path(checkpoint)))
        except (MergeError, names.BadName) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, **_: object) -> list[list[int]]:
        return _states(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, name: str) -> io.NodeOutput:
        file, cache = names.checkpoint_path(checkpoint), names.hashes_file()
        recipe = read_recipe(read_header(file))
        others = [names.checkpoint_path(other) for other in names.checkpoint_names()]
        others = [path for path in others if path.suffix.lower() in ENDINGS and path != file]
        places = {i.name: _place_now(i, others, cache) for i in ingredients(recipe)}
        out = names.checkpoint_dir() / f"{name or 'remade-' + recipe_hash(recipe)[:12]}.safetensors"
        verdict = remake(
            file,
            out,
            places.__getitem__,
            others,
            cache,
            progress=Progress(),
            converted=names.cocktail_dir("converted"),
        )
        made = names.checkpoint_name(out)
        told = f"{made}: {verdict}"
        show_text(told)
        result = {"checkpoint": made, "verdict": verdict, "is_same_file": verdict == SAME_FILE}
        return io.NodeOutput(
            made, verdict == SAME_FILE, verdict, ui={"text": [told], "cocktail": [result]}
        )


def _place_now(ingredient: Ingredient, others: list[Path], cache: Path) -> Path:
    """The file with an ingredient's name, or else with its content. Raises BadName if there is
    none.
    """
    try:
        return names.ingredient_path(ingredient.name)
    except names.BadName:
        for path in others if ingredient.sha256 else ():
            if file_sha256(path, cache, Progress()) == ingredient.sha256:
                return path
        raise


def _name_now(ingredient: Ingredient) -> str:
    """The present name of an ingredient whose file was renamed or moved, if its hash is known."""
    try:
        names.ingredient_path(ingredient.name)
    except names.BadName:
        for path in known_files(names.hashes_file(), ingredient.sha256 or ""):
            with suppress(names.BadName):
                return names.checkpoint_name(path)
    return ingredient.name


def _states(*ingredients: str | None) -> list[list[int]]:
    return file_states(names.ingredient_path(name) for name in ingredients if name is not None)


NODES: list[type[io.ComfyNode]] = [
    CocktailBlockWeights,
    CocktailRecipeFromText,
    CocktailRecipeFromFile,
    CocktailRemakeFromFile,
]
