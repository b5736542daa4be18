"""The HTTP routes of votes: the next question, a vote, taking one back, and the ranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..host import http, names
from ..host.origin import Guarded
from .engine.errors import GridError
from .engine.phone.gate import Session
from .engine.phone.serving import PHONES
from .engine.store.store import Store
from .engine.vote.ballot import ROUND_VOTES, Ballot
from .engine.vote.log import FOUR, LONGEST_NAME, PAIR
from .engine.vote.questions import ACTIVE, METHODS

ME = "me"
"""The judge where no name is given."""
MOST_ROUND_VOTES = 100_000
LONGEST_TEXT = 200
"""Of names of axes, keys and ids."""


def add(table: Guarded, open_grid: Callable[[web.Request], Store], refusals: http.Refusals) -> None:
    """Add the routes below those of a grid, which `open_grid` finds."""

    def ballot(request: web.Request, axis: str) -> Ballot:
        return Ballot(open_grid(request), axis)

    def question(request: web.Request) -> dict[str, Any]:
        """The next two or four pictures for a judge, and how far the vote is."""
        asked = request.query
        count = http.number_asked(request, "count", PAIR, PAIR, FOUR)
        if count not in (PAIR, FOUR):
            raise web.HTTPBadRequest(text=f"count must be {PAIR} or {FOUR}.")
        round_votes = http.number_asked(request, "round_votes", ROUND_VOTES, 1, MOST_ROUND_VOTES)
        method = asked.get("method", ACTIVE)
        of = ballot(request, asked.get("axis", ""))
        return of.question(asked.get("judge", ME), count, method, round_votes)

    def cast(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """A vote: the question's id, the pictures as they were shown, and which were told apart."""
        http.only(body, "judge", "question", "shown", "order", "both_bad")
        return ballot(request, "").cast(
            http.text(body, "judge", LONGEST_NAME, ME),
            http.text(body, "question", LONGEST_TEXT),
            http.texts(body, "shown", FOUR, LONGEST_TEXT),
            http.texts(body, "order", FOUR, LONGEST_TEXT),
            http.truth(body, "both_bad", False),
        )

    def undo(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """Take back the last vote of a judge."""
        http.only(body, "judge")
        return ballot(request, "").undo(http.text(body, "judge", LONGEST_NAME, ME))

    def ranking(request: web.Request) -> dict[str, Any]:
        """What all votes say: the ranking, and those by what is asked for."""
        by = [word.strip() for word in request.query.get("by", "").split(",") if word.strip()]
        return ballot(request, request.query.get("axis", "")).report(by)

    def phone(request: web.Request) -> dict[str, Any]:
        """Whether the vote is open to phones, and where."""
        session = PHONES.gate.of(open_grid(request).folder)
        return _link(session) if session else {"url": None, "qr": None, "hours": 0}

    def open_to_phones(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """Open the vote to phones, {"axis", "count", "method", "round_votes"} as on the page: a
        link with a new token, which ends the one before. The owner's settings file must allow it.
        """
        http.only(body, "axis", "count", "method", "round_votes")
        store, method = open_grid(request), http.text(body, "method", LONGEST_TEXT, ACTIVE)
        if method not in METHODS:
            raise GridError(f"There is no method {method!r}. Give one of {METHODS}.")
        axis = http.text(body, "axis", LONGEST_TEXT, "")
        count = http.whole_number(body, "count", PAIR, FOUR, PAIR)
        if count not in (PAIR, FOUR):
            raise web.HTTPBadRequest(text=f"count must be {PAIR} or {FOUR}.")
        rules = {
            "axis": Ballot(store, axis).field.axis,
            "count": count,
            "method": method,
            "votes": http.whole_number(body, "round_votes", 1, MOST_ROUND_VOTES, ROUND_VOTES),
        }
        session, _ = PHONES.open(names.network_file(), store.folder, **rules)
        return _link(session)

    def close_to_phones(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """End the link for phones."""
        http.only(body)
        PHONES.gate.end(open_grid(request).folder)
        return {"url": None, "qr": None, "hours": 0}

    path = "/cocktail/grids/{name}/votes"
    table.get(f"{path}/phone")(http.reads(phone, refusals))
    table.post(f"{path}/phone")(http.changes(open_to_phones, refusals))
    table.post(f"{path}/phone/end")(http.changes(close_to_phones, refusals))
    table.get(f"{path}/question")(http.reads(question, refusals))
    table.get(f"{path}/ranking")(http.reads(ranking, refusals))
    table.post(path)(http.changes(cast, refusals, 'a vote, {"question", "shown", "order"},'))
    table.post(f"{path}/undo")(http.changes(undo, refusals))


def _link(session: Session) -> dict[str, Any]:
    """The address for phones, and its QR code as an address of a picture."""
    import segno

    url = PHONES.address(session)
    code = segno.make(url, error="m", micro=False)
    left_s = session.ends - PHONES.gate.clock()
    return {
        "url": url,
        "qr": code.svg_data_uri(scale=6, border=4, dark="#000", light="#fff"),
        "hours": max(0.0, round(left_s / 3600, 2)),
    }
