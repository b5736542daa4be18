"""Which other ComfyUI servers grids may be fed to: a settings file on the server, which no graph or request can write.

<user>/cocktail/servers.json: {"servers": ["http://192.168.0.7:8188"], "lease_s": 60}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import GridError
from .remote import check_url

THIS = "this"
"""How a request names the ComfyUI that it is sent to."""


@dataclass(frozen=True)
class FeedSettings:
    """The servers that may be used, and after how many silent seconds the cells of one go to others."""

    servers: tuple[str, ...] = ()
    lease_s: float = 60.0


def settings_file() -> Path:
    import folder_paths

    return Path(folder_paths.get_user_directory(), "cocktail", "servers.json")


def read_settings(file: Path) -> FeedSettings:
    """What the file says; without it, no other server. Raises GridError for a file that is wrong."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return FeedSettings()
    except ValueError as error:
        raise GridError(f"{file.name} is not JSON: {error}.") from None
    if not isinstance(found, dict) or not isinstance(found.get("servers", []), list):
        raise GridError(f'{file.name} must be an object with "servers", a list of addresses.')
    lease_s: Any = found.get("lease_s", FeedSettings.lease_s)
    if isinstance(lease_s, bool) or not isinstance(lease_s, int | float) or not 1 <= lease_s <= 86_400:  # fmt: skip
        raise GridError(f"{file.name}: lease_s must be a number of seconds from 1 to 86400.")
    return FeedSettings(tuple(check_url(url) for url in found.get("servers", [])), float(lease_s))


def chosen(wanted: Any, settings: FeedSettings) -> tuple[str, ...]:
    """The servers of a request: "this", addresses of the list, or "all". Raises GridError for one that is not allowed."""
    if wanted in (None, []):
        return (THIS,)
    if wanted == "all":
        return (THIS, *settings.servers)
    if not isinstance(wanted, list):
        raise GridError(
            '"servers" is a list of addresses, in which "this" is this ComfyUI; or "all".'
        )
    urls = [url if url == THIS else check_url(url) for url in wanted]
    for url in urls:
        if url not in (THIS, *settings.servers):
            raise GridError(
                f"{url} is not allowed. Its owner's word is needed: write it into user/cocktail/servers.json on this server, "
                'as in {"servers": ["' + url + '"]}.'
            )
    return tuple(dict.fromkeys(urls))


def addresses(servers: Sequence[str]) -> list[str]:
    """The URLs of servers, that of this ComfyUI for "this"."""
    return [own_url() if server == THIS else server for server in servers]


def own_url() -> str:
    import server

    instance = server.PromptServer.instance
    host = getattr(instance, "address", None) or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    from comfy.cli_args import args

    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    return f"{scheme}://{host}:{instance.port}"
