"""The pass: every tensor of the plan is read, blended as if in float64, rounded once and written to
its final place, piece by piece.

Each thread uses a few buffers again and again, because page faults of fresh buffers would cost more
time than the arithmetic. The bytes do not depend on the number of threads, the size of the pieces
or the machine (see `blending`).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .blending import Blender, is_finite
from .errors import MergeError, listed
from .hashing import Progress
from .key_names import EMA, TEXT_PREFIXES, UNET, VAE
from .methods import METHODS
from .methods.draws import Draws
from .plan import (
    Blend,
    Call,
    Combination,
    Copy,
    Formula,
    Literal,
    MergePlan,
    OutputTensor,
    Source,
    Widened,
)
from .quantised import decode, is_quantised
from .reading import numbers
from .safetensors_file import FLOATS, ITEM_BYTES, Tensor, lay_out, new_file, torch_type

CHUNK_ELEMENTS = 1 << 19
MOST_THREADS = 8


@dataclass(frozen=True)
class Piece:
    """`count` elements of an output tensor, beginning with element `start`."""

    output: OutputTensor
    place: Tensor
    start: int
    count: int

    @property
    def size_bytes(self) -> int:
        return self.count * ITEM_BYTES[self.output.dtype]

    @property
    def offset(self) -> int:
        return self.place.offset + self.start * ITEM_BYTES[self.output.dtype]


def write_file(
    plan: MergePlan,
    path: Path,
    metadata: Mapping[str, str],
    threads: int | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
    progress: Progress | None = None,
    device: str = "cpu",
) -> None:
    """Carry out a plan: write the safetensors file `path`, which must not exist. Methods compute on
    `device`, sums on the CPU.

    `progress(done_bytes, total_bytes)` is called in the calling thread after every piece; an
    exception from it ends the pass. After any exception no file is left. Raises MergeError when an
    ingredient contains NaN or infinity or the result does not fit its type.
    """
    check_device(device)
    start, places = lay_out([(o.name, o.dtype, o.shape) for o in plan.tensors], metadata)
    size = len(start) + sum(place.size_bytes for place in places.values())
    with new_file(path, size) as temporary:
        with temporary.open("r+b") as file:
            file.write(start)
        _carry_out(plan, places, temporary, threads, chunk_elements, progress, device)


def write_memory(
    plan: MergePlan,
    places: Mapping[str, Tensor],
    memory: Any,
    threads: int | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
    progress: Progress | None = None,
    device: str = "cpu",
) -> None:
    """Make the tensors of a plan that have a place in memory: `memory` is a flat tensor of bytes
    (uint8), and `places` says where in it each tensor begins.

    The bytes are those that `write_file` writes. After an exception the contents of these places
    are undefined. Raises what `write_file` raises.
    """
    _carry_out(plan, places, memory, threads, chunk_elements, progress, device)


def _carry_out(
    plan: MergePlan,
    places: Mapping[str, Tensor],
    target: Any,
    threads: int | None,
    chunk_elements: int,
    progress: Progress | None,
    device: str,
) -> None:
    outputs = {output.name: output for output in plan.tensors}
    pieces = [
        Piece(outputs[place.name], place, first, min(step, place.elements - first))
        for place in places.values()
        for step in [_elements_at_once(outputs[place.name], chunk_elements)]
        for first in range(0, place.elements, step)
    ]
    identities = [_identity(header.path) for header in plan.headers]
    faults = Faults(set())

    def evaluator() -> Evaluator:
        return Evaluator(plan, target, chunk_elements, faults, device)

    _run(pieces, evaluator, threads or min(os.cpu_count() or 1, MOST_THREADS), progress)
    faults.refuse(plan)
    for header, identity in zip(plan.headers, identities, strict=True):
        if _identity(header.path) != identity:
            raise MergeError(f"{header.path} changed during the merge. Run it again.")


def check_device(device: str) -> None:
    """Raise MergeError unless PyTorch can compute there."""
    import torch

    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MergeError(f"Merging on {device!r} does not work here: {reason}. Use cpu.") from None


def _elements_at_once(output: OutputTensor, chunk_elements: int) -> int:
    """The size of the pieces: a whole tensor where a method needs it."""
    return chunk_elements if by_element(output.content) else max(math.prod(output.shape), 1)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Faults:
    """Names of the tensors in which NaN or infinity came up."""

    not_finite: set[str]

    def refuse(self, plan: MergePlan) -> None:
        """Raise MergeError if there are any: an ingredient has such values, or the result does not
        fit its type.
        """
        found = [
            f"{output.name} in {plan.headers[source.file].path.name}"
            for output in plan.tensors
            if output.name in self.not_finite and not isinstance(output.content, Literal)
            for source in output.content.sources
            if not _is_finite(plan, source)
        ]
        if found:
            raise MergeError(
                f"These tensors contain NaN or infinity: {listed(found)}. "
                "The checkpoint is broken; use another one."
            )
        if self.not_finite:
            raise MergeError(
                "The numbers in these tensors become too large for the precision: "
                f"{listed(sorted(self.not_finite))}. Choose bf16 or fp32."
            )


def _run(
    pieces: Sequence[Piece],
    open_evaluator: Callable[[], Evaluator],
    threads: int,
    progress: Progress | None,
) -> None:
    """Let `threads` workers take the pieces in turn, reporting to the calling thread."""
    import torch

    total = sum(piece.size_bytes for piece in pieces)
    waiting: Iterator[Piece] = iter(pieces)
    take = threading.Lock()
    stop = threading.Event()
    reports: SimpleQueue[int | BaseException | None] = SimpleQueue()

    def work() -> None:
        # PyTorch's own threads would compete with these; the setting is the process's and is put
        # back below.
        torch.set_num_threads(1)
        try:
            with open_evaluator() as evaluator:
                while not stop.is_set():
                    with take:
                        piece = next(waiting, None)
                    if piece is None:
                        break
                    evaluator.write(piece)
                    reports.put(piece.size_bytes)
        except BaseException as error:
            reports.put(error)
        finally:
            reports.put(None)

    torch_threads = torch.get_num_threads()
    crew = [threading.Thread(target=work, name=f"merge-{n}", daemon=True) for n in range(threads)]
    done, running = 0, threads
    try:
        for thread in crew:
            thread.start()
        while running:
            report = reports.get()
            if isinstance(report, BaseException):
                raise report
            if report is None:
                running -= 1
                continue
            done += report
            if progress:
                progress(done, total)
    finally:
        stop.set()
        for thread in crew:
            if thread.ident:
                thread.join()
        torch.set_num_threads(torch_threads)


@dataclass(frozen=True)
class Place:
    """Which elements of its tensor a formula makes: those from `start`, or all of them in the
    tensor's shape.

    `operands` numbers the operands of methods, so that each gets a buffer of its own.
    """

    name: str
    start: int
    shape: tuple[int, ...] | None
    operands: Iterator[int]


class Evaluator:
    """One thread of a merge: its open files and buffers. The result goes to `target`: a file, or
    bytes in memory.
    """

    def __init__(
        self, plan: MergePlan, target: Any, chunk_elements: int, faults: Faults, device: str
    ) -> None:
        import torch

        self._plan = plan
        self._target = target
        self._faults = faults
        self._device = device
        self._chunk_elements = chunk_elements
        self._raw: list[tuple[Any, memoryview]] = []
        self._rounded = torch.empty(chunk_elements * 8, dtype=torch.uint8)
        self._blender = Blender(chunk_elements)
        self._operands: list[Any] = []
        is_prefixed = any(output.name.startswith(UNET) for output in plan.tensors)
        self._sound = (UNET, VAE, EMA, *TEXT_PREFIXES) if is_prefixed else ("",)

    def __enter__(self) -> Evaluator:
        with ExitStack() as files:
            self._sources = [
                files.enter_context(header.path.open("rb", buffering=0))
                for header in self._plan.headers
            ]
            if isinstance(self._target, Path):
                self._file = files.enter_context(self._target.open("r+b", buffering=0))
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def write(self, piece: Piece) -> None:
        """Make one piece of the result and write it at its place."""
        import torch

        content = piece.output.content
        in_memory = not isinstance(self._target, Path)
        if isinstance(content, Literal):
            first = piece.offset - piece.place.offset
            data = memoryview(content.data)[first : first + piece.size_bytes]
        elif isinstance(content, Copy):
            data = self._copy(content.source, piece)
        elif isinstance(content, Widened):
            data = self._widened(content, piece)
        elif in_memory:
            self._formula(content, piece, self._target[piece.offset :][: piece.size_bytes])
            return
        else:
            place = self._buffer_for(piece.size_bytes)
            self._formula(content, piece, place)
            data = place.numpy().data
        if in_memory:
            made = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            self._target[piece.offset :][: piece.size_bytes].copy_(made)
            return
        self._file.seek(piece.offset)
        while data:
            data = data[self._file.write(data) :]

    def _buffer_for(self, size_bytes: int) -> Any:
        """Bytes for a result on its way to the file."""
        import torch

        if size_bytes > len(self._rounded):
            self._rounded = torch.empty(size_bytes, dtype=torch.uint8)
        return self._rounded[:size_bytes]

    def _copy(self, source: Source, piece: Piece) -> memoryview:
        """The bytes of a source. Buffers of the noise schedule and leftovers of training may hold
        what is no number; in a part of the checkpoint that is a fault.
        """
        data = self._read(source, piece)
        name, is_float = piece.output.name, source.tensor.dtype in FLOATS
        if is_float and "." in name and name.startswith(self._sound):
            values = self._raw[0][0][: len(data)].view(torch_type(source.tensor.dtype))
            if not is_finite(values):
                self._faults.not_finite.add(piece.output.name)
        return data

    def _formula(self, formula: Formula, piece: Piece, made: Any) -> None:
        """Write the bytes of a piece to `made`."""
        out = made.view(torch_type(piece.output.dtype))
        whole = piece.count == piece.place.elements
        shape = piece.output.shape if whole else None
        place = Place(piece.output.name, piece.start, shape, count())

        def values(source: Source, number: int) -> Any:
            return self._values(source, piece, number)

        if not self._compute(formula, values, place, out):
            self._faults.not_finite.add(piece.output.name)

    def _compute(
        self, formula: Formula, values: Callable[[Source, int], Any], place: Place, out: Any
    ) -> bool:
        """Write a formula's result to the flat tensor `out`; False if an element is not finite.

        `values(source, number)` gives the elements of a source in the buffer of that number.
        """
        if isinstance(formula, Blend):
            sources = [values(source, number) for number, source in enumerate(formula.sources)]
            blender = self._blender if len(out) <= self._chunk_elements else Blender(len(out))
            return blender.blend(sources, [weight for _, weight in formula.others], out)
        out.copy_(self._called(formula, values, place, len(out)).flatten())
        return is_finite(out)

    def _called(
        self, formula: Formula, values: Callable[[Source, int], Any], place: Place, count: int
    ) -> Any:
        """A formula's result in float32, in the shape of `place`."""

        if isinstance(formula, Blend):
            made = self._operand(next(place.operands), count)
            if formula.others:
                self._compute(formula, values, place, made)
            else:
                made.copy_(values(formula.first, 0))
            return made.to(self._device).view(place.shape or count)
        if isinstance(formula, Combination):
            first = self._called(formula.first, values, place, count)
            total = first.clone()
            for side, weight in formula.others:
                other = self._called(side, values, place, count)
                total.add_(other.sub_(first), alpha=weight)
            return total
        operands = [self._called(side, values, place, count) for side in formula.operands]
        settings: dict[str, Any] = dict(formula.settings)
        if "seed" in settings:
            settings["draws"] = Draws(int(settings.pop("seed")), place.name, place.start)
        return METHODS[formula.method].function(*operands, **settings)

    def _operand(self, number: int, elements: int) -> Any:
        """A float32 buffer for a method's operand of that number, made or grown when needed."""
        import torch

        while len(self._operands) <= number:
            self._operands.append(torch.empty(0, dtype=torch.float32))
        if len(self._operands[number]) < elements:
            self._operands[number] = torch.empty(elements, dtype=torch.float32)
        return self._operands[number][:elements]

    def _widened(self, content: Widened, piece: Piece) -> memoryview:
        """A piece of a first convolution with additional channels, which is small and made as a
        whole.
        """
        import torch

        shape = piece.output.shape
        whole = torch.empty(shape, dtype=torch_type(piece.output.dtype))
        for start, stop, formula in content.parts:
            cut = (shape[0], stop - start, *shape[2:])
            place = Place(f"{piece.output.name}[:, {start}:{stop}]", 0, cut, count())

            def values(source: Source, number: int, start: int = start, stop: int = stop) -> Any:
                all_of_it = Piece(piece.output, piece.place, 0, source.tensor.elements)
                found = self._values(source, all_of_it, 0).reshape(source.tensor.shape)
                return _channels(found, start, stop)

            out = torch.empty(math.prod(cut), dtype=whole.dtype)
            if not self._compute(formula, values, place, out):
                self._faults.not_finite.add(piece.output.name)
            whole[:, start:stop] = out.reshape(cut)
        data = whole.flatten().view(torch.uint8).numpy().data
        first = piece.offset - piece.place.offset
        return data[first : first + piece.size_bytes]

    def _values(self, source: Source, piece: Piece, number: int) -> Any:
        """The source's elements of this piece, in the type they are stored in, in the buffer of
        that number; those of a quantised tensor are made in float32.
        """
        if is_quantised(source.tensor):

            def read(offset: int, size: int) -> bytearray:
                self._fill(source.file, offset, data := bytearray(size))
                return data

            return decode(source.tensor, piece.start, piece.count, read)
        size = len(self._read(source, piece, number))
        return self._raw[number][0][:size].view(torch_type(source.tensor.dtype))

    def _read(self, source: Source, piece: Piece, number: int = 0) -> memoryview:
        item = ITEM_BYTES[source.tensor.dtype]
        wanted = self._buffer(number, piece.count * item)
        self._fill(source.file, source.tensor.offset + piece.start * item, wanted)
        return wanted

    def _fill(self, number: int, offset: int, wanted: memoryview | bytearray) -> None:
        """Fill `wanted` with the bytes of a file from `offset` on."""
        file, view = self._sources[number], memoryview(wanted)
        file.seek(offset)
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise MergeError(f"{file.name} became shorter during the merge. Run it again.")
            done += count

    def _buffer(self, number: int, size: int) -> memoryview:
        """The first bytes of the reading buffer of that number, made or grown when needed."""
        import torch

        while len(self._raw) <= number:
            self._raw.append((torch.empty(0, dtype=torch.uint8), memoryview(b"")))
        if len(self._raw[number][1]) < size:
            grown = torch.empty(max(size, 2 * self._chunk_elements), dtype=torch.uint8)
            self._raw[number] = (grown, grown.numpy().data)
        return self._raw[number][1][:size]


def by_element(content: object) -> bool:
    """Whether an output can be made in pieces."""
    if isinstance(content, Call):
        sides: Sequence[Formula] = content.operands
        return METHODS[content.method].by_element and all(map(by_element, sides))
    if isinstance(content, Combination):
        return all(map(by_element, (content.first, *(side for side, _ in content.others))))
    return True


def _channels(weight: Any, start: int, stop: int) -> Any:
    """A copy of a convolution's weight for these input channels, flat."""
    import torch

    if weight.element_size() > 1:
        return weight[:, start:stop].flatten().clone()
    return weight.view(torch.uint8)[:, start:stop].flatten().clone().view(weight.dtype)


def _is_finite(plan: MergePlan, source: Source) -> bool:
    """Whether all values of one ingredient's tensor are numbers."""
    header = plan.headers[source.file]
    return all(bool(part.isfinite().all()) for part in numbers(header, source.tensor))
