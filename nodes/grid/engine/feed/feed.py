"""The queue feeder: the cells of a grid as prompts of their own, a few at a time, on one ComfyUI or
several. Every server has a round of its own in a thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..errors import GridError
from ..store import export
from . import servers
from .fed_grid import FINISHED, STOPPED, FedGrid
from .remote import Refused, Server
from .server_round import serve

if TYPE_CHECKING:
    from .ray_cluster import RayServer


class Feed:
    """The threads that feed one grid."""

    def __init__(self, grid: FedGrid) -> None:
        self.grid = grid
        self._thread = threading.Thread(
            target=self._run, name=f"cocktail feed {grid.plan.name}", daemon=True
        )

    def start(self) -> None:
        """Raises GridError when feed.json cannot be written."""
        self.grid.note()
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        def feed() -> None:
            self._serve_all()
            self._end()

        self._stopping_at_errors(feed)
        self.grid.tell()

    def _serve_all(self) -> None:
        threads = [
            threading.Thread(
                target=self._stopping_at_errors,
                args=(lambda name=name: self._serve(name),),
                name=f"cocktail feed {name}",
                daemon=True,
            )
            for name in self.grid.order.servers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self, name: str) -> None:
        """One server, until all is done or it is lost."""
        try:
            with self._connect(name) as server:
                serve(self.grid, name, server)
        except Refused as error:
            self.grid.in_trouble(name, str(error))

    def _connect(self, name: str) -> AbstractContextManager[Server | RayServer]:
        """A server by its name. Raises Refused if it is a Ray worker and the settings no longer
        name a cluster.
        """
        if not name.startswith(servers.RAY_WORKER):
            return contextlib.nullcontext(Server(servers.address(name)))
        from .ray_cluster import RayServer

        return RayServer(
            name,
            servers.ray_settings(),
            is_wanted=lambda: self.grid.is_running,
            tell=lambda message: self.grid.in_trouble(name, message),
        )

    def _end(self) -> None:
        grid = self.grid
        export.write(grid.store)
        if not grid.is_running:
            return
        left = grid.missing()
        if left and not grid.servers_without_trouble():
            trouble = next(iter(grid.trouble.values()))
            grid.change(STOPPED, f"{len(left)} cells are left: {trouble}")
            return
        grid.change(FINISHED)

    def _stopping_at_errors(self, work: Callable[[], None]) -> None:
        """Do the work; an error stops the whole grid and becomes its message."""
        try:
            work()
        except GridError as error:
            self.grid.change(STOPPED, str(error))
        except Exception as error:
            logging.exception("Cocktail: feeding %s ended", self.grid.plan.name)
            self.grid.change(STOPPED, f"{type(error).__name__}: {error}"[:300])
