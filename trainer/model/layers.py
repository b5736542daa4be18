"""Which weights learn, and which stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TrainerError
from ..settings.run_settings import RunSettings

if TYPE_CHECKING:
    import torch

Parameters = dict[str, "torch.nn.Parameter"]


class Weights:
    """The parameters of a part that learn, as a component of a resume point."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Raises TrainerError when the state is that of other layers."""
        import torch

        if state.keys() != self.parameters.keys():
            raise TrainerError(
                "The run's newest resume point was made while other layers were trained. "
                "Train under another name."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[name])


@contextlib.contextmanager
def put_back(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Whatever is done to these parameters meanwhile: afterwards they have their old bits."""
    import torch

    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def trained_parameters(
    unet: Any, text_encoder: Any, settings: RunSettings
) -> dict[str, Parameters]:
    """The parameters that learn, by part ("unet", "text_encoder") and name. All others are switched
    to need no gradient.

    Layers that clip skip leaves out of the forward pass do not learn. Raises TrainerError when a
    part that should learn has no layer left to train.
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
                f"All layers of the {part.replace('_', ' ')} are frozen. "
                "Freeze fewer of them, or do not train it."
            )
        for parameter in parameters.values():
            parameter.requires_grad_(True)
    return found


def _unet_learns(name: str, kind: str) -> bool:
    return kind == "all" or (".attentions." in name and (kind == "attention" or ".attn2." in name))


def _text_learns(name: str, layers: int, settings: RunSettings) -> bool:
    """Whether a parameter of a text encoder with this many layers learns."""
    chosen = settings.layers
    last = chosen.text_encoder_last_layers
    if name.startswith("embeddings."):
        return not chosen.freeze_embeddings and not last
    if name.startswith("final_layer_norm."):
        return not chosen.freeze_final_norm
    number = int(name.split(".")[2])
    used = layers - (settings.clip_skip - 1)
    return number < used and (not last or number >= used - last)
