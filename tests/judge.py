"""A judge who likes the pictures of one checkpoint, and votes through the API."""

from __future__ import annotations

import json
import re
from typing import Any

from .comfy import Comfy, ComfyError

JUDGES = ("Ann", "Bob", "Cy", "Dee")
"""Few pictures are soon seen: then the next one judges them."""


def checkpoints_of(comfy: Comfy, grid: str) -> dict[str, str]:
    """The checkpoint of every cell of a grid, or its mix, by the cell's key, in the order of its
    columns.
    """
    file = comfy.base / "output" / "cocktail" / "grids" / grid / "plan.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    cells = {cell["key"]: cell["settings"] for cell in saved["cells"]}
    return {key: one.get("recipe") or one["checkpoint"] for key, one in cells.items()}


def vote_for(comfy: Comfy, grid: str, checkpoint: str, judge: str, **asked: Any) -> int:
    """Answer all questions for that checkpoint, as long as there are any; how many there were."""
    votes = f"/cocktail/grids/{grid}/votes"
    query = "&".join(f"{name}={value}" for name, value in {"judge": judge, **asked}.items())
    of, count = checkpoints_of(comfy, grid), 0
    while question := comfy.get(f"{votes}/question?{query}")["question"]:
        shown = [one["key"] for one in question["shown"]]
        order = [key for key in shown if of[key] == checkpoint]
        cast = {"judge": judge, "question": question["id"], "shown": shown, "order": order}
        comfy.post(votes, cast)
        count += 1
    return count


def decide(comfy: Comfy, grid: str, checkpoint: str, **asked: Any) -> None:
    """Let judges vote for that checkpoint until there are no more questions."""
    for judge in JUDGES:
        vote_for(comfy, grid, checkpoint, judge, **asked)


def run_voted(
    comfy: Comfy, graph: dict[str, Any], timeout: float
) -> tuple[dict[str, Any], str | None]:
    """What a graph reports. One that stops for votes gets them for the last checkpoint of its grid,
    whose name is returned too, and is queued again.
    """
    try:
        return comfy.run(graph, timeout), None
    except ComfyError as stopped:
        if not (asked := re.search(r"/cocktail/view#vote=([\w-]+)", str(stopped))):
            raise
    wanted = list(checkpoints_of(comfy, asked[1]).values())[-1]
    decide(comfy, asked[1], wanted)
    return comfy.run(graph, timeout), wanted
