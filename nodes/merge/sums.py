"""Mixing checkpoints: ingredients, weighted sums and differences are only data until
`CocktailMergeToFile` makes the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from comfy_api.latest import io

from ...merge.checkpoint import (
    BoundRecipe,
    bind_to_files,
    check_file,
    default_name,
    make_checkpoint,
    notes_of,
)
from ...merge.errors import MergeError, nearest
from ...merge.licence import Licence, parse_by_hand
from ...merge.plan import PRECISIONS
from ...merge.recipe import Ingredient, Parts, Recipe, add_difference, flatten, weighted_sum
from ...merge.text import to_text
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema
from .file_states import file_states

CATEGORY = "cocktail/merge"
SIDES = "abcdef"
LARGEST_SHARE = 1000.0
OWN_VAE = "as in the recipe"


class CocktailIngredient(io.ComfyNode):
    """A checkpoint as the simplest recipe."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailIngredient",
            display_name="Ingredient",
            category=CATEGORY,
            description="One checkpoint to mix with others. It is not loaded: only its file "
            "header is read.",
            search_aliases=["merge model", "checkpoint merger", "primary model", "model A"],
            inputs=[
                opt(
                    io.Combo.Input,
                    "checkpoint",
                    options=names.checkpoint_names(),
                    tooltip="The checkpoint: a .safetensors file, or a .ckpt file with tensors "
                    "and no code. You can also link a node that picks or makes one.",
                )
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe",
                    display_name="recipe",
                    tooltip="A recipe of just this checkpoint.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        if checkpoint is None:
            return True
        try:
            check_file(names.checkpoint_path(checkpoint))
        except (names.BadName, MergeError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None) -> list[list[int]]:
        return file_states([names.checkpoint_path(checkpoint)] if checkpoint else [])

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        check_file(names.checkpoint_path(checkpoint))
        return io.NodeOutput(Ingredient(checkpoint))


class CocktailWeightedSum(io.ComfyNode):
    """A mix of two to six recipes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailWeightedSum",
            display_name="Weighted Sum",
            category=CATEGORY,
            description="Mixes two to six recipes by their shares. 60, 20, 20 gives exactly 60 %, "
            "20 %, 20 %, in one step.",
            search_aliases=[
                "merge",
                "mix",
                "weighted average",
                "lerp",
                "A1111 weighted sum",
                "N-way merge",
            ],
            inputs=[
                *(_recipe_input(side, optional=False) for side in SIDES[:2]),
                *(_share_input(side, optional=False) for side in SIDES[:2]),
                *(_recipe_input(side, optional=True) for side in SIDES[2:]),
                *(_share_input(side, optional=True) for side in SIDES[2:]),
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
        share_of_a: float | None,
        share_of_b: float | None,
        share_of_c: float | None = 0.0,
        share_of_d: float | None = 0.0,
        share_of_e: float | None = 0.0,
        share_of_f: float | None = 0.0,
    ) -> bool | str:
        """Linked shares are None here and are checked once they are known."""
        shares = (share_of_a, share_of_b, share_of_c, share_of_d, share_of_e, share_of_f)
        known = [share for share in shares if share is not None]
        if any(not 0 <= share <= LARGEST_SHARE for share in known):
            return f"Shares must be from 0 to {LARGEST_SHARE:.0f}."
        if len(known) == len(shares) and not any(known):
            return "All shares are 0. Give at least one recipe a share above 0."
        return True

    @classmethod
    def execute(
        cls,
        a: Recipe,
        b: Recipe,
        share_of_a: float,
        share_of_b: float,
        c: Recipe | None = None,
        d: Recipe | None = None,
        e: Recipe | None = None,
        f: Recipe | None = None,
        share_of_c: float = 50.0,
        share_of_d: float = 50.0,
        share_of_e: float = 50.0,
        share_of_f: float = 50.0,
    ) -> io.NodeOutput:
        recipes = (a, b, c, d, e, f)
        shares = (share_of_a, share_of_b, share_of_c, share_of_d, share_of_e, share_of_f)
        connected = [pair for pair in zip(recipes, shares, strict=True) if pair[0] is not None]
        return io.NodeOutput(weighted_sum(connected))


class CocktailAddDifference(io.ComfyNode):
    """a + multiplier x (b - c)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAddDifference",
            display_name="Add Difference",
            category=CATEGORY,
            description="Adds to A what B has learned since C: A + multiplier x (B - C).",
            search_aliases=["merge", "A1111 add difference", "transfer fine-tune", "task vector"],
            inputs=[
                types.Recipe.Input("a", tooltip="The recipe to change."),
                types.Recipe.Input("b", tooltip="The recipe that has learned what to add."),
                types.Recipe.Input(
                    "c", tooltip="The recipe that B started from; it is subtracted from B."
                ),
                opt(
                    io.Float.Input,
                    "multiplier",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How much of the difference B - C is added to A: 0 = nothing, 1 = "
                    "all, 0.5 = half. From -10 to 10: below 0 subtracts it, above 1 exaggerates "
                    "it.",
                ),
            ],
            outputs=[
                types.Recipe.Output(
                    "recipe",
                    display_name="recipe",
                    tooltip="A plus the difference, as a recipe.",
                )
            ],
        )

    @classmethod
    def execute(cls, a: Recipe, b: Recipe, c: Recipe, multiplier: float) -> io.NodeOutput:
        return io.NodeOutput(add_difference(a, b, c, multiplier))


