"""The HTTP routes of saved graphs: which there are, and queue one with values of one's own."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from aiohttp import web

from .grid.engine.errors import GridError
from .grid.engine.feed import remote, servers
from .host import http
from .host.origin import Guarded
from .saved_graphs import MOST_VALUES, BadValues, filled, listed, translated

REFUSALS: http.Refusals = {
    remote.Refused: 400,
    remote.Gone: 500,
    GridError: 400,
    **http.REFUSALS,
}
LONGEST_CLIENT = 200
VALIDATE_S = 120.0
WANTED = '{"values": {"TITLE.input": value}}'


def add(table: Guarded) -> None:
    """Add the routes to ComfyUI's table; it serves each below /api too."""
    table.get("/cocktail/graphs")(http.reads(lambda request: {"graphs": listed()}, REFUSALS))
    table.post("/cocktail/graphs/{name}")(_queue)


async def _queue(request: web.Request) -> web.Response:
    """The prompt's id, or what is wrong by title and input."""
    try:
        body = await http.json_body(request, WANTED)
        return await http.answer(lambda: queue(request.match_info["name"], body), REFUSALS)
    except web.HTTPException as refusal:
        return http.error(refusal.status, refusal.text or refusal.reason)
    except BadValues as error:
        return web.json_response({"error": str(error), "problems": error.problems}, status=400)


def queue(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Fill, check and queue a saved graph. Nothing is queued unless every node of it is right."""
    http.only(body, "client_id", "values")
    client = http.text(body, "client_id", LONGEST_CLIENT, uuid.uuid4().hex)
    values = body.get("values", {})
    if not isinstance(values, dict) or len(values) > MOST_VALUES:
        raise web.HTTPBadRequest(
            text=f"values must be an object of at most {MOST_VALUES:,} values by TITLE.input."
        )
    prompt = filled(name, values)
    id = str(uuid.uuid4())
    check(id, prompt)
    server = remote.Server(servers.own_url(), client)
    return {"graph": name, "prompt_id": server.send(prompt, id, ""), "client_id": client}


def check(id: str, prompt: dict[str, Any]) -> None:
    """Ask ComfyUI whether it would carry out all of a prompt. Raises BadValues.

    POST /prompt alone is not enough: it runs what is right and leaves out the rest.
    """
    import execution
    import server

    valid = asyncio.run_coroutine_threadsafe(
        execution.validate_prompt(id, prompt, None), server.PromptServer.instance.loop
    ).result(VALIDATE_S)
    if problems := translated(prompt, valid[3]):
        raise BadValues(problems)
    if not valid[0]:
        raise GridError(str(valid[1].get("message", "ComfyUI refuses this graph.")))
