"""A release made by code: a base, a run with its epochs, somebody else's model, a mix of these, a
grid that compares them, and votes. All files are those that the pack itself writes.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from safetensors.torch import save_file

from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.hashing import file_sha256
from cocktail.merge.recipe import Ingredient, weighted_sum
from cocktail.nodes.grid.engine.axes.checkpoints import checkpoint_axis
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.cell.stock import StockCell
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import Plan
from cocktail.nodes.grid.engine.store.cell_file import PNG, encode
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.ballot import Ballot
from cocktail.nodes.grid.engine.vote.log import Vote, VoteLog
from cocktail.trainer.checkpoints import _metadata
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.runs import Base, Paths, Run, create_run
from cocktail.trainer.settings.run_settings import RunSettings

from .conftest import sd15_tensors

PROMPTS = ("a red circle on a blue background", "a green square", "three yellow triangles")
FIXED = StockCell("", PROMPTS[0], "blurry", 1, 20, 7.0, "euler", "normal", 64, 64, 1).to_json()
CAPTION = "a secret caption"


@dataclass(frozen=True)
class Released:
    """The folders of a release."""

    base: Path
    mix: Path
    run: Run
    plan: Plan

    @property
    def models(self) -> Path:
        return self.base / "models"

    @property
    def runs(self) -> Path:
        return self.base / "runs"

    @property
    def grids(self) -> Path:
        return self.base / "grids"

    @property
    def grid(self) -> Path:
        return self.grids / self.plan.name

    @property
    def folders(self) -> list[str]:
        """The options that name them."""
        named = {"models": self.models, "runs": self.runs, "grids": self.grids}
        return [word for name, path in named.items() for word in (f"--{name}", str(path))]


def make_release(
    base: Path,
    run: str = "vodka",
    grid: str = "tasting",
    other: str = "epic.safetensors",
    prompts: tuple[str, ...] = PROMPTS,
    dataset: str = "input/shapes",
    votes: int = 90,
    side: int = 64,
) -> Released:
    """A release in a new folder. The mix wins most of its votes."""
    models = base / "models"
    models.mkdir(parents=True)
    _checkpoint(models / "base.safetensors", 1, {"modelspec.license": "cc-by-4.0"})
    _checkpoint(models / other, 2, {"modelspec.license": "cc-by-nc-4.0"})
    trained = _run(base, run, dataset)
    names = [
        f"cocktail/{run}/{file.name}" for file in sorted((models / "cocktail" / run).iterdir())
    ]
    recipe = weighted_sum([(Ingredient(names[-1]), 60), (Ingredient(other), 40)])
    mix = models / "cocktail" / "bloody-mary.safetensors"
    bound = bind_to_files(recipe, models.joinpath)
    make_checkpoint(bound, mix, "fp16")
    candidates = ["cocktail/bloody-mary.safetensors", names[-1], other, "base.safetensors"]
    plan = _grid(base / "grids", grid, models, candidates, prompts, side)
    _vote(base / "grids" / grid, plan, votes)
    return Released(base, mix, trained, plan)


def _checkpoint(path: Path, seed: int, metadata: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in sd15_tensors(seed).items()}
    save_file(tensors, path, metadata)
    return path


def _run(base: Path, name: str, dataset: str) -> Run:
    pairs = tuple(
        Pair(
            f"{n:016x}",
            f"{n}.png",
            f"{n:064x}",
            512 + 64 * (n % 3),
            512,
            f"{CAPTION} {n}",
            split="validation" if n % 6 == 0 else "train",
        )
        for n in range(60)
    )
    made = Dataset(dataset, "nowhere", pairs, history=("51 to train on, 9 held back",))
    start = base / "models" / "base.safetensors"
    settings = RunSettings.from_json({"epochs": 8, "resolution": 512})
    run = create_run(
        base / "runs",
        name,
        Base("base.safetensors", str(start), file_sha256(start)),
        made,
        settings,
        Paths(str(base / "models" / "cocktail"), "", ""),
    )
    chance, lines = random.Random(1), [_line("validation", 0, 0, loss=0.152)]
    for epoch in range(1, 9):
        for step in range(epoch * 20 - 19, epoch * 20 + 1):
            loss = 0.14 + 0.02 * 0.99**step + chance.gauss(0, 0.006)
            lines.append(_line("step", epoch, step, loss=loss))
        loss = 0.139 + 0.0006 * (epoch - 6) ** 2 * 0.3
        lines.append(_line("validation", epoch, epoch * 20, loss=loss))
        if epoch in (3, 6):
            file = f"{name}-e{epoch:03d}-s{epoch * 20:06d}.safetensors"
            lines.append(_line("checkpoint", epoch, epoch * 20, file=file))
            told = _metadata(run, epoch, epoch * 20, "")
            _checkpoint(base / "models" / "cocktail" / name / file, 10 + epoch, told)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return run


def _line(kind: str, epoch: int, step: int, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "epoch": epoch, "step": step, "time": 1.0 + step, **values}


def _grid(
    root: Path, name: str, models: Path, candidates: list[str], prompts: tuple[str, ...], side: int
) -> Plan:
    choices = {"checkpoint": candidates}
    axes = [
        checkpoint_axis([(one, "") for one in candidates]),
        typed_axis("prompt", list(prompts), choices),
        typed_axis("seed", "1\n2", choices),
    ]
    fixed = {**FIXED, "width": side, "height": side}
    plan = make_plan(name, fixed, axes, lambda kind, one: file_sha256(models / one))
    store = Store(root / name)
    store.save_plan(plan)
    for cell in plan.render_order:
        data = encode(_drawn(cell.key, side), PNG, None, "", {"key": cell.key})
        store.save_cell(cell, data, {})
    return plan


def _drawn(key: str, side: int) -> numpy.ndarray:
    """A disc on a ground, in colours of the key."""
    colours = numpy.frombuffer(bytes.fromhex(key), dtype=numpy.uint8)[:6].reshape(2, 3)
    y, x = numpy.mgrid[0:side, 0:side] / side - 0.5
    disc = ((x**2 + y**2) < 0.1)[..., None]
    return numpy.where(disc, colours[0], colours[1] // 2 + 96).astype(numpy.uint8)


def _vote(folder: Path, plan: Plan, votes: int) -> None:
    field, log, chance = Ballot(Store(folder), "", plan).field, VoteLog(folder), random.Random(3)
    lines = []
    for number in range(votes):
        place = chance.randrange(len(field.places))
        one, other = chance.sample(range(len(field.candidates)), 2)
        shown = [field.places[place].keys[n] for n in (one, other)]
        best = shown[0] if (one < other) == (chance.random() < 0.85) else shown[1]
        order = () if chance.random() < 0.15 else (best,)
        id = hashlib.sha256(f"{number}".encode()).hexdigest()[:32]
        lines.append(Vote(id, ("Ann", "Ben")[number % 2], tuple(shown), order, False, 1.0 + number))
    for vote in lines:
        log.add(vote)