class CocktailMergeToFile(io.ComfyNode):
    """The checkpoint file that a recipe makes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailMergeToFile",
            display_name="Merge to File",
            category=CATEGORY,
            description="Makes the checkpoint of a recipe in one pass, with a few tens of "
            "megabytes of memory for sums. A recipe that has been made already is not made again, "
            "and no file is ever overwritten.",
            search_aliases=["save merge", "checkpoint merger", "save checkpoint", "bake"],
            is_output_node=True,
            inputs=[
                types.Recipe.Input("recipe", tooltip="What to mix."),
                opt(
                    io.String.Input,
                    "name",
                    default="",
                    placeholder="empty: named by the recipe's hash",
                    tooltip="Name of the new checkpoint: cocktail/NAME.safetensors in the first "
                    "checkpoints folder. Up to 64 letters, digits, dots, hyphens and underscores. "
                    "Empty: merge- and the first 12 digits of the recipe's hash.",
                ),
                *how_inputs(),
                opt(
                    io.String.Input,
                    "licences",
                    optional=True,
                    default="",
                    multiline=True,
                    placeholder="vodka: cc-by-4.0",
                    tooltip="Licences that no file states, one per line: NAME: LICENCE. The others "
                    "are read from the ingredients' metadata and from files beside them "
                    "(NAME.license.json, NAME.civitai.info). All are recorded in the result, and "
                    "you are warned about licences that do not go together.",
                ),
                allowance(),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "checkpoint",
                    display_name="checkpoint",
                    tooltip="The new checkpoint's name. Link it to any checkpoint input, "
                    "including that of Load Checkpoint.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, name: str | None, vae: str | None = None, licences: str | None = ""
    ) -> bool | str:
        try:
            parse_by_hand(licences or "")
            check_vae(vae)
            if name:
                names.check_name(name, "merge")
        except (names.BadName, MergeError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        recipe: Recipe,
        name: str,
        precision: str,
        vae: str = OWN_VAE,
        vae_of: Recipe | None = None,
        text_encoder_of: Recipe | None = None,
        licences: str = "",
        allow_mixed_prediction: bool = False,
    ) -> io.NodeOutput:
        if name:
            names.check_name(name, "merge")
        whole = with_parts(recipe, vae, vae_of, text_encoder_of)
        bound = bind(whole, parse_by_hand(licences), allow_mixed_prediction)
        file_name = f"{name or default_name(bound, precision)}.safetensors"
        path = names.checkpoint_dir() / file_name
        made = make_checkpoint(bound, path, precision, progress=Progress())
        checkpoint = names.checkpoint_name(path)
        text = to_text(bound.recipe)
        result = {
            "checkpoint": checkpoint,
            "recipe": text,
            "shares": shares_of(bound),
            "recipe_hash": bound.hash,
            "precision": precision,
            "notes": list(notes_of(bound, precision)),
        }
        told = f"{checkpoint} = {text} ({'made' if made else 'already there'})"
        shown = "\n".join([told, *result["notes"]])
        show_text(shown)
        return io.NodeOutput(checkpoint, ui={"text": [shown], "cocktail": [result]})


def how_inputs() -> list[io.Input]:
    """The inputs for making a recipe: precision, and the source of the VAE and the text encoder."""
    return [
        opt(
            io.Combo.Input,
            "precision",
            options=list(PRECISIONS),
            default="fp16",
            tooltip="How UNet and text encoder are stored. fp16: 2 bytes per number, what most "
            "tools expect. bf16: 2 bytes, less precise but with a wider range. fp32: 4 bytes. "
            "fp8: 1 byte in the UNet, 2 in the text encoder. The VAE keeps its own precision.",
        ),
        opt(
            io.Combo.Input,
            "vae",
            optional=True,
            options=[OWN_VAE, *names.vae_names()],
            default=OWN_VAE,
            tooltip="A VAE file to put into the checkpoint unchanged. as in the recipe: the VAE "
            "of the first ingredient that has one.",
        ),
        types.Recipe.Input(
            "vae_of",
            optional=True,
            tooltip="Optional. Takes the VAE from this recipe: unchanged from an ingredient, "
            "mixed by the shares of a mix. Cannot be combined with a VAE file.",
        ),
        types.Recipe.Input(
            "text_encoder_of",
            optional=True,
            tooltip="Optional. Mixes the text encoder by this recipe, with its own shares, "
            "instead of by the first one.",
        ),
    ]


def allowance() -> io.Input:
    """The switch that mixes models of which some predict the noise and others v."""
    return io.Boolean.Input(
        "allow_mixed_prediction",
        default=False,
        optional=True,
        label_on="allow",
        label_off="refuse",
        tooltip="Models that predict the noise cannot be mixed with models that predict v: the "
        "result would predict neither, so such a recipe is refused. Allow it if a file is wrong "
        "about itself, or to experiment.",
    )


def check_vae(vae: str | None) -> None:
    """Raise MergeError or BadName unless this is a choice of the vae input. A linked one is None
    and is checked once it is known.
    """
    if vae in (None, OWN_VAE):
        return
    if vae not in names.vae_names():
        raise MergeError(
            f"There is no VAE file {vae!r} in ComfyUI's vae "
            f"folders.{nearest(vae, names.vae_names())} Put it there and press R."
        )
    check_file(names.ingredient_path(vae))


def with_parts(
    recipe: Recipe, vae: str, vae_of: Recipe | None, text_encoder_of: Recipe | None
) -> Recipe:
    """The recipe with the chosen VAE and text encoder."""
    if vae != OWN_VAE:
        if vae_of is not None:
            raise MergeError("Choose either a VAE file or vae_of, not both.")
        vae_of = Ingredient(vae)
    if vae_of is None and text_encoder_of is None:
        return recipe
    return Parts(recipe, text_encoder_of, vae_of)


def bind(
    recipe: Recipe,
    licences: Mapping[str, Licence] | None = None,
    is_mixed_prediction_allowed: bool = False,
) -> BoundRecipe:
    """The recipe with its ingredients found in ComfyUI's folders and hashed. Raises MergeError or
    BadName.
    """
    bound = bind_to_files(
        recipe,
        names.ingredient_path,
        names.hashes_file(),
        Progress(),
        names.cocktail_dir("converted"),
        licences,
    )
    return replace(bound, is_mixed_prediction_allowed=is_mixed_prediction_allowed)


def shares_of(bound: BoundRecipe) -> dict[str, float]:
    """The share of each ingredient outside the UNet, and of each method with its operands."""
    return {
        atom.name if isinstance(atom, Ingredient) else to_text(atom): float(weight)
        for atom, weight in flatten(bound.recipe)
    }


def _recipe_input(side: str, optional: bool) -> io.Input:
    note = " Optional." if optional else ""
    return types.Recipe.Input(
        side,
        optional=optional,
        tooltip=f"Recipe {side.upper()}: an ingredient or another mix.{note}"
        + (" The VAE comes from the first ingredient of A." if side == "a" else ""),
    )


def _share_input(side: str, optional: bool) -> io.Input:
    label = side.upper()
    note = f" Ignored while {label} is not connected." if optional else ""
    return opt(
        io.Float.Input,
        f"share_of_{side}",
        optional=optional,
        default=50.0,
        min=0.0,
        max=LARGEST_SHARE,
        step=1.0,
        round=0.001,
        tooltip=f"Share of {label} in the mix, from 0 to 1000. Shares are divided by their total, "
        f"so 60, 20, 20 and 0.6, 0.2, 0.2 mean the same.{note}",
    )


NODES: list[type[io.ComfyNode]] = [
    CocktailIngredient,
    CocktailWeightedSum,
    CocktailAddDifference,
    CocktailMergeToFile,
]
