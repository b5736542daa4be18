"""The server for phones: it listens while a vote is open to them, on the port that the owner's
settings file allows, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from .....trainer.data.fetch.network import read_network_settings
from ..errors import GridError
from .app import make_app
from .door import Door
from .gate import Gate, Session

LOOK_S = 1.0
"""So often it looks whether a vote is still open."""
START_S = 10.0
CLOSE_S = 1.0
"""So long requests that are being answered may take when the last vote is over."""
SOMEWHERE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737). Nothing is sent to it."""


@dataclass
class PhoneServer:
    """One for each ComfyUI."""

    gate: Gate = field(default_factory=Gate)
    _thread: threading.Thread | None = None
    _at: tuple[str, int] | None = None
    _closing: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, settings: Path, grid: Path, **rules: object) -> tuple[Session, str]:
        """Open the vote on a grid to phones: the session, and the address for the QR code. Raises
        GridError if the settings file does not allow it or the port cannot be used.
        """
        host, port = allowed(settings)
        with self._lock:
            session = self.gate.open(grid, **rules)
            try:
                self._listen(host, port)
            except BaseException:
                self.gate.end(grid)
                raise
        return session, self.address(session)

    def address(self, session: Session) -> str:
        """Where the page of a session is. The token is behind #, which no browser sends or logs."""
        host, port = self._at or ("", 0)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/#{session.token}"

    def _listen(self, host: str, port: int) -> None:
        if self._thread is not None and self._closing:
            self._thread.join()
        if self._thread is not None and self._thread.is_alive():
            if self._at == (host, port):
                return
            raise GridError(
                "Phones vote at another address now. End these votes, or wait until they are over."
            )
        ready: list[BaseException | None] = []
        up = threading.Event()

        def run() -> None:
            try:
                asyncio.run(self._serve(host, port, ready, up))
            except BaseException as error:
                if up.is_set():
                    logging.exception("Cocktail: the server for phones has ended")
                ready.append(error)
                up.set()

        self._at, self._closing = (host, port), False
        self._thread = threading.Thread(target=run, name="cocktail-phone", daemon=True)
        self._thread.start()
        if not up.wait(START_S) or ready[0] is not None:
            reason = ready[0] if ready else "it does not start"
            raise GridError(
                f"Phones cannot vote at {host}:{port} ({reason}). Choose another phone_port or "
                "phone_address in network.json."
            )

    async def _serve(
        self, host: str, port: int, ready: list[BaseException | None], up: threading.Event
    ) -> None:
        app = make_app(self.gate)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
        await runner.setup()
        assert runner.server is not None
        door = Door(runner.server)
        try:
            listening = await asyncio.get_running_loop().create_server(door, host, port)
            ready.append(None)
            up.set()
            try:
                while not self._closes():
                    await asyncio.sleep(LOOK_S)
                    door.look()
            finally:
                listening.close()
        finally:
            await runner.cleanup()

    def _closes(self) -> bool:
        """Whether no vote is open any more. Whoever opens one from then on waits for the port."""
        with self._lock:
            self._closing = not self.gate.sessions()
            return self._closing


PHONES = PhoneServer()


def allowed(settings: Path) -> tuple[str, int]:
    """Address and port for phones. Raises GridError, which says what to write where, if the owner
    does not allow it, and TrainerError if the file is wrong.
    """
    found = read_network_settings(settings)
    if not found.phone_port:
        raise GridError(
            f'Voting from phones is off. The owner of this server can allow it: {{"phone_port": '
            f"8190}} in {settings.name} in ComfyUI's folder user/cocktail. Whoever is in the same "
            "network and has the link can then see the pictures of the grid and vote."
        )
    return found.phone_address or own_address(), found.phone_port


def own_address() -> str:
    """The address of this machine in its own network. Raises GridError if it has none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(SOMEWHERE)
        return probe.getsockname()[0]
    raise GridError(
        'This machine has no address in a network. Write it into network.json: "phone_address": '
        '"192.168.0.7".'
    )
