"""The tensors of a recipe in memory instead of a file: the same bytes, and only what has changed is
computed again.

A `MergeBuffer` keeps one buffer for the results of many recipes, one after another:

    memory = MergeBuffer()
    first = memory.merge(bind_to_files(recipe, path_of), "fp16")
    first.tensors["model.diffusion_model.out.2.weight"]  # a torch tensor, as in the file
    second = memory.merge(bind_to_files(other, path_of), "fp16")
    second.changed  # the names of the tensors that were computed again

What you can rely on:

- **Equal to the file.** `merge(bound, precision)` gives, tensor by tensor, the names, types, shapes
  and bytes that `checkpoint.make_checkpoint` writes, and the same metadata: both use the engine's
  pass.
- **Only what changed.** A tensor is computed again when something that it depends on has changed
  since the previous merge: the content of an ingredient, a weight, the precision. A new share for
  one block changes only the tensors of that block. Ingredients are recognised by their SHA-256, not
  by their names.
- **Tensors in use never change.** Tensors are views of the buffer. While anyone holds one of them
  (or a tensor that shares its memory, such as a module's parameter), the next `merge` leaves that
  memory alone and takes a new buffer. If you copy what you need and let go of the tensors, the
  buffer is used again: fresh memory costs more time than the arithmetic.
- **After a merge that fails or is interrupted** the tensors it was changing are undefined; the next
  `merge` computes them again.

The buffer has the size of the checkpoint's tensors, 2.1 GB for SD1.5 in fp16; `forget` frees it.
Only one thread at a time can `merge`; others wait.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .checkpoint import BoundRecipe, default_name
from .engine import Progress, write_memory
from .plan import (
    Blend,
    Call,
    Copy,
    Formula,
    Literal,
    MergePlan,
    OutputTensor,
    Source,
    Widened,
)
from .safetensors_file import Tensor, torch_type

ALIGNMENT = 64


@dataclass(frozen=True)
class Merged:
    """A merge in memory: torch tensors by name, the metadata their file would have, and the names
    of the tensors that were computed again.

    `notes` say what was done where the ingredients are not alike.
    """

    tensors: Mapping[str, Any]
    metadata: Mapping[str, str]
    changed: frozenset[str]
    notes: tuple[str, ...]


class MergeBuffer:
    """One buffer, used for every merge unless someone still holds its tensors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffer: Any = None
        self._in_use: Callable[[], Any] = lambda: None
        self._places: dict[str, Tensor] = {}
        self._made: dict[str, tuple[Any, ...]] = {}

    @property
    def size_bytes(self) -> int:
        """The memory that is kept for the next merge."""
        return 0 if self._buffer is None else self._buffer.nbytes

    def forget(self) -> None:
        """Let go of the buffer: its memory is free as soon as no one holds tensors of it."""
        with self._lock:
            self._forget()

    def merge(
        self,
        bound: BoundRecipe,
        precision: str = "fp16",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Merged:
        """The tensors that `bound` makes in this precision. Raises MergeError like
        `checkpoint.make_checkpoint`.

        `progress(done_bytes, total_bytes)` counts the bytes to compute; an exception from it ends
        the merge.
        """
        with self._lock:
            plan = bound.plan(precision)
            places, size = _lay_out(plan)
            if places != self._places or self._in_use() is not None:
                self._forget()
            buffer, view = self._take(size)
            made = {output.name: _made_of(output, plan) for output in plan.tensors}
            changed = {name: places[name] for name in made if self._made.get(name) != made[name]}
            for name in changed:
                self._made.pop(name, None)
            write_memory(plan, changed, view, threads, progress=progress)
            self._buffer, self._places, self._made = buffer, places, made
            return Merged(
                MappingProxyType({name: _tensor(view, place) for name, place in places.items()}),
                bound.metadata(precision, default_name(bound, precision)),
                frozenset(changed),
                plan.notes,
            )

    def _take(self, size: int) -> tuple[Any, Any]:
        """The buffer and a tensor of all its bytes.

        PyTorch keeps the NumPy array that a tensor was made from as long as any tensor shares its
        storage. So every merge gets a new array object over the same memory, and a weak reference
        to it shows whether anyone still uses that merge.
        """
        import numpy as np
        import torch

        buffer = np.empty(size, np.uint8) if self._buffer is None else self._buffer
        array = buffer[:]
        self._in_use = weakref.ref(array)
        # ComfyUI runs nodes in inference mode, whose tensors the engine's threads could not write
        # to.
        with torch.inference_mode(False):
            return buffer, torch.from_numpy(array)

    def _forget(self) -> None:
        self._buffer, self._in_use = None, lambda: None
        self._places, self._made = {}, {}


def _lay_out(plan: MergePlan) -> tuple[dict[str, Tensor], int]:
    """Where each tensor goes in memory, and the size of all."""
    places, end = {}, 0
    for output in plan.tensors:
        place = Tensor(output.name, output.dtype, output.shape, end)
        places[output.name] = place
        end += -(-place.size_bytes // ALIGNMENT) * ALIGNMENT
    return places, end


def _tensor(memory: Any, place: Tensor) -> Any:
    data = memory[place.offset : place.offset + place.size_bytes]
    return data.view(torch_type(place.dtype)).reshape(place.shape)


def _made_of(output: OutputTensor, plan: MergePlan) -> tuple[Any, ...]:
    """Everything that the bytes of a tensor of a given type and shape depend on."""

    def source(found: Source) -> tuple[Any, ...]:
        tensor = found.tensor
        return plan.ingredients[found.file].sha256, tensor.offset, tensor.dtype, tensor.shape

    def formula(found: Formula) -> tuple[Any, ...]:
        if isinstance(found, Blend):
            others = ((source(other), weight) for other, weight in found.others)
            return "blend", source(found.first), *others
        if isinstance(found, Call):
            return found.method, found.settings, *map(formula, found.operands)
        others = ((formula(other), weight) for other, weight in found.others)
        return "sum", formula(found.first), *others

    content = output.content
    if isinstance(content, Literal):
        return "literal", content.data
    if isinstance(content, Copy):
        return "copy", *source(content.source)
    if isinstance(content, Widened):
        return "widened", *((start, stop, formula(part)) for start, stop, part in content.parts)
    return formula(content)
