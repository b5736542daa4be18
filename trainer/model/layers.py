"""Which weights learn, and which are left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import TrainerError
from ..settings.run_settings import RunSettings

if TYPE_CHECKING:
    import torch

Parameters = dict[str, "torch.nn.Parameter"]


def trained_parameters(
    unet: Any, text_encoder: Any, settings: RunSettings
) -> dict[str, Parameters]:
    """The parameters that learn, by part ("unet", "text_encoder") and name; the others need no
    gradient afterwards.

    What clip skip leaves out of the forward pass does not learn. Raises TrainerError when a part
    that should learn has nothing left to.
    """
    unet.requires_grad_(False)
    text_encoder.requires_grad_(False)
    found: dict[str, Parameters] = {}
    if settings.layers.train_unet:
        kind = settings.layers.unet_layers
        found["unet"] = {n: p for n, p in unet.named_parameters() if _unet_learns(n, kind)}
    if settings.train_text_encoder:
        layers = len(getattr(text_encoder, "text_model", text_encoder).encoder.layers)
        found["text_encoder"] = {
            name: parameter
            for name, parameter in text_encoder.named_parameters()
            if _text_learns(name.removeprefix("text_model."), layers, settings)
        }
    for part, parameters in found.items():
        if not parameters:
            raise TrainerError(
                f"Nothing of the {part.replace('_', ' ')} is left to learn. Freeze fewer of its layers, or switch it off."
            )
        for parameter in parameters.values():
            parameter.requires_grad_(True)
    return found


def _unet_learns(name: str, kind: str) -> bool:
    return kind == "all" or (".attentions." in name and (kind == "attention" or ".attn2." in name))


def _text_learns(name: str, layers: int, settings: RunSettings) -> bool:
    """Whether a parameter of a text encoder of so many layers learns."""
    chosen = settings.layers
    last = chosen.text_encoder_last_layers
    if name.startswith("embeddings."):
        return not chosen.freeze_embeddings and not last
    if name.startswith("final_layer_norm."):
        return not chosen.freeze_final_norm
    number = int(name.split(".")[2])
    used = layers - (settings.clip_skip - 1)
    return number < used and (not last or number >= used - last)
