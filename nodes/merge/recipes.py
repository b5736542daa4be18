"""Recipes with a share for every block, recipes written as text, and recipes read from merged
checkpoints.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from comfy_api.latest import io

from ...merge.blocks import LAYOUTS, BlockWeights, values_text
from ...merge.checkpoint import SAME_FILE, remake
from ...merge.errors import MergeError
from ...merge.hashing import file_sha256, known_files
from ...merge.metadata import read_recipe
from ...merge.presets import CUSTOM, OTHER_NAMES, PRESETS, read_weights
from ...merge.recipe import BlockSum, Ingredient, Recipe, add_difference, ingredients, renamed
from ...merge.recipe_json import load_json, recipe_hash
from ...merge.safetensors_file import read_header
from ...merge.text import name_finder, parse, to_text
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema
from .presets import own_presets, preset_names
from .sums import CATEGORY


class CocktailBlockWeights(io.ComfyNode):
    """A mix of two recipes, or a difference added, with a share for every block of the UNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailBlockWeights",
            display_name="Block Weights",
            category=CATEGORY,
            description="Mixes B into A with a share of B for every block of the UNet: 25 numbers for SD1.5, 19 for SDXL, or a preset. "
            "With C connected: A + weights x (B - C).",
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
                    "a", tooltip="The recipe that B is mixed into. The VAE is that of A."
                ),
                types.Recipe.Input("b", tooltip="The recipe whose share is given for every block."),
                opt(
                    io.Combo.Input,
                    "preset",
                    options=[CUSTOM, *preset_names()],
                    default=CUSTOM,
                    tooltip="custom: the numbers in weights. Otherwise one of the field's named curves, of which all but ALL_B keep the text "
                    "encoder of A (BASE = 0), or one of your own that Save Block Preset has kept (press R to list new ones).",
                ),
                opt(
                    io.String.Input,
                    "weights",
                    default=", ".join(["0.5"] * 26),
                    multiline=True,
                    tooltip="Used with preset = custom. Shares of B, usually 0 to 1: 25 numbers IN00..IN11, M00, OUT00..OUT11 for SD1.5 and "
                    "SD2, 19 for SDXL, with one more in front for BASE (the text encoder). Or the name of a preset, also of one of "
                    "your own in output/cocktail/block_presets.txt.",
                ),
                opt(
                    io.String.Input,
                    "base",
                    default="",
                    placeholder="empty: as in the weights",
                    tooltip="Share of B in the text encoder (BASE), such as 0.5. Empty: the first of 26 or 20 numbers, otherwise 0.",
                ),
                opt(
                    io.String.Input,
                    "time_embed",
                    default="",
                    placeholder="empty: as IN00",
                    tooltip="Share of B in the time embedding, which acts on all blocks and which tools put into different ones. Empty: "
                    "that of IN00, as merge-block-weighted and supermerger do.",
                ),
                opt(
                    io.String.Input,
                    "rules",
                    default="",
                    multiline=True,
                    tooltip="Shares for parts of blocks, one rule a line: BLOCKS:ELEMENTS:SHARE, such as OUT03-OUT06:attn2:0.5. An element is a "
                    "part of a tensor's name, or ATTENTION, FEED_FORWARD, CONVOLUTION, NORM. NOT in front turns a field round; later "
                    "rules win. Empty: none.",
                ),
                opt(
                    io.Combo.Input,
                    "layout",
                    options=list(LAYOUTS),
                    default="SD1.5",
                    tooltip="For which UNet a preset is drawn: SD1.5 (also SD2) has 25 blocks, SDXL 19. Numbers tell by how many they are.",
                ),
                types.Recipe.Input(
                    "c",
                    optional=True,
                    tooltip="Optional. Connected, the difference B - C is added to A with the weights as multipliers.",
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
        """Linked inputs are None here; they are checked when they are known."""
        if None in (preset, weights, base, time_embed, rules, layout):
            return True
        try:
            cls._weights(preset, weights, base, time_embed, rules, layout)
        except MergeError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, preset: str | None, weights: str | None, **_: object) -> str:
        """A preset of one's own that has been edited in its file is another one."""
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
                f"There is no preset {preset!r}, neither of the field nor of your own: it is not in output/cocktail/{names.block_presets_file().name}. "
                "Choose another one, or save it with Save Block Preset and press R."
            )
        chosen = weights if preset == CUSTOM else preset
        return read_weights(chosen, layout, base.strip(), time_embed.strip(), rules, own)


