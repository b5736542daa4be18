"""A run and its folder, which is the whole interface between the training process and everybody
else.

run.json        what the run is: identity, base, dataset, settings; written once
dataset.parquet   the manifest it trains on
state.json      how it stands, replaced several times a second while it works
process.json    pid and start time of the process that works on it
control.json    what somebody asks of that process: stop, or save
metrics.jsonl   one line for every step, validation and saved checkpoint; append-only
validation.jsonl  the loss of every validation pair at every validation; append-only
resume/         points from which training goes on exactly
samples/        pictures drawn on the way
skipped.jsonl   pairs that could not be shown, and why
tensorboard/    the same figures as TensorBoard events
log.txt         what the process printed
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .data.manifest import Dataset
from .errors import TrainerError
from .files import canonical_json, sha256_text, write_json
from .jobs.lines import Followed, Lines, Read
from .settings.run_settings import RunSettings

FORMAT = 1
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")
ACTIVE = ("preparing", "running", "stopping", "paused")
"""States in which a process must be alive; without one the run has been interrupted."""
RESUMABLE = ("stopped", "interrupted", "failed")
COMMANDS = ("stop", "save")


@dataclass(frozen=True)
class Base:
    """The checkpoint a run starts from."""

    name: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Paths:
    """Folders of this machine that a run uses; no part of its identity."""

    checkpoints: str
    """Where its checkpoints go: for `create_run` the folder that gets one named like the run,
    afterwards that one.
    """
    tokenizer: str
    cache: str


@dataclass(frozen=True)
class State:
    """How a run stands. `status` is queued, preparing, running, paused, stopping, stopped,
    finished, failed or interrupted.

    Validation losses are mean squared errors; `best` holds epoch, step, loss and checkpoint;
    `trend` says in words that the validation loss has been rising, and is empty while it has not.
    """

    status: str = "queued"
    message: str = ""
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    smoothed_loss: float | None = None
    steps_per_second: float | None = None
    eta_s: float | None = None
    first_validation: float | None = None
    last_validation: float | None = None
    best: dict[str, Any] | None = None
    trend: str = ""
    skipped: int = 0
    queued_at: float = 0.0
    updated: float = 0.0


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint of a run that is on disk; `best` marks the lowest validation loss so far."""

    epoch: int
    step: int
    file: Path
    validation_loss: float | None
    best: bool


@dataclass(frozen=True)
class Run:
    """An existing run folder."""

    folder: Path
    name: str
    id: str
    base: Base
    settings: RunSettings
    paths: Paths

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Raises TrainerError when the folder is not a run's."""
        try:
            value = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TrainerError(f"There is no run in {folder}: run.json is missing.") from error
        if value["format"] != FORMAT:
            raise TrainerError(
                f"The run {value['name']} was made by a newer Cocktail (format {value['format']})."
            )
        return cls(
            folder,
            value["name"],
            value["id"],
            Base(**value["base"]),
            RunSettings.from_json(value["settings"]),
            Paths(**value["paths"]),
        )

    def dataset(self) -> Dataset:
        return Dataset.load(self.folder / "dataset.parquet")

    def state(self) -> State:
        value = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        return State(**value)

    def write_state(self, state: State) -> None:
        """For the process that works on the run; others only while there is none (see queue.py)."""
        write_json(self.folder / "state.json", asdict(replace(state, updated=time.time())))

    def request(self, command: str) -> None:
        """Ask the training process to stop after the step it is in, or to save a checkpoint there."""
        if command not in COMMANDS:
            raise TrainerError(f"Unknown command {command!r}; a run understands: stop, save.")
        write_json(self.folder / "control.json", {"command": command, "time": time.time()})

    def take_request(self) -> str | None:
        """What has been asked since the last look, once."""
        control = self.folder / "control.json"
        try:
            command = json.loads(control.read_text(encoding="utf-8"))["command"]
        except FileNotFoundError:
            return None
        control.unlink(missing_ok=True)
        return command if command in COMMANDS else None

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl. After a resume a step can be there twice: the later line
        holds.
        """
        return self.metrics_from(0).lines

    def metrics_from(self, byte: int) -> Read:
        """What metrics.jsonl holds from a byte on, and the byte to ask from next time."""
        return Lines(self.folder / "metrics.jsonl").read(byte)

    def validations(self) -> list[dict[str, Any]]:
        """The validations so far in order of their steps: epoch, step and the loss of every pair by
        its id.
        """
        lines = Lines(self.folder / "validation.jsonl").read().lines
        by_step = {line["step"]: line for line in lines}
        return [by_step[step] for step in sorted(by_step)]

    def checkpoints(self) -> list[SavedCheckpoint]:
        """Saved checkpoints that still exist, in order of their steps."""
        lines = _followed(self.folder / "metrics.jsonl").lines()
        losses = {line["step"]: line["loss"] for line in lines if line["kind"] == "validation"}
        best = self.state().best
        found = {}
        for line in lines:
            if line["kind"] == "checkpoint":
                file = Path(self.paths.checkpoints) / line["file"]
                if file.is_file():
                    is_best = best is not None and best["checkpoint"] == line["file"]
                    step = line["step"]
                    found[step] = SavedCheckpoint(
                        line["epoch"], step, file, losses.get(step), is_best
                    )
        return [found[step] for step in sorted(found)]

    def log_tail(self, lines: int = 20) -> str:
        try:
            text = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


@lru_cache(maxsize=256)
def _followed(metrics: Path) -> Followed:
    """What is asked of a run's metrics again and again while it grows."""
    return Followed(Lines(metrics), ("checkpoint", "validation"))


