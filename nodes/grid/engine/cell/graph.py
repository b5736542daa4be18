"""A graph of stock nodes: as an API prompt, and as a workflow that the page opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Link:
    """An input that takes output number `slot` of a node."""

    node: int
    slot: int


@dataclass(frozen=True)
class Node:
    """A stock node: its inputs in the order of its widgets, and its place on the page."""

    kind: str
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    position: tuple[int, int]
    size: tuple[int, int]


def api_prompt(graph: Mapping[int, Node]) -> dict[str, Any]:
    """What `POST /prompt` takes."""
    return {
        str(number): {
            "class_type": node.kind,
            "inputs": {
                name: [str(value.node), value.slot] if isinstance(value, Link) else value
                for name, value in node.inputs.items()
            },
        }
        for number, node in sorted(graph.items())
    }


def ui_workflow(graph: Mapping[int, Node]) -> dict[str, Any]:
    """The graph as the page saves it."""
    links: list[list[Any]] = []
    nodes: list[dict[str, Any]] = []
    for number, node in sorted(graph.items()):
        sockets = []
        for name, value in node.inputs.items():
            if isinstance(value, Link):
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
                "order": len(nodes),
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
    by_number = {node["id"]: node for node in nodes}
    for link, source, slot, *_ in links:
        by_number[source]["outputs"][slot]["links"].append(link)
    return {
        "last_node_id": max(graph),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _widgets(node: Node) -> list[Any]:
    """Widget values by position. A seed is followed by what the page does to it after queueing:
    here nothing; a picture to load by what its upload button is for.

    The page reads `{a|b}` in a prompt as a choice, unless the braces are escaped.
    """
    values: list[Any] = []
    for name, value in node.inputs.items():
        if isinstance(value, Link):
            continue
        if node.kind == "CLIPTextEncode" and name == "text":
            value = value.replace("{", "\\{").replace("}", "\\}")
        values += [value, "fixed"] if name == "seed" else [value]
    return [*values, "image"] if node.kind == "LoadImage" else values
