"""The other places where grids may be rendered: a settings file on the server, which no graph or
request can write.

<user>/cocktail/servers.json: {"servers": ["http://192.168.0.7:8188"], "lease_s": 60, "ray":
{"workers": 2}}
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GridError
from .remote import Refused, check_url

THIS = "this"
"""What a request calls the ComfyUI that it is sent to."""
RAY = "ray"
"""What a request calls all workers of the Ray cluster."""
RAY_WORKER = "Ray worker "
MOST_WORKERS, MOST_GPUS = 256, 64


@dataclass(frozen=True)
class RaySettings:
    """A Ray cluster and the ComfyUIs that it is to keep running."""

    workers: int
    """How many ComfyUIs."""
    address: str = ""
    """"auto", HOST:PORT or ray://HOST:PORT of a running cluster; empty: one that is started here
    and ends with the grid.
    """
    gpus: float | None = None
    """How many GPUs Ray reserves for each; None: one if the cluster has any."""
    comfyui: str = ""
    """ComfyUI's folder on the machines of the cluster; empty: the same as here."""
    arguments: tuple[str, ...] | None = None
    """ComfyUI's arguments there; None: the same as here, apart from address and port."""


@dataclass(frozen=True)
class FeedSettings:
    """The servers that may be used. The cells of one that is silent for `lease_s` go to others."""

    servers: tuple[str, ...] = ()
    lease_s: float = 60.0
    ray: RaySettings | None = None


def settings_file() -> Path:
    import folder_paths

    return Path(folder_paths.get_user_directory(), "cocktail", "servers.json")


def read_settings(file: Path) -> FeedSettings:
    """The settings in the file; without it, no other server. Raises GridError if it is wrong."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return FeedSettings()
    except ValueError as error:
        raise GridError(f"{file.name} is not JSON: {error}. Correct it.") from None
    if not isinstance(found, dict) or not isinstance(found.get("servers", []), list):
        raise GridError(f'{file.name} must be an object with "servers", a list of addresses.')
    lease_s: Any = found.get("lease_s", FeedSettings.lease_s)
    if not _is_number(lease_s, int | float) or not 1 <= lease_s <= 86_400:
        raise GridError(f"{file.name}: lease_s must be a number of seconds from 1 to 86400.")
    return FeedSettings(
        tuple(check_url(url) for url in found.get("servers", [])),
        float(lease_s),
        _checked_ray(found["ray"], file.name) if "ray" in found else None,
    )


def _checked_ray(found: Any, file: str) -> RaySettings:
    is_right: dict[str, Callable[[Any], bool]] = {
        "workers": lambda value: _is_number(value, int) and 1 <= value <= MOST_WORKERS,
        "address": lambda value: isinstance(value, str),
        "gpus": lambda value: _is_number(value, int | float) and 0 <= value <= MOST_GPUS,
        "comfyui": lambda value: isinstance(value, str),
        "arguments": lambda value: (
            isinstance(value, list) and all(isinstance(part, str) for part in value)
        ),
    }
    if not isinstance(found, dict) or "workers" not in found:
        raise GridError(
            f'{file}: "ray" must be an object with "workers", the number of ComfyUIs that Ray '
            "keeps running."
        )
    for name, value in found.items():
        if name not in is_right:
            raise GridError(f'{file}: "ray" has no setting {name!r}, only {", ".join(is_right)}.')
        if not is_right[name](value):
            raise GridError(f'{file}: {name} of "ray" cannot be {value!r}.')
    arguments = tuple(found["arguments"]) if "arguments" in found else None
    return RaySettings(**{**found, "arguments": arguments})


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def ray_settings() -> RaySettings:
    """The cluster of the settings file. Raises Refused if the file no longer names one."""
    found = read_settings(settings_file()).ray
    if found is None:
        raise Refused('user/cocktail/servers.json no longer has "ray"')
    return found


def chosen(wanted: Any, settings: FeedSettings) -> tuple[str, ...]:
    """The servers that a request names: "this", addresses from the settings, "all" or "ray".
    Raises GridError for one that is not allowed.
    """
    if wanted in (None, []):
        return (THIS,)
    if wanted == "all":
        return (THIS, *settings.servers)
    if wanted == RAY:
        wanted = [RAY]
    if not isinstance(wanted, list):
        raise GridError(
            '"servers" must be a list of addresses, where "this" means this ComfyUI; or "all", or '
            '"ray".'
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
                f"{url} is not allowed. The owner of this server can allow it in "
                'user/cocktail/servers.json, as in {"servers": ["' + url + '"]}.'
            )
    return tuple(dict.fromkeys(urls))


def _ray_workers(settings: FeedSettings) -> list[str]:
    if settings.ray is None:
        raise GridError(
            "No Ray cluster is allowed. The owner of this server can allow one in "
            'user/cocktail/servers.json, as in {"ray": {"workers": 2}}.'
        )
    if importlib.util.find_spec("ray") is None:
        raise GridError(
            "Ray is not installed for the Python that ComfyUI runs with. Install it with pip "
            "install ray, then start ComfyUI again."
        )
    return [f"{RAY_WORKER}{number}" for number in range(1, settings.ray.workers + 1)]


def address(name: str) -> str:
    """The URL of a server; of this ComfyUI for "this"."""
    return own_url() if name == THIS else name


def own_url() -> str:
    import server

    instance = server.PromptServer.instance
    host = getattr(instance, "address", None) or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    from comfy.cli_args import args

    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    return f"{scheme}://{host}:{instance.port}"
