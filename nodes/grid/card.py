"""The node that writes the release card of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...merge.card.card import Sources, Wishes, make_card
from ...merge.card.words import verdict
from ...merge.card.writing import PAGE_ENDING, README, check_name, folder_name, write_another
from ...merge.errors import MergeError
from ...merge.hashing import file_hashes
from ...merge.licence import Licence, parse_by_hand
from ...merge.safetensors_file import read_header
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema
from .engine.plan.plan import Plan
from .vote import CATEGORY, votes_state

MOST_PICTURES = 48


class CocktailReleaseCard(io.ComfyNode):
    """Where a released checkpoint comes from, how it looks, and how to make it again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailReleaseCard",
            display_name="Release Card",
            category=CATEGORY,
            description="Writes the card of a checkpoint for its release: pictures and votes, "
            "lineage, losses, recipe, ingredients with hashes and licences, settings, dataset "
            "facts, how to make it again, and the fields that model sites ask for. As Markdown and "
            "as one HTML page that needs nothing else.",
            search_aliases=[
                "model card",
                "README",
                "release",
                "lineage",
                "provenance",
                "publish",
                "Civitai",
                "Hugging Face",
            ],
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                io.String.Output(
                    "markdown", display_name="markdown", tooltip="The card as Markdown."
                ),
                io.String.Output(
                    "card",
                    display_name="card",
                    tooltip="The card's page, relative to ComfyUI's output folder: "
                    "cocktail/cards/NAME/NAME.html. README.md, pictures and NAME.card.json are "
                    "beside it.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        checkpoint: str | None,
        name: str | None = "",
        licences: str | None = "",
    ) -> bool | str:
        try:
            if checkpoint is not None:
                read_header(names.checkpoint_path(checkpoint))
            if name:
                check_name(name)
            parse_by_hand(licences or "")
        except (MergeError, names.BadName) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        """Changes with every vote, with the checkpoint, and with what runs have noted."""
        found = [*votes_state(), *_states(names.cocktail_dir("runs"), "metrics.jsonl")]
        checkpoint = inputs.get("checkpoint")
        if isinstance(checkpoint, str):
            status = names.checkpoint_path(checkpoint).stat()
            found.append([status.st_size, status.st_mtime_ns])
        return found

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        title: str = "",
        trigger_words: str = "",
        notes: str = "",
        licence: str = "",
        licences: str = "",
        grid: Plan | None = None,
        pictures: int = 12,
        captions: int = 0,
        name: str = "",
    ) -> io.NodeOutput:
        path, cache = names.checkpoint_path(checkpoint), names.hashes_file()
        sources = Sources(
            _file_of,
            _folder("runs"),
            _folder("grids"),
            lambda file: file_hashes(file, cache, Progress()),
        )
        wishes = Wishes(
            title=title,
            trigger_words=trigger_words,
            notes=notes,
            licence=Licence(licence.strip(), source="given by hand") if licence.strip() else None,
            licences=parse_by_hand(licences),
            grid=grid.name if grid is not None else "",
            pictures=pictures,
            captions=captions,
        )
        card = make_card(path, sources, wishes, checkpoint)
        parent = names.cocktail_dir("cards")
        folder, files, made = write_another(parent, card, name or folder_name(card))
        markdown = files[README].decode("utf-8")
        page = f"cocktail/cards/{folder.name}/{folder.name}{PAGE_ENDING}"
        show_text(verdict(card))
        result = {
            "card": page,
            "made": made,
            "verdict": verdict(card),
            "warnings": list(card.warnings),
            "not_recorded": list(card.problems),
        }
        ui: dict[str, Any] = {"text": [markdown], "cocktail": [result]}
        if card.cover:
            subfolder = f"cocktail/cards/{folder.name}/pictures"
            ui["images"] = [{"filename": "thumbnail.jpg", "subfolder": subfolder, "type": "output"}]
        return io.NodeOutput(markdown, page, ui=ui)


def _inputs() -> list[Any]:
    return [
        opt(
            io.Combo.Input,
            "checkpoint",
            options=names.checkpoint_names(),
            tooltip="The checkpoint that is released. Link Merge to File, Pick Checkpoint or Pick "
            "Winner, or choose one.",
        ),
        io.String.Input(
            "title",
            default="",
            tooltip="What the card and its folder are called. Empty: what the checkpoint calls "
            "itself.",
        ),
        io.String.Input(
            "trigger_words",
            default="",
            optional=True,
            tooltip="The words that the model was taught to answer to, separated by commas.",
        ),
        io.String.Input(
            "notes",
            default="",
            multiline=True,
            optional=True,
            tooltip="Your own words for the card. An empty line begins a new paragraph.",
        ),
        io.String.Input(
            "licence",
            default="",
            optional=True,
            tooltip="The licence under which you release the checkpoint, such as "
            "creativeml-openrail-m. Empty: what its file says. You are warned where it does not go "
            "together with those of the ingredients.",
        ),
        io.String.Input(
            "licences",
            default="",
            multiline=True,
            optional=True,
            tooltip="Licences of ingredients that no file states, one per line: NAME: LICENCE.",
        ),
        types.Grid.Input(
            "grid",
            optional=True,
            tooltip="The grid whose pictures and votes come first. Without it: the grid with the "
            "most votes on the checkpoint.",
        ),
        opt(
            io.Int.Input,
            "pictures",
            default=12,
            min=0,
            max=MOST_PICTURES,
            optional=True,
            advanced=True,
            tooltip="How many pictures of the checkpoint to show; with 0 there are no comparisons "
            "either.",
        ),
        opt(
            io.Int.Input,
            "captions",
            default=0,
            min=0,
            max=100,
            optional=True,
            advanced=True,
            tooltip="How many captions of the training pairs to show. Captions can be private: "
            "0 reads none.",
        ),
        opt(
            io.String.Input,
            "name",
            default="",
            optional=True,
            advanced=True,
            tooltip="Name of the card's folder in output/cocktail/cards. Empty: the title. If "
            "another card has it, a number is added; nothing is overwritten.",
        ),
    ]


def _file_of(name: str) -> Path | None:
    try:
        return names.ingredient_path(name)
    except names.BadName:
        return None


def _folder(name: str) -> Path | None:
    folder = names.cocktail_dir(name)
    return folder if folder.is_dir() else None


def _states(root: Path, file: str) -> list[Any]:
    found = []
    for path in sorted(root.glob(f"[!.]*/{file}")):
        status = path.stat()
        found.append([path.parent.name, status.st_size, status.st_mtime_ns])
    return found


NODES: list[type[io.ComfyNode]] = [CocktailReleaseCard]
