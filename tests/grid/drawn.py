"""Grids whose pictures are drawn from their keys in no time, for what does not depend on ComfyUI's
sampling.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import Cell, Plan
from cocktail.nodes.grid.engine.render.execution import Outcome, render
from cocktail.nodes.grid.engine.store.cell_file import PNG
from cocktail.nodes.grid.engine.store.store import Store

from .test_plan import FIXED


class Interrupted(BaseException):
    """What stands for ComfyUI's InterruptProcessingException."""


class Drawn:
    """A renderer. It notes what it is asked for; `fails` says which cells do, `until` when somebody
    interrupts.
    """

    interrupt = Interrupted

    def __init__(self, fails: Any = None, until: int = 10**9, seconds: float = 0.0) -> None:
        self.fails, self.until, self.seconds = fails, until, seconds
        self.loads: list[str] = []
        self.drawn: list[Cell] = []
        self.batches: list[int] = []

    def load(self, cell: Cell) -> None:
        self.loads.append(cell.settings.checkpoint)
        if cell.settings.checkpoint == "broken":
            raise OSError("broken cannot be read\nand more")

    def pictures(self, cells: Sequence[Cell], done: int, total: int) -> list[numpy.ndarray]:
        self.batches.append(len(cells))
        if self.fails and any(self.fails(cell) for cell in cells):
            raise RuntimeError("out of memory")
        time.sleep(self.seconds)
        self.drawn += cells
        return [picture_of(cell) for cell in cells]

    def numerics(self) -> dict[str, Any]:
        return {"device": "pencil"}

    def times(self) -> dict[str, float]:
        return {}

    def reason(self, error: Exception, cell: Cell) -> str:
        return str(error).splitlines()[0]

    def free(self) -> None:
        pass

    def unload(self) -> None:
        pass

    def stop_if_interrupted(self) -> None:
        if len(self.drawn) >= self.until:
            raise Interrupted


def picture_of(cell: Cell) -> numpy.ndarray:
    """Pixels that are another cell's in no place: small, unless a panorama is asked for."""
    random = numpy.random.default_rng(int(cell.key[:16], 16))
    width = cell.settings.width if cell.settings.width > 10_000 else 16
    return random.integers(0, 256, (16, width, 3), dtype=numpy.uint8)


def drawn_plan(checkpoints: int = 2, prompts: int = 3, seeds: int = 2, **fixed: Any) -> Plan:
    def lines(target: str, values: Any) -> Any:
        return typed_axis(target, "\n".join(map(str, values)), {})

    axes = [
        lines("seed", range(seeds)),
        lines("prompt", (f"prompt {number}" for number in range(prompts))),
        checkpoint_axis([(f"model {number}", "") for number in range(checkpoints)]),
    ]
    return make_plan("g", {**FIXED, **fixed}, axes, lambda kind, name: f"content of {name}")


def draw_grid(plan: Plan, folder: Path, renderer: Drawn, save_as: str = PNG) -> Outcome:
    """What Render Grid does with a plan."""
    store = Store(folder)
    store.set_aside_damaged(plan)
    return render(store.missing(plan), store, renderer, lambda text: None, save_as)
