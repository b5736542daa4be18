"""Folders of runs that were never trained, with the records of a made-up course."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import Base, Paths, Run, create_run
from cocktail.trainer.settings.run_settings import RunSettings


def made_pairs(splits: Sequence[str]) -> Dataset:
    """A dataset without pictures: a pair for every split that is given."""
    return Dataset(
        "made",
        "nowhere",
        tuple(
            Pair(f"{n:016x}", f"{n}.png", f"{n:064x}", 64, 64, f"caption {n}", split=split)
            for n, split in enumerate(splits)
        ),
    )


def made_run(folder: Path, name: str, dataset: Dataset, **settings) -> Run:
    return create_run(
        folder / "runs",
        name,
        Base("base.safetensors", str(folder / "base.safetensors"), "0" * 64),
        dataset,
        RunSettings.from_json(settings),
        Paths(str(folder / "checkpoints"), "", ""),
    )


def record_steps(run: Run, epoch: int, steps: Sequence[int], loss: float = 0.1) -> None:
    """Steps of an epoch in the run's metrics."""
    Lines(run.folder / "metrics.jsonl").append(
        *({"kind": "step", "epoch": epoch, "step": step, "loss": loss} for step in steps)
    )


def record_validation(
    run: Run,
    epoch: int,
    step: int,
    levels: Mapping[str, Sequence[float]],
    training: Mapping[str, Sequence[float]] | None = None,
    sets: Mapping[str, Sequence[str]] | None = None,
    with_levels: bool = True,
) -> None:
    """A validation as a run records it: `levels` are the losses of the validation pairs at their
    noise levels, `sets` the ids of the pairs of every set where there are several. Without levels
    it is as runs recorded it at first.
    """
    pairs = {pair: float(numpy.mean(losses)) for pair, losses in levels.items()}
    figures = {"loss": float(numpy.mean(list(pairs.values())))}
    for name, members in (sets or {}).items():
        own = [pairs[pair] for pair in members if pair in pairs]
        figures[f"loss_{name}"] = float(numpy.mean(own))
    line = {"epoch": epoch, "step": step, "pairs": pairs}
    if with_levels:
        line["levels"] = {pair: [float(x) for x in losses] for pair, losses in levels.items()}
    if training:
        line["training"] = {pair: [float(x) for x in losses] for pair, losses in training.items()}
        figures["train_loss"] = float(numpy.mean([list(x) for x in training.values()]))
    Lines(run.folder / "metrics.jsonl").append(
        {"kind": "validation", "epoch": epoch, "step": step, **figures}
    )
    Lines(run.folder / "validation.jsonl").append(line)


def record_course(
    run: Run,
    course: Callable[[int], Sequence[float]],
    epochs: int,
    steps_per_epoch: int = 10,
    spread: float = 0.3,
    noise: float = 0.002,
    seed: int = 0,
) -> dict[int, dict[str, list[float]]]:
    """Validations before training and after each epoch. `course(epoch)` gives the loss at every
    noise level; pairs differ from it by a factor of their own, and by chance from epoch to epoch.
    Returns what was recorded, by epoch.
    """
    draw = numpy.random.default_rng(seed)
    ids = [pair.id for pair in run.dataset().validation]
    own = dict(zip(ids, draw.uniform(1 - spread, 1 + spread, len(ids)), strict=True))
    recorded = {}
    for epoch in range(epochs + 1):
        last = epoch * steps_per_epoch
        if epoch:
            record_steps(run, epoch, range(last - steps_per_epoch + 1, last + 1))
            Lines(run.folder / "metrics.jsonl").append(
                {"kind": "epoch", "epoch": epoch, "step": last}
            )
        levels = {
            pair: [float(loss * own[pair] * (1 + draw.normal(0, noise))) for loss in course(epoch)]
            for pair in ids
        }
        record_validation(run, epoch, last, levels)
        recorded[epoch] = levels
    return recorded
