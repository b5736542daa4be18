"""A job's folder can hold anything: whatever its files say, the list of jobs and the queue go on,
and the sound job beside it keeps its turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cocktail.trainer import notes
from cocktail.trainer.data.caption.captioner import CaptionSettings
from cocktail.trainer.data.caption.job import CaptionJob, CaptionState
from cocktail.trainer.data.fetch.job import DownloadJob, create_download
from cocktail.trainer.data.fetch.settings import DownloadSettings
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.figures import pairs, words
from cocktail.trainer.figures.curves import read_curves
from cocktail.trainer.figures.heat_map import read_heat_map
from cocktail.trainer.jobs.job import STATUSES, UNREADABLE, Job, list_jobs
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.jobs.queue import Kind, Queue
from cocktail.trainer.runs import Base, Paths, Run, create_run, list_runs
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.sharing import policy_of
from cocktail.trainer.trend import trend

DATASET = Dataset(
    "few",
    "somewhere",
    tuple(
        Pair(f"id{s}", f"{s}.png", "0" * 64, 64, 64, "a", 1.0, s) for s in ("train", "validation")
    ),
)
DEEP = "a value that is nested too deeply"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
) | st.sampled_from([*STATUSES, DEEP, 10**400, 1e308, "\ud800", "../../x", -1, {}, []])
POLICY = json.dumps(
    {"sharing": RunSettings().sharing.to_json(), "instead_of": RunSettings().sharing.to_json()}
)
MUTATIONS = 500 if os.environ.get("COCKTAIL_ALL") else 100


def make_run(folder: Path, name: str) -> Job:
    run = create_run(
        folder,
        name,
        Base("base.safetensors", "base.safetensors", "0" * 64),
        DATASET,
        RunSettings(),
        Paths(str(folder.parent / "checkpoints"), "tokenizer", "cache"),
    )
    best = {"epoch": 1, "step": 2, "loss": 0.5, "checkpoint": "x.safetensors"}
    run.write_state(dataclasses.replace(run.state(), step=2, steps=9, best=best))
    for kind, more in (("checkpoint", {"file": "x.safetensors"}), ("validation", {"loss": 0.5})):
        line = {"kind": kind, "epoch": 1, "step": 2, **more}
        Lines(run.folder / "metrics.jsonl").append(line)
    line = {"epoch": 1, "step": 2, "pairs": {"id": 0.5}}
    Lines(run.folder / "validation.jsonl").append(line)
    return run


def make_captioning(folder: Path, name: str) -> Job:
    """As create_job leaves it, without a model to read."""
    (folder / name).mkdir(parents=True)
    value = {
        "format": 1,
        "id": "0" * 64,
        "model_fingerprint": "1" * 64,
        "dataset": {"name": "few", "manifest": "dataset-0.parquet", "fingerprint": "2" * 64},
        "settings": CaptionSettings("model").to_json(),
    }
    (folder / name / "job.json").write_text(json.dumps(value))
    state = dataclasses.asdict(CaptionState(total=4))
    (folder / name / "state.json").write_text(json.dumps(state))
    line = {"image_hash": "3" * 64, "caption": "a", "error": ""}
    Lines(folder / name / "captions.jsonl").append(line, line)
    return CaptionJob.open(folder / name)


def make_download(folder: Path, name: str) -> Job:
    selection = folder.parent / f"{name}.parquet"
    duckdb.sql(f"COPY (SELECT 1 AS row, 'http://x/1' AS image) TO '{selection}' (FORMAT parquet)")
    return create_download(folder, name, selection, DownloadSettings())


KINDS = {
    "run": (make_run, "run.json", Run.open),
    "caption": (make_captioning, "job.json", CaptionJob.open),
    "download": (make_download, "job.json", DownloadJob.open),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> dict[str, Path]:
    """A folder for each kind with the jobs "damaged" and "sound", both queued on devices of their
    own.
    """
    found = {}
    for kind, (make, *_) in KINDS.items():
        found[kind] = tmp_path_factory.mktemp("pristine")
        for name, device in (("damaged", "cuda:1"), ("sound", "cuda:2")):
            job = make(found[kind] / kind, name)
            queue_of(found[kind], kind).put(kind, job, device)
            (job.folder / "process.json").write_text('{"pid": 1, "started": 0.0}')
            (job.folder / "control.json").write_text('{"command": "stop", "time": 0.0}')
            if isinstance(job, Run):
                notes.rename(job.folder, "a title")
                (job.folder / "policy.json").write_text(POLICY)
    return found


def queue_of(folder: Path, kind: str) -> Queue:
    _, file, open_job = KINDS[kind]
    return Queue(folder / ".queue", [Kind(kind, folder / kind, file, kind, open_job)])


def mutated(data: st.DataObject, content: bytes) -> bytes | None:
    """Content with something wrong: cut off, bytes changed, a value at any place replaced, added or
    left out.
    """
    how = data.draw(st.sampled_from(["gone", "cut", "bytes", "value", "value", "value", "other"]))
    if how == "gone":
        return None
    if how == "cut":
        return content[: data.draw(st.integers(0, len(content)))]
    if how == "bytes":
        at = data.draw(st.integers(0, len(content)))
        return content[:at] + data.draw(st.binary(max_size=4)) + content[at + 1 :]
    if how == "other":
        return data.draw(st.sampled_from([b"", b"null", b"{}", b"[]", b"[" * 9999, b"\xff\xfe"]))
    value = place = json.loads(content)
    while True:
        known = isinstance(place, dict)
        key = data.draw(st.sampled_from([*place, "unknown"] if known else range(len(place))))
        inner = place.get(key) if known else place[key]
        if not (isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 3))):
            break
        place = inner
    if known and data.draw(st.integers(0, 3)) == 0:
        place.pop(key, None)
    else:
        place[key] = data.draw(VALUES)
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 700 + "]" * 700).encode()


def with_a_mutated_line(data: st.DataObject, content: bytes) -> bytes:
    lines = content.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = mutated(data, lines[at]) or b""
    return b"\n".join([*lines, b""])


@pytest.mark.more_with_all("500 damaged folders of each kind")
@pytest.mark.parametrize("kind", list(KINDS))
@settings(
    max_examples=MUTATIONS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_a_jobs_files_hold_the_list_and_the_queue_go_on(
    pristine, tmp_path, monkeypatch, kind, data
):
    started = []
    monkeypatch.setattr(
        "cocktail.trainer.jobs.process.launch",
        lambda folder, lock, *rest: (started.append(folder.name), lock.let_go()),
    )
    _, file, open_job = KINDS[kind]
    folder = tmp_path / kind
    shutil.rmtree(tmp_path, ignore_errors=True)
    shutil.copytree(pristine[kind], tmp_path)
    queue = queue_of(tmp_path, kind)
    damaged, sound = open_job(folder / "damaged"), open_job(folder / "sound")
    written = sorted(path.name for path in damaged.folder.iterdir() if ".json" in path.suffix)
    target = damaged.folder / data.draw(
        st.sampled_from([file, "state.json", "state.json", *written])
    )
    if target.exists():
        mutate = mutated if target.suffix == ".json" else with_a_mutated_line
        content = mutate(data, target.read_bytes())
        target.unlink() if content is None else target.write_bytes(content)
    listed = list_runs(folder) if kind == "run" else list_jobs(folder, file, open_job)
    for job in listed:
        state = queue.stands(kind, job)
        assert state.status in (*STATUSES, UNREADABLE) and isinstance(state.message, str)
        assert state.status != UNREADABLE or (job.name == "damaged" and state.message)
        json.dumps(dataclasses.asdict(state), ensure_ascii=False).encode()
        if isinstance(job, Run):
            assert isinstance(job.checkpoints(), list) and isinstance(job.metrics(), list)
            assert trend(job.validations(), 1) is None
            assert notes.title_of(job.folder)
            for look in (read_curves, read_heat_map, pairs.standings, words.read_lines, policy_of):
                with contextlib.suppress(TrainerError):
                    look(job)
        if isinstance(job, CaptionJob):
            assert isinstance(job.lines(), dict)
    assert [job.name for job in listed][-1] == "sound"
    assert len(listed) == 2 or (target.name == file and not target.exists())
    queue.tick()
    queue.tick()
    if kind != "download":
        assert "sound" in started
    queue.stop(kind, sound)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("what", ["pipe", "link"])
@pytest.mark.parametrize(
    "name",
    [
        "process.lock",
        ".start.lock",
        "run.json",
        "state.json",
        "control.json",
        "process.json",
        "metrics.jsonl",
        "log.txt",
        "ticket",
    ],
)
def test_a_pipe_or_a_link_in_a_received_folder_holds_up_nobody(
    pristine, tmp_path, monkeypatch, what, name
):
    started, at_once = [], []
    monkeypatch.setattr(
        "cocktail.trainer.jobs.process.launch",
        lambda folder, lock, *rest: (started.append(folder.name), lock.let_go()),
    )
    shutil.copytree(pristine["run"], tmp_path, dirs_exist_ok=True)
    queue, received = queue_of(tmp_path, "run"), Run.open(tmp_path / "run" / "damaged")
    (ticket,) = (file for file in queue.folder.glob("*.json") if "damaged" in file.read_text())
    ticket.unlink()
    file = ticket if name == "ticket" else received.folder / name
    file.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(queue.folder / "queue.lock")

    def look() -> None:
        for run in list_runs(tmp_path / "run"):
            queue.stands("run", run)
        queue.tick()
        at_once.extend(started)
        for ask in (received.metrics, received.checkpoints):
            with contextlib.suppress(OSError):
                ask()
        received.log_tail()
        received.take_requests()
        with contextlib.suppress(TrainerError):
            queue.put("run", received, "cuda:1")
        queue.tick()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(300)
    assert not looking.is_alive() and at_once == ["sound"]


def test_what_cannot_be_opened_is_listed_with_the_reason(tmp_path):
    for name in ("a", "b", "c", "d"):
        make_run(tmp_path / "runs", name)
    (tmp_path / "runs" / "a" / "run.json").write_text("{")
    newer = json.loads((tmp_path / "runs" / "b" / "run.json").read_text()) | {"format": 2}
    (tmp_path / "runs" / "b" / "run.json").write_text(json.dumps(newer))
    (tmp_path / "runs" / "c" / "state.json").write_text('{"status": "runn')
    (tmp_path / "runs" / "no run").mkdir()
    listed = {run.name: run.state() for run in list_runs(tmp_path / "runs")}
    assert {name: state.status for name, state in listed.items()} == {
        "a": "unreadable",
        "b": "unreadable",
        "c": "unreadable",
        "d": "stopped",
    }
    assert "run.json of a is damaged" in listed["a"].message
    assert "made by a newer Cocktail" in listed["b"].message
    assert "state.json of c is damaged" in listed["c"].message
    assert listed["a"].epochs == 0, "it answers with the fields that every run has"
