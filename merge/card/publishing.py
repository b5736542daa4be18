"""What a card says to those who make it again, publish it or check it."""

from __future__ import annotations

from collections.abc import Iterator

from . import licences, remaking
from .blocks import Block, Code, Facts, Fold, Mono, Warnings, Words
from .card import Card
from .graph import plain
from .reading import text
from .words import UNKNOWN, triggers

MODELSPEC = (
    "sai_model_spec", "architecture", "implementation", "title", "description", "author", "date",
    "hash_sha256", "resolution", "license", "usage_hint", "tags", "merged_from", "prediction_type",
    "trigger_phrase", "encoder_layer", "unet_dtype", "vae_dtype",
)  # fmt: skip
"""ModelSpec 1.0.1: what it demands, advises and allows, but for the thumbnail."""
VERSION = {"SD1.5": "SD 1.5", "SDXL": "SDXL 1.0"}
"""What Civitai calls the base model of a family."""


def remaking_of(card: Card) -> Iterator[Block]:
    """The commands that make it again."""
    steps = remaking.steps_of(card)
    model = card.lineage.released
    if not steps:
        yield Words(f"How it was made is {UNKNOWN}, so there is no way to make it again.")
        return
    yield Words(
        "In the folder of Cocktail. MODELS is the folder with the checkpoints, RUNS one for runs; "
        "quotes are those of a POSIX shell."
    )
    if card.runs:
        yield Words(
            "The settings of each run are beside this card. Its pairs are not: dataset.parquet is "
            "the manifest in the run's folder."
        )
    for step in steps:
        yield Words(f"{step.title}:")
        yield Code(step.commands, "sh")
    if model.recipe is not None:
        yield Fold(
            "The recipe as a command and as JSON",
            (
                Code(remaking.recipe_command(card), "sh"),
                Code(remaking.recipe_json(model.recipe), "json"),
            ),
        )


def for_sites(card: Card) -> Iterator[Block]:
    """The fields that model sites ask for."""
    model = card.lineage.released
    assert model.hashes is not None
    told = {name: text(model.metadata.get(f"modelspec.{name}"), 500) for name in MODELSPEC}
    yield Facts(
        (
            ("name", card.title),
            (
                "type",
                "Checkpoint Merge"
                if model.made_of
                else "Checkpoint Trained"
                if model.run
                else "Checkpoint",
            ),
            ("base model", VERSION.get(card.family.kind, card.family.name)),
            ("trigger words", triggers(card) or UNKNOWN),
            ("licence", licences.words(card.licence)),
            ("SHA-256", Mono(model.hashes.sha256)),
            ("AutoV1", Mono(card.legacy)),
            ("AutoV2", Mono(model.hashes.autov2)),
            ("AutoV3", Mono(model.hashes.autov3 or UNKNOWN)),
            ("size", f"{model.hashes.size_bytes:,} bytes"),
            ("thumbnail", Mono("pictures/thumbnail.jpg") if card.cover else UNKNOWN),
        )
    )
    rows = tuple((f"modelspec.{name}", plain(value) or UNKNOWN) for name, value in told.items())
    yield Fold("ModelSpec 1.0.1, as in the file's metadata", (Facts(rows),))


def about(card: Card) -> Iterator[Block]:
    """What is not in the card, and how it is checked."""
    if card.problems:
        yield Warnings("Not in this card", tuple(plain(one) for one in card.problems))
    yield Words(
        "Everything here was read from the files themselves; what they do not say is given as "
        f"{UNKNOWN}. The card holds the hash of everything that it speaks of. To check all that "
        "can be reached:"
    )
    yield Code("python -m merge verify CARD --models MODELS --runs RUNS --grids GRIDS", "sh")
