"""The grids that are being fed: started, paused, resumed, cancelled, tried again; and taken up when
ComfyUI starts.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ....host import names
from ..cell import files
from ..errors import GridError
from ..plan.plan import Cell, Plan
from ..store import cell_file, events
from ..store.store import Store
from ..summary import read_plan
from . import servers as feed_settings
from .feed import ACTIVE, CANCELLED, FORMAT, PAUSED, RUNNING, Feed, Order

IN_FLIGHT = (2, 4)

_feeds: dict[str, Feed] = {}
_locks: dict[str, Any] = {}
_door = threading.RLock()


class Taken(GridError):
    """Another plan of that name is being fed."""


def start(
    plan: Plan,
    servers: Any = None,
    in_flight: Any = 3,
    save_as: Any = cell_file.PNG,
    retry_failed: bool = True,
) -> dict[str, Any]:
    """Begin to feed a plan, or go on if it is the one that is being fed; how it stands. Raises
    GridError.
    """
    settings = feed_settings.read_settings(feed_settings.settings_file())
    if (
        isinstance(in_flight, bool)
        or not isinstance(in_flight, int)
        or not IN_FLIGHT[0] <= in_flight <= IN_FLIGHT[1]
    ):
        raise GridError(
            f"in_flight must be a whole number from {IN_FLIGHT[0]} to {IN_FLIGHT[1]}, and is {in_flight!r}."
        )
    if save_as not in cell_file.SUFFIXES:
        raise GridError(
            f"save_as must be one of {', '.join(cell_file.SUFFIXES)}, and is {save_as!r}."
        )
    if any(cell.settings.batch_size > 1 for cell in plan.cells):
        raise GridError(
            "Batched mode is for Render Grid. The feeder renders each cell alone: plan it in exact mode."
        )
    if any(cell.settings.recipe for cell in plan.cells):
        raise GridError(
            "Axes of merges are for Render Grid, which merges without writing checkpoints."
        )
    order = Order(feed_settings.chosen(servers, settings), in_flight, save_as, settings.lease_s)
    with _door:
        known = _known(plan.name)
        if (
            known is not None
            and known.order.state in ACTIVE
            and _identity(known.plan) != _identity(plan)
        ):
            raise Taken(
                f"The grid {plan.name} is {known.order.state} with another plan. Cancel it first, or choose another name."
            )
        if known is not None and known.is_alive():
            if known.order.state == RUNNING:
                return known.status()
            known.join(30)
        if not retry_failed:
            order.since = 0.0
        return _begin(plan, order).status()


def control(name: str, action: str) -> dict[str, Any]:
    """ "pause", "resume", "cancel" or "retry" (go on, and try failed cells again); how it stands
    then. Raises GridError.
    """
    with _door:
        feed = _known(name)
        if feed is None:
            raise GridError(f"The grid {name} has not been fed. POST /cocktail/grids begins.")
        if action == "pause":
            if feed.order.state != RUNNING:
                raise GridError(
                    f"The grid {name} is {feed.order.state}; only a running one can be paused."
                )
            feed.change(PAUSED)
        elif action == "cancel":
            feed.change(CANCELLED)
        elif feed.order.state == RUNNING and feed.is_alive():
            if action == "retry":
                raise GridError(
                    f"The grid {name} is running. Failed cells can be tried again when it has ended."
                )
        else:
            feed.join(30)
            if feed.is_alive():
                raise GridError(
                    f"The prompts of {name} that are out have not ended yet. Try again in a moment."
                )
            order = feed.order
            order.state, order.message = RUNNING, ""
            if action == "retry":
                order.since = time.time()
            plan = _read(feed.store)[0]
            feed = _begin(plan, order)
        events.announce(name, feed=feed.status())
        return feed.status()


def status(name: str) -> dict[str, Any] | None:
    """How the feeding of a grid stands; None if it never began."""
    with _door:
        feed = _known(name)
    return feed.status() if feed else None


def resume_when_up() -> None:
    """Call `resume_all` as soon as ComfyUI listens: by then all packs are loaded."""

    def wait() -> None:
        import server

        while getattr(server.PromptServer.instance, "port", None) is None:
            time.sleep(0.2)
        resume_all()

    threading.Thread(target=wait, name="cocktail feeds", daemon=True).start()


def resume_all() -> None:
    """Go on with all grids that were running when ComfyUI ended. Paused ones stay paused."""
    for file in sorted(names.cocktail_dir("grids").glob("[!.]*/feed.json")):
        name = file.parent.name
        try:
            if json.loads(file.read_text(encoding="utf-8")).get("state") != RUNNING:
                continue
            with _door:
                if name not in _feeds or not _feeds[name].is_alive():
                    plan, order = _read(Store(file.parent))
                    _begin(plan, order)
        except Exception as error:
            logging.warning("Cocktail does not go on feeding the grid %s: %s", name, error)


def _begin(plan: Plan, order: Order) -> Feed:
    from comfy.cli_args import args

    store = Store(names.cocktail_dir("grids", plan.name))
    _lock(plan.name, store)
    try:
        store.save_plan(plan)
        store.set_aside_damaged(plan)
        feed = Feed(plan, store, order, events.announce, _checker(plan), not args.disable_metadata)
        feed.start()
    except OSError as error:
        raise GridError(
            f"The folder of the grid {plan.name} cannot be written: {error.strerror}. Free space or change its rights."
        ) from error
    _feeds[plan.name] = feed
    return feed


def _lock(name: str, store: Store) -> None:
    """Only one ComfyUI feeds a grid. The system lets go of the lock when the process ends."""
    from filelock import FileLock, Timeout

    if name in _locks:
        return
    store.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.folder / ".feed.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise GridError(
            f"Another ComfyUI that shares this output folder feeds the grid {name}."
        ) from None
    except (NotImplementedError, OSError):
        logging.warning("Cocktail: %s has no file locks. Let one ComfyUI feed it.", store.folder)
    _locks[name] = lock


def _known(name: str) -> Feed | None:
    """The feed of a grid, from this process or as the last one has left it."""
    if name in _feeds:
        return _feeds[name]
    store = Store(names.cocktail_dir("grids", name))
    if not (store.folder / "feed.json").is_file():
        return None
    plan, order = _read(store)
    return Feed(plan, store, order, events.announce, _checker(plan))


def _read(store: Store) -> tuple[Plan, Order]:
    described = json.loads((store.folder / "feed.json").read_text(encoding="utf-8"))
    if described.pop("format", None) != FORMAT:
        raise GridError(
            f"feed.json of {store.folder.name} is of another version of the pack. Begin anew."
        )
    plan = read_plan(described.pop("plan"), files.quiet_sha256)
    return plan, Order(**{**described, "servers": tuple(described["servers"])})


def _identity(plan: Plan) -> list[str]:
    return sorted({cell.key for cell in plan.cells})


def _checker(plan: Plan) -> Callable[[Cell], None]:
    """A function that raises GridError when a file of a cell is not the one that was planned with."""
    return lambda cell: cell.settings.check_files(plan.contents)
