"""How many connections there are at a time, and for how long: whoever opens thousands and says
nothing must not take from ComfyUI, in the same process, the files that it may have open.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from .gate import network_of

MOST, MOST_OF_ONE = 128, 16
"""Connections in all and of one client. A browser has six."""
LONGEST_S = 60.0
"""A connection that is older is closed once no request on it is being answered, and after as long
again in any case. Browsers open another one.
"""


@dataclass
class Door:
    """Makes the protocol of every connection to a server, for `create_server`."""

    server: web.Server
    clock: Callable[[], float] = time.monotonic
    _open: dict[RequestHandler, tuple[float, str]] = field(default_factory=dict)
    """When each connection was opened, and by whom."""

    def __call__(self) -> asyncio.Protocol:
        return _Knock(self)

    def enter(self, transport: asyncio.Transport) -> None:
        """Let a new connection in, or end it at once."""
        self._forget()
        peer = transport.get_extra_info("peername")
        client = network_of(peer[0]) if peer else ""
        of_client = Counter(who for _, who in self._open.values())[client]
        if len(self._open) >= MOST or of_client >= MOST_OF_ONE:
            transport.abort()
            return
        handler = self.server()
        self._open[handler] = self.clock(), client
        transport.set_protocol(handler)
        handler.connection_made(transport)

    def look(self) -> None:
        """Close the connections that are too old."""
        self._forget()
        now = self.clock()
        for handler, (since, _) in list(self._open.items()):
            if now - since > 2 * LONGEST_S and handler.transport is not None:
                handler.transport.abort()
            elif now - since > LONGEST_S:
                handler.close()

    def _forget(self) -> None:
        gone = [handler for handler in self._open if handler.transport is None]
        for handler in gone:
            del self._open[handler]


class _Knock(asyncio.Protocol):
    """A connection before it is known whose it is."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._door.enter(transport)
