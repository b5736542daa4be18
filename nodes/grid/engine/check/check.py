"""The check itself: every chosen cell is rendered with nothing before it, then all of them in
another order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ....host import names
from ..cell import files
from ..cell.stock import StockCell, stock
from ..errors import GridError
from ..plan.plan import Cell
from ..render import sampling
from ..store import export
from ..store.picture import open_picture
from ..store.store import Store
from .result import Checked, Result, cause, chosen, largest_difference

if TYPE_CHECKING:
    import numpy


def check(name: str, count: int, seed: int, show: Callable[[str], None]) -> Result:
    """Check `count` random cells of a grid. `show` gets a line before every rendering. Raises
    GridError.
    """
    try:
        store = Store(names.cocktail_dir("grids", names.check_name(name, "grid")))
    except names.BadName as error:
        raise GridError(str(error)) from None
    if not (store.folder / "plan.json").is_file():
        raise GridError(f"There is no grid named {name}.")
    described = export.manifest(store)
    picked = chosen(described["cells"], count, seed)
    if not picked:
        raise GridError(f"The grid {name} has no finished cells. Render it first.")
    cells = {
        found["key"]: Cell(
            tuple(found["position"]), StockCell.from_json(found["settings"]), found["key"]
        )
        for found in picked
    }
    faults = {key: fault for key, cell in cells.items() if (fault := _changed(cell))}
    sound = [cell for key, cell in cells.items() if key not in faults]
    order = random.Random(f"{seed} shuffled").sample(sound, len(sound))
    alone, now = _render([[cell] for cell in sound], described["contents"], show, 0, 2 * len(sound))
    shuffled, _ = _render([order], described["contents"], show, len(sound), 2 * len(sound))
    checked = []
    for found in picked:
        key, label = found["key"], " · ".join(found["labels"])
        problem = faults.get(key) or next(
            (p[key] for p in (alone, shuffled) if isinstance(p.get(key), str)), None
        )
        if problem is not None:
            checked.append(Checked(key, label, None, None, problem))
            continue
        kept = _read(store, key)
        one, other = largest_difference(kept, alone[key]), largest_difference(kept, shuffled[key])
        between = largest_difference(alone[key], shuffled[key])
        then = described["numerics"].get(found.get("numerics", ""))
        batched = cells[key].settings.batch_size > 1
        why = cause(one, other, between, batched, then, now.get(key, {}))
        checked.append(Checked(key, label, one, other, why))
    finished = len({c["key"] for c in described["cells"] if c["status"] == "finished"})
    return Result(name, tuple(checked), finished)


def _render(
    groups: list[list[Cell]], contents: Any, show: Callable[[str], None], done: int, total: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pictures of cells by key, or the reason why one failed, and the numerics class of each.
    Every group begins with nothing in memory.
    """
    pictures: dict[str, Any] = {}
    made_in: dict[str, Any] = {}
    for group in groups:
        renderer, loaded = sampling.ComfyRenderer(contents), None
        for cell in group:
            done += 1
            show(f"cell {done} of {total}, {stock(cell.settings).model_words}")
            try:
                if loaded != cell.settings.models:
                    loaded = None
                    renderer.load(cell)
                    loaded = cell.settings.models
                (pictures[cell.key],) = renderer.pictures([cell], done - 1, total)
                made_in[cell.key] = renderer.numerics()
            except renderer.interrupt:
                raise
            except Exception as error:
                pictures[cell.key] = renderer.reason(error, cell)
        renderer.unload()
    return pictures, made_in


def _changed(cell: Cell) -> str | None:
    """Says which file of a cell is gone or has been replaced since; None if none has."""
    try:
        same = cell.settings.key(lambda kind, name: files.quiet_sha256(kind, name)) == cell.key
    except GridError as error:
        return str(error)
    return None if same else "A file that it was made from has been replaced since."


def _read(store: Store, key: str) -> numpy.ndarray:
    import numpy

    path = store.cell_path(key)
    try:
        with open_picture(path) as file:
            return numpy.asarray(file.convert("RGB"))
    except OSError as error:
        raise GridError(
            f"The file of a cell, {path}, cannot be read ({error}). Queue Render Grid again."
        ) from None
