"""A run's folder: what was trained on what, how, and how its losses went."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dataset import DatasetFacts, read_dataset
from .reading import Lines, Unreadable, folders, inside, number, read_json, sha256_json, text, whole

FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_POINTS = 600
"""Of the training loss on a chart."""
MOST_VALIDATIONS = 5000
SHOWN_ONLY = ("samples", "saving", "logging")
"""Settings that change no weight."""


@dataclass(frozen=True)
class RunNote:
    """What a checkpoint says of the run that saved it."""

    name: str
    id: str
    epoch: int | None
    step: int | None
    ema: bool
    base_name: str
    base_sha256: str
    dataset: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Losses:
    """Epoch and loss of every validation; epoch and mean training loss of stretches of steps."""

    validation: tuple[tuple[float, float], ...]
    training: tuple[tuple[float, float], ...]
    problem: str = ""

    @property
    def best(self) -> tuple[float, float] | None:
        """The validation with the lowest loss."""
        return min(self.validation, key=lambda point: (point[1], point[0]), default=None)


@dataclass(frozen=True)
class Run:
    """A run's folder, as far as it can be read."""

    name: str
    folder: Path
    id: str
    base_name: str
    base_sha256: str
    dataset: Mapping[str, Any]
    settings: Mapping[str, Any]
    settings_sha256: str
    """Of base, dataset and those settings that decide the weights."""
    losses: Losses
    files: Mapping[str, int]
    """The epoch of every checkpoint that it saved, by its file's name."""
    facts: DatasetFacts | None
    dataset_problem: str = ""


def read_note(metadata: Mapping[str, str]) -> RunNote | None:
    """The run in a checkpoint's metadata, None if it does not come from one."""
    try:
        value = json.loads(metadata["cocktail.run"])
        base, dataset = value["base"], value["dataset"]
        settings, versions = value["settings"], value.get("versions") or {}
        name, id = value["run"], value["id"]
        if not isinstance(name, str) or not isinstance(id, str) or not isinstance(settings, dict):
            return None
        return RunNote(
            text(name, 100),
            text(id, 100),
            whole(value.get("epoch")),
            whole(value.get("step")),
            bool(value.get("ema")),
            text(base["name"], 300),
            _sha256(base["sha256"]),
            _counts(dataset),
            flat(settings),
            {text(k, 50): text(v, 50) for k, v in versions.items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def read_run(root: Path, name: str) -> Run:
    """The run of that name below `root`. Raises Unreadable."""
    if not NAME.fullmatch(name):
        raise Unreadable("no run can have this name")
    folder = inside(root, name)
    value = read_json(folder / "run.json", 16 << 20)
    if value.get("format") != FORMAT:
        raise Unreadable("run.json was written by another version of Cocktail")
    try:
        base, dataset = value["base"], _counts(value["dataset"])
        settings = value["settings"]
        if not isinstance(settings, dict) or not isinstance(value["id"], str):
            raise ValueError("not a run")
        base_name, base_sha256 = text(base["name"], 300), _sha256(base["sha256"])
        settings_sha256 = settings_hash(value)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Unreadable("run.json is damaged") from None
    losses, files = _metrics(folder / "metrics.jsonl")
    facts, problem = None, ""
    try:
        facts = read_dataset(inside(folder, "dataset.parquet"), flat(settings))
    except Unreadable as error:
        problem = str(error)
    return Run(
        name,
        folder,
        text(value["id"], 100),
        base_name,
        base_sha256,
        dataset,
        flat(settings),
        settings_sha256,
        losses,
        files,
        facts,
        problem,
    )


def settings_hash(run: Mapping[str, Any]) -> str:
    """Hex SHA-256 of what decides the weights of the run in a run.json."""
    settings = {k: v for k, v in run["settings"].items() if k not in SHOWN_ONLY}
    return sha256_json(
        {
            "base": _sha256(run["base"]["sha256"]),
            "dataset": str(run["dataset"]["fingerprint"]),
            "settings": settings,
        }
    )


def run_of_file(root: Path, file: str) -> str | None:
    """The run below `root` that says it saved a checkpoint with this file name."""
    plain = re.split(r"[/\\]", file)[-1]
    try:
        every = folders(root)
    except Unreadable:
        return None
    likely = [one for one in every if plain.startswith(f"{one.name}-e")]
    for folder in likely[:50]:
        try:
            if plain in _metrics(folder / "metrics.jsonl")[1]:
                return folder.name
        except Unreadable:
            continue
    return None


def _metrics(path: Path) -> tuple[Losses, dict[str, int]]:
    """Losses and saved checkpoints. Of a step that was taken twice the later line counts."""
    steps: dict[int, tuple[int, float]] = {}
    validations: dict[int, tuple[int, float]] = {}
    files: dict[str, int] = {}
    lines, problem = Lines(path), ""
    try:
        for line in lines:
            kind, epoch, step = line.get("kind"), whole(line.get("epoch")), whole(line.get("step"))
            if epoch is None or step is None:
                continue
            loss = number(line.get("loss"))
            if kind == "step" and loss is not None:
                steps[step] = epoch, loss
            elif kind == "validation" and loss is not None:
                validations[step] = epoch, loss
            elif kind in ("checkpoint", "ema checkpoint") and isinstance(line.get("file"), str):
                files[line["file"]] = epoch
        problem = lines.problem()
    except Unreadable as error:
        problem = f"metrics.jsonl: {error}."
    places = _places(steps)
    last = sorted(places)
    curve = []
    for step, (epoch, loss) in sorted(validations.items())[:MOST_VALIDATIONS]:
        before = bisect_right(last, step)
        curve.append((places[last[before - 1]] if before else float(epoch), loss))
    return Losses(tuple(curve), _thinned(steps, places), problem), files


def _places(steps: Mapping[int, tuple[int, float]]) -> dict[int, float]:
    """Where on the axis of epochs a step is: at its epoch's end for the last one of it."""
    by_epoch: dict[int, list[int]] = {}
    for step in sorted(steps):
        by_epoch.setdefault(steps[step][0], []).append(step)
    longest = max(map(len, by_epoch.values()), default=1)
    newest = max(by_epoch, default=0)
    found = {}
    for epoch, own in by_epoch.items():
        length = longest if epoch == newest else len(own)
        for place, step in enumerate(own, start=1):
            found[step] = epoch - 1 + place / length
    return found


def _thinned(
    steps: Mapping[int, tuple[int, float]], places: Mapping[int, float]
) -> tuple[tuple[float, float], ...]:
    order = sorted(steps)
    size = max(1, -(-len(order) // MOST_POINTS))
    found = []
    for start in range(0, len(order), size):
        part = order[start : start + size]
        mean = sum(steps[step][1] for step in part) / len(part)
        found.append((sum(places[step] for step in part) / len(part), mean))
    return tuple(found)


def flat(settings: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Settings by their full names, such as loss.min_snr_gamma."""
    found: dict[str, Any] = {}
    for key, value in list(settings.items())[:1000]:
        name = text(str(key), 100)
        if isinstance(value, dict) and depth < 4:
            found |= {f"{name}.{inner}": entry for inner, entry in flat(value, depth + 1).items()}
        else:
            found[name] = value
    return found


def _counts(dataset: Any) -> dict[str, Any]:
    return {
        "name": text(dataset.get("name"), 300),
        "fingerprint": text(dataset["fingerprint"], 100),
        "train": whole(dataset.get("train")),
        "validation": whole(dataset.get("validation")),
    }


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise ValueError("no hash")
    return value
