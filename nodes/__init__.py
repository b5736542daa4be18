"""What ComfyUI sees of the pack: its nodes and HTTP routes."""

from __future__ import annotations

import os

from comfy_api.latest import ComfyExtension, io

from ..trainer import marks
from . import dataset, finetune, merge, routes, supervisor
from .finetune import events
from .given import checked
from .grid import render as grid
from .grid.engine.feed import feeds
from .grid.engine.feed.ray_worker import RENDERS_ONLY
from .host import names, sharing

NODES: list[type[io.ComfyNode]] = [
    checked(node) for node in (*dataset.NODES, *finetune.NODES, *merge.NODES, *grid.NODES)
]


class CocktailExtension(ComfyExtension):
    """The pack, as ComfyUI loads it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes. Routes and supervisor start here: ComfyUI 0.3.75 does not call `on_load`."""
        import server

        instance = getattr(server.PromptServer, "instance", None)
        if instance is not None:
            marks.use(names.key_file())
            routes.add(instance.routes)
            if RENDERS_ONLY not in os.environ:
                supervisor.watch()
                supervisor.sweep()
                events.watch()
                sharing.watch()
                feeds.resume_when_up()
        return NODES
