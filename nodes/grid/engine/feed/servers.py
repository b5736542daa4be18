"""Where else grids may be rendered: a settings file on the server, which no graph or request can
write.

<user>/cocktail/servers.json: {"servers": ["http://192.168.0.7:8188"], "lease_s": 60, "ray":
{"workers": 2}}
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GridError
from .remote import Refused, check_url

THIS = "this"
"""How a request names the ComfyUI that it is sent to."""
RAY = "ray"
"""How a request names all workers of the Ray cluster."""
RAY_WORKER = "Ray worker "
MOST_WORKERS = 256


@dataclass(frozen=True)
class RaySettings:
    """A Ray cluster and the ComfyUIs that it shall keep."""

    workers: int
    """How many ComfyUIs."""
    address: str = ""
    """"auto", HOST:PORT or ray://HOST:PORT of a cluster that runs; empty: one that is started here
    and ends with the grid.
    """
    gpus: float | None = None
    """How many GPUs Ray reserves for each; None: one, if the cluster has any."""
    comfyui: str = ""
    """ComfyUI's folder on the machines of the cluster; empty: the same as here."""
    arguments: tuple[str, ...] | None = None
    """What ComfyUI is started with there; None: the same as here, apart from address and port."""


@dataclass(frozen=True)
class FeedSettings:
    """The servers that may be used, and after how many silent seconds the cells of one go to
    others.
    """

    servers: tuple[str, ...] = ()
    lease_s: float = 60.0
    ray: RaySettings | None = None


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
    if (
        isinstance(lease_s, bool)
        or not isinstance(lease_s, int | float)
        or not 1 <= lease_s <= 86_400
    ):
        raise GridError(f"{file.name}: lease_s must be a number of seconds from 1 to 86400.")
    return FeedSettings(
        tuple(check_url(url) for url in found.get("servers", [])),
        float(lease_s),
        _checked_ray(found["ray"], file.name) if "ray" in found else None,
    )


def _checked_ray(found: Any, file: str) -> RaySettings:
    wrong = {
        "workers": lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_WORKERS,
        "address": lambda value: isinstance(value, str),
        "gpus": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 64,
        "comfyui": lambda value: isinstance(value, str),
        "arguments": lambda value: isinstance(value, list) and all(isinstance(part, str) for part in value),
    }  # fmt: skip
    if not isinstance(found, dict) or "workers" not in found:
        raise GridError(
            f'{file}: "ray" must be an object with "workers", the number of ComfyUIs that Ray keeps.'
        )
    for name, value in found.items():
        if name not in wrong:
            raise GridError(f'{file}: "ray" has no setting {name!r}, only {", ".join(wrong)}.')
        if not wrong[name](value):
            raise GridError(f'{file}: {name} of "ray" cannot be {value!r}.')
    arguments = tuple(found["arguments"]) if "arguments" in found else None
    return RaySettings(**{**found, "arguments": arguments})


def ray_settings() -> RaySettings:
    """Raises Refused if the file names no cluster any more."""
    found = read_settings(settings_file()).ray
    if found is None:
        raise Refused('user/cocktail/servers.json has no "ray" any more')
    return found


def chosen(wanted: Any, settings: FeedSettings) -> tuple[str, ...]:
    """The servers of a request: "this", addresses of the list, "all" or "ray". Raises GridError for
    one that is not allowed.
    """
    if wanted in (None, []):
        return (THIS,)
    if wanted == "all":
        return (THIS, *settings.servers)
    if wanted == RAY:
        wanted = [RAY]
    if not isinstance(wanted, list):
        raise GridError(
            '"servers" is a list of addresses, in which "this" is this ComfyUI; or "all", or "ray".'
        )
    urls: list[str] = []
    for url in wanted:
        if url == RAY:
            urls += _ray_workers(settings)
        else:
            urls.append(url if url == THIS else check_url(url))
    for url in urls:
        if url not in (THIS, *settings.servers) and not url.startswith(RAY_WORKER):
            raise GridError(
                f"{url} is not allowed. Its owner's word is needed: write it into user/cocktail/servers.json on this server, "
                'as in {"servers": ["' + url + '"]}.'
            )
    return tuple(dict.fromkeys(urls))


def _ray_workers(settings: FeedSettings) -> list[str]:
    if settings.ray is None:
        raise GridError(
            "No Ray cluster is allowed. Its owner's word is needed: write it into user/cocktail/servers.json on this server, "
            'as in {"ray": {"workers": 2}}.'
        )
    if importlib.util.find_spec("ray") is None:
        raise GridError(
            "Ray is not installed for the Python that ComfyUI runs with: pip install ray, and start ComfyUI again."
        )
    return [f"{RAY_WORKER}{number}" for number in range(1, settings.ray.workers + 1)]


def address(name: str) -> str:
    """The URL of a server, that of this ComfyUI for "this"."""
    return own_url() if name == THIS else name


def own_url() -> str:
    import server

    instance = server.PromptServer.instance
    host = getattr(instance, "address", None) or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    from comfy.cli_args import args

    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    return f"{scheme}://{host}:{instance.port}"
