"""Captioning a dataset in a process of its own: a folder that can be stopped, killed, resumed and
grown.

job.json          the dataset, the model's fingerprint and the settings
dataset-*.parquet the manifest whose pictures are captioned
state.json        how it stands, replaced several times a second while it works
process.json      pid and start time of the process that works on it
control.json      what somebody asks of that process: stop
captions.jsonl    one line for every picture: id, image_hash, and text or problem; append-only
log.txt           what the process printed

A folder belongs to one model and one wording. Made again for another dataset it keeps its captions,
known by the hash of the picture, so that only new pictures are captioned.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import TrainerError
from ...files import canonical_json, sha256_text, write_json
from ...jobs import process
from ...jobs.lines import Lines
from ..manifest import Dataset, Pair
from .captioner import Captioned, CaptionSettings, Picture, caption_images, load_captioner
from .model_folder import check_model, model_fingerprint

FORMAT = 1
ACTIVE = ("preparing", "running", "stopping")
"""States in which a process must be alive; without one the job has been interrupted."""
STATE_EVERY_S = 0.5
HOPELESS = 16
"""So many failures of the model before its first caption end the job."""
HASHES = "model-hashes.json"
"""What is known of model files, beside the jobs."""


@dataclass(frozen=True)
class CaptionState:
    """How a job stands. `status` is stopped, preparing, running, stopping, finished, failed or
    interrupted.

    `done` of `total` pictures are settled, `problems` of them without a caption; `known` were
    captioned before.
    """

    status: str = "stopped"
    message: str = ""
    done: int = 0
    total: int = 0
    problems: int = 0
    known: int = 0
    pictures_per_second: float | None = None
    updated: float = 0.0


@dataclass(frozen=True)
class CaptionJob:
    """An existing job folder."""

    folder: Path
    id: str
    model_fingerprint: str
    settings: CaptionSettings
    manifest: Path
    dataset_fingerprint: str

    @property
    def name(self) -> str:
        return self.folder.name

    @classmethod
    def open(cls, folder: Path) -> CaptionJob:
        """Raises TrainerError when the folder is not a job's."""
        try:
            value = json.loads((folder / "job.json").read_text(encoding="utf-8"))
            if value["format"] != FORMAT:
                raise TrainerError(
                    f"The caption job {folder.name} was made by another version of Cocktail (format {value['format']}; "
                    f"this one reads {FORMAT}). Move its folder away and queue again."
                )
            return cls(
                folder,
                value["id"],
                value["model_fingerprint"],
                CaptionSettings.from_json(value["settings"]),
                folder / value["dataset"]["manifest"],
                value["dataset"]["fingerprint"],
            )
        except FileNotFoundError as error:
            raise TrainerError(
                f"There is no caption job in {folder}: job.json is missing."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainerError(_damaged(folder, "job.json", error)) from error

    def dataset(self) -> Dataset:
        return Dataset.load(self.manifest)

    def state(self) -> CaptionState:
        """As its process wrote it; a job whose process is gone reads as interrupted."""
        try:
            value = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            state = CaptionState(**value)
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise TrainerError(_damaged(self.folder, "state.json", error)) from error
        if state.status in ACTIVE and not process.is_alive(self):
            return replace(
                state,
                status="interrupted",
                message="The captioning process is gone (killed, crashed or the machine went down). "
                "Start it again: it goes on with the pictures that have no caption yet.",
            )
        return state

    def write_state(self, state: CaptionState) -> None:
        """For the process that works on the job; others only while there is none."""
        write_json(self.folder / "state.json", asdict(replace(state, updated=time.time())))

    def stop(self) -> None:
        """Ask the process to stop after the batch it is in; nothing happens when none is at work."""
        if self.state().status in ACTIVE:
            write_json(self.folder / "control.json", {"command": "stop", "time": time.time()})

    def lines(self) -> dict[str, dict[str, Any]]:
        """The last line of captions.jsonl for every picture, by its hash."""
        lines = Lines(self.folder / "captions.jsonl").read().lines
        return {line["image_hash"]: line for line in lines}


def _damaged(folder: Path, file: str, error: Exception) -> str:
    return (
        f"{file} of the caption job {folder.name} is damaged ({type(error).__name__}: {error}). Its captions are in "
        f"captions.jsonl. Move {folder} away and queue again: the pictures are captioned anew."
    )


def job_identity(fingerprint: str, settings: CaptionSettings) -> str:
    """The hash that two jobs share exactly when they would say the same to a picture."""
    identity = {"format": FORMAT, "model": fingerprint, "wording": settings.wording()}
    return sha256_text(canonical_json(identity))


def create_job(
    jobs_dir: Path,
    name: str,
    dataset: Dataset,
    settings: CaptionSettings,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionJob:
    """The job of that name for this dataset, made or taken up again; nothing is started.

    An empty name becomes `captions-` and the beginning of the identity, so that a grown dataset
    finds the captions of its former pictures by itself. `progress` is called with (done, all) bytes
    of a model that is read for the first time. Raises TrainerError when the model is refused, when
    the name is taken by another model or wording, or while the job is at work on another dataset.
    """
    model = Path(settings.model)
    check_model(model, settings.kind)
    fingerprint = model_fingerprint(model, jobs_dir / HASHES, progress)
    identity = job_identity(fingerprint, settings)
    if not dataset.pairs:
        raise TrainerError("The dataset has no pair to caption.")
    folder = jobs_dir / (name or f"captions-{identity[:12]}")
    manifest = folder / f"dataset-{dataset.fingerprint[:16]}.parquet"
    value = {
        "format": FORMAT,
        "id": identity,
        "model_fingerprint": fingerprint,
        "dataset": {
            "name": dataset.name,
            "manifest": manifest.name,
            "fingerprint": dataset.fingerprint,
            "pairs": len(dataset.pairs),
        },
        "settings": settings.to_json(),
    }
    if (folder / "job.json").exists():
        former = CaptionJob.open(folder)
        if former.id != identity:
            raise TrainerError(
                f"The name {folder.name} is taken by captions of another model or wording "
                f"({_difference(former, fingerprint, settings)}). Choose another name."
            )
        if former.dataset_fingerprint == dataset.fingerprint and former.settings == settings:
            return former
        if former.state().status in ACTIVE:
            raise TrainerError(
                f"The caption job {folder.name} is at work on another dataset or with other settings. "
                "Stop it, or wait until it has finished."
            )
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save(manifest)
    if not (folder / "state.json").exists():
        CaptionJob(folder, identity, fingerprint, settings, manifest, "").write_state(
            CaptionState()
        )
    write_json(folder / "job.json", value)
    for other in folder.glob("dataset-*.parquet"):
        if other != manifest:
            other.unlink()
    job = CaptionJob.open(folder)
    job.write_state(CaptionState(message="Made, not started yet", total=len(dataset.pairs)))
    return job


def _difference(former: CaptionJob, fingerprint: str, settings: CaptionSettings) -> str:
    """What keeps a job of that name from being the same, in words."""
    old, new = former.settings.wording(), settings.wording()
    changed = [
        f"{key} {old[key]!r} there, {new[key]!r} here" for key in new if old[key] != new[key]
    ]
    if former.model_fingerprint != fingerprint:
        changed.insert(0, f"the model there is {Path(former.settings.model).name}")
    return "; ".join(changed)


def start(job: CaptionJob) -> None:
    """Start captioning in a process of its own, which outlives this one; nothing happens when one
    is at work or all is done.

    One that has ended and is only not gone yet is waited for.
    """
    from filelock import FileLock

    with FileLock(job.folder / ".start.lock"):
        state = job.state()
        if state.status == "finished" or state.status in ACTIVE:
            return
        process.wait_until_gone(job)
        (job.folder / "control.json").unlink(missing_ok=True)
        job.write_state(replace(state, status=ACTIVE[0], message="Starts"))
        process.start(job, "caption")


class Stopped(Exception):
    """Somebody asked the job to stop; every caption so far is in its folder."""


def main(folder: Path) -> int:
    """Caption what has no caption yet in a job folder; returns the process' exit status.

    Pictures that had a problem are tried again. Whatever happens is in the job's state afterwards:
    finished, stopped, or failed with the reason.
    """
    # The libraries read it when they are imported: no file of a model may be looked for on the
    # network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    job = CaptionJob.open(folder)
    with _exclusive(job):
        journal = _Journal(job)
        try:
            _caption_pictures(job, journal)
            return 0
        except Stopped:
            journal.update(status="stopped", message="Stopped on request; start it again to go on")
            return 0
        except TrainerError as error:
            print(f"error: {error}", file=sys.stderr)
            journal.update(status="failed", message=str(error))
            return 1
        except Exception as error:
            traceback.print_exc()
            journal.update(status="failed", message=f"{type(error).__name__}: {error}")
            return 1


def _caption_pictures(job: CaptionJob, journal: _Journal) -> None:
    """Every picture that is not captioned yet, each line on disk before the next batch."""
    (job.folder / "control.json").unlink(missing_ok=True)
    _mend(job.folder / "captions.jsonl")
    dataset = job.dataset()
    pictures = _distinct(dataset)
    known = {key for key, line in job.lines().items() if line.get("text")}
    waiting = [pair for key, pair in pictures.items() if key not in known]
    before = len(pictures) - len(waiting)
    journal.update(
        status="preparing",
        message="Loads the model" if waiting else "",
        done=before,
        total=len(pictures),
        known=before,
        problems=0,
        pictures_per_second=None,
    )
    if waiting:
        model = Path(job.settings.model)
        if model_fingerprint(model, job.folder.parent / HASHES) != job.model_fingerprint:
            raise TrainerError(
                f"The model {model.name} has been changed since the job was made. Make the job anew."
            )
        _stop_on_signals(journal)
        captioner = load_captioner(job.settings)
        journal.update(status="running", message="")
        asked = (
            Picture(pair.id, dataset.path(pair), pair.image_hash, dataset.background)
            for pair in waiting
        )
        _write_captions(job, journal, caption_images(captioner, asked))
    state = journal.state
    if state.problems == state.total:
        raise TrainerError(f"None of {state.total} pictures got a caption: {journal.last_problem}")
    done = state.total - state.problems
    journal.update(status="finished", message=f"{done} of {state.total} pictures have a caption")


def _write_captions(job: CaptionJob, journal: _Journal, answers: Iterable[Captioned]) -> None:
    """Append every answer as it comes, and do what is asked in between."""
    started, failures, captioned = time.monotonic(), 0, 0
    for count, answer in enumerate(answers, start=1):
        line = {"id": answer.id, "image_hash": answer.image_hash}
        line |= {"problem": answer.problem} if answer.problem else {"text": answer.text}
        Lines(job.folder / "captions.jsonl").append(line)
        journal.note(answer, count / (time.monotonic() - started))
        captioned += not answer.problem
        failures += bool(answer.problem) and not answer.of_picture
        if failures >= HOPELESS and not captioned:
            raise TrainerError(f"The first {failures} pictures all failed: {answer.problem}")
        journal.obey()


def _distinct(dataset: Dataset) -> dict[str, Pair]:
    """The first pair with every picture, by the picture's hash."""
    pictures: dict[str, Pair] = {}
    for pair in dataset.pairs:
        pictures.setdefault(pair.image_hash, pair)
    return pictures


def _mend(file: Path) -> None:
    """Cut off a torn last line (power loss), so that the next one does not grow together with it."""
    if not file.exists():
        return
    data = file.read_bytes()
    if data and not data.endswith(b"\n"):
        with file.open("rb+") as opened:
            opened.truncate(data.rfind(b"\n") + 1)


class _Journal:
    """Keeps a job's state.json current."""

    def __init__(self, job: CaptionJob) -> None:
        self.job = job
        self.state = job.state()
        self.asked_to_stop = False
        self.last_problem = ""
        self._written = 0.0

    def update(self, **changes: Any) -> None:
        """Change the state and write it at once."""
        self.state = replace(self.state, **changes)
        self.job.write_state(self.state)
        self._written = time.monotonic()

    def note(self, answer: Captioned, pictures_per_second: float) -> None:
        """Count an answer; the state is written at most twice a second."""
        problems = self.state.problems + bool(answer.problem)
        self.last_problem = answer.problem or self.last_problem
        self.state = replace(
            self.state,
            done=self.state.done + 1,
            problems=problems,
            pictures_per_second=pictures_per_second,
        )
        if time.monotonic() - self._written >= STATE_EVERY_S:
            self.update()

    def obey(self) -> None:
        """Stop when control.json or a signal asks for it."""
        control = self.job.folder / "control.json"
        if self.asked_to_stop or control.exists():
            control.unlink(missing_ok=True)
            raise Stopped


def _stop_on_signals(journal: _Journal) -> None:
    """SIGTERM and Ctrl-C (Ctrl-Break on Windows) stop the job after the picture it is in."""

    def stop(*_: Any) -> None:
        journal.asked_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, stop)


@contextlib.contextmanager
def _exclusive(job: CaptionJob) -> Iterator[None]:
    """Work on a job alone; the lock goes with the process that holds it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(job.folder / "process.lock", timeout=0):
            process.record(job, os.getpid())
            yield
    except Timeout as error:
        raise TrainerError(f"Another process captions {job.name} already.") from error


def result(folder: Path) -> dict[str, str]:
    """The captions so far, by the id of the pair; pairs that share a picture share its caption."""
    return _by_pair(folder, "text")


def problems(folder: Path) -> dict[str, str]:
    """Why pictures have no caption, by the id of the pair; those not tried yet are not in it."""
    return _by_pair(folder, "problem")


def _by_pair(folder: Path, key: str) -> dict[str, str]:
    job = CaptionJob.open(folder)
    lines = job.lines()
    found = ((pair.id, lines.get(pair.image_hash, {}).get(key)) for pair in job.dataset().pairs)
    return {pair_id: value for pair_id, value in found if value}
