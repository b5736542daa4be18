"""The queue feeder: the cells of a grid as prompts of their own, a few in flight, on one ComfyUI or
several.

feed.json of a grid's folder holds the plan that is fed, how, and which prompts are out. Who renders
which cell is noted as for Render Grid (`workers`), one worker for each server; when a server is
lost, its worker is ended and others take its cells.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .....trainer.files import write_json
from ....host import numerics
from ..errors import GridError
from ..plan.plan import Cell, Plan
from ..render.claims import Work, Worker
from ..store import cell_file
from ..store.store import Store
from . import servers as feed_settings
from .remote import Ended, Failed, Gone, Refused, Server

if TYPE_CHECKING:
    from .ray_cluster import RayServer

    AnyServer = Server | RayServer

FORMAT = 1
POLL_S = 0.15
RETRY_S = 1.0
LOOK_S = 2.0
"""How long a prompt may be silent before the queue is asked whether it is still there."""

RUNNING, PAUSED, CANCELLED, FINISHED, STOPPED = (
    "running",
    "paused",
    "cancelled",
    "finished",
    "stopped",
)
ACTIVE = (RUNNING, PAUSED)

_turns: dict[str, threading.Lock] = {}
_turns_door = threading.Lock()


@dataclass
class Order:
    """How a grid is fed, and how that stands."""

    servers: tuple[str, ...]
    in_flight: int = 3
    save_as: str = cell_file.PNG
    lease_s: float = 60.0
    since: float = field(default_factory=time.time)
    """Cells that failed before that are tried again, later ones are not."""
    state: str = RUNNING
    message: str = ""
    sent: dict[str, dict[str, str]] = field(default_factory=dict)
    """Prompts that are out: their ids, with server and key of the cell."""


class Feed:
    """One grid on its way through the queues of servers. `announce` is told of every change."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        order: Order,
        announce: Callable[..., None],
        unchanged: Callable[[Cell], None] = lambda cell: None,
        with_graphs: bool = True,
    ) -> None:
        self.plan, self.store, self.order = plan, store, order
        self.announce, self.unchanged, self.with_graphs = announce, unchanged, with_graphs
        self.trouble: dict[str, str] = {}
        self._door = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._note()
        self._thread = threading.Thread(
            target=self._run, name=f"cocktail feed {self.plan.name}", daemon=True
        )
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    def change(self, state: str, message: str = "") -> None:
        """Pause, cancel or stop: no more prompts are sent. Those that are out end, unless the grid
        is cancelled.
        """
        with self._door:
            self.order.state, self.order.message = state, message
            with contextlib.suppress(GridError):
                self._note()
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """How it stands, as JSON."""
        failures = self.store.failures()
        cells = self.plan.render_order
        finished = sum(self.store.is_finished(cell.key) for cell in cells)
        with self._door:
            return {
                "name": self.plan.name,
                "state": self.order.state,
                "message": self.order.message,
                "cells": len(self.plan.cells),
                "pictures": len(cells),
                "finished": finished,
                "failed": sum(cell.key in failures for cell in cells),
                "in_flight": [sent["key"] for sent in self.order.sent.values()],
                "servers": {name: self.trouble.get(name, "") for name in self.order.servers},
            }

    def _run(self) -> None:
        try:
            self._serve_all()
            self._end()
        except GridError as error:
            self.change(STOPPED, str(error))
        except Exception as error:
            logging.exception("Cocktail: feeding %s ended", self.plan.name)
            self.change(STOPPED, f"{type(error).__name__}: {error}"[:300])
        self._tell()

    def _serve_all(self) -> None:
        threads = [
            threading.Thread(
                target=self._guarded, args=(name,), name=f"cocktail feed {name}", daemon=True
            )
            for name in self.order.servers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _end(self) -> None:
        from ..store import export

        export.write(self.store)
        if self.order.state != RUNNING:
            return
        left = self.missing()
        if left and all(self.trouble.get(name) for name in self.order.servers):
            self.change(STOPPED, f"{len(left)} cells are left: {next(iter(self.trouble.values()))}")
            return
        self.change(FINISHED)

    def _guarded(self, name: str) -> None:
        """One server, until all is done or it is lost; what ends the whole grid is noted."""
        try:
            with self._connect(name) as server:
                self._serve(name, server)
        except Refused as error:
            self.in_trouble(name, str(error))
        except GridError as error:
            self.change(STOPPED, str(error))
        except Exception as error:
            logging.exception("Cocktail: feeding %s ended", self.plan.name)
            self.change(STOPPED, f"{type(error).__name__}: {error}"[:300])

    def _connect(self, name: str) -> AbstractContextManager[AnyServer]:
        """A server by its name. Raises Refused if it is a worker of Ray and the settings name no
        cluster any more.
        """
        if not name.startswith(feed_settings.RAY_WORKER):
            return contextlib.nullcontext(Server(feed_settings.address(name)))
        from .ray_cluster import RayServer

        return RayServer(
            name,
            feed_settings.ray_settings(),
            is_wanted=lambda: self.order.state == RUNNING,
            tell=lambda message: self.in_trouble(name, message),
        )

    def _serve(self, name: str, server: AnyServer) -> None:
        with _turns_door:
            turn = _turns.setdefault(server.url, threading.Lock())
        while not turn.acquire(timeout=POLL_S):
            if self.order.state != RUNNING:
                return
        try:
            while self.order.state == RUNNING and self.missing():
                try:
                    made_by = self.note_numerics(server.numerics())
                    self.check_files(server, name)
                    self.trouble.pop(name, None)
                    self._hand_out(server, name, made_by)
                    return
                except Ended as error:
                    self.in_trouble(name, str(error))
                    return
                except Gone as error:
                    self.in_trouble(name, str(error))
                    with self._door:
                        others = [s for s in self.order.servers if not self.trouble.get(s)]
                    if not others and not self._came_back(server):
                        return
                    self._wake.wait(RETRY_S)
        finally:
            turn.release()

    def _came_back(self, server: AnyServer) -> bool:
        """With no other server at work: whether this one answers again within the time of a lease."""
        end = time.monotonic() + self.order.lease_s
        while self.order.state == RUNNING and time.monotonic() < end:
            try:
                server.known()
                return True
            except Gone:
                time.sleep(RETRY_S)
        return False

    def _hand_out(self, server: AnyServer, name: str, made_by: str) -> None:
        """Send cells and collect their pictures until none is left. Raises Gone when the server was
        silent for too long.
        """
        work = Work(self.missing())
        with Worker(self.store.folder) as worker:
            flying = self._still_out(server, name, worker, work)
            answered, was_gone = time.monotonic(), False
            while True:
                try:
                    while self.order.state == RUNNING and len(flying) < self.order.in_flight:
                        cell = worker.take(work, self.store.is_finished)
                        if cell is None:
                            break
                        self._send(server, name, cell, flying, worker)
                    if not flying:
                        if self.order.state != RUNNING or not work:
                            return
                        time.sleep(POLL_S)
                        continue
                    if self.order.state == CANCELLED:
                        server.forget([*flying], interrupt=True)
                        for id in flying:
                            self._no_longer_out(id)
                        return
                    if self._collect(server, flying, worker, made_by, was_gone):
                        answered, was_gone = time.monotonic(), False
                    else:
                        self._look(server, flying, worker, answered, was_gone, work)
                    time.sleep(POLL_S)
                except Gone as error:
                    was_gone = True
                    if isinstance(error, Ended) or time.monotonic() - answered > self.order.lease_s:
                        for id in flying:
                            self._no_longer_out(id)
                        raise
                    self.in_trouble(name, str(error))
                    time.sleep(RETRY_S)

    def _still_out(
        self, server: AnyServer, name: str, worker: Worker, work: Work
    ) -> dict[str, tuple[Cell, float]]:
        """The prompts that were out when feeding last ended, as far as the server knows them."""
        with self._door:
            sent = {id: one["key"] for id, one in self.order.sent.items() if one["server"] == name}
        known = server.known()
        cells = {cell.key: cell for cell in self.plan.render_order}
        flying = {}
        for id, key in sent.items():
            is_there = id in known or server.has_ended(id)
            if is_there and key in cells and worker.hold(work, cells[key]):
                flying[id] = (cells[key], time.monotonic())
            else:
                self._no_longer_out(id)
        return flying

    def _send(
        self, server: AnyServer, name: str, cell: Cell, flying: dict[str, Any], worker: Worker
    ) -> None:
        """Queue a cell. Raises Gone when the server does not answer: the prompt may be there all
        the same, and counts as out.
        """
        id = str(uuid.uuid4())
        try:
            self.unchanged(cell)
            with self._door:
                self.order.sent[id] = {"server": name, "key": cell.key}
                self._note()
            prompt, output = prompt_of(cell, self.plan)
            taken = server.send(prompt, id, output)
        except Refused as error:
            self._no_longer_out(id)
            if name != "this" and len(self.order.servers) > 1:
                raise
            self._fail(cell, str(error), worker)
            return
        except GridError as error:
            self._no_longer_out(id)
            self._fail(cell, str(error), worker)
            return
        except Gone:
            flying[id] = (cell, time.monotonic())
            raise
        if taken != id:
            with self._door:
                self.order.sent[taken] = self.order.sent.pop(id)
                self._note()
        flying[taken] = (cell, time.monotonic())
        self.announce(self.plan.name, key=cell.key, status="running")

    def _collect(
        self,
        server: AnyServer,
        flying: dict[str, Any],
        worker: Worker,
        made_by: str,
        was_gone: bool,
    ) -> bool:
        """Take in what has ended; whether anything had."""
        ended = False
        for id, (cell, _) in [*flying.items()]:
            try:
                found = server.result(id, prompt_of(cell, self.plan)[1])
                if found is None:
                    continue
                self.unchanged(cell)
                self.save(cell, *found, made_by)
                worker.saved(cell.key)
            except Failed as error:
                if error.interrupted:
                    worker.saved(cell.key)
                    if not was_gone and self.order.state == RUNNING:
                        self.change(
                            PAUSED, "A prompt of this grid was interrupted. Resume goes on."
                        )
                else:
                    self._fail(cell, str(error), worker)
            except (Refused, GridError) as error:
                if isinstance(error.__cause__, OSError):
                    raise
                self._fail(cell, str(error), worker)
            ended = True
            del flying[id]
            self._no_longer_out(id)
        return ended

    def _look(
        self,
        server: AnyServer,
        flying: dict[str, Any],
        worker: Worker,
        answered: float,
        was_gone: bool,
        work: Work,
    ) -> None:
        """Whether prompts that are silent are still in the queue: a person may have cleared it, or
        the server been restarted.
        """
        silent = [id for id, (_, sent) in flying.items() if time.monotonic() - sent > LOOK_S]
        if not silent or (time.monotonic() - answered < LOOK_S and not was_gone):
            return
        known = server.known()
        for id in silent:
            if id in known or server.has_ended(id):
                continue
            cell, _ = flying.pop(id)
            worker.saved(cell.key)
            self._no_longer_out(id)
            if was_gone:
                work.put(cell)
            else:
                self.change(
                    PAUSED, "A prompt of this grid was taken out of the queue. Resume goes on."
                )

    def save(self, cell: Cell, data: bytes, seconds: float, made_by: str) -> None:
        """Keep a picture. Raises Failed if it is none, GridError from an OSError if the disk
        refuses.
        """
        import numpy
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data)) as file:
                pixels = numpy.asarray(file.convert("RGB"))
        except Exception as error:
            raise Failed(f"the server sent no picture: {error}"[:300]) from None
        note = {"key": cell.key, "numerics": made_by} if self.with_graphs else None
        settings: Any = cell.settings if self.with_graphs else None
        save_as = cell_file.format_for(pixels, self.order.save_as)
        whole = cell_file.encode(pixels, save_as, settings, f"cocktail/{self.plan.name}", note)
        try:
            self.store.save_cell(cell, whole, {"prompt_s": round(seconds, 3)}, save_as, made_by)
        except OSError as error:
            raise GridError(
                f"A cell cannot be saved in {self.store.folder.name}: {error.strerror}. Free space or change the folder's rights, "
                "and resume: the cells that are there stay."
            ) from error
        file = self.store.cell_path(cell.key).relative_to(self.store.folder).as_posix()
        self.announce(self.plan.name, key=cell.key, status="finished", file=file)

    def missing(self) -> list[Cell]:
        """The pictures still to be made, without those that failed since the feed began."""
        failed = {
            line["key"]
            for line in self.store.log()
            if line["status"] == "failed" and line["time"] >= self.order.since
        }
        return [cell for cell in self.store.missing(self.plan) if cell.key not in failed]

    def _fail(self, cell: Cell, reason: str, worker: Worker) -> None:
        self.note_failure(cell, reason)
        worker.has_failed(cell.key)

    def note_failure(self, cell: Cell, reason: str) -> None:
        try:
            self.store.save_failure(cell, reason)
        except OSError as error:
            raise GridError(
                f"Nothing can be written in {self.store.folder.name}: {error.strerror}. Free space and resume."
            ) from error
        self.announce(self.plan.name, key=cell.key, status="failed", reason=reason)

    def note_numerics(self, described: dict[str, Any]) -> str:
        """The name of a numerics class, which is noted."""
        id = numerics.class_id(described)
        self.store.save_numerics(id, described)
        return id

    def check_files(self, server: AnyServer, name: str) -> None:
        """Raise Refused if another server has no file of a name, or one of another size."""
        if name == "this":
            return
        wanted = sorted({file for cell in self.missing() for file in cell.settings.comfy_files})
        for folder in dict.fromkeys(folder for folder, _ in wanted):
            if folder == "input":
                raise Refused(
                    "the grid loads pictures of the input folder, which only this ComfyUI has"
                )
            there = server.sizes(folder)
            if not there:
                continue
            for file in [file for kind, file in wanted if kind == folder]:
                ours, theirs = _size(folder, file), there.get(file.replace("\\", "/"), -1)
                if theirs == -1:
                    raise Refused(f"it has no {file} in {folder}")
                if theirs is not None and ours is not None and theirs != ours:
                    raise Refused(f"its {file} is another file: {theirs:,} bytes, not {ours:,}")

    def _no_longer_out(self, id: str) -> None:
        with self._door:
            if self.order.sent.pop(id, None) is not None:
                self._note()

    def in_trouble(self, name: str, message: str) -> None:
        """Note what is the matter with a server."""
        with self._door:
            new = self.trouble.get(name) != message
            self.trouble[name] = message
        if new:
            logging.warning("Cocktail: %s, while feeding %s", message, self.plan.name)
            self._tell()

    def _note(self) -> None:
        """Raises GridError when the disk refuses."""
        described = self.plan.to_json()
        del described["cells"]
        try:
            write_json(
                self.store.folder / "feed.json",
                {"format": FORMAT, **asdict(self.order), "plan": described},
            )
        except OSError as error:
            raise GridError(
                f"feed.json cannot be written in {self.store.folder.name}: {error.strerror}. Free space and resume."
            ) from error

    def _tell(self) -> None:
        self.announce(self.plan.name, feed=self.status())


def prompt_of(cell: Cell, plan: Plan) -> tuple[dict[str, Any], str]:
    """The API prompt that makes a cell, and its output node. Save Image becomes a preview: the cell
    is kept by us.
    """
    prompt, output = cell.settings.api_prompt(f"cocktail/{plan.name}"), cell.settings.output
    node = prompt[output]
    if node["class_type"] == "SaveImage":
        node["class_type"], node["inputs"] = "PreviewImage", {"images": node["inputs"]["images"]}
    return prompt, output


def _size(folder: str, name: str) -> int | None:
    import os

    import folder_paths

    path = folder_paths.get_full_path(folder, name)
    return os.stat(path).st_size if path else None  # noqa: PTH116
