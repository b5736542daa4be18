"""The HTTP routes of votes: the next question, a vote, taking one back, and the ranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..host import http, names
from ..host.origin import Guarded
from .engine.errors import GridError
from .engine.phone.app import end_if_over
from .engine.phone.gate import Session
from .engine.phone.serving import PHONES
from .engine.store.store import Store
from .engine.vote.ballot import Ballot
from .engine.vote.log import FOUR, LONGEST_NAME, MOST_VOTES, PAIR
from .engine.vote.questions import METHODS

PATH = "/cocktail/grids/{name}/votes"
ME = "me"
"""The judge where no name is given."""
LONGEST_TEXT = 200
"""Of names of axes, keys and ids."""
LONGEST_WHERE = 4000
"""Labels may be whole prompts."""


def add(table: Guarded, open_grid: Callable[[web.Request], Store], refusals: http.Refusals) -> None:
    """Add the routes below those of a grid, which `open_grid` finds."""

    def asked_of(request: web.Request) -> Ballot:
        query = request.query
        return Ballot(open_grid(request), query.get("axis", ""), where=query.get("where", ""))

    def rounds(request: web.Request) -> tuple[str, int]:
        votes = http.number_asked(request, "round_votes", 0, 0, MOST_VOTES)
        if "round_votes" in request.query and not votes:
            raise web.HTTPBadRequest(
                text=f"round_votes must be a whole number from 1 to {MOST_VOTES}."
            )
        return request.query.get("method", ""), votes

    def question(request: web.Request) -> dict[str, Any]:
        """The next two or four pictures for a judge, and how far the vote is."""
        asked = request.query
        count = http.number_asked(request, "count", PAIR, PAIR, FOUR)
        if count not in (PAIR, FOUR):
            raise web.HTTPBadRequest(text=f"count must be {PAIR} or {FOUR}.")
        votes = http.number_asked(request, "votes", 0, 0, MOST_VOTES)
        of = asked_of(request)
        found = of.question(asked.get("judge", ME), count, *rounds(request), votes)
        if found["over"]:
            end_if_over(PHONES.gate, of.store)
        return found

    def cast(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """A vote: the question's id, the pictures as they were shown, and which were told apart."""
        http.only(body, "judge", "question", "shown", "order", "both_bad", "axis")
        of = Ballot(open_grid(request), http.text(body, "axis", LONGEST_TEXT, ""))
        told = of.cast(
            http.text(body, "judge", LONGEST_NAME, ME),
            http.text(body, "question", LONGEST_TEXT),
            http.texts(body, "shown", FOUR, LONGEST_TEXT),
            http.texts(body, "order", FOUR, LONGEST_TEXT),
            http.truth(body, "both_bad", False),
        )
        end_if_over(PHONES.gate, of.store)
        return told

    def undo(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """Take back the last vote of a judge."""
        http.only(body, "judge", "axis")
        of = Ballot(open_grid(request), http.text(body, "axis", LONGEST_TEXT, ""))
        return of.undo(http.text(body, "judge", LONGEST_NAME, ME))

    def ranking(request: web.Request) -> dict[str, Any]:
        """What all votes say: the ranking, and those by what is asked for."""
        by = [word.strip() for word in request.query.get("by", "").split(",") if word.strip()]
        method, votes = rounds(request)
        return asked_of(request).report(by, method=method, round_votes=votes)

    table.get(f"{PATH}/question")(http.reads(question, refusals))
    table.get(f"{PATH}/ranking")(http.reads(ranking, refusals))
    table.post(PATH)(http.changes(cast, refusals, 'a vote, {"question", "shown", "order"},'))
    table.post(f"{PATH}/undo")(http.changes(undo, refusals))
    _add_phones(table, open_grid, refusals)


def _add_phones(
    table: Guarded, open_grid: Callable[[web.Request], Store], refusals: http.Refusals
) -> None:
    def phone(request: web.Request) -> dict[str, Any]:
        """Whether the vote is open to phones, and where."""
        session = PHONES.gate.of(open_grid(request).folder)
        return _link(session) if session else {"url": None, "qr": None, "hours": 0}

    def open_to_phones(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """Open the vote to phones, {"axis", "count", "method", "round_votes", "votes", "where"} as
        on the page: a link with a new token, which ends the one before. The owner's settings file
        must allow it.
        """
        http.only(body, "axis", "count", "method", "round_votes", "votes", "where")
        store, method = open_grid(request), http.text(body, "method", LONGEST_TEXT, "")
        if method and method not in METHODS:
            raise GridError(f"There is no method {method!r}. Give one of {METHODS}.")
        axis = http.text(body, "axis", LONGEST_TEXT, "")
        count = http.whole_number(body, "count", PAIR, FOUR, PAIR)
        if count not in (PAIR, FOUR):
            raise web.HTTPBadRequest(text=f"count must be {PAIR} or {FOUR}.")
        where = http.text(body, "where", LONGEST_WHERE, "")
        of_rounds = "round_votes" in body
        rules = {
            "axis": Ballot(store, axis, where=where).voted.axis,
            "count": count,
            "method": method,
            "round_votes": http.whole_number(body, "round_votes", int(of_rounds), MOST_VOTES, 0),
            "votes": http.whole_number(body, "votes", 0, MOST_VOTES, 0),
            "where": where,
        }
        session, _ = PHONES.open(names.network_file(), store.folder, **rules)
        return _link(session)

    def close_to_phones(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """End the link for phones."""
        http.only(body)
        PHONES.gate.end(open_grid(request).folder)
        return {"url": None, "qr": None, "hours": 0}

    table.get(f"{PATH}/phone")(http.reads(phone, refusals))
    table.post(f"{PATH}/phone")(http.changes(open_to_phones, refusals))
    table.post(f"{PATH}/phone/end")(http.changes(close_to_phones, refusals))


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
