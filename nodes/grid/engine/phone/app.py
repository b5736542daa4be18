"""What a phone may ask: a fixed list of routes, and behind them the pictures of the grid whose
token it has, questions about them, votes and taking them back. Everything else is not there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web

from .....trainer.errors import TrainerError
from ....host import http
from ..errors import GridError
from ..store.picture import open_picture
from ..store.store import Store
from ..vote.ballot import Answered, Ballot
from ..vote.log import FOUR, LONGEST_NAME, PAIR
from .gate import TOO_OFTEN, Gate, Session

FOLDER = Path(__file__).parents[4] / "web" / "phone"
FILES = {
    "/": ("index.html", "text/html"),
    "/phone.mjs": ("phone.mjs", "text/javascript"),
    "/phone.css": ("phone.css", "text/css"),
}
"""The page; it holds nothing of anybody's, so it needs no token."""
MOST_BODY = 16 << 10
LONGEST_SIDE = 1024
"""Pixels of the longer side of a picture that is sent."""
KEPT_PICTURES = 64
KEY = re.compile(r"[0-9a-f]{64}")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src blob: data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
REFUSALS: http.Refusals = {Answered: 409, GridError: 400, TrainerError: 400, OSError: 500}
ON_A_PHONE = " (phone)"
"""Ends the names of those who vote from a phone: nobody there votes, or takes a vote back, in the
name of somebody at ComfyUI's own page.
"""
ENDED = (
    "This link has ended: the vote is over, or there is a newer link. Ask whoever gave it to you."
)
OFTEN = "Too many requests. Wait a minute."
GATE: web.AppKey[Gate] = web.AppKey("gate", Gate)


def make_app(gate: Gate) -> web.Application:
    """The application for whoever has a token of the gate."""
    app = web.Application(client_max_size=MOST_BODY, middlewares=[_guarded])
    app[GATE] = gate
    for path in FILES:
        app.router.add_get(path, _file, allow_head=False)
    app.router.add_get("/question", _reads(_question), allow_head=False)
    app.router.add_get("/pictures/{key}", _picture, allow_head=False)
    app.router.add_post("/votes", _changes(_cast))
    app.router.add_post("/votes/undo", _changes(_undo))
    return app


@web.middleware
async def _guarded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Token and limits before anything else; the same headers on every answer."""
    answer: web.StreamResponse
    if request.method == "GET" and request.path in FILES and request.raw_path in FILES:
        answer = await handler(request)
    else:
        token = request.headers.get("Authorization", "")[:200].removeprefix("Bearer ")
        how, session = request.app[GATE].admit(request.remote or "", token)
        if session is None:
            often = how == TOO_OFTEN
            answer = http.error(429 if often else 401, OFTEN if often else ENDED)
        else:
            request["session"] = session
            answer = await _answered(request, handler)
    answer.headers.update(HEADERS)
    return answer


async def _answered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        words = {404: "There is no such page.", 405: "There is no such page."}
        status = 404 if refusal.status == 405 else refusal.status
        return http.error(status, words.get(refusal.status, refusal.text or refusal.reason))
    except ConnectionError:  # nobody is there any more to whom this could be said
        return http.error(400, "The connection has ended.")


async def _file(request: web.Request) -> web.StreamResponse:
    name, kind = FILES[request.path]
    return web.Response(text=(FOLDER / name).read_text(encoding="utf-8"), content_type=kind)


def _reads(do: Callable[[web.Request], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    return http.reads(do, REFUSALS)  # type: ignore[return-value]


def end_if_over(gate: Gate, store: Store) -> bool:
    """End the link to a grid's vote if that is over; whether it is. Whoever has just voted is not
    told of a disk that cannot be read now: the next question tells.
    """
    session = gate.of(store.folder)
    if session is None:
        return False
    try:
        over = Ballot(store, session.axis, where=session.where).is_over(*session.rules)
    except GridError:
        # The grid has been planned again, and there is nothing to vote on any more.
        over = True
    except OSError:
        over = False
    if over:
        gate.end(store.folder)
    return over


def _changes(do: Callable[..., Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    return http.changes(do, REFUSALS, "a vote")  # type: ignore[return-value]


def _ballot(request: web.Request) -> Ballot:
    session: Session = request["session"]
    store = Store(session.grid)
    if not (store.folder / "plan.json").is_file():
        raise web.HTTPGone(text="This grid is no longer there.")
    return Ballot(store, session.axis, where=session.where)


def _judge(name: str) -> str:
    return f"{name.strip()[: LONGEST_NAME - len(ON_A_PHONE)].strip() or 'me'}{ON_A_PHONE}"


def _question(request: web.Request) -> dict[str, Any]:
    """The next pictures by their keys, without a word of where they are from."""
    session: Session = request["session"]
    count = http.number_asked(request, "count", session.count, PAIR, FOUR)
    count = FOUR if count > PAIR else PAIR
    judge = _judge(request.query.get("judge", ""))
    found = _ballot(request).question(judge, count, *session.rules)
    told: dict[str, Any] = {"question": None, "over": found["over"], "own": found["own"]}
    if asked := found["question"]:
        shown = [{name: one[name] for name in ("key", "width", "height")} for one in asked["shown"]]
        told["question"] = {"id": asked["id"], "shown": shown}
    elif told["over"]:
        request.app[GATE].end(session.grid)
    return told


async def _picture(request: web.Request) -> web.StreamResponse:
    """Pixels alone: the file of a cell also holds its settings and the whole workflow."""
    key, store = request.match_info["key"], _ballot(request).store
    path = store.cell_path(key) if KEY.fullmatch(key) else None
    if path is None or not path.is_file() or not store.is_own(path):
        return http.error(404, "The grid has no picture of that cell.")
    try:
        data = await http.outside(lambda: _bare(path, path.stat().st_mtime_ns))
    except OSError:
        return http.error(404, "This picture cannot be read.")
    return web.Response(body=data, content_type="image/webp")


@lru_cache(maxsize=KEPT_PICTURES)
def _bare(path: Path, changed: int) -> bytes:
    from PIL import Image

    with open_picture(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    found = io.BytesIO()
    Image.frombytes("RGB", picture.size, picture.tobytes()).save(found, "WEBP", quality=92)
    return found.getvalue()


def _cast(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    http.only(body, "judge", "question", "shown", "order", "both_bad")
    ballot = _ballot(request)
    found = ballot.cast(
        _judge(http.text(body, "judge", LONGEST_NAME, "")),
        http.text(body, "question", 100),
        http.texts(body, "shown", FOUR, 100),
        http.texts(body, "order", FOUR, 100),
        http.truth(body, "both_bad", False),
    )
    over = end_if_over(request.app[GATE], ballot.store)
    return {"own": found["own"], "over": over}


def _undo(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    http.only(body, "judge")
    found = _ballot(request).undo(_judge(http.text(body, "judge", LONGEST_NAME, "")))
    return {"own": found["own"]}
