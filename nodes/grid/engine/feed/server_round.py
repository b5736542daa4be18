"""One server's round: it is given cells as prompts, a few at a time, until none is left or it is
lost.

Who renders which cell is noted as for Render Grid (`render.claims`), with one worker for each
server. When a server is lost its worker ends, and others take its cells.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING

from ..errors import GridError
from ..plan.plan import Cell
from ..render.claims import Work, Worker
from .fed_grid import CANCELLED, PAUSED, FedGrid
from .prompts import check_files, prompt_of
from .remote import Ended, Failed, Gone, NoPicture, Odd, Refused, Server
from .servers import THIS

if TYPE_CHECKING:
    from .ray_cluster import RayServer

    AnyServer = Server | RayServer

POLL_S = 0.15
RETRY_S = 1.0
LOOK_S = 2.0
"""How long a prompt may be silent before the queue is asked whether it is still there."""

_turns: dict[str, threading.Lock] = {}
_turns_door = threading.Lock()


def serve(grid: FedGrid, name: str, server: AnyServer) -> None:
    """Have a server render cells of a grid until all are done, the grid does not run any more, or
    the server is lost. `name` is what requests call it.

    One grid after another has its turn at a server. Raises Refused and GridError.
    """
    with _turns_door:
        turn = _turns.setdefault(server.url, threading.Lock())
    while not turn.acquire(timeout=POLL_S):
        if not grid.is_running:
            return
    try:
        while grid.is_running and (missing := grid.missing()):
            try:
                made_by = grid.note_numerics(server.numerics())
                if name != THIS:
                    check_files(server, missing)
                grid.is_well(name)
                with Worker(grid.store.folder) as worker:
                    ServerRound(grid, name, server, worker, made_by).run()
                return
            except Ended as error:
                grid.in_trouble(name, str(error))
                return
            except Gone as error:
                grid.in_trouble(name, str(error))
                if not grid.servers_without_trouble() and not _came_back(grid, server):
                    return
                grid.changed.wait(RETRY_S)
    finally:
        turn.release()


def _came_back(grid: FedGrid, server: AnyServer) -> bool:
    """With no other server at work: whether this one answers again within the lease."""
    end = time.monotonic() + grid.order.lease_s
    while grid.is_running and time.monotonic() < end:
        try:
            server.known()
            return True
        except Gone:
            time.sleep(RETRY_S)
    return False


class ServerRound:
    """A server for as long as it answers: cells go out, and pictures come back."""

    def __init__(
        self, grid: FedGrid, name: str, server: AnyServer, worker: Worker, made_by: str
    ) -> None:
        """`made_by` is the server's numerics class."""
        self.grid, self.name, self.server = grid, name, server
        self.worker, self.made_by = worker, made_by
        self.work = Work(grid.missing())
        self.flying: dict[str, tuple[Cell, float]] = {}
        """Prompts that are out: their cells, and when they were sent."""
        self.answered, self.was_gone = time.monotonic(), False

    def run(self) -> None:
        """Send cells and collect their pictures until none is left. Raises Gone when the server
        was silent for longer than the lease.
        """
        self._take_up()
        self.answered = time.monotonic()
        while True:
            try:
                self._send_more()
                if not self.flying:
                    if not self.grid.is_running or not self.work:
                        return
                elif self.grid.order.state == CANCELLED:
                    self.server.forget([*self.flying], interrupt=True)
                    self._give_up()
                    return
                elif self._collect():
                    self.answered, self.was_gone = time.monotonic(), False
                else:
                    self._look()
                time.sleep(POLL_S)
            except Gone as error:
                self.was_gone = True
                silent_s = time.monotonic() - self.answered
                if isinstance(error, Ended) or silent_s > self.grid.order.lease_s:
                    self._give_up()
                    raise
                self.grid.in_trouble(self.name, str(error))
                time.sleep(RETRY_S)

    def _take_up(self) -> None:
        """Go on with prompts that were out when feeding last ended, if the server knows them."""
        sent = self.grid.sent_to(self.name)
        known = self.server.known()
        cells = {cell.key: cell for cell in self.grid.plan.render_order}
        for id, key in sent.items():
            is_there = id in known or self.server.has_ended(id)
            if is_there and key in cells and self.worker.hold(self.work, cells[key]):
                self.flying[id] = (cells[key], time.monotonic())
            else:
                self.grid.no_longer_out(id)

    def _give_up(self) -> None:
        for id in self.flying:
            self.grid.no_longer_out(id)

    def _send_more(self) -> None:
        grid = self.grid
        while grid.is_running and len(self.flying) < grid.order.in_flight:
            cell = self.worker.take(self.work, grid.store.is_finished)
            if cell is None:
                return
            self._send(cell)

    def _send(self, cell: Cell) -> None:
        """Queue a cell. Raises Gone when the server does not answer: the prompt may have arrived
        all the same, and counts as out.
        """
        grid, id = self.grid, str(uuid.uuid4())
        try:
            grid.unchanged(cell)
            grid.is_out(id, self.name, cell)
            prompt, output = prompt_of(cell, grid.plan)
            taken = self.server.send(prompt, id, output)
        except Refused as error:
            grid.no_longer_out(id)
            if self._is_one_of_several():
                raise Odd(str(error)) from error
            self._fail(cell, str(error))
            return
        except GridError as error:
            grid.no_longer_out(id)
            self._fail(cell, str(error))
            return
        except Gone:
            self.flying[id] = (cell, time.monotonic())
            raise
        if taken != id:
            grid.rename(id, taken)
        self.flying[taken] = (cell, time.monotonic())
        grid.announce(grid.plan.name, key=cell.key, status="running")

    def _collect(self) -> bool:
        """Take in what has ended; whether anything had."""
        ended = False
        for id, (cell, _) in [*self.flying.items()]:
            try:
                found = self.server.result(id, prompt_of(cell, self.grid.plan)[1])
                if found is None:
                    continue
                self.grid.unchanged(cell)
                self.grid.save(cell, *found, self.made_by)
                self.worker.saved(cell.key)
            except Failed as error:
                if isinstance(error, NoPicture) and self._is_one_of_several():
                    raise Odd(f"{self.server.url}: {error}") from error
                if error.interrupted:
                    self._was_interrupted(cell)
                else:
                    self._fail(cell, str(error))
            except (Refused, GridError) as error:
                if isinstance(error.__cause__, OSError):
                    raise
                if isinstance(error, Refused) and self._is_one_of_several():
                    raise Odd(str(error)) from error
                self._fail(cell, str(error))
            ended = True
            del self.flying[id]
            self.grid.no_longer_out(id)
        return ended

    def _look(self) -> None:
        """Whether silent prompts are still in the queue: a person may have cleared it, or the
        server may have been restarted.
        """
        now = time.monotonic()
        silent = [id for id, (_, sent) in self.flying.items() if now - sent > LOOK_S]
        if not silent or (now - self.answered < LOOK_S and not self.was_gone):
            return
        known = self.server.known()
        for id in silent:
            if id in known or self.server.has_ended(id):
                continue
            cell, _ = self.flying.pop(id)
            self.worker.saved(cell.key)
            self.grid.no_longer_out(id)
            if self.was_gone:
                self.work.put(cell)
            else:
                self.grid.change(
                    PAUSED, "A prompt of this grid was taken out of the queue. Resume to go on."
                )

    def _is_one_of_several(self) -> bool:
        """Whether other servers can render what this one cannot."""
        return self.name != THIS and len(self.grid.order.servers) > 1

    def _was_interrupted(self, cell: Cell) -> None:
        """A person has stopped the prompt; after a restart of the server nobody has."""
        self.worker.saved(cell.key)
        if not self.was_gone and self.grid.is_running:
            self.grid.change(PAUSED, "A prompt of this grid was interrupted. Resume to go on.")

    def _fail(self, cell: Cell, reason: str) -> None:
        self.grid.note_failure(cell, reason)
        self.worker.has_failed(cell.key)
