"""A run and its folder, which is the whole interface between the training process and everybody
else.

run.json        what the run is: identity, base, dataset, settings; written once
dataset.parquet   the manifest it trains on
state.json      how it stands, replaced several times a second while it works
process.json    pid and start time of the process that works on it
control.json    what somebody asks of that process: stop, pause, save, or sample
metrics.jsonl   one line for every step, validation and saved checkpoint; append-only
validation.jsonl  the loss of every validation pair at every validation; append-only
resume/         points from which training goes on exactly
samples/        pictures drawn on the way
skipped.jsonl   pairs that could not be shown, and why
tensorboard/    the same figures as TensorBoard events
log.txt         what the process printed
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .data.buckets import no_steps, shows_anything
from .data.manifest import TRAIN, Dataset
from .errors import TrainerError
from .files import canonical_json, sha256_text, version_of, write_json
from .jobs.job import NAME, UNREADABLE, Job, Unreadable, described, list_jobs, read_json
from .jobs.job import State as JobState
from .jobs.lines import Followed, Lines, Read
from .litter import sweep, temporary
from .settings.run_settings import RunSettings

FORMAT = 1
PLAIN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
"""Names of files that lead to no other folder."""
PLACES = ("base", "checkpoints", "tokenizer", "cache")
"""What a run uses outside of its folder: the base's file and the folders of its Paths."""

LARGEST_LOSS = 1e100
"""A larger number, as a damaged file may hold, is no loss."""
_REMEDY = "Put back a good copy, or move the run's folder away."


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
class State(JobState):
    """How a run stands.

    Validation losses are mean squared errors; `best` holds epoch, step, loss and checkpoint;
    `trend` says in words that the validation loss has been rising, and is empty while it has not.
    `memory` is what its process used at its last step, in bytes: of the GPU, or without one of RAM.
    """

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
    memory: int | None = None


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint of a run that is on disk; `best` marks the lowest validation loss so far."""

    epoch: int
    step: int
    file: Path
    validation_loss: float | None
    best: bool


@dataclass(frozen=True)
class Run(Job[State]):
    """An existing run folder."""

    name: str
    id: str
    base: Base
    settings: RunSettings
    paths: Paths

    states = State
    noun = "run"
    commands = ("stop", "save", "pause", "sample")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run with the paths that its folder names. Raises TrainerError when the folder is not
        a run's, damaged or of a newer version.
        """
        return _opened(folder, *version_of(folder / "run.json"))

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The same, read anew."""
        value = described(folder, "run.json", "run", FORMAT, _REMEDY)
        try:
            run = cls(
                folder,
                value["name"],
                value["id"],
                Base(**value["base"]),
                RunSettings.from_json(value["settings"]),
                Paths(**value["paths"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrainerError(
                f"run.json of {folder.name} is damaged ({type(error).__name__}: {error}). {_REMEDY}"
            ) from error
        words = [run.name, run.id, *vars(run.base).values(), *vars(run.paths).values()]
        if not all(isinstance(word, str) for word in words) or not NAME.fullmatch(run.name):
            raise TrainerError(
                f"run.json of {folder.name} is damaged: some of its entries must be text but "
                f"are not. {_REMEDY}"
            )
        if run.name != folder.name:
            raise TrainerError(
                f"The folder {folder.name} holds the run {run.name}: a run's folder keeps the "
                "run's name. Rename it back."
            )
        return run

    def at(self, places: Mapping[str, str]) -> Run:
        """The run with these paths, by the names in PLACES, instead of those in its run.json."""
        paths = {name: path for name, path in places.items() if name != "base"}
        base = replace(self.base, path=places.get("base", self.base.path))
        return replace(self, base=base, paths=replace(self.paths, **paths))

    def arguments(self) -> list[str]:
        """What the command `run` is given so that it works with these very paths."""
        places = {"base": self.base.path, **asdict(self.paths)}
        return [word for name in PLACES for word in (f"--{name}", places[name])]

    def dataset(self) -> Dataset:
        return Dataset.load(self.folder / "dataset.parquet")

    def queued(self, state: State) -> State:
        return replace(super().queued(state), epochs=self.settings.epochs, queued_at=time.time())

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl that say their kind, epoch and step. After a resume a step can
        be there twice: the later line holds.
        """
        lines = self.metrics_from(0).lines
        return [line for line in lines if isinstance(line.get("kind"), str) and _is_placed(line)]

    def metrics_from(self, byte: int) -> Read:
        """What metrics.jsonl holds from a byte on, and the byte to ask from next time."""
        return Lines(self.folder / "metrics.jsonl").read(byte)

    def validations(self) -> list[dict[str, Any]]:
        """The validations so far in order of their steps: epoch, step and the loss of every pair by
        its id.
        """
        lines = Lines(self.folder / "validation.jsonl").read().lines
        by_step = {
            line["step"]: line
            for line in lines
            if _is_placed(line) and _are_losses(line.get("pairs"))
        }
        return [by_step[step] for step in sorted(by_step)]

    def checkpoints(self) -> list[SavedCheckpoint]:
        """Saved checkpoints that still exist, in order of their steps."""
        lines = _followed(self.folder / "metrics.jsonl").lines()
        losses = {
            line["step"]: line.get("loss")
            for line in lines
            if line["kind"] == "validation" and isinstance(line.get("step"), int)
        }
        best = (self.state().best or {}).get("checkpoint")
        there = _files_in(Path(self.paths.checkpoints))
        found = {}
        for line in checkpoint_lines(lines):
            name, step = line["file"], line["step"]
            if name in there:
                file = Path(self.paths.checkpoints, name)
                loss = losses.get(step)
                found[step] = SavedCheckpoint(line["epoch"], step, file, loss, name == best)
        return [found[step] for step in sorted(found)]


