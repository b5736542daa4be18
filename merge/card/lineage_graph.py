"""The lineage of a card as boxes and edges: table, pairs, run, checkpoint, mix, votes."""

from __future__ import annotations

from ..recipe import short_name
from .card import Card
from .graph import Box, Edge, Graph
from .lineage import Model
from .runs import Run


def graph_of(card: Card) -> Graph:
    """Everything that the released checkpoint goes back to; that one first."""
    boxes: dict[str, Box] = {}
    edges: list[Edge] = []
    models = card.lineage.models
    bases = {model.base for model in models.values()}
    for number, (key, model) in enumerate(models.items()):
        kind = "mix" if model.made_of else "base" if key in bases else "checkpoint"
        kind = "released" if number == 0 else kind
        title = card.title if number == 0 else short_name(model.name)
        boxes[key] = Box(key, kind, title, _model_lines(model))
        edges += [Edge(older, key, share) for older, share in model.made_of if older in models]
        if model.run:
            run = f"run {model.run}"
            edges.append(Edge(run, key, _epoch(model)))
            if model.base in models:
                edges.append(Edge(model.base, run))
    for name in {model.run: None for model in models.values() if model.run}:
        _add_run(name, card.lineage.runs.get(name), boxes, edges)
    for vote in card.ranked:
        id = f"votes {vote.grid.name}"
        told = f"{vote.counted} vote{'s' * (vote.counted != 1)}"
        boxes[id] = Box(id, "votes", vote.grid.name, (told,))
        found = [key for key in models if vote.field.number_of(frozenset([key])) is not None]
        ours = card.number_in(vote)
        if ours is not None:
            found = [card.lineage.released.key]
        edges += [Edge(key, id, _place(vote, key)) for key in found]
    return Graph(tuple(boxes.values()), tuple(dict.fromkeys(edges)))


def _add_run(name: str, run: Run | None, boxes: dict[str, Box], edges: list[Edge]) -> None:
    id = f"run {name}"
    if run is None:
        boxes[id] = Box(id, "run", name, ("its folder was not read",))
        return
    told = f"{run.settings.get('epochs', '?')} epochs, {run.settings.get('resolution', '?')} px"
    boxes[id] = Box(id, "run", name, (told,))
    pairs = f"pairs {run.dataset['fingerprint']}"
    counts = f"{run.dataset['train']} + {run.dataset['validation']} for validation"
    boxes.setdefault(pairs, Box(pairs, "pairs", run.dataset["fingerprint"][:12], (counts,)))
    edges.append(Edge(pairs, id))
    source = f"source {run.dataset['name']}"
    boxes.setdefault(source, Box(source, "source", run.dataset["name"] or "not recorded"))
    edges.append(Edge(source, pairs))


def _model_lines(model: Model) -> tuple[str, ...]:
    return (f"SHA-256 {model.hashes.sha256[:10]}",) if model.hashes else ("hash not recorded",)


def _epoch(model: Model) -> str:
    epoch = model.note.epoch if model.note else None
    return f"epoch {epoch}" if epoch is not None else ""


def _place(vote, key: str) -> str:
    number = vote.field.number_of(frozenset([key]))
    return f"place {vote.place_of(number)}" if number is not None else ""
