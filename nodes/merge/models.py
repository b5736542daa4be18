"""MODEL, CLIP and VAE of a recipe, without a file.

`models_of(bind(recipe), precision)` gives what Load Checkpoint gives for the file of that recipe:
the same tensors go through the same function of ComfyUI (`comfy.sd.load_state_dict_guess_config`)
with the same metadata, so every picture is the same, pixel for pixel.

No later merge changes the models that are handed out. The tensors are made in one buffer
(`merge.in_memory.MergeBuffer`). ComfyUI copies them into its own modules, so the next merge uses
the buffer again and computes only the tensors that have changed; if a version of ComfyUI keeps a
tensor instead, the buffer stays with that model and the next merge takes a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...merge.errors import MergeError
from ...merge.in_memory import MergeBuffer
from ...merge.recipe import Recipe
from ...merge.text import to_text
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import schema
from .sums import CATEGORY, OWN_VAE, allowance, bind, check_vae, how_inputs, shares_of, with_parts

if TYPE_CHECKING:
    from ...merge.checkpoint import BoundRecipe

_memory = MergeBuffer()


def models_of(
    bound: BoundRecipe, precision: str = "fp16", memory: MergeBuffer = _memory
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """MODEL, CLIP and VAE of a recipe, and a report for the page: `changed` of `tensors` were
    computed, and `notes`.

    CLIP is None if no ingredient has a text encoder. Raises MergeError if the ingredients do not
    fit together or ComfyUI does not recognise the result.
    """
    import comfy.model_management
    import comfy.sd
    import folder_paths
    import torch

    merged = memory.merge(bound, precision, progress=Progress())
    report = {
        "changed": len(merged.changed),
        "tensors": len(merged.tensors),
        "notes": list(merged.notes),
    }
    found = comfy.sd.load_state_dict_guess_config(
        dict(merged.tensors),
        output_vae=True,
        output_clip=True,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        metadata=dict(merged.metadata),
    )
    del merged
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if free < 2 * memory.size_bytes:
        memory.forget()
    if found is None:
        raise MergeError(
            f"ComfyUI does not recognise what kind of model {to_text(bound.recipe)} is. "
            "Mix full checkpoints."
        )
    return (*found[:3], report)


class CocktailMergeToModel(io.ComfyNode):
    """The models of a recipe, without a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailMergeToModel",
            display_name="Merge to Model",
            category=CATEGORY,
            description="Makes MODEL, CLIP and VAE of a recipe in memory, so that you can try a "
            "mix before saving it: the pictures are the same as with the file. When you change a "
            "share, only the blocks it affects are computed again.",
            search_aliases=[
                "merge models",
                "live merge",
                "merge without saving",
                "ModelMergeSimple",
                "temporary merge",
            ],
            inputs=[
                types.Recipe.Input("recipe", tooltip="What to mix."),
                *how_inputs(),
                allowance(),
            ],
            outputs=[
                io.Model.Output(
                    "model", display_name="model", tooltip="The UNet, as Load Checkpoint gives it."
                ),
                io.Clip.Output("clip", display_name="clip", tooltip="The text encoder."),
                io.Vae.Output(
                    "vae_made",
                    display_name="vae",
                    tooltip="The VAE of the first ingredient that has one, unless you choose "
                    "another.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, vae: str | None = None) -> bool | str:
        try:
            check_vae(vae)
        except (names.BadName, MergeError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        recipe: Recipe,
        precision: str,
        vae: str = OWN_VAE,
        vae_of: Recipe | None = None,
        text_encoder_of: Recipe | None = None,
        allow_mixed_prediction: bool = False,
    ) -> io.NodeOutput:
        whole = with_parts(recipe, vae, vae_of, text_encoder_of)
        bound = bind(whole, is_mixed_prediction_allowed=allow_mixed_prediction)
        model, clip, made_vae, report = models_of(bound, precision)
        text = to_text(bound.recipe)
        changed = f"{report['changed']} of {report['tensors']} tensors computed"
        shown = "\n".join([f"{text} ({changed})", *report["notes"]])
        show_text(shown)
        result = {
            "recipe": text,
            "shares": shares_of(bound),
            "recipe_hash": bound.hash,
            "precision": precision,
            **report,
        }
        return io.NodeOutput(model, clip, made_vae, ui={"text": [shown], "cocktail": [result]})


NODES: list[type[io.ComfyNode]] = [CocktailMergeToModel]
