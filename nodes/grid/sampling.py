"""Rendering cells by calling ComfyUI's own nodes, so that a cell is the picture which those nodes make.

Every node is the one that ComfyUI has registered under the name used in the cell's workflow, called as its executor
calls it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import checkpoints, numerics
from .cell import CellSettings
from .encoding import TextEncoder
from .errors import GridError
from .plan import Cell

if TYPE_CHECKING:
    import numpy

LONGEST_REASON = 300


class ComfyRenderer:
    """Renders with one checkpoint in memory at a time. `contents` are the SHA-256 of the plan's checkpoints by name.

    `passes` counts the passes through text encoders of the checkpoints that have been unloaded.
    """

    def __init__(self, contents: Mapping[str, str]) -> None:
        import comfy.model_management

        self.interrupt = comfy.model_management.InterruptProcessingException
        self.contents = contents
        self.passes = 0
        self.loaded: LoadedCheckpoint | None = None

    def load(self, cell: Cell) -> None:
        """Load the checkpoint of a cell. Raises GridError if its file is not the one that was planned with."""
        import torch

        checkpoint = cell.settings.checkpoint
        self.unload()
        self._check_unchanged(checkpoint)
        with torch.inference_mode():
            self.loaded = LoadedCheckpoint(checkpoint)
        self._check_unchanged(checkpoint)

    def picture(self, cell: Cell, done: int, total: int) -> numpy.ndarray:
        import torch

        assert self.loaded is not None
        with torch.inference_mode(), _bar_of_all_cells(done, total):
            return self.loaded.picture(cell.settings)

    def numerics(self) -> dict[str, Any]:
        assert self.loaded is not None
        return numerics.describe(self.loaded.model, self.loaded.clip, self.loaded.vae)

    def reason(self, error: Exception, cell: Cell) -> str:
        return _reason(error, cell.settings.checkpoint)

    def free(self) -> None:
        """Let go of what nobody refers to any more."""
        import comfy.model_management

        gc.collect()
        comfy.model_management.cleanup_models()
        comfy.model_management.soft_empty_cache()

    def unload(self) -> None:
        if self.loaded is not None:
            self.passes += self.loaded.texts.layers.passes
        self.loaded = None
        self.free()

    def stop_if_interrupted(self) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()

    def _check_unchanged(self, checkpoint: str) -> None:
        if checkpoints.content_sha256(checkpoint) != self.contents[checkpoint]:
            raise GridError(
                f"{checkpoint} has been replaced by another file since the grid was planned. Queue again."
            )


class LoadedCheckpoint:
    """A checkpoint in memory, with the texts it has encoded."""

    def __init__(self, checkpoint: str) -> None:
        self.model, self.clip, self.vae = _call("CheckpointLoaderSimple", ckpt_name=checkpoint)
        self.texts = TextEncoder(self.clip, _call)

    def picture(self, cell: CellSettings) -> numpy.ndarray:
        """The pixels [height, width, 3] of a cell, as SaveImage would write them."""
        import numpy

        (empty,) = _call("EmptyLatentImage", width=cell.width, height=cell.height, batch_size=1)
        (samples,) = _call(
            "KSampler",
            model=self.model,
            seed=cell.seed,
            steps=cell.steps,
            cfg=cell.cfg,
            sampler_name=cell.sampler,
            scheduler=cell.scheduler,
            positive=self.texts.encode(cell.clip_skip, cell.prompt),
            negative=self.texts.encode(cell.clip_skip, cell.negative_prompt),
            latent_image=empty,
            denoise=1.0,
        )
        (images,) = _call("VAEDecode", samples=samples, vae=self.vae)
        scaled = 255.0 * images[0].cpu().numpy()
        return numpy.clip(scaled, 0, 255).astype(numpy.uint8)


def _call(kind: str, **inputs: Any) -> tuple[Any, ...]:
    """The outputs of one of ComfyUI's nodes. Newer ones wrap them in a NodeOutput."""
    from nodes import NODE_CLASS_MAPPINGS

    node = NODE_CLASS_MAPPINGS[kind]
    outputs = getattr(node(), node.FUNCTION)(**inputs)
    outputs = getattr(outputs, "result", outputs)
    return outputs[:3]


def _reason(error: Exception, checkpoint: str) -> str:
    """An error in one line that fits a tile, without the folders of this machine."""
    import folder_paths

    lines = str(error).strip().splitlines() or [type(error).__name__]
    path = folder_paths.get_full_path("checkpoints", checkpoint)
    text = lines[0].removeprefix("ERROR: ")
    if path:
        text = text.replace(path, checkpoint)
    return text[:LONGEST_REASON]


@contextmanager
def _bar_of_all_cells(done: int, total: int) -> Iterator[None]:
    """While a cell is sampled, its steps move the bar of the whole grid instead of one of their own."""
    import comfy.utils

    hook = comfy.utils.PROGRESS_BAR_HOOK

    def of_all(value: int, most: int, preview: Any, **keywords: Any) -> None:
        if hook is not None:
            hook(done * most + value, total * most, preview, **keywords)

    comfy.utils.set_progress_bar_global_hook(of_all)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
