"""What all HTTP routes share: reading a JSON body, and answering in JSON whatever happens."""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ...trainer import bounded_json
from ...trainer.errors import TrainerError
from ...trainer.files import finite
from ...trainer.jobs.job import Refused
from .names import BadName

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
UTF_8 = ("utf-8", "utf8", "us-ascii", "ascii")
MOST_BODY = 16 << 20
"""Bytes of JSON that a request may have."""
AT_ONCE = 16
"""Requests that are worked on at a time; others wait for their turn."""
T = TypeVar("T")
ODD = (errno.EINVAL, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EFBIG, errno.ENOENT)
"""Errors of a folder that came from elsewhere: a link, pipe or folder where a file should be, or a
file that is far too large; and of one that somebody deletes meanwhile.
"""
Refusals = Mapping[type[Exception], int]
REFUSALS: Refusals = {Refused: 409, BadName: 400, TrainerError: 400, OSError: 500}
"""The statuses of what a route refuses, the narrower exception first."""


def reads(do: Callable[[web.Request], Any], refusals: Refusals = REFUSALS) -> Handler:
    """The handler of a GET route: the JSON that `do` returns, computed outside the event loop."""

    @functools.wraps(do)
    async def handle(request: web.Request) -> web.Response:
        return await answer(lambda: do(request), refusals)

    return handle


def changes(
    do: Callable[[web.Request, dict[str, Any]], Any],
    refusals: Refusals = REFUSALS,
    wanted: str = "a JSON object, {} will do,",
) -> Handler:
    """The handler of a POST route: `do` is given the JSON object of its body too. `wanted` says in
    words what that is.
    """

    @functools.wraps(do)
    async def handle(request: web.Request) -> web.Response:
        try:
            body = await json_body(request, wanted)
        except web.HTTPException as refusal:
            return error(refusal.status, refusal.text or refusal.reason)
        return await answer(lambda: do(request, body), refusals)

    return handle


async def json_body(request: web.Request, wanted: str) -> dict[str, Any]:
    """The JSON object of a request. Raises HTTPBadRequest, which says what is `wanted`, for
    anything else.

    Only application/json is taken: a page of another site cannot send it without being asked. It
    is measured before it is parsed, and never unpacked.
    """
    charset = (request.charset or "utf-8").lower()
    if request.content_type != "application/json" or charset not in UTF_8:
        raise web.HTTPBadRequest(text=f"Send {wanted} as application/json in UTF-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPBadRequest(text="Send the body as it is, without Content-Encoding.")
    data = await _read(request, min(MOST_BODY, request.client_max_size or MOST_BODY))
    try:
        body = bounded_json.parse(data, MOST_BODY, most_depth=bounded_json.DEEP)
        json.dumps(body, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"Send {wanted} as application/json ({error}).") from None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text=f"Send {wanted} as application/json.")
    return body


async def _read(request: web.Request, most_bytes: int) -> bytes:
    """The body, of which no more is taken than may be: one that is sent in pieces does not say
    before how long it is. Raises HTTPRequestEntityTooLarge.
    """
    size, pieces = request.content_length or 0, []
    if size <= most_bytes:
        size = 0
        async for piece in request.content.iter_chunked(1 << 16):
            size += len(piece)
            if size > most_bytes:
                break
            pieces.append(piece)
    if size > most_bytes:
        words = f"Send {most_bytes >> 10} KB at most."
        raise web.HTTPRequestEntityTooLarge(most_bytes, size, text=words)
    return b"".join(pieces)


async def outside(do: Callable[[], T]) -> T:
    """What `do` returns, computed outside the event loop. What nobody waits for any longer is
    worked on to its end: in a pool of its own it takes no thread of ComfyUI's.
    """
    return await asyncio.get_running_loop().run_in_executor(_pool(), do)


@functools.lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, "cocktail routes")


