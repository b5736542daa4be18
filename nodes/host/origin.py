"""Which requests come from ComfyUI's own page or from a program, and which from a page of another
site.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from .http import Handler, error

FOREIGN = "This request comes from a page of another site."


class Guarded:
    """A table of routes whose handlers answer 403 to pages of other sites, by the rule of ComfyUI's
    newest version (older ones do not look at Sec-Fetch-Site). As there, `--enable-cors-header`
    switches it off.
    """

    def __init__(self, table: web.RouteTableDef) -> None:
        self.table = table

    def get(self, path: str) -> Callable[[Handler], Handler]:
        return lambda handler: self.table.get(path)(guarded(handler))

    def post(self, path: str) -> Callable[[Handler], Handler]:
        return lambda handler: self.table.post(path)(guarded(handler))

    def static(self, prefix: str, folder: Path) -> None:
        """Serve the files of a folder of the pack, which hold nothing of anybody's."""
        self.table.static(prefix, folder)


def guarded(handler: Handler) -> Handler:
    """The handler, behind the check."""

    @functools.wraps(handler)
    async def checked(request: web.Request) -> web.StreamResponse:
        if is_foreign(request.headers.get) and not _is_open():
            return error(403, FOREIGN)
        return await handler(request)

    return checked


def is_foreign(header: Callable[[str], str | None]) -> bool:
    """Whether a browser says that another site's page sent a request: by Sec-Fetch-Site, or on this
    machine by an Origin that is not the Host.
    """
    if header("Sec-Fetch-Site") == "cross-site":
        return True
    host, origin = header("Host"), header("Origin")
    if host is None or origin is None:
        return False
    try:
        asked, asking = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
        ports = (asked.port, asking.port)
    except ValueError:
        return True
    if not _is_loopback(asked.hostname or ""):
        return False
    same_port = None in ports or ports[0] == ports[1]
    return asked.hostname != asking.hostname or not same_port


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_open() -> bool:
    from comfy.cli_args import args

    return bool(args.enable_cors_header)
