"""Folders that came from elsewhere: nothing outside of them is written or deleted because of what
they hold.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from cocktail.trainer.checkpoints import checkpoint_file, prune_checkpoints
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.job import exclusive
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import Run
from cocktail.trainer.settings.run_settings import RunSettings

from .test_damaged_jobs import KINDS, queue_of

LINKS = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def received(folder: Path) -> Run:
    """A run that keeps one checkpoint."""
    run = KINDS["run"][0](folder / "run", "one").at({"checkpoints": str(folder / "models")})
    (folder / "models").mkdir()
    return dataclasses.replace(run, settings=RunSettings.from_json({"saving": {"keep_last": 1}}))


def test_a_run_prunes_the_files_that_it_has_written_and_no_others(tmp_path):
    run = received(tmp_path)
    own = [checkpoint_file(run, 1, step) for step in (1, 2, 3)]
    named = ["mine.safetensors", "../precious.safetensors", "one-e009-s000009.safetensors"]
    for step, name in enumerate([*named, *own, own[0]]):
        (tmp_path / "models" / name).write_bytes(b"")
        line = {"kind": "checkpoint", "epoch": 1, "step": step - 2, "file": name}
        Lines(run.folder / "metrics.jsonl").append(line)
    prune_checkpoints(run)
    left = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert left == sorted([named[0], named[2], *own[1:]]), "step 2 is the best"
    assert (tmp_path / "precious.safetensors").exists()


@LINKS
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", ["resume", "samples/deep", "results.jsonl", "tensorboard"])
def test_a_job_whose_folder_leads_elsewhere_is_neither_queued_nor_worked_on(tmp_path, kind, name):
    make, _, _ = KINDS[kind]
    job, outside = make(tmp_path / kind, "one"), tmp_path / "outside"
    (outside / ".step-00000001.part").mkdir(parents=True)
    (job.folder / name).parent.mkdir(exist_ok=True)
    (job.folder / name).symlink_to(outside)
    with pytest.raises(TrainerError, match="leads out of its folder"):
        queue_of(tmp_path, kind).put(kind, job, "cpu")
    with pytest.raises(TrainerError, match="leads out of its folder"), exclusive(job):
        pass
    assert not list(queue_of(tmp_path, kind).tickets)


@LINKS
def test_links_within_a_jobs_folder_and_to_it_are_fine(tmp_path):
    job = KINDS["run"][0](tmp_path / "disk", "one")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (job.folder / "samples").mkdir()
    (job.folder / "latest").symlink_to("samples")
    with exclusive(Run.open(tmp_path / "run" / "one")):
        pass


@LINKS
def test_the_links_that_wandb_makes_are_fine_but_its_folder_may_be_none(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    own, deeper, linked = (
        KINDS["run"][0](tmp_path / "run", name) for name in ("own", "deeper", "linked")
    )
    logs = own.folder / "wandb" / "run-20260101-abc" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(outside / "core.log")
    with exclusive(own):
        pass
    (deeper.folder / "samples" / "wandb").mkdir(parents=True)
    (deeper.folder / "samples" / "wandb" / "a").symlink_to(outside)
    with pytest.raises(TrainerError, match="samples/wandb/a of the run deeper is a link"):
        queue_of(tmp_path, "run").put("run", deeper, "cpu")
    (linked.folder / "wandb").symlink_to(outside)
    with pytest.raises(TrainerError, match="wandb of the run linked is a link"), exclusive(linked):
        pass


@LINKS
@pytest.mark.parametrize("kind", list(KINDS))
def test_links_to_another_disk_are_fine_in_a_job_of_ones_own(tmp_path, kind):
    """What was queued here stays one's own, until another folder takes its place."""
    make, _, _ = KINDS[kind]
    job, disk, queue = make(tmp_path / kind, "one"), tmp_path / "disk", queue_of(tmp_path, kind)
    queue.put(kind, job, "cpu")
    disk.mkdir()
    (job.folder / "images").symlink_to(disk)
    queue.put(kind, job, "cpu")
    with exclusive(job):
        pass
    job.folder.rename(tmp_path / "former")
    received = make(tmp_path / kind, "one")
    (received.folder / "images").symlink_to(disk)
    with pytest.raises(TrainerError, match="images of the .* one is a link"), exclusive(received):
        pass


@LINKS
def test_a_person_who_starts_a_job_by_hand_needs_no_key_for_links_of_their_own(
    tmp_path, monkeypatch
):
    """Nor does that spoil the mark by which ComfyUI knows the folder."""
    make, _, _ = KINDS["run"]
    disk, queue = tmp_path / "disk", queue_of(tmp_path, "run")
    disk.mkdir()
    queued, by_hand, received = (make(tmp_path / "run", n) for n in ("queued", "hand", "received"))
    queue.put("run", queued, "cpu")
    (received.folder / ".own").write_text("0" * 32)
    (received.folder / "images").symlink_to(disk)
    with monkeypatch.context() as hand:
        hand.delenv("COCKTAIL_KEY_FILE")
        for job in (queued, by_hand):
            with exclusive(job):
                pass
            (job.folder / "images").symlink_to(disk)
            with exclusive(job):
                pass
        with pytest.raises(TrainerError, match="the run received is a link"), exclusive(received):
            pass
    queue.put("run", queued, "cpu")
    with pytest.raises(TrainerError, match="the run hand is a link"):
        queue.put("run", by_hand, "cpu")