async def answer(read: Callable[[], Any], refusals: Refusals = REFUSALS) -> web.Response:
    """The JSON that `read` returns, computed outside the event loop; what it refuses becomes
    {"error": ...} with the status of the first entry that fits.
    """
    try:
        return web.Response(
            text=await outside(lambda: dumps(read())), content_type="application/json"
        )
    except web.HTTPException as refusal:
        return error(refusal.status, refusal.text or refusal.reason)
    except tuple(refusals) as refusal:
        status = next(refusals[kind] for kind in refusals if isinstance(refusal, kind))
        if isinstance(refusal, OSError):
            return error(400 if refusal.errno in ODD else status, _of_disk(refusal))
        return error(status, str(refusal))
    except RecursionError:
        return error(400, "A value in what was sent, or in a file it names, is nested too deeply.")


def _of_disk(refusal: OSError) -> str:
    """What the disk refused, in words."""
    if not refusal.strerror:
        return str(refusal)
    name = Path(os.fsdecode(refusal.filename)).name if refusal.filename else ""
    if refusal.errno == errno.EFBIG:
        return f"{name} cannot be read: {refusal.strerror}. Delete it, or put another in its place."
    if refusal.errno == errno.ENOENT:
        return f"{name} is no longer there: it was deleted or moved meanwhile. Refresh the list."
    if refusal.errno in ODD:
        return f"{name} is a link or no regular file. Put the file in its place, or delete it."
    where = f" ({name})" if name else ""
    return (
        f"The disk of ComfyUI's folders refuses: {refusal.strerror}{where}. Free some space, or "
        "change the rights of ComfyUI's output folder."
    )


def error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


def dumps(value: Any) -> str:
    """JSON as every reader takes it: null for NaN and the infinities."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False)


def only(body: Mapping[str, Any], *known: str) -> None:
    """Raise HTTPBadRequest if a body names anything else than these."""
    if unknown := sorted(set(body) - set(known)):
        words = ", ".join(known) if known else "nothing"
        raise web.HTTPBadRequest(
            text=f"Unknown in the body: {', '.join(unknown)[:200]}. Known: {words}."
        )


def whole_number(
    body: Mapping[str, Any], name: str, least: int, most: int, default: int | None = None
) -> int:
    """A whole number of a body. Raises HTTPBadRequest."""
    value = body.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise web.HTTPBadRequest(text=f"{name} must be a whole number from {least} to {most}.")


def truth(body: Mapping[str, Any], name: str, default: bool | None = None) -> bool:
    """A true or false of a body. Raises HTTPBadRequest."""
    value = body.get(name, default)
    if isinstance(value, bool):
        return value
    raise web.HTTPBadRequest(text=f"{name} must be true or false.")


def text(body: Mapping[str, Any], name: str, most: int, default: str | None = None) -> str:
    """A text of a body that can be written to a file. Raises HTTPBadRequest."""
    value = body.get(name, default)
    if isinstance(value, str) and len(value) <= most and _is_unicode(value):
        return value
    raise web.HTTPBadRequest(text=f"{name} must be a text of at most {most} characters.")


def texts(body: Mapping[str, Any], name: str, most: int, longest: int) -> tuple[str, ...]:
    """A list of texts of a body, empty without it. Raises HTTPBadRequest."""
    value = body.get(name, [])
    if (
        isinstance(value, list)
        and len(value) <= most
        and all(isinstance(t, str) and len(t) <= longest and _is_unicode(t) for t in value)
    ):
        return tuple(value)
    raise web.HTTPBadRequest(
        text=f"{name} must be a list of at most {most} texts of up to {longest} characters."
    )


def number_asked(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number of a query. Raises HTTPBadRequest."""
    value = request.query.get(name, str(default))
    if value.isascii() and value.isdecimal() and len(value) <= 18 and least <= int(value) <= most:
        return int(value)
    raise web.HTTPBadRequest(text=f"{name} must be a whole number from {least} to {most}.")


def _is_unicode(value: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may hold halves of characters."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
