"""Whether pictures may be fetched from the network and notices sent, which addresses are allowed,
and what answers and errors mean.

The network is off until the person who runs the server writes a settings file. Addresses of private
networks are refused in three places: the host of every URL and of every redirect; the answer of the
name server, which is the same answer that is then connected to (so that a name cannot change its
address between check and use); and the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ipaddress
import json
import re
import socket
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import TrainerError

if TYPE_CHECKING:
    from aiohttp import TCPConnector
    from aiohttp.abc import AbstractResolver
    from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that a NAT64 gateway turns into the IPv4 address in their last 32 bits (RFC 6052).
"""
VALUED_TAGS = ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after")
"""Words of X-Robots-Tag that have a value after a colon; other names before a colon are robots."""
NUMERIC = re.compile(r"\d+|0x[\da-f]*", re.IGNORECASE)
"""How the last part of a host name looks that systems take for a number: no name ends like this."""
NO_GATE = (
    "The installed aiohttp cannot check which address it connects to. Update it "
    "(pip install -U aiohttp): 3.12 or later is needed to use the network."
)
LONGEST_HOST = 253
"""Characters of a host name (RFC 1035, section 2.3.4)."""
LOCAL_TRANSLATED = ipaddress.ip_network("64:ff9b:1::/48")


class RefusedAddress(OSError):
    """An address that must not be connected to. It is an OSError, so that aiohttp treats it as a
    failed connection.
    """


class BadURL(ValueError):
    """A text that is not an http or https URL, or a URL that cannot be fetched."""


class Failure(Exception):
    """Why a URL gave no picture this time. `wait_s` is how long the server asks to wait before the
    next attempt.
    """

    def __init__(self, status: str, message: str = "", wait_s: float = 0.0) -> None:
        super().__init__(status, message, wait_s)
        self.status, self.message, self.wait_s = status, message, wait_s


@dataclass(frozen=True)
class NetworkSettings:
    """What the server's owner allows: fetching pictures at all, private addresses, sending figures
    to Weights & Biases, and where notices of runs are sent. With `notify_details` notices hold
    messages, which may name captions and paths. `phone_port` is where phones may vote, 0 nowhere,
    at `phone_address` of this machine or, without it, the one that it has in its own network.
    """

    download: bool = False
    private_addresses: bool = False
    notify: tuple[str, ...] = ()
    notify_details: bool = False
    wandb: bool = False
    phone_port: int = 0
    phone_address: str = ""


def read_network_settings(file: Path) -> NetworkSettings:
    """The settings in a JSON file; without the file everything is off.

    Raises TrainerError, which says what to write where, when the file is not JSON, has unknown
    keys, or has other values than these may have.
    """
    try:
        value = json.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return NetworkSettings()
    except OSError as error:
        raise TrainerError(
            f"The network settings in {file} cannot be read: {error}. {_advice(file)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TrainerError(
            f"The network settings in {file} are not JSON: {error}. {_advice(file)}"
        ) from error
    known = [field.name for field in fields(NetworkSettings)]
    if not isinstance(value, dict):
        raise TrainerError(f"The network settings in {file} are not an object. {_advice(file)}")
    if unknown := sorted(set(value) - set(known)):
        raise TrainerError(
            f"The network settings in {file} have unknown keys: {', '.join(unknown)}; "
            f"known are {', '.join(known)}. {_advice(file)}"
        )
    given: dict[str, Any] = {}
    for key, setting in value.items():
        if key == "notify":
            given[key] = _addresses(file, setting)
        elif key == "phone_port":
            given[key] = _port(file, setting)
        elif key == "phone_address":
            given[key] = _own_address(file, setting)
        elif isinstance(setting, bool):
            given[key] = setting
        else:
            raise TrainerError(
                f"{key} in {file} is {json.dumps(setting)}; it must be true or false. "
                f"{_advice(file)}"
            )
    return NetworkSettings(**given)


def _addresses(file: Path, value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(entry, str) and entry for entry in value):
        return tuple(value)
    raise TrainerError(
        f"notify in {file} must be a list of addresses, such as "
        '["https://example.org/hook"]. Without it no notices are sent.'
    )


