"""Rendering cells by calling ComfyUI's own nodes, so that a cell is the picture which those nodes make.

Every node is the one that ComfyUI has registered under the name used in the cell's workflow, called as its executor
calls it.
"""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .cell import CellSettings
from .errors import GridError
from .plan import Cell
from .store import Store
from .workflow import encode_png

if TYPE_CHECKING:
    import numpy

LONGEST_REASON = 300


@dataclass
class Outcome:
    """How many cells were rendered, and why the others failed."""

    rendered: int = 0
    reasons: list[str] = field(default_factory=list)


def render(cells: Sequence[Cell], store: Store, show: Callable[[str], None]) -> Outcome:
    """Render cells, which stand together by checkpoint, and save each at once.

    A cell that fails is recorded with its reason and the next one is tried; Interrupt ends everything and keeps what is
    saved. `show` is called with a line of text before every cell. Raises GridError when a picture cannot be saved.
    """
    import comfy.model_management
    import torch

    interrupt = comfy.model_management.InterruptProcessingException
    outcome = Outcome()

    def fail(cell: Cell, error: Exception) -> None:
        reason = _reason(error, cell.settings.checkpoint)
        store.save_failure(cell, reason)
        outcome.reasons.append(reason)

    done = 0
    with torch.inference_mode():
        for checkpoint, group in itertools.groupby(cells, lambda cell: cell.settings.checkpoint):
            alike = list(group)
            show(f"loading {checkpoint}")
            comfy.model_management.throw_exception_if_processing_interrupted()
            try:
                model = LoadedCheckpoint(checkpoint)
            except interrupt:
                raise
            except Exception as error:
                logging.warning("Cocktail: %s cannot be loaded", checkpoint, exc_info=True)
                for cell in alike:
                    fail(cell, error)
                done += len(alike)
                continue
            for cell in alike:
                show(f"cell {done + 1} of {len(cells)}, {checkpoint}")
                comfy.model_management.throw_exception_if_processing_interrupted()
                started = time.monotonic()
                pixels = None
                try:
                    with _bar_of_all_cells(done, len(cells)):
                        pixels = model.picture(cell.settings)
                except interrupt:
                    raise
                except Exception as error:
                    logging.warning("Cocktail: a cell of %s failed", checkpoint, exc_info=True)
                    fail(cell, error)
                if pixels is None:
                    _free_memory()
                else:
                    _save(store, cell, pixels, time.monotonic() - started)
                    outcome.rendered += 1
                done += 1
            del model
            _free_memory()
    return outcome


class LoadedCheckpoint:
    """A checkpoint in memory, with the texts it has encoded."""

    def __init__(self, checkpoint: str) -> None:
        self.model, self.clip, self.vae = _call("CheckpointLoaderSimple", ckpt_name=checkpoint)
        self.clips: dict[int, Any] = {}
        self.encoded: dict[tuple[int, str], Any] = {}

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
            positive=self.encode(cell.clip_skip, cell.prompt),
            negative=self.encode(cell.clip_skip, cell.negative_prompt),
            latent_image=empty,
            denoise=1.0,
        )
        (images,) = _call("VAEDecode", samples=samples, vae=self.vae)
        scaled = 255.0 * images[0].cpu().numpy()
        return numpy.clip(scaled, 0, 255).astype(numpy.uint8)

    def encode(self, clip_skip: int, text: str) -> Any:
        """The conditioning of a text, computed once."""
        if clip_skip not in self.clips:
            (self.clips[clip_skip],) = _call(
                "CLIPSetLastLayer", clip=self.clip, stop_at_clip_layer=-clip_skip
            )
        if (clip_skip, text) not in self.encoded:
            (self.encoded[clip_skip, text],) = _call(
                "CLIPTextEncode", clip=self.clips[clip_skip], text=text
            )
        return self.encoded[clip_skip, text]


def _call(kind: str, **inputs: Any) -> tuple[Any, ...]:
    """The outputs of one of ComfyUI's nodes. Newer ones wrap them in a NodeOutput."""
    from nodes import NODE_CLASS_MAPPINGS

    node = NODE_CLASS_MAPPINGS[kind]
    outputs = getattr(node(), node.FUNCTION)(**inputs)
    outputs = getattr(outputs, "result", outputs)
    return outputs[:3]


def _save(store: Store, cell: Cell, pixels: numpy.ndarray, seconds: float) -> None:
    from comfy.cli_args import args

    described = None if args.disable_metadata else cell.settings
    try:
        png = encode_png(pixels, described, f"cocktail/{store.folder.name}")
        store.save_cell(cell, png, seconds)
    except OSError as error:
        raise GridError(
            f"A cell cannot be saved in {store.folder}: {error.strerror}. Free space or change the folder's rights, and "
            "queue again: the cells that are there stay."
        ) from error


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


def _free_memory() -> None:
    """Let go of what nobody refers to any more: the checkpoint before the next one, or what a failed cell had taken."""
    import comfy.model_management

    gc.collect()
    comfy.model_management.cleanup_models()
    comfy.model_management.soft_empty_cache()