def run_identity(base_sha256: str, dataset_fingerprint: str, settings: RunSettings) -> str:
    """The hash that two runs share exactly when they would compute the same weights."""
    identity = {
        "format": FORMAT,
        "base": base_sha256,
        "dataset": dataset_fingerprint,
        "settings": settings.identity(),
    }
    return sha256_text(canonical_json(identity))


def create_run(
    runs_dir: Path, name: str, base: Base, dataset: Dataset, settings: RunSettings, paths: Paths
) -> Run:
    """The run of that name, made if it is not there yet; nothing is started.

    An empty name becomes `run-` and the beginning of the identity. The folder appears whole. Raises
    TrainerError when the name is taken by a run with another base, dataset or settings, or by
    checkpoints of a run that is no longer there.
    """
    identity = run_identity(base.sha256, dataset.fingerprint, settings)
    name = name or f"run-{identity[:12]}"
    if not NAME.fullmatch(name):
        raise TrainerError(
            f"{name!r} cannot name a run: use up to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit."
        )
    if not dataset.train:
        raise TrainerError("The dataset has no pair to train on. Load pairs, or split off fewer.")
    if not dataset.validation:
        raise TrainerError(
            "The dataset has no pair for validation. Put a Split dataset node in front of the fine-tune."
        )
    folder = runs_dir / name
    if folder.exists():
        run = Run.open(folder)
        if run.id != identity and not _extends(run, base, dataset, settings):
            raise TrainerError(
                f"The name {name} is taken by another run ({_difference(run, base, dataset, settings)}). "
                "Choose another name; the existing run is left as it is."
            )
        return _adopt(run, identity, settings)
    checkpoints = Path(paths.checkpoints) / name
    if any(checkpoints.glob("*.safetensors")):
        raise TrainerError(
            f"{checkpoints} holds checkpoints of a run that is no longer there. "
            "Choose another name, or move them: nothing is overwritten."
        )
    paths = replace(paths, checkpoints=str(checkpoints))
    part = runs_dir / f".{name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    dataset.save(part / "dataset.parquet")
    write_json(
        part / "run.json",
        {
            "format": FORMAT,
            "name": name,
            "id": identity,
            "created": time.time(),
            "base": asdict(base),
            "dataset": {
                "name": dataset.name,
                "fingerprint": dataset.fingerprint,
                "train": len(dataset.train),
                "validation": len(dataset.validation),
            },
            "settings": settings.to_json(),
            "paths": asdict(paths),
        },
    )
    write_json(part / "state.json", asdict(State("stopped", "Made, not queued yet")))
    part.rename(folder)
    return Run.open(folder)


def _extends(run: Run, base: Base, dataset: Dataset, settings: RunSettings) -> bool:
    """Whether these settings are a run's own with more epochs."""
    if settings.epochs <= run.settings.epochs:
        return False
    shorter = replace(settings, epochs=run.settings.epochs)
    return run.id == run_identity(base.sha256, dataset.fingerprint, shorter)


def _adopt(run: Run, identity: str, settings: RunSettings) -> Run:
    """Give an existing run settings that may change: more epochs, and what is only shown or saved.

    A finished run that gets more epochs is no longer finished. Raises TrainerError while it is at
    work.
    """
    if settings == run.settings:
        return run
    state = run.state()
    if settings.epochs > run.settings.epochs:
        if state.status in ACTIVE:
            raise TrainerError(
                f"The run {run.name} is at work for {run.settings.epochs} epochs. Wait until it has finished, or stop it; "
                f"then it can go on to {settings.epochs}."
            )
        if state.status == "finished":
            message = f"Goes on from epoch {run.settings.epochs} to {settings.epochs}"
            run.write_state(
                replace(state, status="stopped", message=message, epochs=settings.epochs)
            )
    elif state.status in ACTIVE or state.status == "finished":
        return run
    value = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    write_json(run.folder / "run.json", value | {"id": identity, "settings": settings.to_json()})
    return Run.open(run.folder)


def _difference(run: Run, base: Base, dataset: Dataset, settings: RunSettings) -> str:
    """What keeps a run of that name from being the same run, in words."""
    if run.base.sha256 != base.sha256:
        return f"its base is {run.base.name}, not {base.name}"
    if run.dataset().fingerprint != dataset.fingerprint:
        return "its dataset has other pairs or another split"
    old, new = flat(run.settings.to_json()), flat(settings.to_json())
    changed = [f"{key} {old[key]} there, {new[key]} here" for key in new if old[key] != new[key]]
    return "; ".join(changed)


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by their full names, such as loss.min_snr_gamma."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{name}".rstrip("."): entry for name, entry in inner.items()}
    return found


def list_runs(runs_dir: Path) -> list[Run]:
    """All runs, by name."""
    if not runs_dir.is_dir():
        return []
    return [Run.open(file.parent) for file in sorted(runs_dir.glob("[!.]*/run.json"))]
