"""What the page is told while a grid is made: websocket events "cocktail.grid", small ones, as cells change."""

from __future__ import annotations

from typing import Any

EVENT = "cocktail.grid"


def announce(name: str, **what: Any) -> None:
    """Tell every page about the grid `name`: a cell's "key" and "status", or how the "feed" stands. Without a server nothing happens."""
    import server

    instance = getattr(server.PromptServer, "instance", None)
    if instance is not None:
        instance.send_sync(EVENT, {"name": name, **what})
