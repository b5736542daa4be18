"""A grid while it is fed, as the rounds of all its servers share it: what is asked, which prompts
are out, what is left to do, and what is kept of each answer.

feed.json in the grid's folder holds the plan, the order and the prompts that are out, so that
feeding can go on after ComfyUI has ended.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .....trainer.files import write_json
from ....host import numerics
from ..errors import GridError
from ..plan.plan import Cell, Plan
from ..store import cell_file
from ..store.picture import FORMATS, open_picture
from ..store.pixels import hash_of
from ..store.store import Store
from .remote import NoPicture

FORMAT = 1

RUNNING, PAUSED, CANCELLED = "running", "paused", "cancelled"
FINISHED, STOPPED = "finished", "stopped"
ACTIVE = (RUNNING, PAUSED)
STATES = (*ACTIVE, CANCELLED, FINISHED, STOPPED)
MOST_IN_FLIGHT = 4
ANSWERS = (*FORMATS, "JPEG")
"""What a server may send as a picture, by Pillow's names."""


@dataclass
class Order:
    """How a grid is to be fed, and how far that has come."""

    servers: tuple[str, ...]
    in_flight: int = 3
    save_as: str = cell_file.PNG
    lease_s: float = 60.0
    since: float = field(default_factory=time.time)
    """Cells that failed before this time are tried again, later ones are not."""
    state: str = RUNNING
    message: str = ""
    sent: dict[str, dict[str, str]] = field(default_factory=dict)
    """Prompts that are out: by their ids, the server and the key of the cell."""


def order_from_json(described: dict[str, Any]) -> Order:
    """The order in feed.json, which may have come from anywhere. Raises TypeError, ValueError and
    KeyError.
    """
    order = Order(**{**described, "servers": tuple(described["servers"])})
    texts = (*order.servers, order.state, order.message, order.save_as)
    numbers = (order.in_flight, order.lease_s, order.since)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("servers, state, message and save_as must be texts")
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise TypeError("in_flight, lease_s and since must be numbers")
    if not 1 <= order.in_flight <= MOST_IN_FLIGHT or order.state not in STATES:
        raise ValueError(f"in_flight {order.in_flight}, state {order.state[:40]!r}")
    if order.save_as not in cell_file.SUFFIXES or not 0 < order.lease_s < float("inf"):
        raise ValueError(f"save_as {order.save_as[:40]!r}, lease_s {order.lease_s}")
    if not isinstance(order.sent, dict) or not all(
        isinstance(s, dict) for s in order.sent.values()
    ):
        raise TypeError("sent must be an object of objects")
    for id, sent in order.sent.items():
        if not all(isinstance(text, str) for text in (id, sent["server"], sent["key"])):
            raise TypeError("sent must hold texts")
    return order


