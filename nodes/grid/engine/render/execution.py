"""One pass over the cells of a grid: take, render, save. Finished cells stay, whatever happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ....host import numerics
from ..cell.stock import stock
from ..errors import GridError
from ..plan.plan import Cell
from ..store import cell_file, pixels
from ..store.store import Store
from . import batching
from .claims import Work, Worker
from .writer import Writer

if TYPE_CHECKING:
    import numpy

WAIT_S = 0.2
"""How often a process checks whether another one has finished the last cells."""


class Renderer(Protocol):
    """Makes pictures. An exception means that one cell failed, unless it is `interrupt`."""

    interrupt: type[BaseException]

    def load(self, cell: Cell) -> None:
        """Load the models of a cell. Called when they differ from those of the cell before."""

    def pictures(self, cells: Sequence[Cell], done: int, total: int) -> list[numpy.ndarray]:
        """The uint8 pixels [height, width, 3] of cells that may be sampled together; `done` of
        `total` are made.
        """
        ...

    def numerics(self) -> dict[str, Any]:
        """What besides its settings decides the last bits of a cell."""
        ...

    def times(self) -> dict[str, float]:
        """Seconds spent since this was last asked, by what they were spent for."""
        ...

    def reason(self, error: Exception, cell: Cell) -> str:
        """An error in one line that fits a tile."""
        ...

    def free(self) -> None:
        """Free the memory that a failed cell used."""

    def unload(self) -> None:
        """Unload the models."""

    def stop_if_interrupted(self) -> None:
        """Raise ComfyUI's exception when the person has pressed Interrupt. It is not the failure of
        a cell.
        """


@dataclass
class Outcome:
    """The keys of the cells that were rendered, and why others failed."""

    saved: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def rendered(self) -> int:
        return len(self.saved)


@dataclass
class _InMemory:
    """The models in memory, and the numerics class of the pictures that they make."""

    models: tuple[str, ...] | None = None
    numerics: str = ""


@dataclass(frozen=True)
class Finished:
    """A picture on its way to the disk."""

    cell: Cell
    pixels: numpy.ndarray
    times: dict[str, float]
    numerics: str


def render(
    cells: Iterable[Cell],
    store: Store,
    renderer: Renderer,
    show: Callable[[str], None],
    save_as: str = cell_file.PNG,
    with_graphs: bool = True,
    written: Callable[[Path, numpy.ndarray], None] = lambda file, pixels: None,
) -> Outcome:
    """Render cells, those of one checkpoint together, and save each in the background.

    In batched mode cells are sampled together; if that fails, each of them is tried alone. A cell
    that fails is recorded with its reason and the next one is tried. Interrupt ends everything but
    keeps what is finished. Waits for cells that another process renders. Calls `show` with a line
    of text before every cell, and `written`, in the writer's threads, with every file that was
    written and its pixels. Raises GridError if the disk cannot be written to.
    """
    work = Work(cells)
    total = work.count()
    outcome, memory = Outcome(), _InMemory()
    with disk(store), Worker(store.folder) as worker:
        store.sweep()
        failures = _Failures(work, store, renderer, worker, memory, outcome)

        def save(finished: Finished) -> None:
            try:
                _save(store, finished, save_as, with_graphs)
                written(store.cell_path(finished.cell.key), finished.pixels)
            finally:
                worker.saved(finished.cell.key)
            outcome.saved.append(finished.cell.key)

        with Writer(save) as writer:
            while work or failures.apart:
                renderer.stop_if_interrupted()
                cells = failures.next() or _take(worker, work, store)
                if not cells:
                    if work:
                        show(f"waiting for another ComfyUI, which renders {work.count()} cells")
                        time.sleep(WAIT_S)
                    continue
                done = total - work.count() - len(failures.apart) - len(cells)
                try:
                    pictures = _make(cells, done, total, memory, renderer, store, show)
                except renderer.interrupt:
                    raise
                except Exception as error:
                    failures.note(cells, error)
                else:
                    for picture in pictures:
                        writer.put(picture)
    renderer.unload()
    return outcome


@dataclass
class _Failures:
    """What becomes of cells that have failed. Those that were sampled together are to be tried
    `apart`; when models cannot be loaded, all cells of these models have failed.
    """

    work: Work
    store: Store
    renderer: Renderer
    worker: Worker
    memory: _InMemory
    outcome: Outcome
    apart: list[Cell] = field(default_factory=list)

    def next(self) -> list[Cell]:
        """The next cell that is tried alone, if there is one."""
        return [self.apart.pop(0)] if self.apart else []

    def note(self, cells: Sequence[Cell], error: Exception) -> None:
        """Record that cells have failed together, or put them aside to be tried alone."""
        logging.warning("Cocktail: a cell of %s failed", self.store.folder.name, exc_info=error)
        reason, loaded = self.renderer.reason(error, cells[0]), bool(self.memory.models)
        self.renderer.free()
        if loaded and len(cells) > 1:
            self.apart += cells
            return
        for failed in cells if loaded else [*cells, *self.work.take_alike(cells[0])]:
            self.store.save_failure(failed, reason)
            self.worker.has_failed(failed.key)
            self.outcome.reasons.append(reason)


def _make(
    cells: Sequence[Cell],
    done: int,
    total: int,
    memory: _InMemory,
    renderer: Renderer,
    store: Store,
    show: Callable[[str], None],
) -> list[Finished]:
    """The pictures of cells that are sampled together, after loading their models if others are in
    memory.
    """
    settings = stock(cells[0].settings)
    if settings.models != memory.models:
        memory.models = None
        show(f"loading {settings.model_words}")
        renderer.load(cells[0])
        memory.models, memory.numerics = settings.models, _note_numerics(store, renderer)
    show(f"cell {done + 1} of {total}, {settings.model_words}")
    started = time.monotonic()
    pictures = renderer.pictures(cells, done, total)
    times = {"seconds": time.monotonic() - started, **renderer.times()}
    each = {name: round(spent / len(cells), 3) for name, spent in times.items()}
    return [
        Finished(cell, pixels, each, memory.numerics)
        for cell, pixels in zip(cells, pictures, strict=True)
    ]


def _take(worker: Worker, work: Work, store: Store) -> list[Cell]:
    """The next cell and, in batched mode, those that can be sampled together with it."""
    cell = worker.take(work, store.is_finished)
    if cell is None:
        return []
    cells, traits = [cell], batching.traits(cell.settings)
    while len(cells) < cell.settings.batch_size and work:
        more = worker.take(
            work, store.is_finished, lambda other: batching.traits(other.settings) == traits
        )
        if more is None:
            break
        cells.append(more)
    return cells


def _note_numerics(store: Store, renderer: Renderer) -> str:
    described = renderer.numerics()
    id = numerics.class_id(described)
    store.save_numerics(id, described)
    return id


def _save(store: Store, finished: Finished, save_as: str, with_graphs: bool) -> None:
    cell, save_as = finished.cell, cell_file.format_for(finished.pixels, save_as)
    note: dict[str, Any] | None = None
    if with_graphs:
        note = {"key": cell.key, "numerics": finished.numerics}
        if cell.settings.batch_size > 1:
            note["batched"] = True
    data = cell_file.encode(
        finished.pixels,
        save_as,
        cell.settings if with_graphs else None,
        f"cocktail/{store.folder.name}",
        note,
    )
    hash = pixels.hash_of(finished.pixels)
    store.save_cell(cell, data, finished.times, save_as, finished.numerics, hash)


@contextmanager
def disk(store: Store) -> Iterator[None]:
    """Turns errors of the disk into messages that say what to do."""
    try:
        yield
    except OSError as error:
        raise GridError(
            f"The grid cannot be saved in {store.folder}: {error.strerror or error}. Free space or "
            "change the folder's permissions, and queue again: finished cells stay."
        ) from error
