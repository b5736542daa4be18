"""How a checkpoint is made again: commands to copy, and the files that they need."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import MergeError
from ..metadata import PRECISION
from ..recipe import Recipe, short_name
from ..recipe_json import to_json
from ..text import to_text
from .card import Card
from .graph import plain, slug
from .reading import read_json
from .runs import Run

LONGEST_RECIPE = 20_000


@dataclass(frozen=True)
class Step:
    """What is done, and the commands for it."""

    title: str
    commands: str


def steps_of(card: Card) -> list[Step]:
    """The steps that lead to the checkpoint, the first one first."""
    return [*_trained(card), *_mixed(card)]


def _mixed(card: Card) -> Iterator[Step]:
    for model in reversed(list(card.lineage.models.values())):
        if model.recipe is not None:
            name = f"MODELS/{_word(model.name)}"
            made = f"remade-{slug(short_name(model.name))}.safetensors"
            check = f"python -m merge remake {name} {made} --models MODELS"
            yield Step(f"Make {plain(model.name)} again from its own metadata, and compare", check)


def recipe_words(recipe: Recipe) -> str:
    """A recipe in the words that `python -m merge run` takes."""
    try:
        return plain(to_text(recipe))[:LONGEST_RECIPE]
    except MergeError as error:
        return str(error)


def recipe_json(recipe: Recipe) -> str:
    return json.dumps(to_json(recipe), ensure_ascii=True, indent=1)


def recipe_command(card: Card) -> str:
    """The command that makes the released mix from its ingredients; "" if it is no mix."""
    model = card.lineage.released
    if model.recipe is None:
        return ""
    precision = model.metadata.get(PRECISION, "fp16")
    return (
        f"python -m merge run {_word(recipe_words(model.recipe))} remade.safetensors "
        f"--models MODELS --precision {_word(precision)}"
    )


def _trained(card: Card) -> Iterator[Step]:
    for run in reversed(card.runs):
        name, settings = _word(run.name), _word(settings_file(run))
        commands = (
            f"python -m trainer new RUNS {name} --base MODELS/{_word(run.base_name)} "
            f"--dataset dataset.parquet --settings {settings}\n"
            f"python -m trainer run RUNS/{name}"
        )
        yield Step(f"Train the run {plain(run.name)} again", commands)


def settings_file(run: Run) -> str:
    return f"settings-{slug(run.name)}.json"


def settings_text(run: Run) -> str:
    """The settings of a run as `--settings` takes them."""
    value = read_json(run.folder / "run.json", 16 << 20)
    return json.dumps(value["settings"], ensure_ascii=True, indent=1) + "\n"


def _word(text: str) -> str:
    """A text of a stranger as one word of a shell's command, which runs nothing."""
    return shlex.quote(plain(text))