def _port(file: Path, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1024 <= value <= 65535:
        return value
    raise TrainerError(
        f"phone_port in {file} must be a number from 1024 to 65535, such as 8190. Without it "
        "nobody votes from a phone."
    )


def _own_address(file: Path, value: Any) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise TrainerError(
            f"phone_address in {file} must be an IP address of this machine, such as 192.168.0.7."
        ) from None


def require_download(file: Path) -> NetworkSettings:
    """The settings in `file`. Raises TrainerError when they do not allow fetching pictures."""
    settings = read_network_settings(file)
    if not settings.download:
        raise TrainerError(
            f"Fetching pictures from the network is off. {_advice(file)} Pictures that are already "
            "on this machine need no network: join their folder to the table instead."
        )
    if not settings.private_addresses and not has_socket_gate():
        raise TrainerError(NO_GATE)
    return settings


def require_wandb(file: Path) -> None:
    """Raise TrainerError when the settings in `file` do not allow Weights & Biases."""
    if not read_network_settings(file).wandb:
        raise TrainerError(
            "The run is set to log to Weights & Biases (logging.wandb), which the owner of this "
            f'server has not allowed. To allow it, write {{"wandb": true}} into {file} on the '
            "machine that runs ComfyUI, or switch it off."
        )


def has_socket_gate() -> bool:
    """Whether the installed aiohttp lets each socket be checked before it connects, as 3.12 and
    later do. Without that, what it takes for an address is checked by nobody.
    """
    import aiohttp

    return "socket_factory" in inspect.signature(aiohttp.TCPConnector.__init__).parameters


def _advice(file: Path) -> str:
    return f'To allow it, write {{"download": true}} into {file} on the machine that runs ComfyUI.'


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet: not private, loopback, link-local,
    multicast or reserved.

    For an IPv6 address that stands for an IPv4 address (mapped, 6to4, Teredo, NAT64), both must be.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return _is_public(address) and all(_is_public(inner) for inner in _embedded(address))


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address in TRANSLATED or address.sixtofour or address.teredo:
            return not address.scope_id
        if address.scope_id or address.is_site_local or address in LOCAL_TRANSLATED:
            return False
    return address.is_global and not (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )


def _embedded(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in TRANSLATED:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [found for found in inner if found is not None]


def check_address(text: str, settings: NetworkSettings) -> None:
    """Raise RefusedAddress unless connecting to this IP address is allowed."""
    if not settings.private_addresses and not is_public(text):
        raise RefusedAddress(f"{text} is not an address of the public internet")


def check_url(text: str, settings: NetworkSettings) -> URL:
    """The URL of a request or a redirect.

    Raises BadURL when it cannot be fetched, and RefusedAddress when its host is an IP address that
    is refused.
    """
    from yarl import URL

    try:
        url = URL(text.strip())
        host = url.host
        url.port  # noqa: B018 - raises when the port is not a number
    except ValueError as error:
        raise BadURL(f"it is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not host:
        raise BadURL("it is not an http or https URL")
    if len(host) > LONGEST_HOST:
        raise BadURL(f"its host has more than {LONGEST_HOST} characters, which no host has")
    if url.user is not None or url.password is not None:
        raise BadURL("it holds a user name or password")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if any(map(_is_numeric, (host, url.raw_host or ""))):
            raise RefusedAddress(
                f"{host} is an address in an unusual spelling. Write it with four numbers"
            ) from None
        return url
    check_address(host, settings)
    return url


def _is_numeric(host: str) -> bool:
    """Whether systems may take a host for an IPv4 address, such as 2130706433, 127.1 or 0x7f.1."""
    plain = unicodedata.normalize("NFKC", host).replace("\u3002", ".")
    return NUMERIC.fullmatch(plain.rstrip(".").rpartition(".")[2]) is not None


def connector(
    settings: NetworkSettings, connections: int, names: AbstractResolver | None = None
) -> TCPConnector:
    """A connector for aiohttp that refuses what `check_address` refuses; `names` resolves host
    names (by default the system does).

    Raises Failure with an aiohttp that cannot do that. Call this inside a running event loop.
    Redirects are not its matter: follow them one by one, each through `check_url`.
    """
    import aiohttp
    from aiohttp.abc import AbstractResolver

    class CheckedResolver(AbstractResolver):
        """Asks `names`, and refuses a host as soon as one of its addresses is refused."""

        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
            found = await self.names.resolve(host, port, family)
            for answer in found:
                try:
                    check_address(answer["host"], settings)
                except RefusedAddress as error:
                    raise RefusedAddress(f"{host} leads to a refused address: {error}") from error
            return found

        async def close(self) -> None:
            await self.names.close()

        def __init__(self) -> None:
            self.names = names or aiohttp.ThreadedResolver()

    def checked_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        check_address(address[0], settings)
        return socket.socket(family, kind, protocol)

    options: dict[str, Any] = {}
    if has_socket_gate():
        options["socket_factory"] = checked_socket
    elif not settings.private_addresses:
        raise Failure("old_aiohttp", NO_GATE)
    return aiohttp.TCPConnector(
        resolver=CheckedResolver(), limit=connections, limit_per_host=0, **options
    )


@contextlib.contextmanager
def network_errors() -> Iterator[None]:
    """Turn everything that aiohttp raises into a Failure with a status of one word."""
    import aiohttp

    try:
        yield
    except (BadURL, aiohttp.InvalidURL, UnicodeError) as error:
        raise Failure("bad_url", str(error)) from error
    except asyncio.TimeoutError as error:
        raise Failure("timeout", str(error)) from error
    except aiohttp.ClientSSLError as error:
        raise Failure("tls", str(error)) from error
    except aiohttp.ClientPayloadError as error:
        raise Failure("incomplete", str(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        if refusal := _behind(error, RefusedAddress):
            raise Failure("refused_address", str(refusal)) from error
        status = "dns" if _behind(error, socket.gaierror) else "connection"
        raise Failure(status, str(error) or type(error).__name__) from error


def _behind(error: BaseException | None, kind: type[OSError]) -> BaseException | None:
    """The error of that kind that aiohttp wrapped while it connected; None without one."""
    while error is not None and not isinstance(error, kind):
        error = getattr(error, "os_error", None) or error.__cause__
    return error


def robots_tags(headers: Iterable[str]) -> set[str]:
    """The words of X-Robots-Tag headers that are meant for everybody or for Cocktail by name, in
    lower case.

    `none` stands for noindex and nofollow. As in Google's specification of the header, a name with
    a colon begins a list that is only for that robot.
    """
    tags: set[str] = set()
    for header in headers:
        robot = ""
        for part in header.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in VALUED_TAGS:
                robot, part = name.strip(), rest
            if robot in ("", "*", "cocktail"):
                tags.add(part.strip())
    return tags | {"noindex", "nofollow"} if "none" in tags else tags


def retry_after_s(header: str | None) -> float:
    """Seconds from now in a Retry-After header, which is a number of seconds or a date; 0 when it
    is neither.
    """
    if not header:
        return 0.0
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, float(header)) if header.strip().isdigit() else _seconds_until(header)
    return 0.0


def _seconds_until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except TypeError:
        return 0.0
