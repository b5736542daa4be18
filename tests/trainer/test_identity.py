"""A run that is no longer what it was made as is refused before anything is computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import sha256_file, write_json
from cocktail.trainer.identity import check_identity
from cocktail.trainer.jobs.job import Stopped
from cocktail.trainer.preparation import check_prediction
from cocktail.trainer.runs import Base, Paths, Run, create_run, run_identity
from cocktail.trainer.settings.groups import LossSettings
from cocktail.trainer.settings.run_settings import RunSettings

from .test_runs import DATASET, pair


@pytest.fixture
def run(tmp_path) -> Run:
    base = tmp_path / "base.safetensors"
    base.write_bytes(b"a base")
    return create_run(
        tmp_path / "runs",
        "one",
        Base(base.name, str(base), sha256_file(base)),
        DATASET,
        RunSettings(),
        Paths("checkpoints", "tokenizer", str(tmp_path / "cache")),
    )


def test_a_run_as_it_was_made_is_let_through(run):
    check_identity(run)


def test_a_base_is_read_once_and_what_is_asked_meanwhile_ends_that(run):
    def stop():
        raise Stopped

    with pytest.raises(Stopped):
        check_identity(run, stop)
    check_identity(run)
    check_identity(run, stop)
    Path(run.base.path).write_bytes(b"another base")
    with pytest.raises(TrainerError, match="has changed since it was made"):
        check_identity(run)


def test_a_hash_that_came_with_a_folder_is_not_believed(run):
    """Whoever sends an output folder could say in it that another base is the one of a run."""
    base = Path(run.base.path)
    base.write_bytes(b"another base")
    found = base.stat()
    state = [found.st_size, found.st_mtime_ns, found.st_ino]
    said = {str(base.resolve()): {"state": state, "identity": state, "sha256": run.base.sha256}}
    for folder in (Path(run.paths.cache), run.folder, run.folder.parent, run.folder.parent.parent):
        write_json(folder / "hashes.json", said)
    with pytest.raises(TrainerError, match="has changed since it was made"):
        check_identity(run)


def test_a_base_that_was_overwritten_is_refused_with_both_hashes(run):
    Path(run.base.path).write_bytes(b"b base")
    there = sha256_file(Path(run.base.path))
    words = rf"base.*{there[:12]}\.\.\., not {run.base.sha256[:12]}"
    with pytest.raises(TrainerError, match=words):
        check_identity(run)


def test_other_pairs_are_refused_with_both_fingerprints(run):
    other = Dataset("few", "somewhere", (pair(1), pair(4), pair(3, "validation")))
    other.save(run.folder / "dataset.parquet")
    words = rf"{other.fingerprint[:12]}\.\.\., not {DATASET.fingerprint[:12]}"
    with pytest.raises(TrainerError, match=words):
        check_identity(run)


def test_settings_that_were_edited_are_refused_but_not_those_that_only_show(run):
    file = run.folder / "run.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    value["settings"]["logging"]["norms_every_steps"] = 7
    write_json(file, value)
    check_identity(Run.open(run.folder))
    value["settings"]["learning_rate"] = 0.5
    write_json(file, value)
    with pytest.raises(TrainerError, match="not the one it was made as"):
        check_identity(Run.open(run.folder))


def test_a_base_that_is_gone_is_named(run):
    Path(run.base.path).unlink()
    with pytest.raises(TrainerError, match=r"base\.safetensors in .* cannot be read"):
        check_identity(run)


def test_a_base_of_the_same_name_is_told_apart_by_its_hash(run):
    other = replace(run.base, sha256="b" * 64)
    words = rf"\(SHA-256 {run.base.sha256[:12]}\.\.\.\), not .*\(SHA-256 bbbbbbbbbbbb\.\.\.\)"
    with pytest.raises(TrainerError, match=words):
        create_run(run.folder.parent, "one", other, DATASET, run.settings, run.paths)


def test_a_run_of_an_earlier_version_still_is_what_it_was_made_as(root):
    kept = root / "tests" / "kept" / "base" / "output" / "cocktail" / "runs" / "kept-run"
    value = json.loads((kept / "run.json").read_text(encoding="utf-8"))
    settings = RunSettings.from_json(value["settings"])
    found = run_identity(value["base"]["sha256"], value["dataset"]["fingerprint"], settings)
    assert found == value["id"]


@pytest.mark.parametrize(
    ("names", "metadata", "velocity"),
    [
        (("a",), {}, False),
        (("a",), {"modelspec.prediction_type": "epsilon"}, False),
        (("a",), {"modelspec.prediction_type": "v"}, True),
        (("a",), {"ss_v_parameterization": "True"}, True),
        (("a", "v_pred"), {}, True),
    ],
)
def test_a_base_that_predicts_v_is_not_trained_towards_epsilon(tmp_path, names, metadata, velocity):
    base = tmp_path / "base.safetensors"
    save_file({name: torch.zeros(1) for name in names}, base, metadata)
    check_prediction(base, LossSettings(prediction="v-prediction"))
    if not velocity:
        check_prediction(base, LossSettings())
        return
    with pytest.raises(TrainerError, match="says that it predicts v, but loss.prediction is eps"):
        check_prediction(base, LossSettings())
