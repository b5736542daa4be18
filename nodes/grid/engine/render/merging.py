"""MODEL, CLIP and VAE of recipes, one after another in the same memory, computing only what
changes.

The tensors are those of the file that Merge to File makes in fp16. The first recipe is loaded as
ComfyUI loads a checkpoint. For the next ones, changed weights of UNet and text encoder are copied
into the existing modules.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from .....merge.checkpoint import BoundRecipe, bind_to_files
from .....merge.errors import MergeError
from .....merge.recipe import bind
from ....host import names
from ....host.progress import Progress
from ..cell import mix
from ..errors import GridError

PRECISION = "fp16"
UNET, TEXT_ENCODER = "model.diffusion_model.", "cond_stage_model."
MOST_PLANNED = 32
_planned: OrderedDict[str, BoundRecipe] = OrderedDict()
"""The recipes that were bound last, by their JSON, so that Grid Plan and the rendering after it
plan each only once.
"""


def bound_to_files(recipe: str, contents: Mapping[str, str]) -> BoundRecipe:
    """A recipe (JSON) bound to its ingredients' files, which must have these contents, with its
    plan. Raises GridError if they do not match.
    """
    try:
        bound = bind_to_files(
            bind(mix.read(recipe), contents.__getitem__),
            names.ingredient_path,
            names.hashes_file(),
            converted=names.cocktail_dir("converted"),
        )
        kept = _planned.pop(recipe, bound)
        _planned[recipe] = bound = kept if kept == bound else bound
        while len(_planned) > MOST_PLANNED:
            _planned.popitem(last=False)
        bound.plan(PRECISION)
    except (MergeError, names.BadName) as error:
        raise GridError(str(error)) from None
    return bound


class MergedModels:
    """The models of the recipe that was loaded last. `merges` counts recipes, `renewed` the tensors
    that were computed for them.
    """

    def __init__(self) -> None:
        from .....merge.in_memory import MergeBuffer

        self.merges = 0
        self.renewed = 0
        self._memory = MergeBuffer()
        self._models: tuple[Any, Any, Any] | None = None
        self._shapes: dict[str, Any] = {}

    def load(self, recipe: str, contents: Mapping[str, str]) -> tuple[Any, Any, Any]:
        """MODEL, CLIP and VAE of a recipe (JSON), from ingredients with these contents. Objects
        from an earlier call change with it.

        Raises GridError for ingredients that do not match, or that are not those the grid was
        planned with.
        """
        import comfy.model_management

        try:
            bound = bound_to_files(recipe, contents)
            comfy.model_management.unload_all_models()
            merged = self._memory.merge(bound, PRECISION, progress=Progress())
            bound_to_files(recipe, contents)  # nothing was replaced while it was read
        except (MergeError, GridError) as error:
            self._models = None
            raise GridError(str(error)) from None
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in merged.tensors.items()}
        models, self._models = self._models, None
        if models is None or shapes != self._shapes or not _exchangeable(merged.changed):
            models = _load(merged)
        else:
            _exchange(models, merged)
        self.merges += 1
        self.renewed += len(merged.changed)
        self._models, self._shapes = models, shapes
        return models

    def forget(self) -> None:
        """Free the memory."""
        self._models = None
        self._memory.forget()


def _load(merged: Any) -> tuple[Any, Any, Any]:
    """Load them as CheckpointLoaderSimple does from a file."""
    import comfy.sd
    import folder_paths

    loaded = comfy.sd.load_state_dict_guess_config(
        dict(merged.tensors),
        output_vae=True,
        output_clip=True,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        metadata=dict(merged.metadata),
    )
    if loaded is None:
        raise GridError("ComfyUI could not detect the type of model that this recipe makes.")
    return loaded[:3]


def _exchangeable(changed: frozenset[str]) -> bool:
    """Whether only weights of UNet and text encoder have changed, and ComfyUI does not page weights
    itself.
    """
    memory = sys.modules.get("comfy.memory_management")
    paged = bool(getattr(memory, "aimdo_enabled", False))
    return not paged and all(name.startswith((UNET, TEXT_ENCODER)) for name in changed)


def _exchange(models: tuple[Any, Any, Any], merged: Any) -> None:
    """Copy the changed weights into the modules, through ComfyUI's own functions."""
    model, clip, _ = models

    def of(prefix: str) -> dict[str, Any]:
        if not any(name.startswith(prefix) for name in merged.changed):
            return {}
        return {name: tensor for name, tensor in merged.tensors.items() if name.startswith(prefix)}

    if unet := of(UNET):
        model.model.load_model_weights(unet, UNET)
    if text_encoder := of(TEXT_ENCODER):
        config = model.model.model_config
        clip.load_sd(config.process_clip_state_dict(text_encoder), full_model=True)
