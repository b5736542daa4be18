"""The graph of stock nodes that makes one cell: as an API prompt, and as a workflow that the page
opens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .settings import CellSettings

MODEL = 1
"""The node that loads the models."""

RECIPE = 99
"""The node that holds the recipe of a mix."""

MERGE_KIND = "CocktailMergeToModel"
"""The node that makes models of a recipe."""

SAMPLER = 6
"""The node that samples."""

PICTURE = 7
"""The node that puts out the picture."""


@dataclass(frozen=True)
class Link:
    """An input that takes output number `slot` of a node."""

    node: int
    slot: int


@dataclass(frozen=True)
class Node:
    """A stock node: its inputs in the order of its widgets, and where it stands on the page."""

    kind: str
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    position: tuple[int, int]
    size: tuple[int, int]


def graph_of(cell: CellSettings, prefix: str = "ComfyUI") -> dict[int, Node]:
    """The nodes by their numbers. Only `Link` inputs are sockets; all others are widgets."""
    loras, model, clip = _loras(cell)
    vae = Link(9, 0) if cell.vae else Link(1, 2)
    texts = {
        number: Node(
            "CLIPTextEncode",
            {"text": text, "clip": Link(2, 0)},
            ("CONDITIONING",),
            (690, y),
            (400, 180),
        )
        for number, text, y in ((3, cell.prompt, 20), (4, cell.negative_prompt, 250))
    }
    return {
        **_models(cell),
        2: Node(
            "CLIPSetLastLayer",
            {"clip": clip, "stop_at_clip_layer": -cell.clip_skip},
            ("CLIP",),
            (380, 20),
            (270, 60),
        ),
        **texts,
        **_start(cell, vae),
        6: Node(
            "KSampler",
            {
                "model": model,
                "seed": cell.seed,
                "steps": cell.steps,
                "cfg": cell.cfg,
                "sampler_name": cell.sampler,
                "scheduler": cell.scheduler,
                "positive": Link(3, 0),
                "negative": Link(4, 0),
                "latent_image": Link(5, 0),
                "denoise": cell.denoise,
            },
            ("LATENT",),
            (1130, 20),
            (300, 470),
        ),
        PICTURE: Node(
            "VAEDecode",
            {"samples": Link(6, 0), "vae": vae},
            ("IMAGE",),
            (1470, 20),
            (200, 50),
        ),
        8: Node(
            "SaveImage",
            {"images": Link(7, 0), "filename_prefix": prefix},
            (),
            (1470, 130),
            (320, 320),
        ),
        **(
            {9: Node("VAELoader", {"vae_name": cell.vae}, ("VAE",), (1130, 540), (300, 60))}
            if cell.vae
            else {}
        ),
        **loras,
    }


def _models(cell: CellSettings) -> dict[int, Node]:
    """A checkpoint that is loaded, or a recipe that is merged in memory."""
    outputs = ("MODEL", "CLIP", "VAE")
    if not cell.recipe:
        inputs: dict[str, Any] = {"ckpt_name": cell.checkpoint}
        return {MODEL: Node("CheckpointLoaderSimple", inputs, outputs, (20, 200), (320, 100))}
    text = Node(
        "CocktailRecipeFromText",
        {"text": cell.recipe},
        ("COCKTAIL_RECIPE",),
        (-360, 200),
        (340, 200),
    )
    inputs = {"recipe": Link(RECIPE, 0), "precision": "fp16", "vae": "as in the recipe"}
    return {MODEL: Node(MERGE_KIND, inputs, outputs, (20, 200), (320, 100)), RECIPE: text}


def _start(cell: CellSettings, vae: Link) -> dict[int, Node]:
    """Number 5 is the latent that sampling begins with: an empty one, or a picture scaled and cut
    to the size.
    """
    if not cell.image:
        empty = {"width": cell.width, "height": cell.height, "batch_size": 1}
        return {5: Node("EmptyLatentImage", empty, ("LATENT",), (740, 480), (300, 110))}
    scaled = {
        "image": Link(10, 0),
        "upscale_method": "lanczos",
        "width": cell.width,
        "height": cell.height,
        "crop": "center",
    }
    return {
        5: Node(
            "VAEEncode", {"pixels": Link(11, 0), "vae": vae}, ("LATENT",), (740, 480), (200, 50)
        ),
        10: Node("LoadImage", {"image": cell.image}, ("IMAGE", "MASK"), (20, 400), (320, 320)),
        11: Node("ImageScale", scaled, ("IMAGE",), (380, 400), (300, 140)),
    }


def _loras(cell: CellSettings) -> tuple[dict[int, Node], Link, Link]:
    """The chain of LoRAs from number 12 on, and where the model and the text encoder come from
    behind it.
    """
    nodes: dict[int, Node] = {}
    model, clip = Link(1, 0), Link(1, 1)
    for number, (name, on_model, on_clip) in enumerate(cell.loras, start=12):
        inputs = {
            "model": model,
            "clip": clip,
            "lora_name": name,
            "strength_model": on_model,
            "strength_clip": on_clip,
        }
        y = 760 + 160 * (number - 12)
        nodes[number] = Node("LoraLoader", inputs, ("MODEL", "CLIP"), (20, y), (320, 130))
        model, clip = Link(number, 0), Link(number, 1)
    return nodes, model, clip


def api_prompt(cell: CellSettings, prefix: str = "ComfyUI") -> dict[str, Any]:
    """What `POST /prompt` takes to make this picture; `prefix` begins the name of the file that
    SaveImage writes.
    """
    return {
        str(number): {
            "class_type": node.kind,
            "inputs": {
                name: [str(value.node), value.slot] if isinstance(value, Link) else value
                for name, value in node.inputs.items()
            },
        }
        for number, node in sorted(graph_of(cell, prefix).items())
    }


def ui_workflow(cell: CellSettings, prefix: str = "ComfyUI") -> dict[str, Any]:
    """The same graph as the page saves it, so that dropping the picture on ComfyUI opens it."""
    graph = graph_of(cell, prefix)
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