class FedGrid:
    """A grid while it is fed. `announce` is called with every change; `unchanged` raises GridError
    when a file of a cell is not the one that was planned with; `written` is called with every file
    that was written and its pixels.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        order: Order,
        announce: Callable[..., None],
        unchanged: Callable[[Cell], None] = lambda cell: None,
        with_graphs: bool = True,
        written: Callable[[Path, Any], None] = lambda file, pixels: None,
    ) -> None:
        self.plan, self.store, self.order = plan, store, order
        self.announce, self.unchanged, self.with_graphs = announce, unchanged, with_graphs
        self.written = written
        self.trouble: dict[str, str] = {}
        self.changed = threading.Event()
        """Set once somebody has paused, cancelled or stopped the grid."""
        self._door = threading.RLock()

    @property
    def is_running(self) -> bool:
        return self.order.state == RUNNING

    def change(self, state: str, message: str = "") -> None:
        """Pause, cancel, stop or finish: no more prompts are sent. Those that are out end, unless
        the grid is cancelled.
        """
        with self._door:
            self.order.state, self.order.message = state, message
            with contextlib.suppress(GridError):
                self.note()
        self.changed.set()

    def status(self) -> dict[str, Any]:
        """How the feeding stands, as JSON."""
        cells, files, failures = self.plan.render_order, self.store.files(), self.store.failures()
        with self._door:
            return {
                "name": self.plan.name,
                "state": self.order.state,
                "message": self.order.message,
                "cells": len(self.plan.cells),
                "pictures": len(cells),
                "finished": sum(cell.key in files for cell in cells),
                "failed": sum(cell.key in failures for cell in cells),
                "in_flight": [sent["key"] for sent in self.order.sent.values()],
                "servers": {name: self.trouble.get(name, "") for name in self.order.servers},
            }

    def tell(self) -> None:
        """Announce how the feeding stands."""
        self.announce(self.plan.name, feed=self.status())

    def in_trouble(self, server: str, message: str) -> None:
        """Note what is the matter with a server."""
        with self._door:
            new = self.trouble.get(server) != message
            self.trouble[server] = message
        if new:
            logging.warning("Cocktail: %s, while feeding %s", message, self.plan.name)
            self.tell()

    def is_well(self, server: str) -> None:
        """The server works again."""
        with self._door:
            self.trouble.pop(server, None)

    def servers_without_trouble(self) -> list[str]:
        with self._door:
            return [name for name in self.order.servers if not self.trouble.get(name)]

    def missing(self) -> list[Cell]:
        """The pictures still to be made, without those that failed since the feed began."""
        failed = self.store.failed()
        return [
            cell
            for cell in self.store.missing(self.plan)
            if cell.key not in failed or failed[cell.key].time < self.order.since
        ]

    def sent_to(self, server: str) -> dict[str, str]:
        """The prompts that are out at a server: the key of the cell, by id."""
        with self._door:
            return {
                id: sent["key"] for id, sent in self.order.sent.items() if sent["server"] == server
            }

    def is_out(self, id: str, server: str, cell: Cell) -> None:
        """Note a prompt before it is sent. Raises GridError when the disk refuses."""
        with self._door:
            self.order.sent[id] = {"server": server, "key": cell.key}
            self.note()

    def rename(self, id: str, taken: str) -> None:
        """The server has given a prompt an id of its own."""
        with self._door:
            self.order.sent[taken] = self.order.sent.pop(id)
            self.note()

    def no_longer_out(self, id: str) -> None:
        with self._door:
            if self.order.sent.pop(id, None) is not None:
                self.note()

    def save(self, cell: Cell, data: bytes, seconds: float, made_by: str) -> None:
        """Keep a picture. Raises NoPicture if the data is none, and GridError from an OSError
        if the disk refuses.
        """
        import numpy

        try:
            with open_picture(data, ANSWERS) as file:
                pixels = numpy.asarray(file.convert("RGB"))
        except Exception as error:
            raise NoPicture(f"The server sent no picture: {error}"[:300]) from None
        note = {"key": cell.key, "numerics": made_by} if self.with_graphs else None
        settings: Any = cell.settings if self.with_graphs else None
        save_as = cell_file.format_for(pixels, self.order.save_as)
        whole = cell_file.encode(pixels, save_as, settings, f"cocktail/{self.plan.name}", note)
        try:
            self.store.save_cell(
                cell,
                whole,
                {"prompt_s": round(seconds, 3)},
                save_as,
                made_by,
                hash_of(pixels),
            )
        except OSError as error:
            raise self._refused(
                error, "A cell cannot be saved", "Cells that are finished stay."
            ) from error
        path = self.store.cell_path(cell.key)
        file = path.relative_to(self.store.folder).as_posix()
        self.announce(self.plan.name, key=cell.key, status="finished", file=file)
        self.written(path, pixels)

    def note_failure(self, cell: Cell, reason: str) -> None:
        """Raises GridError when the disk refuses."""
        try:
            self.store.save_failure(cell, reason)
        except OSError as error:
            raise self._refused(error, "Nothing can be written") from error
        self.announce(self.plan.name, key=cell.key, status="failed", reason=reason)

    def note_numerics(self, described: dict[str, Any]) -> str:
        """The name of a numerics class, whose description is kept."""
        id = numerics.class_id(described)
        self.store.save_numerics(id, described)
        return id

    def note(self) -> None:
        """Write feed.json. Raises GridError when the disk refuses."""
        described = {"format": FORMAT, **asdict(self.order), "plan": self._plan_json}
        try:
            write_json(self.store.folder / "feed.json", described)
        except OSError as error:
            raise self._refused(error, "feed.json cannot be written") from error

    @cached_property
    def _plan_json(self) -> dict[str, Any]:
        described = self.plan.to_json()
        del described["cells"]
        return described

    def _refused(self, error: OSError, what: str, rest: str = "") -> GridError:
        return GridError(
            f"{what} in the folder of the grid {self.store.folder.name}: {error.strerror}. "
            f"Free some space or change the folder's rights, then resume. {rest}".rstrip()
        )
