"""Captioning a dataset in a process of its own: a job (see jobs/job.py) that can be stopped,
killed, resumed and given more pictures.

job.json          the dataset, the model's fingerprint and the settings
dataset-*.parquet the manifest whose pictures are captioned
captions.jsonl    one line for every picture: id, image_hash, and text or problem; append-only

A folder belongs to one model and one wording. For another dataset it keeps its captions, known by
the hash of the picture, so that only new pictures are captioned.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import TrainerError
from ...files import canonical_json, sha256_text, write_json
from ...jobs.device import device_name
from ...jobs.job import ACTIVE, QUEUED, Job, State, Stopped, described
from ...jobs.lines import Lines
from ...jobs.work import Work, work
from ...known_hashes import own_cache
from ..manifest import Dataset, Pair
from .captioner import (
    Captioned,
    CaptionSettings,
    Picture,
    caption_images,
    load_captioner,
    pick_device,
)
from .model_folder import check_model, model_fingerprint

FORMAT = 1
HOPELESS = 16
"""So many failures of the model before its first caption end the job."""


@dataclass(frozen=True)
class CaptionState(State):
    """How a job stands: `done` of `total` pictures are settled, `problems` of them without a
    caption; `known` were captioned before.
    """

    done: int = 0
    total: int = 0
    problems: int = 0
    known: int = 0
    pictures_per_second: float | None = None


@dataclass(frozen=True)
class CaptionJob(Job[CaptionState]):
    """An existing job folder."""

    id: str
    model_fingerprint: str
    settings: CaptionSettings
    manifest: Path
    dataset_fingerprint: str

    states = CaptionState
    noun = "captioning"

    @property
    def name(self) -> str:
        return self.folder.name

    @classmethod
    def open(cls, folder: Path) -> CaptionJob:
        """Raises TrainerError when the folder is not a job's, damaged or of a newer version."""
        value = described(folder, "job.json", "caption job", FORMAT, _remedy(folder))
        try:
            job = cls(
                folder,
                value["id"],
                value["model_fingerprint"],
                CaptionSettings.from_json(value["settings"]),
                folder / value["dataset"]["manifest"],
                value["dataset"]["fingerprint"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainerError(
                f"job.json of {folder.name} is damaged ({type(error).__name__}: {error}). "
                f"{_remedy(folder)}"
            ) from error
        words = (job.id, job.model_fingerprint, job.dataset_fingerprint)
        if not all(isinstance(word, str) for word in words) or job.manifest.parent != folder:
            raise TrainerError(
                f"job.json of {folder.name} is damaged: some of its entries must be text but "
                f"are not. {_remedy(folder)}"
            )
        return job

    def dataset(self) -> Dataset:
        return Dataset.load(self.manifest)

    def arguments(self) -> list[str]:
        """What the command `caption` is given so that it works with this very model, and on the
        device that it is queued for: the ComfyUI that starts it may be on another machine, whose
        GPU `auto` would take.
        """
        return ["--model", self.settings.model, "--device", pick_device(self.settings.device)]

    def device(self) -> str:
        """The device it computes on."""
        return device_name(pick_device(self.settings.device))

    def lines(self) -> dict[str, dict[str, Any]]:
        """The last line of captions.jsonl for every picture, by its hash."""
        lines = Lines(self.folder / "captions.jsonl").read().lines
        return {
            line["image_hash"]: line for line in lines if isinstance(line.get("image_hash"), str)
        }


def _remedy(folder: Path) -> str:
    return (
        f"Its captions are in captions.jsonl. Move {folder} away and queue again: the pictures are "
        "captioned again."
    )


def job_identity(fingerprint: str, settings: CaptionSettings) -> str:
    """The hash that two jobs share exactly when they would caption a picture the same way."""
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
    fingerprint = model_fingerprint(model, own_cache(), progress)
    identity = job_identity(fingerprint, settings)
    if not dataset.pairs:
        raise TrainerError("The dataset has no pair to caption.")
    folder = jobs_dir / (name or f"captions-{identity[:12]}")
    if (folder / "job.json").exists():
        former = CaptionJob.open(folder)
        _check_former(former, identity, fingerprint, settings)
        if former.dataset_fingerprint == dataset.fingerprint and former.settings == settings:
            return former
        if former.state().status in (QUEUED, *ACTIVE):
            raise TrainerError(
                f"The caption job {folder.name} is queued or at work for another dataset or with "
                "other settings. Stop it, or wait until it has finished."
            )
    return _write_job(folder, dataset, settings, fingerprint, identity)


def _check_former(
    former: CaptionJob, identity: str, fingerprint: str, settings: CaptionSettings
) -> None:
    """Raise TrainerError when a name is taken by a job that captions in another way."""
    if former.id != identity:
        raise TrainerError(
            f"The name {former.name} is taken by captions of another model or wording "
            f"({_difference(former, fingerprint, settings)}). Choose another name."
        )


def _write_job(
    folder: Path, dataset: Dataset, settings: CaptionSettings, fingerprint: str, identity: str
) -> CaptionJob:
    """The files of a job, beside the captions that are there already. job.json comes last but for
    the state: with it the folder is a job's.
    """
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


def main(folder: Path, **instead: str) -> int:
    """Caption the pictures of a job folder that have no caption yet; returns the exit status of the
    process. `instead` are a `model` (its folder) and a `device` other than job.json names.

    Pictures that had a problem are tried again.
    """
    # The libraries read it when they are imported: no file of a model may be looked for on the
    # network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    job = CaptionJob.open(folder)
    job = replace(job, settings=replace(job.settings, **instead))
    return work(job, lambda progress: _caption_pictures(job, progress))


def _caption_pictures(job: CaptionJob, progress: Work[CaptionState]) -> str:
    """Every picture that is not captioned yet, each line on disk before the next batch."""
    pictures = _distinct(job.dataset())
    known = {key for key, line in job.lines().items() if line.get("text")}
    waiting = [pair for key, pair in pictures.items() if key not in known]
    before = len(pictures) - len(waiting)
    progress.update(
        status="preparing",
        message="Loading the model" if waiting else "",
        done=before,
        total=len(pictures),
        known=before,
        problems=0,
        pictures_per_second=None,
    )
    last_problem = _caption_waiting(job, progress, waiting) if waiting else ""
    state = progress.state
    if state.problems == state.total:
        raise TrainerError(f"None of {state.total} pictures got a caption: {last_problem}")
    return f"{state.total - state.problems} of {state.total} pictures have a caption"


def _caption_waiting(job: CaptionJob, progress: Work[CaptionState], waiting: Sequence[Pair]) -> str:
    """Caption these pairs; returns the last problem, "" for none."""
    model = Path(job.settings.model)
    if model_fingerprint(model, own_cache()) != job.model_fingerprint:
        raise TrainerError(
            f"The model {model.name} has changed since its captions were queued. Queue them again."
        )
    dataset = job.dataset()
    captioner = load_captioner(job.settings)
    progress.update(status="running", message="")
    asked = (
        Picture(pair.id, dataset.path(pair), pair.image_hash, dataset.background)
        for pair in waiting
    )
    return _write_captions(job, progress, caption_images(captioner, asked))


def _write_captions(
    job: CaptionJob, progress: Work[CaptionState], answers: Iterable[Captioned]
) -> str:
    """Append every answer as it comes, and stop if asked to; returns the last problem."""
    started, failures, captioned, last_problem = time.monotonic(), 0, 0, ""
    for count, answer in enumerate(answers, start=1):
        line = {"id": answer.id, "image_hash": answer.image_hash}
        line |= {"problem": answer.problem} if answer.problem else {"text": answer.text}
        progress.append("captions.jsonl", line)
        last_problem = answer.problem or last_problem
        progress.note(
            done=progress.state.done + 1,
            problems=progress.state.problems + bool(answer.problem),
            pictures_per_second=count / (time.monotonic() - started),
        )
        captioned += not answer.problem
        failures += bool(answer.problem) and not answer.of_picture
        if failures >= HOPELESS and not captioned:
            raise TrainerError(f"The first {failures} pictures all failed: {answer.problem}")
        if progress.control.asked_to_stop():
            raise Stopped
    return last_problem


def _distinct(dataset: Dataset) -> dict[str, Pair]:
    """The first pair with every picture, by the picture's hash."""
    pictures: dict[str, Pair] = {}
    for pair in dataset.pairs:
        pictures.setdefault(pair.image_hash, pair)
    return pictures


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
