"""Whether a file is a LoRA or one of its relatives, by the names of its tensors, and of which kind.

All of them hold factors, or changes of weights: none can be mixed as a checkpoint is.
"""

from __future__ import annotations

from collections.abc import Iterable

from .errors import MergeError
from .safetensors_file import Header

DOWN = ".lora_down.weight"
OWN = (DOWN, ".lora_up.weight", ".alpha")
"""The endings of a LoRA of up and down matrices in kohya's layout."""

OTHER_KINDS = {
    ".dora_scale": "DoRA (weights split into size and direction)",
    ".lora_magnitude_vector": "DoRA (weights split into size and direction)",
    ".lora_magnitude_vector.weight": "DoRA (weights split into size and direction)",
    ".hada_w1_a": "LoHa (Hadamard products)",
    ".lokr_w1": "LoKr (Kronecker products)",
    ".lokr_w1_a": "LoKr (Kronecker products)",
    ".lokr_w2": "LoKr (Kronecker products)",
    ".lokr_w2_a": "LoKr (Kronecker products)",
    ".lora_mid.weight": "LoCon with a middle matrix (CP decomposition)",
    ".oft_blocks": "OFT (rotations)",
    ".oft_diag": "OFT (rotations)",
    ".a1.weight": "GLoRA",
    ".on_input": "IA3 (scaled activations)",
    ".diff": "full differences",
    ".diff_b": "full differences",
    ".w_norm": "full differences",
    ".b_norm": "full differences",
    ".set_weight": "whole weights",
    ".reshape_weight": "LoRA for reshaped weights",
    ".lora_up.bias": "LoRA with biases",
    "_lora.up.weight": "LoRA in the layout of diffusers",
    ".lora.up.weight": "LoRA in the layout of diffusers",
    ".lora_linear_layer.up.weight": "LoRA in the layout of diffusers",
    ".lora_B.weight": "LoRA in the layout of PEFT",
    ".lora_B": "LoRA in the layout of mochi",
    ".lora_B.default.weight": "LoRA in the layout of PEFT",
}
"""By the endings of their names: what ComfyUI's LoraLoader reads or other tools write, other than a
LoRA of up and down matrices in kohya's layout.
"""
LAYERS = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_")
"""How the names of layers begin in kohya's layout and LyCORIS', whatever the layer holds."""


def is_lora(names: Iterable[str]) -> bool:
    """Whether these are the names of a LoRA of any kind."""
    return any(
        ".lora_down." in name
        or ".lora_A." in name
        or name.startswith(LAYERS)
        or name.endswith(tuple(OTHER_KINDS))
        for name in names
    )


def other_kinds(names: Iterable[str]) -> dict[str, str]:
    """The kinds of layers that are no pairs of up and down matrices, each with the name that shows
    it.
    """
    kinds: dict[str, str] = {}
    for name in names:
        ending = max((e for e in OTHER_KINDS if name.endswith(e)), key=len, default=None)
        if ending:
            kinds.setdefault(OTHER_KINDS[ending], name)
    return kinds


def check_kind(patch: Header, what: str = "baked") -> None:
    """Refuse a file with anything but pairs of up and down matrices, which would be ignored or
    added in the wrong way.
    """
    kinds = other_kinds(patch.tensors)
    if not kinds and not any(name.endswith(DOWN) for name in patch.tensors):
        unknown = next((name for name in patch.tensors if name.startswith(LAYERS)), None)
        kinds = {"an unknown kind of layer": unknown} if unknown else {}
    if kinds:
        told = "; ".join(f"{kind}, such as {name}" for kind, name in kinds.items())
        raise MergeError(
            f"{patch.path.name} cannot be {what}. It contains {told}. Only LoRA and LoCon files "
            f"with up and down matrices can be {what}: load this one with Load LoRA."
        )
