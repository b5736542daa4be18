"""What a card says, in its order: the picture and the verdict first, then how it came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..recipe import short_name
from . import licences, remaking
from .blocks import (
    Block,
    Code,
    Drawing,
    Facts,
    Figure,
    Fold,
    Gallery,
    Mono,
    Section,
    Table,
    Versus,
    Warnings,
    Words,
)
from .card import Card, Shown
from .graph import cut, draw, plain
from .lineage_graph import graph_of
from .publishing import about, for_sites, remaking_of
from .reading import text
from .training import training
from .words import UNKNOWN, epoch_words, listed, settings_words, size_words, triggers, verdict

MOST_ROWS = 60


def sections_of(card: Card) -> list[Section]:
    """The card from its title to its end; sections without anything to say are left out."""
    every = [
        Section(card.title, list(_opening(card))),
        Section("Decisive comparisons", list(_comparisons(card))),
        Section("Pictures and their prompts", list(_gallery(card))),
        Section("Where it comes from", list(_lineage(card))),
        Section("Recipe and ingredients", list(_recipe(card))),
        Section("Votes", list(_votes(card))),
        Section("Training", list(training(card))),
        Section("Make it again", list(remaking_of(card))),
        Section("For model sites", list(for_sites(card))),
        Section("About this card", list(about(card))),
    ]
    return [section for section in every if section.blocks]


def _opening(card: Card) -> Iterator[Block]:
    yield Words(verdict(card), strong=True)
    if card.shown:
        yield _figure(card.shown[0], card.title, with_prompt=True)
    yield Facts(tuple(_summary(card)))
    if card.warnings:
        yield Warnings("Licences", card.warnings)
    for part in filter(str.strip, card.wishes.notes.replace("\r", "").split("\n\n")):
        yield Words(text(part.strip(), 5000))


def _summary(card: Card) -> Iterator[tuple[str, str]]:
    model = card.lineage.released
    yield "model", f"{card.family.name}" + _native(card)
    if model.made_of:
        yield (
            "made of",
            listed([short_name(card.lineage.models[key].name) for key in _parents(card)]),
        )
    elif model.run:
        yield "made of", f"{epoch_words(model)} of the run {plain(model.run)}"
    else:
        yield "made of", UNKNOWN
    pairs = [f"{run.dataset['train']} pairs ({plain(run.name)})" for run in card.runs]
    if pairs:
        yield "trained on", listed(pairs)
    yield "licence", licences.words(card.licence)
    yield "trigger words", triggers(card) or UNKNOWN
    size = model.hashes.size_bytes if model.hashes else 0
    yield "file", f"{plain(card.name)}, {size_words(size)}"


def _native(card: Card) -> str:
    told = text(card.lineage.released.metadata.get("modelspec.resolution"), 40)
    resolution = told or (
        f"{card.family.resolution}x{card.family.resolution}" * bool(card.family.resolution)
    )
    return f", {plain(resolution)} px" if resolution else ""


def _parents(card: Card) -> list[str]:
    made_of = card.lineage.released.made_of
    return [key for key, _ in made_of if key in card.lineage.models]


def _figure(
    shown: Shown, alt: str, with_prompt: bool = False, known: Mapping[str, Any] | None = None
) -> Figure:
    """A picture with its settings, but for those that are `known` of it already."""
    settings = shown.cell.settings
    prompt = text(settings.get("prompt"), 2000)
    caption = prompt if with_prompt else shown.label
    seen = f"{alt}: {prompt}" if prompt else alt
    own = {name: value for name, value in settings.items() if name not in (known or {})}
    return Figure(shown.picture, plain(seen)[:300], plain(caption), settings_words(own))


def _comparisons(card: Card) -> Iterator[Block]:
    vote = card.final
    if vote is None or card.rival is None or not card.comparisons:
        return
    number = card.number_in(vote)
    assert number is not None
    ours, theirs = (cut(vote.field.candidates[n].label, 80) for n in (number, card.rival))
    yield Words(
        f"The pictures on which the votes were clearest, {ours} on the left and {theirs} on the "
        "right. But for the model both pictures of a pair have the same settings."
    )
    for one in card.comparisons:
        told, settings = one.votes, one.ours.cell.settings
        place = text(settings.get("prompt"), 500) or ", ".join(
            f"{target} {label}" for target, label in one.place.items()
        )
        preferred = ours if told.won > told.lost else theirs
        most, least = max(told.won, told.lost), min(told.won, told.lost)
        votes = f"{most} to {least} for {preferred}" + f", {told.ties} undecided" * bool(told.ties)
        sides = [
            Figure(side.picture, f"{name}: {plain(place)[:250]}", name)
            for side, name in ((one.ours, ours), (one.theirs, theirs))
        ]
        yield Versus(sides[0], sides[1], votes + f": {plain(place)}" * bool(place.strip()))


def _gallery(card: Card) -> Iterator[Block]:
    rest = card.shown[1:]
    if not rest:
        return
    every = [one.cell.settings for one in rest]
    same = {
        name: value
        for name, value in every[0].items()
        if name != "prompt" and all(name in one and one[name] == value for one in every)
    }
    if told := settings_words(same):
        yield Words(f"All of these: {told}.")
    yield Gallery(tuple(_figure(one, card.title, with_prompt=True, known=same) for one in rest))


def _lineage(card: Card) -> Iterator[Block]:
    graph = graph_of(card)
    if len(graph.boxes) < 2:
        yield Words(
            "Its metadata names neither ingredients nor a run: where it comes from is not recorded."
        )
        return
    steps = [box.words() for box in graph.boxes[:MOST_ROWS]]
    yield Drawing(
        draw(graph, "lineage"),
        draw(graph, "lineage", standalone=True),
        "pictures/lineage.svg",
        "Where this checkpoint comes from, from the pairs to the release",
    )
    yield Fold("The same in words", tuple(Words(step) for step in steps))


def _recipe(card: Card) -> Iterator[Block]:
    model = card.lineage.released
    if model.recipe is not None:
        yield Code(remaking.recipe_words(model.recipe), "text")
    rows = []
    shares, names = dict(model.made_of), licences.called(card.lineage)
    for key, one in list(card.lineage.models.items())[1:MOST_ROWS]:
        licence = card.licences.get(names[key])
        share = shares.get(key, "") if key in shares else "further back"
        rows.append(
            (
                plain(names[key]),
                share or ("parts of it" if key in shares else ""),
                licences.words(licence)
                if licence or not (one.made_of or one.base)
                else "as its ingredients",
                Mono(one.hashes.sha256) if one.hashes else UNKNOWN,
                Mono(one.autov3) if one.autov3 else UNKNOWN,
                (one.problem and f"not checked: {one.problem}") or "checked",
            )
        )
    if rows:
        head = ("checkpoint", "share of the UNet", "licence", "SHA-256", "AutoV3", "file")
        yield Table(head, tuple(rows))


def _votes(card: Card) -> Iterator[Block]:
    for vote in card.ranked:
        rounds = " In rounds: the one that was left is the first." if vote.in_rounds else ""
        yield Words(
            f"Grid {plain(vote.grid.name)}, axis {plain(vote.field.axis)}: {vote.cast}.{rounds}"
        )
        ours = card.number_in(vote)
        rows = []
        for place, rank in enumerate(vote.ranks[:MOST_ROWS], start=1):
            label = cut(vote.field.candidates[rank.number].label, 100)
            rows.append(
                (
                    str(place),
                    label + (" (this checkpoint)" if rank.number == ours else ""),
                    f"{rank.strength:+.2f}",
                    f"{rank.low:+.2f} to {rank.high:+.2f}",
                    f"{100 * rank.wins:.0f} %",
                    str(rank.votes),
                )
            )
        yield Table(
            ("place", "candidate", "strength", "95 % interval", "wins", "votes"), tuple(rows)
        )
    if card.ranked:
        yield Words(
            "Strengths are in logits relative to the mean of all: 1 more wins about 73 of 100 "
            "decided votes. Bradley-Terry with ties (Davidson 1970); rankings of four by Plackett "
            "and Luce."
        )
