"""Rendering cells by calling ComfyUI's own nodes, so that a cell is the picture they make.

Each node is the one that ComfyUI has registered under the name in the cell's workflow, and is
called as ComfyUI's executor calls it.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .....trainer.files import canonical_json, sha256_text
from ....host import numerics
from ..cell import files
from ..cell.graph import Link, Node
from ..cell.stock import MERGE_KIND, MODEL, PICTURE, RECIPE, SAMPLER, StockCell, graph_of, stock
from ..errors import GridError
from ..plan.plan import Cell
from . import batching
from .encoding import Layers
from .merging import MergedModels

if TYPE_CHECKING:
    import numpy

LONGEST_REASON = 300

KEPT = {
    "CheckpointLoaderSimple": 1,
    MERGE_KIND: 1,
    "LoraLoader": 4,
    "CLIPSetLastLayer": 12,
    "CLIPTextEncode": 256,
    "VAELoader": 4,
    "LoadImage": 4,
    "ImageScale": 8,
    "VAEEncode": 8,
    "KSampler": 1,
}
"""How many results of each kind of node stay in memory. 77 encoded tokens of SD1.5 are 0.24 MB, a
VAE is 330 MB.
"""

APART = ("VAELoader", "LoadImage", "ImageScale")
"""Kinds of nodes whose results do not depend on the checkpoint."""

LOADERS = {
    "CheckpointLoaderSimple": ("checkpoint", "ckpt_name"),
    "LoraLoader": ("lora", "lora_name"),
    "VAELoader": ("vae", "vae_name"),
    "LoadImage": ("image", "image"),
}
"""The kind of file that a node loads, and the widget that names it."""

SPENT = {"CLIPTextEncode": "encode_s", "KSampler": "sample_s", "VAEDecode": "decode_s"}


class ComfyRenderer:
    """Calls the nodes of a cell's graph, and keeps those outputs that the next cells need too.

    One checkpoint is in memory at a time. `contents` are the SHA-256 of the plan's files by kind
    and name. `passes` counts passes through text encoders, `loads` loaded checkpoints.
    """

    def __init__(self, contents: Mapping[str, Mapping[str, str]]) -> None:
        import comfy.model_management

        self.interrupt = comfy.model_management.InterruptProcessingException
        self.contents = contents
        self.loads = 0
        self.passes = 0
        self.spent: dict[str, float] = {}
        self._kept: dict[str, OrderedDict[str, tuple[Any, ...]]] = {}
        self._loaded: tuple[Any, ...] = ()
        self._merged: MergedModels | None = None
        self._batch: dict[str, Any] = {}
        """The latents that were sampled together last: the next cells may differ only in their VAE.
        """
        self._layers = Layers()
        self._layers_of = ""

    def load(self, cell: Cell) -> None:
        """Load the models of a cell. Raises GridError if a file is not the one that was planned
        with.
        """
        graph = graph_of(stock(cell.settings))
        new = _key(graph, MODEL) not in self._kept.get(graph[MODEL].kind, {})
        if new:
            self._forget()
            if not cell.settings.recipe and self._merged is not None:
                self._merged.forget()
            self.free()
        started = time.monotonic()
        self._loaded = self._outputs(graph, MODEL)
        self.loads += new
        self._outputs(graph, graph[2].inputs["clip"].node)
        if new:
            _give_back_memory()
        self.spent["load_s"] = time.monotonic() - started

    def pictures(self, cells: Sequence[Cell], done: int, total: int) -> list[numpy.ndarray]:
        """The pixels [height, width, 3] of cells, as SaveImage would write them; in batched mode
        sampled together.
        """
        with _bar_of_all_cells(done, total, len(cells)):
            stocks = [stock(cell.settings) for cell in cells]
            if stocks[0].batch_size == 1:
                return [_pixels(self._outputs(graph_of(cell), PICTURE)) for cell in stocks]
            latents = self._sampled_together(stocks)
            return [
                self._decoded(cell, latent) for cell, latent in zip(stocks, latents, strict=True)
            ]

    def _sampled_together(self, cells: Sequence[StockCell]) -> list[Any]:
        """The LATENT of each cell: one pass for all whose inputs have the same shapes, each
        different one once.
        """
        import torch

        graphs = [graph_of(cell) for cell in cells]
        keys = [_key(graph, SAMPLER) for graph in graphs]
        new = {key: number for number, key in enumerate(keys) if key not in self._batch}
        alike: dict[Any, list[int]] = {}
        given: dict[int, tuple[Any, ...]] = {}
        for number in new.values():
            inputs = graphs[number][SAMPLER].inputs
            given[number] = tuple(
                self._outputs(graphs[number], inputs[name].node)[inputs[name].slot]
                for name in ("model", "positive", "negative", "latent_image")
            )
            shape = batching.shape(*given[number][1:])
            alike.setdefault(number if shape is None else shape, []).append(number)
        for shape, numbers in alike.items():
            if isinstance(shape, int):
                found = [self._outputs(graphs[shape], SAMPLER)[0]]
            else:
                model, *_ = given[numbers[0]]
                _, positives, negatives, latents = zip(*(given[n] for n in numbers), strict=True)
                chosen = [cells[number] for number in numbers]
                with self._timed("KSampler"), torch.inference_mode():
                    found = batching.sample(model, chosen, positives, negatives, latents)
            self._batch.update({keys[n]: one for n, one in zip(numbers, found, strict=True)})
        self._batch = {key: self._batch[key] for key in keys}
        return [self._batch[key] for key in keys]

    def _decoded(self, cell: StockCell, latent: Any) -> numpy.ndarray:
        import torch

        graph = graph_of(cell)
        vae = graph[PICTURE].inputs["vae"]
        loaded = self._outputs(graph, vae.node)[vae.slot]
        with self._timed("VAEDecode"), torch.inference_mode():
            return _pixels(_call("VAEDecode", samples=latent, vae=loaded))

    def numerics(self) -> dict[str, Any]:
        return numerics.describe(*self._loaded)

    def times(self) -> dict[str, float]:
        """Seconds spent since this was last asked, by what they were spent for."""
        spent, self.spent = self.spent, {}
        return spent

    def reason(self, error: Exception, cell: Cell) -> str:
        return _reason(error, stock(cell.settings))

    def free(self) -> None:
        """Free what nothing refers to any more."""
        import comfy.model_management

        gc.collect()
        comfy.model_management.cleanup_models()
        comfy.model_management.soft_empty_cache()

    def unload(self) -> None:
        self._forget()
        if self._merged is not None:
            self._merged.forget()
        self.free()

    def _forget(self) -> None:
        """Drop all that depends on the checkpoint, except the memory that recipes are merged in."""
        self._loaded = ()
        for kind in [kind for kind in self._kept if kind not in APART]:
            del self._kept[kind]
        self._batch = {}
        self._layers = Layers()

    def stop_if_interrupted(self) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()

    def _outputs(self, graph: Mapping[int, Node], number: int) -> tuple[Any, ...]:
        """The outputs of a node, kept from an earlier cell or computed."""
        import torch

        node, key = graph[number], _key(graph, number)
        kept = self._kept.setdefault(node.kind, OrderedDict())
        if key not in kept and node.kind == MERGE_KIND:
            self._merged = self._merged or MergedModels()
            recipe = graph[RECIPE].inputs["text"]
            kept[key] = self._merged.load(recipe, self.contents["checkpoint"])
        if key not in kept:
            inputs = {
                name: self._outputs(graph, value.node)[value.slot]
                if isinstance(value, Link)
                else value
                for name, value in node.inputs.items()
            }
            self._check_unchanged(node)
            with self._timed(node.kind), torch.inference_mode(), self._shared_layers(graph, node):
                outputs = _call(node.kind, **inputs)
            self._check_unchanged(node)
            if not KEPT.get(node.kind):
                return outputs
            kept[key] = outputs
            if len(kept) > KEPT[node.kind]:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        if kind in SPENT:
            spent = self.spent.get(SPENT[kind], 0.0)
            self.spent[SPENT[kind]] = spent + time.monotonic() - started

    @contextmanager
    def _shared_layers(self, graph: Mapping[int, Node], node: Node) -> Iterator[None]:
        if node.kind != "CLIPTextEncode":
            yield
            return
        encoder = _key(graph, graph[node.inputs["clip"].node].inputs["clip"].node)
        if encoder != self._layers_of:
            self._layers, self._layers_of = Layers(), encoder
        before = self._layers.passes
        with self._layers.remembered_in(
            self._outputs(graph, node.inputs["clip"].node)[node.inputs["clip"].slot]
        ):
            yield
        self.passes += self._layers.passes - before

    def _check_unchanged(self, node: Node) -> None:
        """Before and after a file is loaded, it must be the one that was planned with."""
        if node.kind in LOADERS:
            kind, widget = LOADERS[node.kind]
            name = node.inputs[widget]
            if files.content_sha256(kind, name) != self.contents[kind].get(name):
                raise GridError(
                    f"{name} has been replaced by another file since the grid was planned. Queue "
                    "again."
                )


def _key(graph: Mapping[int, Node], number: int) -> str:
    """What a node's outputs depend on: its kind, its widgets, and the same of all before it."""
    node = graph[number]
    inputs = {
        name: [_key(graph, value.node), value.slot] if isinstance(value, Link) else value
        for name, value in node.inputs.items()
    }
    return sha256_text(canonical_json([node.kind, inputs]))


