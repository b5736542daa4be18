"""The grids that are being fed: started, paused, resumed, cancelled, retried; and taken up again
when ComfyUI starts.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .....trainer import bounded_json, marks
from .....trainer.errors import TrainerError
from .....trainer.files import read_text, sha256_text, write_text
from ....host import names
from ..cell import files
from ..errors import GridError
from ..plan.plan import Cell, Plan
from ..store import cell_file, events
from ..store.store import Store
from ..summary import read_plan
from ..view import thumbnails
from . import servers as feed_settings
from .fed_grid import (
    ACTIVE,
    CANCELLED,
    FORMAT,
    MOST_IN_FLIGHT,
    PAUSED,
    RUNNING,
    FedGrid,
    Order,
    order_from_json,
)
from .feed import Feed

IN_FLIGHT = (2, MOST_IN_FLIGHT)
"""Fewest and most prompts in the queue of a server at a time."""

JOIN_S = 30
"""How long to wait for the prompts of a stopped grid that are still out."""

_feeds: dict[str, Feed] = {}
_locks: dict[str, Any] = {}
_door = threading.RLock()


class Taken(GridError):
    """Another plan of that name is being fed, or another ComfyUI feeds this one."""


def start(
    plan: Plan,
    servers: Any = None,
    in_flight: Any = 3,
    save_as: Any = cell_file.PNG,
    retry_failed: bool = True,
) -> dict[str, Any]:
    """Begin to feed a plan, or go on if it is being fed already; how that stands. Raises
    GridError.
    """
    settings = feed_settings.read_settings(feed_settings.settings_file())
    _check_options(plan, in_flight, save_as)
    order = Order(feed_settings.chosen(servers, settings), in_flight, save_as, settings.lease_s)
    with _door:
        known = _known(plan.name)
        if known is not None:
            state = known.grid.order.state
            if state in ACTIVE and _identity(known.grid.plan) != _identity(plan):
                raise Taken(
                    f"The grid {plan.name} is {state} with another plan. Cancel it first, or "
                    "choose another name."
                )
            if state == RUNNING and known.is_alive():
                return known.grid.status()
            known.join(JOIN_S)
        if not retry_failed:
            order.since = 0.0
        return _begin(plan, order).grid.status()


def _check_options(plan: Plan, in_flight: Any, save_as: Any) -> None:
    least, most = IN_FLIGHT
    if (
        isinstance(in_flight, bool)
        or not isinstance(in_flight, int)
        or not least <= in_flight <= most
    ):
        raise GridError(
            f"in_flight must be a whole number from {least} to {most}, but it is {in_flight!r}."
        )
    if save_as not in cell_file.SUFFIXES:
        raise GridError(
            f"save_as must be one of {', '.join(cell_file.SUFFIXES)}, but it is {save_as!r}."
        )
    if any(cell.settings.batch_size > 1 for cell in plan.cells):
        raise GridError(
            "Batched mode works with Render Grid only. The feeder renders each cell alone: set "
            "batch_size to 1 in the plan."
        )
    if any(cell.settings.recipe for cell in plan.cells):
        raise GridError(
            "Axes of merges work with Render Grid only, which merges without writing checkpoints."
        )


def control(name: str, action: str) -> dict[str, Any]:
    """Do "pause", "resume", "cancel" or "retry" (go on, and try failed cells again); how the
    feeding stands then. Raises GridError.
    """
    with _door:
        feed = _known(name)
        if feed is None:
            raise GridError(f"The grid {name} has not been fed yet. POST /cocktail/grids to begin.")
        with _held(name, feed.grid.store):
            return _controlled(name, feed, action)


@contextlib.contextmanager
def _held(name: str, store: Store) -> Iterator[None]:
    """Keep other ComfyUIs from feeding a grid while its feeding is changed, and after that only if
    this one feeds it. Raises Taken.
    """
    _lock(name, store)
    try:
        yield
    finally:
        if name not in _feeds:
            _locks.pop(name).release()


def _controlled(name: str, feed: Feed, action: str) -> dict[str, Any]:
    """Do what `control` is asked for. Raises GridError."""
    grid = feed.grid
    if action == "pause":
        if not grid.is_running:
            raise GridError(
                f"The grid {name} is {grid.order.state}. Only a running one can be paused."
            )
        grid.change(PAUSED)
    elif action == "cancel":
        grid.change(CANCELLED)
    elif grid.is_running and feed.is_alive():
        if action == "retry":
            raise GridError(
                f"The grid {name} is running. Retry its failed cells once it has ended."
            )
    else:
        grid = _go_on(feed, retry=action == "retry").grid
    found = grid.status()
    events.announce(name, feed=found)
    return found


def _go_on(feed: Feed, retry: bool) -> Feed:
    """Feed a grid again that has stopped, with failed cells too if wanted."""
    feed.join(JOIN_S)
    if feed.is_alive():
        raise GridError(
            f"Some prompts of {feed.grid.plan.name} are still being rendered. Try again soon."
        )
    order = feed.grid.order
    order.state, order.message = RUNNING, ""
    if retry:
        order.since = time.time()
    return _begin(_read(feed.grid.store)[0], order)


def status(name: str) -> dict[str, Any] | None:
    """How the feeding of a grid stands; None if it never began."""
    with _door:
        feed = _known(name)
    return feed.grid.status() if feed else None


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
            if _described(Store(file.parent)).get("state") != RUNNING:
                continue
            with _door:
                if name not in _feeds or not _feeds[name].is_alive():
                    plan, order = _read(Store(file.parent))
                    if _is_own(plan):
                        _begin(plan, order)
                    else:
                        _pause_strange(plan, order)
        except Exception as error:
            logging.warning("Cocktail cannot go on feeding the grid %s: %s", name, error)


def _pause_strange(plan: Plan, order: Order) -> None:
    """Pause a grid that says it is running, but was not begun here, and say so in its feed.json."""
    store = Store(names.cocktail_dir("grids", plan.name))
    message = (
        "It was not begun by this version of the pack on this ComfyUI. Resume it if you trust its "
        "workflow."
    )
    _lock(plan.name, store)
    try:
        FedGrid(plan, store, order, events.announce).change(PAUSED, message)
    finally:
        _locks.pop(plan.name).release()
    logging.warning("Cocktail paused the grid %s: %s", plan.name, message)


def _begin(plan: Plan, order: Order) -> Feed:
    from comfy.cli_args import args

    store = Store(names.cocktail_dir("grids", plan.name))
    held = plan.name in _locks
    try:
        _lock(plan.name, store)
        store.save_plan(plan)
        store.set_aside_damaged(plan)
        write_text(_ticket(plan.name), _mark(plan))
        grid = FedGrid(
            plan,
            store,
            order,
            events.announce,
            _checker(plan),
            not args.disable_metadata,
            lambda file, pixels: thumbnails.keep(file, pixels, names.thumbnails_dir()),
        )
        feed = Feed(grid)
        feed.start()
    except Exception as error:
        if not held and plan.name in _locks:
            _locks.pop(plan.name).release()
        if not isinstance(error, OSError):
            raise
        raise GridError(
            f"Nothing can be written in the folder of the grid {plan.name}: {error.strerror}. Free "
            "some space or change the folder's rights."
        ) from error
    _feeds[plan.name] = feed
    return feed


def _ticket(name: str) -> Path:
    """The file with the mark of the plan of that name that was begun here: a grid's folder may have
    come from anywhere, and is not fed because of what it says itself.
    """
    return names.cocktail_dir(".feeds", f"{name}.txt")


def _mark(plan: Plan) -> str:
    try:
        return marks.mark(*_words(plan))
    except TrainerError as error:
        raise GridError(str(error)) from None


def _words(plan: Plan) -> tuple[str, ...]:
    return "feed", plan.name, sha256_text("\n".join(_identity(plan)))


def _is_own(plan: Plan) -> bool:
    try:
        return marks.is_marked(read_text(_ticket(plan.name), 1000), *_words(plan))
    except (OSError, ValueError):
        return False


def _lock(name: str, store: Store) -> None:
    """Make sure that one ComfyUI alone feeds a grid. The lock ends with this process."""
    from filelock import FileLock, Timeout

    if name in _locks:
        return
    store.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.folder / ".feed.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Taken(
            f"Another ComfyUI with the same output folder is feeding the grid {name}. Ask that one."
        ) from None
    except (NotImplementedError, OSError):
        logging.warning(
            "Cocktail: %s has no file locks. Let only one ComfyUI feed it.", store.folder
        )
    _locks[name] = lock


def _known(name: str) -> Feed | None:
    """The feed of a grid: one of this process, or as the last process has left it."""
    if name in _feeds:
        return _feeds[name]
    store = Store(names.cocktail_dir("grids", name))
    if not (store.folder / "feed.json").is_file():
        return None
    plan, order = _read(store)
    return Feed(FedGrid(plan, store, order, events.announce, _checker(plan)))


def _read(store: Store) -> tuple[Plan, Order]:
    where = f"feed.json of the grid {store.folder.name}"
    try:
        described = _described(store)
        if described.pop("format", None) != FORMAT:
            raise GridError(
                f"{where} was written by another version of the pack. Queue the grid again."
            )
        plan = described.pop("plan")
        order = order_from_json(described)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GridError(f"{where} is damaged ({error}). Queue the grid again.") from error
    found = read_plan(plan, files.quiet_sha256)
    if found.name != store.folder.name:
        raise GridError(f"{where} is that of the grid {found.name}. Rename the folder back.")
    return found, order


def _described(store: Store) -> Any:
    """What feed.json says. Raises OSError and ValueError."""
    return bounded_json.read(store.folder / "feed.json", most_depth=bounded_json.DEEP)


def _identity(plan: Plan) -> list[str]:
    return sorted({cell.key for cell in plan.cells})


def _checker(plan: Plan) -> Callable[[Cell], None]:
    """A function that raises GridError when a file of a cell has been replaced since the plan."""
    return lambda cell: cell.settings.check_files(plan.contents)
