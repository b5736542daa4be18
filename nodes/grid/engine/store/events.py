"""What the page hears while a grid is rendered: small websocket events "cocktail.grid", one for
each change of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..plan.plan import Cell, Plan
from .store import Store

EVENT = "cocktail.grid"


def announce(name: str, **what: Any) -> None:
    """Tell every page about the grid `name`: a cell's "key" and "status", or the state of its
    "feed". Without a server nothing happens.
    """
    import server

    instance = getattr(server.PromptServer, "instance", None)
    if instance is not None:
        instance.send_sync(EVENT, {"name": name, **what})


def announce_vote(name: str, page: str) -> None:
    """Tell every page where the grid that the node being executed is about is voted on."""
    announce(name, node=_node(), vote=page)


@dataclass(frozen=True)
class ShownStore(Store):
    """A store that tells the page what is saved in it, for the map on the node that renders."""

    def save_plan(self, plan: Plan) -> None:
        super().save_plan(plan)
        announce(self.folder.name, node=_node(), plan=True)

    def save_cell(self, cell: Cell, data: bytes, *others: Any, **more: Any) -> None:
        super().save_cell(cell, data, *others, **more)
        file = self.cell_path(cell.key).relative_to(self.folder).as_posix()
        announce(self.folder.name, key=cell.key, status="finished", file=file)

    def save_failure(self, cell: Cell, reason: str) -> None:
        super().save_failure(cell, reason)
        announce(self.folder.name, key=cell.key, status="failed", reason=reason)


def _node() -> str:
    """The id of the node that is being executed."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return context.node_id if context is not None else ""