def _call(kind: str, **inputs: Any) -> tuple[Any, ...]:
    """The outputs of one of ComfyUI's nodes. Newer ones wrap them in a NodeOutput."""
    from nodes import NODE_CLASS_MAPPINGS

    node = NODE_CLASS_MAPPINGS[kind]
    outputs = getattr(node(), node.FUNCTION)(**inputs)
    outputs = getattr(outputs, "result", outputs)
    return outputs[:3]


def _pixels(outputs: tuple[Any, ...]) -> numpy.ndarray:
    """The IMAGE output of a node, as SaveImage would write it."""
    import numpy

    scaled = 255.0 * outputs[0][0].cpu().numpy()
    return numpy.clip(scaled, 0, 255).astype(numpy.uint8)


def _reason(error: Exception, cell: StockCell) -> str:
    """An error in one line that fits a tile, without the folders of this machine."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].removeprefix("ERROR: ")
    for kind, name in cell.files:
        try:
            text = text.replace(str(files.path_of(kind, name)), name)
        except GridError:
            continue
    return text[:LONGEST_REASON]


def _give_back_memory() -> None:
    """glibc keeps freed memory in pieces, which would grow with every checkpoint."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


@contextmanager
def _bar_of_all_cells(done: int, total: int, count: int) -> Iterator[None]:
    """While `count` cells are sampled, their steps move the bar of the whole grid."""
    import comfy.utils

    hook = comfy.utils.PROGRESS_BAR_HOOK

    def of_all(value: int, most: int, preview: Any, **keywords: Any) -> None:
        if hook is not None:
            hook(done * most + value * count, total * most, preview, **keywords)

    comfy.utils.set_progress_bar_global_hook(of_all)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
