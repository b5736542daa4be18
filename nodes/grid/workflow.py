"""The graph of stock nodes that makes one cell: as an API prompt, and as a workflow that the page opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cell import CellSettings


@dataclass(frozen=True)
class _Link:
    """An input that takes output number `slot` of a node."""

    node: int
    slot: int


@dataclass(frozen=True)
class _Node:
    """A stock node: its inputs in the order of its widgets, and where it stands on the page."""

    kind: str
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    position: tuple[int, int]
    size: tuple[int, int]


def _graph(cell: CellSettings, prefix: str) -> dict[int, _Node]:
    """The nodes by their numbers. Only `_Link` inputs are sockets; all others are widgets."""
    clip = _Link(2, 0)
    return {
        1: _Node(
            "CheckpointLoaderSimple",
            {"ckpt_name": cell.checkpoint},
            ("MODEL", "CLIP", "VAE"),
            (20, 200),
            (320, 100),
        ),
        2: _Node(
            "CLIPSetLastLayer",
            {"clip": _Link(1, 1), "stop_at_clip_layer": -cell.clip_skip},
            ("CLIP",),
            (380, 20),
            (270, 60),
        ),
        3: _Node(
            "CLIPTextEncode",
            {"text": cell.prompt, "clip": clip},
            ("CONDITIONING",),
            (690, 20),
            (400, 180),
        ),
        4: _Node(
            "CLIPTextEncode",
            {"text": cell.negative_prompt, "clip": clip},
            ("CONDITIONING",),
            (690, 250),
            (400, 180),
        ),
        5: _Node(
            "EmptyLatentImage",
            {"width": cell.width, "height": cell.height, "batch_size": 1},
            ("LATENT",),
            (740, 480),
            (300, 110),
        ),
        6: _Node(
            "KSampler",
            {
                "model": _Link(1, 0),
                "seed": cell.seed,
                "steps": cell.steps,
                "cfg": cell.cfg,
                "sampler_name": cell.sampler,
                "scheduler": cell.scheduler,
                "positive": _Link(3, 0),
                "negative": _Link(4, 0),
                "latent_image": _Link(5, 0),
                "denoise": 1.0,
            },
            ("LATENT",),
            (1130, 20),
            (300, 470),
        ),
        7: _Node(
            "VAEDecode",
            {"samples": _Link(6, 0), "vae": _Link(1, 2)},
            ("IMAGE",),
            (1470, 20),
            (200, 50),
        ),
        8: _Node(
            "SaveImage",
            {"images": _Link(7, 0), "filename_prefix": prefix},
            (),
            (1470, 130),
            (320, 320),
        ),
    }


def api_prompt(cell: CellSettings, prefix: str = "ComfyUI") -> dict[str, Any]:
    """What `POST /prompt` takes to make this picture; `prefix` begins the name of the file that SaveImage writes."""
    return {
        str(number): {
            "class_type": node.kind,
            "inputs": {
                name: [str(value.node), value.slot] if isinstance(value, _Link) else value
                for name, value in node.inputs.items()
            },
        }
        for number, node in _graph(cell, prefix).items()
    }


def ui_workflow(cell: CellSettings, prefix: str = "ComfyUI") -> dict[str, Any]:
    """The same graph as the page saves it, so that dropping the picture on ComfyUI opens it."""
    graph = _graph(cell, prefix)
    links: list[list[Any]] = []
    nodes: list[dict[str, Any]] = []
    for number, node in graph.items():
        sockets = []
        for name, value in node.inputs.items():
            if isinstance(value, _Link):
                kind = graph[value.node].outputs[value.slot]
                link = len(links) + 1
                links.append([link, value.node, value.slot, number, len(sockets), kind])
                sockets.append({"name": name, "type": kind, "link": link})
        nodes.append(
            {
                "id": number,
                "type": node.kind,
                "pos": list(node.position),
                "size": list(node.size),
                "flags": {},
                "order": number - 1,
                "mode": 0,
                "inputs": sockets,
                "outputs": [
                    {"name": kind, "type": kind, "slot_index": slot, "links": []}
                    for slot, kind in enumerate(node.outputs)
                ],
                "properties": {"Node name for S&R": node.kind},
                "widgets_values": _widgets(node),
            }
        )
    for link, source, slot, *_ in links:
        nodes[source - 1]["outputs"][slot]["links"].append(link)
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _widgets(node: _Node) -> list[Any]:
    """Widget values by position. A seed is followed by what the page does to it after queueing: here nothing.

    The page reads `{a|b}` in a prompt as a choice, unless the braces are escaped.
    """
    values: list[Any] = []
    for name, value in node.inputs.items():
        if isinstance(value, _Link):
            continue
        if name == "text":
            value = value.replace("{", "\\{").replace("}", "\\}")
        values += [value, "fixed"] if name == "seed" else [value]
    return values
