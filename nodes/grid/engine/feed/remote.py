"""One ComfyUI, asked over HTTP: this one or another. Another one needs no code of ours."""

from __future__ import annotations

import functools
import http.client
import io
import ipaddress
import json
import math
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .....trainer import bounded_json
from ..errors import GridError

TIMEOUT_S = 30.0
SLOWEST = 10_000
"""Bytes that an answer must bring a second once it has lasted for twice the timeout."""
LARGEST_BYTES = 1_000_000_000
"""Of a picture. Other answers are read up to LARGEST_ANSWER."""
LARGEST_ANSWER = 32 << 20
LONGEST_WORD = 300
Asked = TypeVar("Asked", bound=Callable[..., Any])


class Gone(Exception):
    """The server does not answer. It may come back."""


class Ended(Gone):
    """The server will not come back."""


class Odd(Ended):
    """What answers is no ComfyUI, or one that answers in another way than those we know."""


class Refused(Exception):
    """The server refuses a prompt; the message says why."""


class Failed(Exception):
    """A prompt ran and failed; the message says why. `interrupted`: a person stopped it."""

    def __init__(self, message: str, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


class NoPicture(Failed):
    """What a server sent in place of a picture is not a picture."""


def understood(ask: Asked) -> Asked:
    """A method of a server that raises Odd, and not whatever an unforeseen answer leads to."""

    @functools.wraps(ask)
    def asked(server: Server, *details: Any, **named: Any) -> Any:
        try:
            return ask(server, *details, **named)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
            found: Exception = error
        except ValueError as error:
            found = error
        raise Odd(
            f"{server.url} does not answer as a ComfyUI does "
            f"({ask.__name__}: {type(found).__name__}: {str(found)[:100]}). Check its address."
        ) from found

    return asked  # type: ignore[return-value]


@dataclass
class Server:
    """A ComfyUI at `url`. `client` names us to it: without one, ComfyUI 0.3.75 forgets the outputs
    of cached nodes.
    """

    url: str
    client: str = field(default_factory=lambda: uuid.uuid4().hex)

    @understood
    def numerics(self) -> dict[str, Any]:
        """What can move the last bits of this server's pictures: versions, devices, switches."""
        found = self._get("/system_stats")
        system, devices = found.get("system", {}), found.get("devices", [])
        return {
            "comfyui": str(system.get("comfyui_version", ""))[:LONGEST_WORD],
            "torch": str(system.get("pytorch_version", ""))[:LONGEST_WORD],
            "device": ", ".join(str(one.get("name")) for one in devices)[:LONGEST_WORD],
            "arguments": [
                a[:LONGEST_WORD]
                for a in system.get("argv", [])[:LONGEST_WORD]
                if a.startswith(
                    ("--fast", "--fp", "--bf", "--use-", "--force", "--deterministic", "--cpu")
                )
            ],
        }

    @understood
    def sizes(self, folder: str) -> dict[str, int | None]:
        """The bytes of each file of a model folder; None where this ComfyUI does not say."""
        try:
            found = self._get(f"/experiment/models/{urllib.parse.quote(folder)}")
        except Refused:
            return {}
        sizes = {one["name"].replace("\\", "/"): one.get("size") for one in found}
        if not all(size is None or isinstance(size, int) for size in sizes.values()):
            raise TypeError("the size of a file is no number")
        return sizes

    @understood
    def send(self, prompt: dict[str, Any], id: str, output: str) -> str:
        """Queue a prompt; its id, which is `id` where the server lets us choose. Raises Refused or
        Gone.

        `output` is the node whose picture will be asked for; ComfyUI need not know it.
        """
        answer = self._post(
            "/prompt", {"prompt": prompt, "prompt_id": id, "client_id": self.client}
        )
        if answer.get("node_errors") or "prompt_id" not in answer:
            raise Refused(_refusal(answer, prompt))
        taken = _text(answer["prompt_id"])
        if len(taken) > LONGEST_WORD:
            raise ValueError("an id of that length")
        return taken

    @understood
    def known(self) -> set[str]:
        """The prompts that are running or waiting."""
        queue = self._get("/queue")
        return _ids(queue["queue_running"]) | _ids(queue["queue_pending"])

    @understood
    def has_ended(self, id: str) -> bool:
        return self._entry(id) is not None

    @understood
    def result(self, id: str, output: str) -> tuple[bytes, float] | None:
        """The picture file that a prompt has made, and the seconds it took; None before it has
        ended. Raises Failed or Gone.
        """
        entry = self._entry(id)
        if entry is None:
            return None
        times: dict[str, float] = {}
        for kind, data in entry["status"]["messages"]:
            times[_text(kind)] = float(data.get("timestamp", 0)) / 1000
            if kind == "execution_interrupted":
                raise Failed("interrupted", interrupted=True)
            if kind == "execution_error":
                lines = str(data.get("exception_message", "")).strip().splitlines() or ["failed"]
                raise Failed(f"{data.get('node_type')} ({data.get('node_id')}): {lines[0]}"[:300])
        images = entry["outputs"].get(output, {}).get("images", [])
        if len(images) != 1:
            raise Failed(
                f"Node {output} showed {len(images)} pictures, but a cell is one picture."
                + (" Set the batch size to 1." if images else "")
            )
        (image,) = images
        query = {name: image.get(name, "") for name in ("filename", "subfolder", "type")}
        seconds = max(0.0, times.get("execution_success", 0.0) - times.get("execution_start", 0.0))
        if not math.isfinite(seconds):
            raise ValueError(f"{seconds} seconds")
        return self._read(f"/view?{urllib.parse.urlencode(query)}", LARGEST_BYTES), seconds

    @understood
    def forget(self, ids: list[str], interrupt: bool) -> None:
        """Take prompts out of the queue, and stop the one of them that runs."""
        self._post("/queue", {"delete": ids})
        if interrupt:
            for id in _ids(self._get("/queue")["queue_running"]) & set(ids):
                self._post("/interrupt", {"prompt_id": id})

    def _entry(self, id: str) -> dict[str, Any] | None:
        """The history of a prompt that has ended; None before that."""
        return self._get(f"/history/{id}").get(id)

    def _get(self, path: str) -> Any:
        return _parsed(self._read(path))

    def _post(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            return _parsed(self._open(request) or b"{}")
        except urllib.error.HTTPError as error:
            try:
                answer = _parsed(error.read(LARGEST_ANSWER) or b"{}")
            except (ValueError, RecursionError, OSError, http.client.HTTPException):
                answer = None
            if not isinstance(answer, dict):
                raise Refused(f"{self.url} answers {error.code}") from None
            return answer

    def _read(self, path: str, most_bytes: int = LARGEST_ANSWER) -> bytes:
        try:
            return self._open(urllib.request.Request(self.url + path), most_bytes)
        except urllib.error.HTTPError as error:
            raise Refused(f"{self.url} answers {error.code} to {path.partition('?')[0]}") from None

    def _open(self, request: urllib.request.Request, most_bytes: int = LARGEST_ANSWER) -> bytes:
        try:
            with _opener(self.url).open(request, timeout=TIMEOUT_S) as answer:
                return answer.read(most_bytes)
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Gone(f"{self.url} does not answer: {getattr(error, 'reason', error)}") from None


class _Patient(io.RawIOBase):
    """The bytes of an answer as they come. Raises TimeoutError when they come too slowly: the
    timeout alone begins anew with every byte.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw, self.began, self.size = raw, time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self.raw.readinto(buffer)
        self.size += count or 0
        if time.monotonic() - self.began > 2 * TIMEOUT_S + self.size / SLOWEST:
            raise TimeoutError("it sends its answer too slowly")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, *details: Any, **named: Any) -> None:
        super().__init__(*details, **named)
        self.fp: Any = io.BufferedReader(_Patient(self.fp.detach()))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SafeConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req)


class _Safe(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self.secure = context

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_SafeConnection, req, context=self.secure)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server must answer itself: the place it redirects to was not allowed."""

    def redirect_request(self, *_: Any) -> None:
        return None


@functools.lru_cache(maxsize=64)
def _opener(url: str) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    host = urllib.parse.urlsplit(url).hostname or ""
    if host == "localhost" or (
        host.replace(".", "").isdigit() and ipaddress.ip_address(host).is_loopback
    ):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), _NoRedirect, _Plain, _Safe(context)
    )


