"""The HTTP routes of what a run's records say: heat map, pairs that stand out, words and table."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web

from ...trainer.data.image import open_rgb
from ...trainer.data.manifest import Dataset, Pair
from ...trainer.errors import TrainerError
from ...trainer.figures import pairs, table, words
from ...trainer.figures.curves import NotRecorded, read_curves
from ...trainer.figures.heat_map import read_heat_map
from ...trainer.files import canonical_json
from ...trainer.recorded_steps import followed
from ...trainer.runs import Run
from ..host import http
from ..host.names import is_dataset_place
from ..host.origin import Guarded
from .routes import open_run

SIDES = (16, 1024)
"""The smallest and the largest side of a picture of a pair, in pixels."""
MILESTONES = ("epoch", "validation")
"""The lines of a run's metrics that change its figures."""


def add(routes: Guarded) -> None:
    """Add the routes to ComfyUI's table, which also serves them under /api."""
    routes.get("/cocktail/runs/{name}/heatmap")(http.reads(_heat_map))
    routes.get("/cocktail/runs/{name}/pairs")(http.reads(_pairs))
    routes.get("/cocktail/runs/{name}/pairs/{id}/image")(_image)
    routes.get("/cocktail/runs/{name}/words")(http.reads(_words))
    routes.get("/cocktail/runs/{name}/table")(_table)


def _heat_map(request: web.Request) -> dict[str, Any]:
    """Validation loss by epoch and noise level; empty, with the reason as `words`, when the run has
    recorded none.
    """
    return _kept(request, _read_heat_map)


def _read_heat_map(run: Run) -> dict[str, Any]:
    try:
        return read_heat_map(run).as_json()
    except NotRecorded as error:
        nothing: dict[str, Any] = {"epochs": [], "steps": [], "levels": [], "loss": []}
        return nothing | {"relative": [], "words": str(error), "parts": []}


def _pairs(request: web.Request) -> dict[str, Any]:
    """The pairs that stand out most: `limit` of them, 1 to 1000."""
    limit = http.number_asked(request, "limit", 20, 1, 1000)
    found, note = _kept(request, _read_pairs)
    known = _known(_dataset_of(request)) if found else {}
    listed = [
        {
            "id": standing.id,
            "caption": known[standing.id].caption if standing.id in known else "",
            "part": standing.part,
            "score": standing.score,
            "trend": standing.trend,
            "words": standing.words,
            "levels": list(standing.levels),
        }
        for standing in found[:limit]
    ]
    return {"pairs": listed, "note": note}


def _read_pairs(run: Run) -> tuple[list[pairs.Standing], str]:
    try:
        found = pairs.standings(run)
    except NotRecorded as error:
        return [], str(error)
    return found, pairs.note(found)


async def _image(request: web.Request) -> web.Response:
    """The picture of a pair of the run's dataset as a JPEG within `side` x `side` pixels."""
    return await _answer(lambda: _jpeg(request))


def _jpeg(request: web.Request) -> web.Response:
    from PIL import Image

    side = http.number_asked(request, "side", 128, *SIDES)
    dataset = _dataset_of(request)
    pair = _known(dataset).get(request.match_info["id"])
    if pair is None:
        raise web.HTTPNotFound(text="The run's dataset has no pair of that id.")
    file = dataset.path(pair)
    # A run's folder may have come from anywhere: it does not say which files are read.
    if not is_dataset_place(file.parent):
        raise web.HTTPNotFound(text="The picture is not in a folder for datasets.")
    try:
        image = open_rgb(file, (side, side), dataset.background)
    except (OSError, TrainerError) as error:
        raise web.HTTPNotFound(text=f"The picture cannot be read: {error}") from error
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    image.save(small, "JPEG", quality=85)
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=small.getvalue(), content_type="image/jpeg", headers=headers)


def _words(request: web.Request) -> dict[str, Any]:
    """What the run has reached, when it began to overfit and what one could try, with figures."""
    return {"lines": [line.as_json() for line in _kept(request, words.read_lines)]}


async def _table(request: web.Request) -> web.Response:
    """The validation losses as a table: `format` is markdown, json (the default) or csv."""
    wanted = request.query.get("format", "json")
    if wanted not in table.FORMATS:
        return http.error(400, f"format must be one of {', '.join(table.FORMATS)}.")
    if wanted == "json":
        return await http.answer(lambda: table.as_json([_kept(request, read_curves)]))
    make, kind = {
        "csv": (table.as_csv, "text/csv"),
        "markdown": (table.as_markdown, "text/markdown"),
    }[wanted]
    return await _answer(
        lambda: web.Response(text=make([_kept(request, read_curves)]), content_type=kind)
    )


def _kept(request: web.Request, read: Callable[[Run], Any]) -> Any:
    """What `read` makes of a run, kept until it validates, an epoch ends, or another of its records
    changes: its steps alone change no figure.
    """
    folder = open_run(request).folder
    records = ("run.json", "validation.jsonl", "dataset.parquet")
    stamps = tuple(_stamp(folder / name) for name in records)
    marks = followed(folder / "metrics.jsonl").marks()
    milestones = [line for line in marks if line["kind"] in MILESTONES]
    return _read(read, folder, stamps, len(milestones), canonical_json(milestones[-1:]))


@lru_cache(maxsize=32)
def _read(
    read: Callable[[Run], Any],
    folder: Path,
    stamps: tuple[tuple[Path, int, int], ...],
    milestones: int,
    newest: str,
) -> Any:
    return read(Run.open(folder))


def _dataset_of(request: web.Request) -> Dataset:
    return _dataset(*_stamp(open_run(request).folder / "dataset.parquet"))


@lru_cache(maxsize=4)
def _dataset(manifest: Path, size: int, time: int) -> Dataset:
    return Dataset.load(manifest)


def _known(dataset: Dataset) -> dict[str, Pair]:
    """The pairs of a dataset by their ids."""
    return {pair.id: pair for pair in dataset.pairs}


def _stamp(file: Path) -> tuple[Path, int, int]:
    """A file with its size and time, which change when it does; zeros when there is none."""
    try:
        status = file.stat()
    except OSError:
        return file, 0, 0
    return file, status.st_size, status.st_mtime_ns


async def _answer(make: Callable[[], web.Response]) -> web.Response:
    """What `make` returns, made outside the event loop; its errors become {"error": ...} as in all
    routes.
    """
    made: list[web.Response] = []
    told = await http.answer(lambda: made.append(make()))
    return made[0] if made else told
