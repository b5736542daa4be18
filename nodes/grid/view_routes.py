"""The viewer of grids: its page, and the pictures of cells."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from ..host import http, names
from ..host.origin import Guarded
from .engine.store import pixels
from .engine.store.store import Store
from .engine.view import exports
from .engine.view.thumbnails import SIDES, thumbnail

PAGE = Path(__file__).parents[2] / "web" / "view" / "index.html"
KEY = re.compile(r"[0-9a-f]{64}")
HEADERS = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""The page loads nothing from elsewhere and runs no script but its own."""
LINKED = (
    "The grid has no picture of that cell: it lies behind a link that leads out of the grid's "
    "folder. Put what the link leads to in its place."
)
READING_S = 3.0
"""How long a request reads pictures whose pixels are not known."""


def add(table: Guarded, open_grid: Callable[[web.Request], Store], refusals: http.Refusals) -> None:
    """Add the routes below those of a grid, which `open_grid` finds, and the files of the page."""

    async def page(request: web.Request) -> web.StreamResponse:
        """The page on which a grid is looked at, compared and voted on."""
        return web.FileResponse(PAGE, headers=PAGE_HEADERS)

    async def picture(request: web.Request) -> web.StreamResponse:
        """The picture of a finished cell; with `side` a WebP of at most 128, 256 or 512 pixels."""
        found: list[Path] = []
        told = await http.answer(
            lambda: found.append(_picture(open_grid(request), request)), refusals
        )
        return web.FileResponse(found[0], headers=HEADERS) if found else told

    def equal(request: web.Request) -> dict[str, Any]:
        """A number for every finished cell, equal for equal pixels, and how many pictures have
        still to be read: asking again goes on.
        """
        found, waiting = pixels.classes(open_grid(request), READING_S)
        return {"pixels": found, "waiting": waiting}

    def export(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to write the grid as a folder that any browser opens."""
        http.only(body)
        output = names.cocktail_dir().parent
        return exports.start(open_grid(request), output, names.thumbnails_dir())

    def stop(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """Stop it; nothing of it stays."""
        http.only(body)
        return exports.stop(open_grid(request).folder.name)

    def exported(request: web.Request) -> dict[str, Any]:
        """How the export stands: state, pictures, folder, and why it failed."""
        return exports.status(open_grid(request).folder.name)

    grid = "/cocktail/grids/{name}"
    table.get(f"{grid}/pixels")(http.reads(equal, refusals))
    table.get(f"{grid}/export")(http.reads(exported, refusals))
    table.post(f"{grid}/export")(http.changes(export, refusals))
    table.post(f"{grid}/export/stop")(http.changes(stop, refusals))
    table.get("/cocktail/view")(page)
    table.get("/cocktail/grids/{name}/pictures/{key}")(picture)
    table.static("/cocktail/web", PAGE.parents[1])


def _picture(store: Store, request: web.Request) -> Path:
    key = request.match_info["key"]
    path = store.cell_path(key) if KEY.fullmatch(key) else None
    if path is None or not path.is_file():
        raise web.HTTPNotFound(text="The grid has no picture of that cell.")
    if not store.is_own(path):
        raise web.HTTPNotFound(text=LINKED)
    if "side" not in request.query:
        return path
    side = http.number_asked(request, "side", SIDES[-1], SIDES[0], SIDES[-1])
    if side not in SIDES:
        raise web.HTTPBadRequest(text=f"side must be one of {', '.join(map(str, SIDES))}.")
    try:
        return thumbnail(path, side, names.thumbnails_dir())
    except OSError as error:
        raise web.HTTPNotFound(text=f"The picture cannot be read: {error}") from error