def _ids(queued: list[Any]) -> set[str]:
    return {item[1] for item in queued}


def _parsed(data: bytes) -> Any:
    """A JSON value that can be written again. Raises ValueError and RecursionError."""
    value = bounded_json.parse(data, LARGEST_ANSWER, most_depth=bounded_json.DEEP)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:60]!r} is no text")
    return value


def _refusal(answer: dict[str, Any], prompt: dict[str, Any]) -> str:
    parts = []
    for id, found in (answer.get("node_errors") or {}).items():
        words = " ".join(f"{e.get('message', '')}: {e.get('details', '')}" for e in found["errors"])
        parts.append(f"{prompt.get(id, {}).get('class_type', 'node')} ({id}): {words}")
    error = answer.get("error") or {}
    whole = error.get("message", "refused") if isinstance(error, dict) else str(error)
    return ("; ".join(parts) or whole)[:300]


def check_url(url: Any) -> str:
    """A server's address without a slash at its end. Raises GridError if it is not one."""
    try:
        parts = urllib.parse.urlsplit(url if isinstance(url, str) else "")
        parts.port  # noqa: B018 - raises when it is no number
    except ValueError:
        parts = urllib.parse.urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise GridError(
            f"{str(url)[:200]!r} is not the address of a ComfyUI. Write http://HOST:PORT."
        )
    return str(url).rstrip("/")