class CocktailRecipeFromText(io.ComfyNode):
    """A recipe as a person writes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRecipeFromText",
            display_name="Recipe from Text",
            category=CATEGORY,
            description="Reads a recipe that is written down: 0.6 vodka + 0.2 epic + 0.2 dream, or base + 0.5 (v3 - v1), or a recipe's JSON.",
            search_aliases=["merge expression", "formula", "recipe json", "paste recipe"],
            inputs=[
                opt(
                    io.String.Input,
                    "text",
                    default="",
                    multiline=True,
                    placeholder="0.6 vodka + 0.2 epic + 0.2 dream",
                    tooltip="Shares (0.6, 60% or 3/5, adding up to 1 or 100) and checkpoints, added up; differences in parentheses. Checkpoints go "
                    "by their names without folder and ending; names with blanks stand in quotation marks.",
                )
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe", display_name="recipe", tooltip="The recipe that the text means."
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
        """A file that was replaced under the same name is another ingredient."""
        return _file_states(cls._recipe(text)) if text is not None else []

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
            description="Reads the recipe that a merged checkpoint carries, to make it again or to go on from it: one of Cocktail, of A1111's "
            "checkpoint merger or of supermerger. Its ingredients must be the same files as then.",
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
                    tooltip="A checkpoint that Merge to File, A1111's web UI or supermerger has made.",
                )
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe",
                    display_name="recipe",
                    tooltip="The recipe, its ingredients bound to their content: another file under an ingredient's name is refused.",
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
    def fingerprint_inputs(cls, checkpoint: str | None) -> list[int]:
        return _file_state(checkpoint) if checkpoint is not None else []

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        recipe = read_recipe(read_header(names.checkpoint_path(checkpoint)))
        recipe = renamed(recipe, _name_now)
        show_text(to_text(recipe))
        return io.NodeOutput(recipe)


class CocktailRemakeFromFile(io.ComfyNode):
    """A merged checkpoint made again from its own metadata, and compared with it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRemakeFromFile",
            display_name="Remake from File",
            category=CATEGORY,
            description="Makes a merged checkpoint again from its own metadata: its recipe, precision, title and licences. Says whether the result is the "
            "same file, bit for bit. Ingredients that were renamed are found by their content.",
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
                    tooltip="A checkpoint that Merge to File, A1111's web UI or supermerger has made.",
                ),
                opt(
                    io.String.Input,
                    "name",
                    default="",
                    placeholder="empty: named by the recipe's hash",
                    tooltip="Name of the new checkpoint: cocktail/NAME.safetensors in the first checkpoints folder. Up to 64 letters, digits, dots, "
                    "hyphens and underscores. Empty: remade- and the first 12 digits of the recipe's hash.",
                ),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "remade",
                    display_name="checkpoint",
                    tooltip="The new checkpoint's name; link it to any checkpoint input.",
                ),
                io.Boolean.Output(
                    "is_same_file",
                    display_name="same file",
                    tooltip="Whether it equals the original bit for bit, metadata included.",
                ),
                io.String.Output(
                    "verdict",
                    display_name="verdict",
                    tooltip="the same file, the same tensors with other metadata, or another result.",
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
    def fingerprint_inputs(cls, checkpoint: str | None, **_: object) -> list[int]:
        return _file_state(checkpoint) if checkpoint is not None else []

    @classmethod
    def execute(cls, checkpoint: str, name: str) -> io.NodeOutput:
        file, cache = names.checkpoint_path(checkpoint), names.cocktail_dir("hashes.json")
        recipe = read_recipe(read_header(file))
        others = [names.checkpoint_path(other) for other in names.checkpoint_names()]
        others = [path for path in others if path.suffix == ".safetensors" and path != file]
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
    """The file of an ingredient's name, else that of its content. Raises BadName when it is
    nowhere.
    """
    try:
        return names.ingredient_path(ingredient.name)
    except names.BadName:
        for path in others if ingredient.sha256 else ():
            if file_sha256(path, cache, Progress()) == ingredient.sha256:
                return path
        raise


def _name_now(ingredient: Ingredient) -> str:
    """The name of an ingredient's file now, where it has been renamed or moved since and its
    content is known already.
    """
    try:
        names.ingredient_path(ingredient.name)
    except names.BadName:
        for path in known_files(names.cocktail_dir("hashes.json"), ingredient.sha256 or ""):
            with suppress(names.BadName):
                return names.checkpoint_name(path)
    return ingredient.name


def _file_states(recipe: Recipe) -> list[list[int]]:
    return [_file_state(ingredient.name) for ingredient in ingredients(recipe)]


def _file_state(checkpoint: str) -> list[int]:
    status = names.ingredient_path(checkpoint).stat()
    return [status.st_size, status.st_mtime_ns]


NODES: list[type[io.ComfyNode]] = [
    CocktailBlockWeights,
    CocktailRecipeFromText,
    CocktailRecipeFromFile,
    CocktailRemakeFromFile,
]
