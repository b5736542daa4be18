"""What a card says of the trainings: losses, pairs and settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..recipe import short_name
from .blocks import Block, Drawing, Facts, Fold, Mono, Table, Words
from .card import Card
from .graph import cut, plain, slug
from .lineage import Model
from .loss_chart import draw_losses, spoken
from .runs import Run
from .words import UNKNOWN, epoch_words, setting_words

MOST_BUCKETS = 24


def training(card: Card) -> Iterator[Block]:
    """Every run of the lineage, the one nearest to the release first."""
    for run in card.runs:
        models = [one for one in card.lineage.models.values() if one.run == run.name]
        used = [one.note.epoch for one in models if one.note and one.note.epoch is not None]
        yield Words(f"Run {plain(run.name)}. {spoken(run.losses)}", strong=True)
        if run.losses.validation or run.losses.training:
            name = slug(run.name)
            arguments = (run.name, run.losses, sorted(set(used)), f"loss-{name}")
            yield Drawing(
                draw_losses(*arguments),
                draw_losses(*arguments, standalone=True),
                f"pictures/loss-{name}.svg",
                f"Losses of the run {cut(run.name, 60)}",
            )
        yield Facts(tuple(_run_facts(run, models)))
        yield from _pairs(run)
        rows = tuple((plain(name), setting_words(value)) for name, value in run.settings.items())
        yield Fold("All settings", (Facts(rows),))
    for run, why in card.lineage.missing_runs.items():
        yield Words(f"Run {plain(run)}: {why}. Its losses are {UNKNOWN}.", strong=True)
        notes = [m.note for m in card.lineage.models.values() if m.run == run and m.note]
        if notes:
            note = notes[0]
            counts = (
                f"{note.dataset['train']} pairs and {note.dataset['validation']} for validation"
            )
            yield Facts((("base", plain(note.base_name)), ("pairs", counts)))
            rows = tuple((n, setting_words(v)) for n, v in note.settings.items())
            yield Fold("Settings, from the checkpoint's own metadata", (Facts(rows),))
    if card.captions:
        yield Fold("Some captions", tuple(Words(plain(one)) for one in card.captions))


def _run_facts(run: Run, models: Sequence[Model]) -> Iterator[tuple[str, str]]:
    for model in models:
        yield "used", f"{epoch_words(model)}, {plain(short_name(model.name))} ({model.evidence})"
    yield "base", plain(run.base_name)
    yield "base, SHA-256", Mono(run.base_sha256)
    known = run.settings.get
    for name in (
        "resolution",
        "epochs",
        "batch_size",
        "learning_rate",
        "train_text_encoder",
        "text_encoder_learning_rate",
        "precision",
        "seed",
    ):
        value = known(name)
        yield name.replace("_", " "), UNKNOWN if value is None else setting_words(value)
    versions = next((m.note.versions for m in models if m.note), {})
    if versions:
        yield "made with", ", ".join(f"{plain(n)} {plain(v)}" for n, v in versions.items())


def _pairs(run: Run) -> Iterator[Block]:
    facts = run.facts
    if facts is None:
        yield Words(
            f"Pairs: {run.dataset['train']} and {run.dataset['validation']} for validation. "
            f"Buckets and sources are {UNKNOWN} ({run.dataset_problem})."
        )
        return
    rows = [("pairs", plain(facts.name))]
    rows += [(plain(split), f"{count:,} pairs") for split, count in facts.splits.items()]
    rows.append(("shown in an epoch", f"{facts.weight:,.10g}"))
    if facts.masks:
        rows.append(("with a mask", f"{facts.masks:,}"))
    rows.append(("fingerprint", Mono(facts.fingerprint)))
    yield Facts(tuple(rows))
    if facts.buckets:
        most = facts.buckets[:MOST_BUCKETS]
        title = "picture size" if facts.are_sizes else "bucket"
        sizes = tuple((f"{w} x {h}", f"{count:,}") for w, h, count in most)
        more = len(facts.buckets) - len(most)
        yield Fold(
            f"{'Sizes of the pictures' if facts.are_sizes else 'Buckets'}: {len(facts.buckets)}",
            (
                Table((title, "pairs to train on"), sizes),
                *([Words(f"And {more} more.")] * bool(more)),
            ),
        )
    steps = tuple(Words(plain(line)) for line in facts.history)
    yield Fold("How the pairs were chosen", steps or (Words(f"This is {UNKNOWN}."),))