def checkpoint_lines(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those lines of metrics that say epoch, step and file of a checkpoint."""
    return [
        line
        for line in lines
        if line["kind"] == "checkpoint"
        and isinstance(line.get("step"), int)
        and isinstance(line.get("epoch"), int)
        and is_plain(line.get("file"))
    ]


def _is_placed(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("epoch"), int) and isinstance(line.get("step"), int)


def _are_losses(pairs: Any) -> bool:
    """Whether something is the loss of every pair by its id."""
    return isinstance(pairs, dict) and bool(pairs) and all(map(is_loss, pairs.values()))


def is_loss(value: Any) -> bool:
    """Whether something is a number that can be a loss, or NaN: others have no square."""
    return isinstance(value, int | float) and not abs(value) > LARGEST_LOSS


@lru_cache(maxsize=4096)
def _opened(folder: Path, *version: int) -> Run:
    """The run of one version of its run.json, which is read once: people keep thousands of runs,
    and the list of them is asked for again and again.
    """
    return Run.read(folder)


@lru_cache(maxsize=256)
def _followed(metrics: Path) -> Followed:
    """What is asked of a run's metrics again and again while it grows."""
    return Followed(Lines(metrics), ("checkpoint", "validation"))


def _files_in(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def is_plain(name: Any) -> bool:
    """Whether something is the name of a file and no path that leads elsewhere."""
    return isinstance(name, str) and PLAIN.fullmatch(name) is not None


def run_identity(base_sha256: str, dataset_fingerprint: str, settings: RunSettings) -> str:
    """The hash that two runs share exactly when they would compute the same weights."""
    identity = {
        "format": FORMAT,
        "base": base_sha256,
        "dataset": dataset_fingerprint,
        "settings": settings.identity(),
    }
    return sha256_text(canonical_json(identity))


def trained_fingerprint(dataset: Dataset, settings: RunSettings) -> str:
    """The fingerprint of a dataset for the identity of a run: without the masks that change no
    weight, which are those of validation pairs, and all while loss.mask_outside is 1.
    """
    if not any(pair.mask_hash for pair in dataset.pairs):
        return dataset.fingerprint
    masked = settings.loss.mask_outside < 1
    pairs = tuple(
        pair if masked and pair.split == TRAIN else replace(pair, mask="", mask_hash="")
        for pair in dataset.pairs
    )
    return replace(dataset, pairs=pairs).fingerprint


def create_run(
    runs_dir: Path, name: str, base: Base, dataset: Dataset, settings: RunSettings, paths: Paths
) -> Run:
    """The run of that name, made if it is not there yet; nothing is started.

    An empty name becomes `run-` and the beginning of the identity. The folder appears whole. Raises
    TrainerError when the name is taken by a run with another base, dataset or settings, or by
    checkpoints of a run that is no longer there.
    """
    identity = run_identity(base.sha256, trained_fingerprint(dataset, settings), settings)
    name = name or f"run-{identity[:12]}"
    if not NAME.fullmatch(name):
        raise TrainerError(
            f"{name!r} cannot name a run: use up to 64 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit."
        )
    _check_pairs(dataset, settings)
    folder = runs_dir / name
    paths = replace(paths, checkpoints=str(Path(paths.checkpoints) / name))
    if folder.exists():
        run = Run.open(folder).at({"base": base.path, **asdict(paths)})
        if run.id != identity and not _extends(run, base, dataset, settings):
            difference = _difference(run, base, dataset, settings)
            raise TrainerError(
                f"The name {name} is taken by another run ({difference}). "
                f"{_remedy(run, base, dataset, settings)}"
            )
        return _adopt(run, identity, settings)
    checkpoints = Path(paths.checkpoints)
    if any(checkpoints.glob("*.safetensors")):
        raise TrainerError(
            f"{checkpoints} holds checkpoints of a run that is no longer there. "
            "Choose another name, or move them: nothing is overwritten."
        )
    sweep(runs_dir)
    part = temporary(folder)
    head = {"format": FORMAT, "name": name, "id": identity, "base": asdict(base)}
    _write(part, head, dataset, settings, paths)
    try:
        part.rename(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not folder.exists():
            raise
        # Somebody else has made a run of that name meanwhile: this one, or another.
        among_all = replace(paths, checkpoints=str(checkpoints.parent))
        return create_run(runs_dir, name, base, dataset, settings, among_all)
    return Run.open(folder)


def _write(
    part: Path, head: dict[str, Any], dataset: Dataset, settings: RunSettings, paths: Paths
) -> None:
    """Write all files of a new run."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    dataset.save(part / "dataset.parquet")
    told = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "train": len(dataset.train),
        "validation": len(dataset.validation),
    }
    more = {"dataset": told, "settings": settings.to_json(), "paths": asdict(paths)}
    write_json(part / "run.json", {**head, "created": time.time(), **more})
    write_json(part / "state.json", asdict(State("stopped", "Made, not queued yet")))


def _check_pairs(dataset: Dataset, settings: RunSettings) -> None:
    """Raise TrainerError when a run with these settings could not train on these pairs."""
    if not dataset.train:
        raise TrainerError("The dataset has no pair to train on. Load pairs, or split off fewer.")
    if not dataset.validation:
        raise TrainerError(
            "The dataset has no pair for validation. Put a Split Dataset node before the fine-tune."
        )
    outside = settings.loss.mask_outside
    if outside < 1 and not any(pair.mask for pair in dataset.train):
        raise TrainerError(
            f"Run setting loss.mask_outside is {outside}, but no pair to train on has a mask. Put "
            "NAME-masklabel.png beside the pictures and load them again, or set it to 1."
        )
    weights = {pair.id: pair.weight for pair in dataset.train}
    if not shows_anything(weights, settings.seed, settings.epochs):
        raise TrainerError(no_steps(weights.values(), settings.epochs))


def _remedy(run: Run, base: Base, dataset: Dataset, settings: RunSettings) -> str:
    """What somebody can do whose run has the name of another."""
    longer = replace(settings, epochs=max(settings.epochs, run.settings.epochs))
    if run.id == run_identity(base.sha256, trained_fingerprint(dataset, longer), longer):
        return (
            f"It is the same run with more epochs, as after Extend: set epochs to "
            f"{run.settings.epochs} here too, or take it with Open Run. For fewer epochs choose "
            "another name: the existing run stays as it is."
        )
    return "Choose another name; the existing run stays as it is."


def extend(run: Run, epochs: int) -> Run:
    """Give a run more epochs. Raises TrainerError for fewer than it has, while it is at work, and
    when a run of that many epochs would have had other learning rates so far.
    """
    if epochs <= run.settings.epochs:
        raise TrainerError(
            f"The run {run.name} has {run.settings.epochs} epochs already. Give it more than that; "
            "it cannot have fewer."
        )
    settings = RunSettings.from_json(run.settings.to_json() | {"epochs": epochs})
    fingerprint = trained_fingerprint(run.dataset(), settings)
    identity = run_identity(run.base.sha256, fingerprint, settings)
    extended = _adopt(run, identity, settings)
    state = extended.state()
    if state.can_go_on and state.epochs != epochs:
        extended.write_state(replace(state, epochs=epochs))
    return extended


def _extends(run: Run, base: Base, dataset: Dataset, settings: RunSettings) -> bool:
    """Whether these settings are a run's own with more epochs."""
    if settings.epochs <= run.settings.epochs:
        return False
    shorter = replace(settings, epochs=run.settings.epochs)
    fingerprint = trained_fingerprint(dataset, shorter)
    return run.id == run_identity(base.sha256, fingerprint, shorter)


def _adopt(run: Run, identity: str, settings: RunSettings) -> Run:
    """Give an existing run settings that may change: more epochs, and what is only shown or saved.

    A finished run that gets more epochs is no longer finished. Raises TrainerError while it is at
    work, and when its learning rates depend on its length.
    """
    if settings == run.settings:
        return run
    state = run.state()
    if settings.epochs > run.settings.epochs:
        if state.at_work:
            raise TrainerError(
                f"The run {run.name} is training for {run.settings.epochs} epochs. Wait until it "
                f"has finished, or stop it; then it can go on to {settings.epochs}."
            )
        _check_rates_so_far(run, settings.epochs)
        if state.status == "finished":
            message = f"Goes on from epoch {run.settings.epochs} to {settings.epochs}"
            run.write_state(
                replace(state, status="stopped", message=message, epochs=settings.epochs)
            )
    elif state.at_work or state.status == "finished":
        return run
    value = read_json(run.folder / "run.json")
    write_json(run.folder / "run.json", value | {"id": identity, "settings": settings.to_json()})
    return Run.open(run.folder).at({"base": run.base.path, **asdict(run.paths)})


def _check_rates_so_far(run: Run, epochs: int) -> None:
    """Raise TrainerError when a run has taken steps that one of so many epochs would have taken at
    other learning rates: the two would be one run by their identity, but not by their weights.
    Steps count up to the newest resume point or checkpoint; those behind it are taken again.
    """
    points = [
        int(number)
        for point in (run.folder / "resume").glob("step-*")
        if (number := point.name.removeprefix("step-")).isdecimal()
    ]
    done = max([*points, *(checkpoint.step for checkpoint in run.checkpoints())], default=0)
    schedules = run.settings.schedules_over_the_length(done)
    if schedules:
        listed = " and ".join(f"{part} ({schedule})" for part, schedule in schedules.items())
        raise TrainerError(
            f"The run {run.name} cannot go on to {epochs} epochs: the learning rate of its "
            f"{listed} falls over the {run.settings.epochs} epochs that it has, and in a run of "
            f"{epochs} it would have been different from the first step on. Train {epochs} epochs "
            "under another name, or fork this run from its last checkpoint. Only a run with the "
            "schedule constant, or with decay_steps, can be given more epochs."
        )


def _difference(run: Run, base: Base, dataset: Dataset, settings: RunSettings) -> str:
    """What keeps a run of that name from being the same run, in words."""
    if run.base.sha256 != base.sha256:
        there, here = (f"{one.name} (SHA-256 {one.sha256[:12]}...)" for one in (run.base, base))
        return f"its base is {there}, not {here}"
    there, here = (trained_fingerprint(one, settings) for one in (run.dataset(), dataset))
    if there != here:
        return "its dataset has other pairs, other masks or another split"
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


def list_runs(runs_dir: Path) -> list[Run | Unreadable]:
    """All runs, by name; a run that cannot be opened is listed as unreadable."""
    return [
        replace(run, stands=State(UNREADABLE, run.stands.message))
        if isinstance(run, Unreadable)
        else run
        for run in list_jobs(runs_dir, "run.json", Run.open)
    ]
