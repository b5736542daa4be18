"""One pass through the text encoder for all clip skips.

A clip skip takes another layer of the same pass. What ComfyUI's own CLIPTextEncode returns is not
changed; only the layers that it would compute again for the next clip skip are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MOST_PASSES = 4
"""Passes whose layers are in memory, 2.8 MB each for 77 tokens."""


class Layers:
    """The outputs of every layer of a CLIP text encoder for its latest inputs.

    They belong to one set of weights: an encoder with a LoRA is another one.
    """

    def __init__(self) -> None:
        self.known: OrderedDict[tuple[Any, ...], tuple[Any, list[Any]]] = OrderedDict()
        self.passes = 0

    @contextmanager
    def remembered_in(self, clip: Any) -> Iterator[None]:
        """Within this context the encoder computes each input once, whichever layer is requested.

        An encoder that is built differently from ComfyUI's CLIP is left alone.
        """
        model = getattr(clip, "cond_stage_model", None)
        inner = getattr(model, getattr(model, "clip", ""), None)
        text_model = getattr(getattr(inner, "transformer", None), "text_model", None)
        encoder: Any = getattr(text_model, "encoder", None)
        if not hasattr(encoder, "layers"):
            yield
            return
        original = encoder.forward
        encoder.forward = self._remembering(original, encoder.layers)
        try:
            yield
        finally:
            del encoder.forward

    def _remembering(self, original: Callable[..., Any], layers: Any) -> Callable[..., Any]:
        def forward(
            x: Any, mask: Any = None, intermediate_output: Any = None, **others: Any
        ) -> Any:
            if others or not (intermediate_output is None or isinstance(intermediate_output, int)):
                return original(x, mask=mask, intermediate_output=intermediate_output, **others)
            key = (_content(x), _content(mask))
            if key not in self.known:
                outputs: list[Any] = []
                hooks = [
                    layer.register_forward_hook(lambda _m, _i, out: outputs.append(out.clone()))
                    for layer in layers
                ]
                try:
                    last, _ = original(x, mask=mask, intermediate_output=None)
                finally:
                    for hook in hooks:
                        hook.remove()
                self.passes += 1
                self.known[key] = (last, outputs)
                if len(self.known) > MOST_PASSES:
                    self.known.popitem(last=False)
            last, outputs = self.known[key]
            between = None if intermediate_output is None else outputs[intermediate_output].clone()
            return last.clone(), between

        return forward


def _content(tensor: Any) -> Any:
    """Something that is equal for equal tensors."""
    import hashlib

    import torch

    if tensor is None:
        return None
    data = tensor.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes()
    return (
        tuple(tensor.shape),
        str(tensor.dtype),
        str(tensor.device),
        hashlib.sha256(data).digest(),
    )
