"""A cell that ComfyUI's stock nodes make: its settings, its key, and the graph of those nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .....merge.recipe import ingredients
from .....merge.text import to_text
from .....trainer.files import canonical_json, sha256_text
from ..errors import GridError
from . import files, graph, mix
from .graph import Link, Node
from .settings import CellSettings, Lora, lora_words

FORMAT = 1


@dataclass(frozen=True)
class StockCell:
    """All that decides one picture. `clip_skip` counts from the end: 1 is the last layer, ComfyUI's
    -1.

    `vae` is the file of a VAE, "" for the checkpoint's own. With `image`, a file of the input
    folder, sampling begins at that picture, scaled and cut to the size, and goes back by `denoise`.
    With a `batch_size` above 1 so many cells may be sampled in one pass: that can move the last
    bits of a picture, so such a cell is another one than the exact cell. With a `recipe`, the JSON
    of a mix, `checkpoint` is "".
    """

    checkpoint: str
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    width: int
    height: int
    clip_skip: int
    vae: str = ""
    loras: tuple[Lora, ...] = ()
    image: str = ""
    denoise: float = 1.0
    batch_size: int = 1
    recipe: str = ""

    @property
    def rendered_here(self) -> bool:
        """Render Grid calls the stock nodes itself."""
        return True

    @property
    def output(self) -> str:
        """SaveImage of `graph_of`."""
        return str(SAVED)

    @property
    def models(self) -> tuple[str, ...]:
        """What must be in memory for this picture. Cells with the same are rendered together."""
        return (self.recipe or self.checkpoint, *(lora_words(lora) for lora in self.loras))

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The checkpoint, or the ingredients of the recipe."""
        if not self.recipe:
            return (self.checkpoint,)
        return tuple(dict.fromkeys(i.name for i in ingredients(mix.read(self.recipe))))

    @property
    def model_words(self) -> str:
        """What the model is, in words: the checkpoint's name, or the recipe as text."""
        if not self.recipe:
            return self.checkpoint
        return to_text(mix.read(self.recipe))

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The kind and name of every file that decides the picture."""
        found = [("checkpoint", name) for name in self.checkpoints]
        found += [("vae", self.vae)] if self.vae else []
        found += [("lora", name) for name, on_model, on_clip in self.loras if on_model or on_clip]
        found += [("image", self.image)] if self.image else []
        return tuple(found)

    @property
    def comfy_files(self) -> list[tuple[str, str]]:
        """The same by ComfyUI's folders."""
        folders = {**files.FOLDERS, "image": "input"}
        return [(folders[kind], name) for kind, name in self.files]

    def check_files(self, contents: Mapping[str, Mapping[str, str]]) -> None:
        """Raise GridError if a file is not the one that was planned with."""
        files.check_unchanged(self.files, contents, files.quiet_sha256)

    def key(self, sha256_of: Callable[[str, str], str]) -> str:
        """Hex SHA-256 of the settings, with the content of files in place of their names.

        `sha256_of(kind, name)` is the hash of a file. Settings that came later count only where
        they are set.
        """
        identity: dict[str, Any] = {"format": FORMAT}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in LATER or value != field.default:
                identity[field.name] = value
        identity["cfg"] = float(self.cfg)
        if self.recipe:
            hashes = {name: sha256_of("checkpoint", name) for name in self.checkpoints}
            identity["recipe"] = mix.content(self.recipe, hashes)
        for kind in ("checkpoint", "vae", "image"):
            if identity.get(kind):
                identity[kind] = sha256_of(kind, identity[kind])
        loras = [
            [sha256_of("lora", name), float(on_model), float(on_clip)]
            for name, on_model, on_clip in self.loras
            if on_model or on_clip
        ]
        identity.pop("loras", None)
        if identity.pop("batch_size", 1) > 1:
            identity["batched"] = True
        if loras:
            identity["loras"] = loras
        return sha256_text(canonical_json(identity))

    @property
    def render_order(self) -> tuple[tuple[Any, ...], ...]:
        """What cells are ordered by when they are rendered, the dearest change first."""
        return tuple(tuple(getattr(self, n) for n in names) for names in RENDER_ORDER)

    def api_prompt(self, prefix: str = "ComfyUI") -> dict[str, Any]:
        """What `POST /prompt` takes to make this picture. The name of the file that SaveImage
        writes begins with `prefix`.
        """
        return graph.api_prompt(graph_of(self, prefix))

    def ui_workflow(self, prefix: str = "ComfyUI") -> dict[str, Any]:
        """The same graph as the page saves it, so that dropping the picture on ComfyUI opens it."""
        return graph.ui_workflow(graph_of(self, prefix))

    def graphs(self, prefix: str = "ComfyUI") -> dict[str, Any]:
        """The graph in both forms."""
        return {"prompt": self.api_prompt(prefix), "workflow": self.ui_workflow(prefix)}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> StockCell:
        """What `to_json` has given."""
        loras = tuple((name, *strengths) for name, *strengths in settings.get("loras", ()))
        return cls(**{**settings, "loras": loras})

    def to_json(self) -> dict[str, Any]:
        """The settings, of the later ones those that are set."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in LATER or value != DEFAULTS[name]
        }


LATER = ("vae", "loras", "image", "denoise", "batch_size", "recipe")
"""Settings that cells of older grids do not have."""


RENDER_ORDER = (
    ("checkpoint", "recipe"),
    ("loras",),
    ("prompt",),
    ("negative_prompt",),
    ("clip_skip",),
    ("width", "height", "image"),
    ("steps", "cfg", "sampler", "scheduler", "denoise"),
    ("seed",),
    ("vae",),
)
"""What cells are ordered by when they are rendered, the dearest change first. A VAE only decodes
the same latent again.
"""

DEFAULTS = {field.name: field.default for field in fields(StockCell) if field.name in LATER}


def stock(settings: CellSettings) -> StockCell:
    """The settings, if stock nodes make the picture. Raises GridError for those of a workflow."""
    if not isinstance(settings, StockCell):
        raise GridError("This cell comes from a workflow, which only Queue Grid renders.")
    return settings


MODEL = 1
"""The node that loads the models."""

RECIPE = 99
"""The node that holds the recipe of a mix."""

MERGE_KIND = "CocktailMergeToModel"
"""The node that makes models of a recipe."""

SAMPLER = 6
"""The node that samples."""

PICTURE = 7
"""The node that outputs the picture."""

SAVED = 8
"""The node that saves it."""


def graph_of(cell: StockCell, prefix: str = "ComfyUI") -> dict[int, Node]:
    """The nodes by their numbers. Only `Link` inputs are sockets; all others are widgets."""
    loras, model, clip = _loras(cell)
    vae = Link(9, 0) if cell.vae else Link(1, 2)
    return {
        **_models(cell),
        2: Node(
            "CLIPSetLastLayer",
            {"clip": clip, "stop_at_clip_layer": -cell.clip_skip},
            ("CLIP",),
            (380, 20),
            (270, 60),
        ),
        **_texts(cell),
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
        SAVED: Node(
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


def _models(cell: StockCell) -> dict[int, Node]:
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


def _texts(cell: StockCell) -> dict[int, Node]:
    """The two encoded prompts."""
    return {
        number: Node(
            "CLIPTextEncode",
            {"text": text, "clip": Link(2, 0)},
            ("CONDITIONING",),
            (690, y),
            (400, 180),
        )
        for number, text, y in ((3, cell.prompt, 20), (4, cell.negative_prompt, 250))
    }


def _start(cell: StockCell, vae: Link) -> dict[int, Node]:
    """Number 5 is the latent that sampling starts from: an empty one, or a picture scaled and
    cropped to the size.
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


def _loras(cell: StockCell) -> tuple[dict[int, Node], Link, Link]:
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
