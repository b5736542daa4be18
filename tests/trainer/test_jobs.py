"""The one job machine: who works on a folder, whose turn it is on a device, and what a folder that
was damaged or came from elsewhere can do.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs import device, process, tickets
from cocktail.trainer.jobs import job as job_module
from cocktail.trainer.jobs import lock as jobs_lock
from cocktail.trainer.jobs import queue as jobs_queue
from cocktail.trainer.jobs.control import Control
from cocktail.trainer.jobs.job import (
    LAUNCH_LOCK,
    LOCK,
    REQUESTS_LOCK,
    Job,
    LockLost,
    Refused,
    State,
    Stopped,
    exclusive,
    list_jobs,
    start,
)
from cocktail.trainer.jobs.lock import Lock, is_held
from cocktail.trainer.jobs.queue import Kind, Queue
from cocktail.trainer.jobs.work import Work, work

WORKER = """
import os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from trainer.jobs.job import Job
from trainer.jobs.work import work
class Pausable(Job):
    commands = ("stop", "pause")
folder = Path(sys.argv[2])
while (folder / "slow").exists():
    time.sleep(0.01)
def do(progress):
    words = [*sys.argv[3:], *filter(None, [os.environ.get("GPU")])]
    progress.update(status="running", message=" ".join(words))
    while not (folder / "done").exists():
        progress.control.heed()
        time.sleep(0.01)
    return "all done"
sys.exit(work(Pausable(folder), do))
"""


class Pausable(Job):
    commands = ("stop", "pause")


NOT_OURS = (jobs_queue.RECEIVED, jobs_queue.OF_ANOTHER)


@pytest.fixture(autouse=True)
def worker(tmp_path, monkeypatch, root):
    """Jobs are done by a process that works until its folder holds a file `done`."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(root)))
    monkeypatch.setattr(process, "MAIN", script)
    yield
    for file in tmp_path.glob("*/*/process.json"):
        (file.parent / "done").touch()
    for file in tmp_path.glob("*/*/process.json"):
        wait_for(lambda f=file: not Job(f.parent).is_alive())


def wait_for(true, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.01)


def make(tmp_path: Path, name: str = "one", kind: str = "runs", **state) -> Job:
    folder = tmp_path / kind / name
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"status": "stopped", **state}))
    return Job(folder)


def queue_of(tmp_path: Path, **options) -> Queue:
    kinds = [Kind(name, tmp_path / name, "job.json", name, Job) for name in ("runs", "captions")]
    return Queue(tmp_path / ".queue", kinds, **options)


def status(*jobs: Job) -> list[str]:
    return [job.state().status for job in jobs]


def end(job: Job) -> None:
    (job.folder / "done").touch()
    wait_for(lambda: not job.is_alive())


def test_a_job_is_alive_while_its_lock_is_held_whatever_pids_and_clocks_say(tmp_path):
    job = make(tmp_path, status="running", updated=0.0)
    assert status(job) == ["interrupted"]
    assert start(job, "run")
    wait_for(lambda: status(job) == ["running"])
    for noted in ("{}", "nonsense", json.dumps({"pid": 1, "started": 0.0})):
        (job.folder / "process.json").write_text(noted)
        assert status(job) == ["running"] and job.is_alive()
    worked = json.loads((job.folder / "state.json").read_text())
    end(job)
    assert status(job) == ["finished"]
    mine = json.dumps({"pid": os.getpid(), "started": time.time()})
    (job.folder / "process.json").write_text(mine)
    (job.folder / "state.json").write_text(json.dumps(worked | {"updated": time.time() + 3600}))
    assert status(job) == ["interrupted"], "a pid and a heartbeat prove nothing"


def test_between_the_start_of_a_process_and_its_lock_the_job_is_neither_dead_nor_started_twice(
    tmp_path,
):
    job = make(tmp_path)
    (job.folder / "slow").touch()
    assert start(job, "run")
    assert not is_held(job.folder / LOCK) and status(job) == ["preparing"]
    assert not start(job, "run", wait_s=0.1)
    queue = queue_of(tmp_path)
    queue.tick()
    assert status(job) == ["preparing"]
    (job.folder / "slow").unlink()
    wait_for(lambda: is_held(job.folder / LOCK))
    assert status(job)[0] in ("preparing", "running")


LAUNCHER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from trainer.jobs import process
from trainer.jobs.job import Job, start
process.MAIN = Path(sys.argv[1])
print(start(Job(Path(sys.argv[2])), "run", wait_s=1.0), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks are not inherited there")
def test_a_server_that_is_killed_right_after_the_start_leaves_no_job_that_looks_dead(
    tmp_path, root
):
    job = make(tmp_path)
    (job.folder / "slow").touch()
    command = [sys.executable, "-c", LAUNCHER.format(root=str(root))]
    server = subprocess.Popen(
        [*command, str(process.MAIN), str(job.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout.readline() == b"True\n"
    server.kill()
    server.communicate()
    assert status(job) == ["preparing"] and not start(job, "run", wait_s=0.1)
    (job.folder / "slow").unlink()
    wait_for(lambda: status(job) == ["running"])


def test_two_servers_that_start_a_job_at_once_start_it_once(tmp_path, root):
    job = make(tmp_path)
    command = [sys.executable, "-c", LAUNCHER.format(root=str(root))]
    servers = [
        subprocess.Popen(
            [*command, str(process.MAIN), str(job.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    said = sorted(server.stdout.readline() for server in servers)
    for server in servers:
        server.communicate()
    assert said == [b"False\n", b"True\n"]
    end(job)
    assert "Another process" not in job.log_tail()


@pytest.mark.skipif(sys.platform == "win32", reason="locks are not inherited there")
def test_the_lock_of_a_start_is_let_go_once_the_process_has_its_own(tmp_path):
    job = make(tmp_path)
    assert start(job, "run")
    wait_for(lambda: status(job) == ["running"])
    assert is_held(job.folder / LOCK) and not is_held(job.folder / LAUNCH_LOCK)


def test_a_file_in_a_jobs_folder_is_never_taken_for_one_of_pythons_modules(tmp_path, monkeypatch):
    job = make(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    (job.folder / "dataclasses.py").write_text("raise SystemExit(3)")
    assert start(job, "run")
    wait_for(lambda: status(job) == ["running"])


def test_a_log_that_has_another_name_elsewhere_is_not_appended_to_there(tmp_path):
    job, precious = make(tmp_path), tmp_path / "precious.txt"
    precious.write_text("precious")
    os.link(precious, job.folder / "log.txt")
    assert start(job, "run")
    wait_for(lambda: status(job) == ["running"])
    assert not precious.samefile(job.folder / "log.txt")
    assert precious.read_text() == job.log_tail() == "precious"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked there")
@pytest.mark.parametrize("how", ["held", "probed"])
def test_a_process_that_was_forked_meanwhile_does_not_go_on_holding_a_lock(
    tmp_path, monkeypatch, how
):
    children, (to_read, to_write) = [], os.pipe()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os.close(to_write)
            os.read(to_read, 1)
            os._exit(0)
        children.append(child)

    file = tmp_path / "some.lock"
    lock = Lock(file)
    try:
        if how == "held":
            assert lock.take()
            fork()
            lock.let_go()
            assert not is_held(file)
        else:
            file.touch()
            is_at = jobs_lock._is_at
            monkeypatch.setattr(jobs_lock, "_is_at", lambda *of: fork() or is_at(*of))
            assert not is_held(file)
            monkeypatch.setattr(jobs_lock, "_is_at", is_at)
            assert lock.take()
            lock.let_go()
    finally:
        os.close(to_write)
        for child in children:
            os.waitpid(child, 0)
        os.close(to_read)


def test_a_lock_whose_file_is_replaced_all_the_time_counts_as_held(tmp_path, monkeypatch):
    (tmp_path / "some.lock").touch()
    monkeypatch.setattr(jobs_lock, "_is_at", lambda fd, path: False)
    assert is_held(tmp_path / "some.lock")


def test_a_state_that_holds_nan_is_a_state_like_any_other(tmp_path, monkeypatch):
    written = Job.written
    monkeypatch.setattr(
        Job, "written", lambda job: dataclasses.replace(written(job), updated=float("nan"))
    )
    job = make(tmp_path, status="running")
    assert status(job) == ["interrupted"]
    assert start(job, "run")
    wait_for(lambda: status(job) == ["running"])
    queued = make(tmp_path, "queued", status="queued")
    assert queue_of(tmp_path).stands("runs", queued).status == "stopped"


def test_what_another_has_done_while_one_waited_to_start_it_is_not_done_again(
    tmp_path, monkeypatch
):
    job, waiting, said, take = make(tmp_path), threading.Event(), [], Lock.take
    other = Lock(job.folder / LAUNCH_LOCK)
    assert other.take()

    def announced(lock: Lock, wait_s: float = 0.0) -> bool:
        waiting.set()
        return take(lock, wait_s)

    monkeypatch.setattr(Lock, "take", announced)
    second = threading.Thread(target=lambda: said.append(start(job, "run")))
    second.start()
    assert waiting.wait(30)
    job.write_state(State("finished", "by the other"))
    other.let_go()
    second.join()
    assert said == [False] and job.state().message == "by the other"
    assert not (job.folder / "log.txt").exists()


def test_a_killed_job_is_interrupted_at_once_and_goes_on_when_started_again(tmp_path):
    job = make(tmp_path)
    start(job, "run")
    wait_for(lambda: status(job) == ["running"])
    process.kill(job.folder)
    wait_for(lambda: not job.is_alive())
    assert status(job) == ["interrupted"]
    assert start(job, "run", ["again"])
    wait_for(lambda: job.state().message == "again")
    end(job)
    assert job.state().message == "all done"


def test_a_process_that_lost_its_folder_writes_nothing_more(tmp_path):
    job = make(tmp_path)
    with exclusive(job) as lock:
        progress = Work(job, lock, Control())
        progress.update(status="running")
        (job.folder / LOCK).unlink()
        other = Lock(job.folder / LOCK)
        assert other.take()
        before = {file.name: file.read_bytes() for file in job.folder.iterdir()}
        with pytest.raises(LockLost):
            progress.update(message="mine")
        with pytest.raises(LockLost):
            progress.append("lines.jsonl", {"n": 1})
        assert {file.name: file.read_bytes() for file in job.folder.iterdir()} == before
        other.let_go()


def test_a_second_process_is_refused_but_one_who_only_looks_keeps_nobody_out(tmp_path):
    job, stop = make(tmp_path), threading.Event()

    def look() -> None:
        while not stop.is_set():
            job.is_alive()

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(50):
            with exclusive(job):
                pass
            assert not job.is_alive(), "two who look do not see each other"
        words = "works on the job one already"
        with exclusive(job), pytest.raises(TrainerError, match=words), exclusive(job):
            pass
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


@pytest.mark.skipif(sys.platform == "win32", reason="there one who looks has the lock for a moment")
def test_one_who_looks_does_not_take_another_who_looks_for_the_jobs_process(tmp_path, monkeypatch):
    import fcntl

    job = make(tmp_path)
    with exclusive(job):
        pass
    with (job.folder / LOCK).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not job.is_alive()
        waited = []

        def let_go(seconds):
            waited.append(seconds)
            fcntl.flock(looking, fcntl.LOCK_UN)

        clock = SimpleNamespace(monotonic=time.monotonic, sleep=let_go)
        monkeypatch.setattr(jobs_lock, "time", clock)
        with exclusive(job):
            assert job.is_alive()
        assert len(waited) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="its file systems have locks")
def test_on_a_file_system_without_locks_every_job_is_listed_and_the_queue_says_why_it_rests(
    tmp_path, monkeypatch
):
    queue, job, other = queue_of(tmp_path), make(tmp_path, status="running"), make(tmp_path, "two")
    (job.folder / LOCK).touch()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    words = r"file system without file locks .*Put it on another one"
    listed = list_jobs(tmp_path / "runs", "job.json", Job)
    assert [queue.stands("runs", one).status for one in listed] == ["unreadable", "stopped"]
    assert re.search(words, job.state().message)
    for ask in (queue.tick, lambda: queue.put("runs", other, "cpu"), queue.still().__enter__):
        with pytest.raises(TrainerError, match=words):
            ask()
    assert status(job, other) == ["unreadable", "stopped"]


def test_jobs_of_all_kinds_take_turns_on_one_device_in_the_order_they_were_queued(tmp_path):
    queue = queue_of(tmp_path)
    first, second = make(tmp_path, "b"), make(tmp_path, "a", "captions")
    third = make(tmp_path, "a")
    queue.put("runs", first, "cpu", ["x"])
    queue.put("captions", second, "cpu")
    queue.put("runs", third, "cpu")
    queue.put("runs", first, "cpu", ["y"])
    queue.tick()
    queue_of(tmp_path).tick()
    wait_for(lambda: status(first) == ["running"])
    assert first.state().message == "y"
    assert status(first, second, third) == ["running", "queued", "queued"]
    end(first)
    queue.tick()
    wait_for(lambda: status(second) == ["running"])
    queue.stop("runs", third)
    assert status(first, second, third) == ["finished", "running", "stopped"]
    queue.stop("captions", second)
    wait_for(lambda: not second.is_alive())
    queue.tick()
    assert status(first, second, third) == ["finished", "stopped", "stopped"]
    assert not list((tmp_path / ".queue").glob("*.json"))


def test_jobs_on_two_devices_go_at_once(tmp_path):
    queue = queue_of(tmp_path)
    jobs = [make(tmp_path, name) for name in ("a", "b", "c")]
    for job, gpu in zip(jobs, ("cuda:1", "cuda:2", "cuda:1"), strict=True):
        queue.put("runs", job, gpu)
    queue.tick()
    wait_for(lambda: status(*jobs) == ["running", "running", "queued"])
    process.kill(jobs[0].folder)
    wait_for(lambda: not jobs[0].is_alive())
    queue.tick()
    wait_for(lambda: status(*jobs) == ["interrupted", "running", "running"])


def test_of_two_comfyuis_on_one_output_folder_each_starts_what_is_for_its_own_gpu(tmp_path):
    def comfyui(gpu: str) -> Queue:
        return queue_of(
            tmp_path, reach=lambda kind, device: {"GPU": gpu} if device == gpu else None
        )

    one, two = comfyui("cuda:1"), comfyui("cuda:2")
    jobs = [make(tmp_path, name) for name in ("a", "b", "c")]
    for job, gpu in zip(jobs, ("cuda:1", "cuda:1", "cuda:2"), strict=True):
        one.put("runs", job, gpu)
    two.tick()
    wait_for(lambda: status(*jobs) == ["queued", "queued", "running"])
    assert jobs[2].state().message == "cuda:2", "its process is told which GPU it is to take"
    assert one.stands("runs", jobs[0]).message == "Waits for its turn"
    seen_by_two = two.stands("runs", jobs[0])
    assert seen_by_two.status == "queued" and "does not see" in seen_by_two.message
    one.tick()
    wait_for(lambda: status(*jobs) == ["running", "queued", "running"])
    assert jobs[0].state().message == "cuda:1"
    one.stop("runs", jobs[1])
    two.put("runs", jobs[1], "cuda:2")
    end(jobs[2])
    two.tick()
    wait_for(lambda: status(*jobs) == ["running", "running", "finished"])


def test_in_use_is_the_device_that_a_process_has_taken_and_not_the_one_meant_for_it(tmp_path):
    queue = queue_of(tmp_path)
    jobs = [make(tmp_path, name) for name in ("a", "b", "c")]
    for job, gpu in zip(jobs, ("cuda:1", "cuda:1", "cuda:2"), strict=True):
        queue.put("runs", job, gpu)
        if job is jobs[0]:
            queue.tick()
            wait_for(lambda: status(jobs[0]) == ["running"])
    process.record(jobs[0].folder, process.noted(jobs[0].folder)["pid"], "cuda:2")
    queue.tick()
    wait_for(lambda: status(*jobs) == ["running", "running", "queued"])


@pytest.mark.parametrize(
    ("index", "limits", "told"),
    [
        (0, {"CUDA_VISIBLE_DEVICES": "3,1"}, {}),
        (1, {}, {"CUDA_VISIBLE_DEVICES": "1"}),
        (1, {"CUDA_VISIBLE_DEVICES": "3, 1,0"}, {"CUDA_VISIBLE_DEVICES": "1"}),
        (1, {"HIP_VISIBLE_DEVICES": "2,GPU-a"}, {"HIP_VISIBLE_DEVICES": "GPU-a"}),
    ],
)
def test_a_process_that_is_to_take_another_than_the_first_gpu_sees_that_one_alone(
    monkeypatch, index, limits, told
):
    for name in device.LIMITS:
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    facts = [SimpleNamespace(uuid=letter) for letter in "abc"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", facts.__getitem__)
    assert device.environment_on(f"cuda:{facts[index].uuid}") == told
    assert device.environment_on("cuda:elsewhere") is None
    assert device.environment_on("cpu") == {}


def test_a_job_that_a_person_has_started_is_waited_for(tmp_path):
    queue = queue_of(tmp_path)
    by_hand, other, next_one = (make(tmp_path, name) for name in ("by-hand", "other", "next"))
    with exclusive(by_hand, "cuda:1"):
        queue.put("runs", next_one, "cuda:1")
        queue.put("runs", other, "cuda:2")
        queue.tick()
        wait_for(lambda: status(next_one, other) == ["queued", "running"])
    queue.tick()
    wait_for(lambda: status(next_one) == ["running"])


class GaveUp(Exception):
    pass


def test_a_lease_waits_for_jobs_and_jobs_wait_for_a_lease(tmp_path):
    queue, waited = queue_of(tmp_path), []
    job, later = make(tmp_path), make(tmp_path, "later")
    queue.put("runs", job, "cpu")
    queue.tick()
    wait_for(lambda: status(job) == ["running"])

    def wait() -> None:
        waited.append(job.state().status)
        if len(waited) == 1:
            queue.put("runs", later, "cpu")
        end(job)
        queue_of(tmp_path).tick()

    with queue.lease("cpu", "check", wait):
        queue_of(tmp_path).tick()
        assert (waited, status(job, later)) == (["running"], ["finished", "queued"])
    queue.tick()
    wait_for(lambda: status(later) == ["running"])

    def give_up() -> None:
        raise GaveUp

    with pytest.raises(GaveUp), queue.lease("cpu", "check", give_up):
        pass
    with queue.lease("cuda:1", "check", give_up):
        pass
    assert [file.name for file in queue.folder.glob("*.lock")] == ["queue.lock"]


def test_a_lease_whose_lock_is_taken_or_whose_ticket_cannot_be_written_leaves_nothing(
    tmp_path, monkeypatch
):
    queue = queue_of(tmp_path)
    queue.folder.mkdir()
    other = Lock(queue.folder / "00000001.lock")
    assert other.take()
    with pytest.raises(TrainerError, match="in use"), queue.lease("cpu", "check", lambda: None):
        pass
    other.let_go()

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tickets, "write_json", full)
    with pytest.raises(OSError, match="No space"), queue.lease("cpu", "check", lambda: None):
        pass
    assert [file.name for file in queue.folder.iterdir()] == ["queue.lock"]


HOLDER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from trainer.jobs.queue import Queue
with Queue(Path(sys.argv[1]), ()).lease("cpu", "check", lambda: None):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_lease_dies_with_its_holder(tmp_path, root):
    queue, job = queue_of(tmp_path), make(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(root=str(root)), str(queue.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"mine\n"
    queue.put("runs", job, "cpu")
    queue.tick()
    assert status(job) == ["queued"]
    holder.kill()
    holder.communicate()
    queue.tick()
    wait_for(lambda: status(job) == ["running"])


def test_a_folder_that_only_claims_to_be_queued_is_listed_and_not_started(tmp_path):
    queue = queue_of(tmp_path)
    received, own = make(tmp_path, "received", status="queued"), make(tmp_path, "own")
    queue.put("runs", own, "cpu")
    queue.tick()
    wait_for(lambda: status(own) == ["running"])
    end(own)
    queue.tick()
    assert not received.is_alive() and not (received.folder / "log.txt").exists()
    state = queue.stands("runs", received)
    assert state.status == "stopped" and "not queued on this ComfyUI" in state.message
    queue.put("runs", received, "cpu")
    queue.tick()
    wait_for(lambda: queue.stands("runs", received).status == "running")


def test_a_ticket_that_was_not_made_here_starts_nothing(tmp_path, monkeypatch):
    queue = queue_of(tmp_path)
    received, own = make(tmp_path, "received", status="queued"), make(tmp_path, "own")
    queue.put("runs", own, "cpu")
    made = json.loads((queue.folder / "00000001.json").read_text())
    forged = {**made, "number": 2, "name": "received", "device": "cuda:1"}
    for mark in (made["mark"], "", None, "é", ["x"]):
        (queue.folder / "00000002.json").write_text(json.dumps({**forged, "mark": mark}))
        assert queue.stands("runs", received).message in NOT_OURS
    for name, value in (("arguments", ["--checkpoints", "elsewhere"]), ("device", "cuda:1")):
        (queue.folder / "00000001.json").write_text(json.dumps({**made, name: value}))
        assert queue.stands("runs", own).message in NOT_OURS
    (queue.folder / "00000001.json").write_text(json.dumps(made))
    with monkeypatch.context() as patch:
        patch.setenv("COCKTAIL_KEY_FILE", str(tmp_path / "user" / "other.key"))
        assert queue.stands("runs", own).message in NOT_OURS, "another installation's"
        assert (tmp_path / "user" / "other.key").stat().st_mode & 0o077 == 0 or os.name == "nt"
        patch.delenv("COCKTAIL_KEY_FILE")
        assert queue.stands("runs", own).message in NOT_OURS
    assert queue.stands("runs", own).message == "Waits for its turn"
    queue.tick()
    wait_for(lambda: status(own) == ["running"])
    assert not received.is_alive() and not (received.folder / "log.txt").exists()
    queue.put("runs", received, "cuda:1")
    queue.tick()
    wait_for(lambda: status(received) == ["running"])


def test_what_another_installation_has_queued_is_left_to_it_until_it_is_stopped(
    tmp_path, monkeypatch
):
    queue, job = queue_of(tmp_path), make(tmp_path)
    with monkeypatch.context() as other:
        other.setenv("COCKTAIL_KEY_FILE", str(tmp_path / "user" / "other.key"))
        queue.put("runs", job, "cpu")
    queue.tick()
    state = queue.stands("runs", job)
    assert (state.status, state.message) == ("queued", jobs_queue.OF_ANOTHER)
    assert not job.is_alive() and not (job.folder / "log.txt").exists()
    with pytest.raises(Refused, match="is queued"), queue.alone("runs", job):
        pass
    queue.stop("runs", job)
    assert queue.stands("runs", job).status == "stopped"
    queue.put("runs", job, "cpu")
    with monkeypatch.context() as other:
        other.setenv("COCKTAIL_KEY_FILE", str(tmp_path / "user" / "other.key"))
        queue.tick()
        assert not job.is_alive(), "it was stopped there, and is to go on here"
        assert queue.stands("runs", job).message == jobs_queue.OF_ANOTHER
    queue.tick()
    wait_for(lambda: status(job) == ["running"])


MAKER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from trainer import marks
folder, me, other = Path(sys.argv[1]), *sys.argv[2:]
for number in range(60):
    file = folder / f"{{number}}.key"
    (folder / f"{{number}}.{{me}}").touch()
    while not (folder / f"{{number}}.{{other}}").exists():
        pass
    marks.use(file)
    print(marks.mark("a"))
"""


def test_two_processes_that_make_the_key_at_once_mark_with_the_same_one(tmp_path, root):
    """Also where each finds a damaged one, which is kept."""
    script = tmp_path / "maker.py"
    script.write_text(MAKER.format(root=str(root)))
    for number in range(0, 60, 2):
        (tmp_path / f"{number}.key").write_text("damaged")
    makers = [
        subprocess.Popen(
            [sys.executable, script, tmp_path, *names], stdout=subprocess.PIPE, text=True
        )
        for names in (("one", "two"), ("two", "one"))
    ]
    try:
        one, two = (maker.communicate(timeout=300)[0].split() for maker in makers)
    finally:
        for maker in makers:
            maker.kill()
    assert len(one) == 60 and one == two
    kept = list(tmp_path.glob("*.damaged"))
    assert len(kept) == 30 and {file.read_text() for file in kept} == {"damaged"}


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error"), IndexError("list index"), TrainerError("Update PyTorch")]
)
def test_a_device_that_cannot_be_told_holds_up_no_other(tmp_path, caplog, error):
    def reach(kind: str, device: str) -> dict[str, str]:
        if device == "cuda:1":
            raise error
        return {}

    queue = queue_of(tmp_path, reach=reach)
    bad, good = make(tmp_path, "bad"), make(tmp_path, "good")
    queue.put("runs", bad, "cuda:1")
    queue.put("runs", good, "cpu")
    jobs_queue._complain.cache_clear()
    queue.tick()
    queue.tick()
    wait_for(lambda: status(bad, good) == ["queued", "running"])
    assert "does not see" in queue.stands("runs", bad).message
    assert caplog.text.count(f"cannot tell whether cuda:1 is seen from here: {error}") == 1


@pytest.mark.parametrize("error", [TrainerError, OSError, TypeError, ValueError])
@pytest.mark.parametrize("where", ["open", "state", "write_state"])
def test_a_job_that_cannot_be_started_holds_up_nobody(tmp_path, monkeypatch, caplog, error, where):
    class Bad(Job):
        pass

    def fail(*_):
        raise error("broken")

    def open_job(folder: Path) -> Job:
        if folder.name != "bad":
            return Job(folder)
        return fail() if where == "open" else Bad(folder)

    kind = Kind("runs", tmp_path / "runs", "job.json", "runs", open_job)
    queue, bad, good = Queue(tmp_path / ".queue", [kind]), make(tmp_path, "bad"), make(tmp_path)
    queue.put("runs", bad, "cpu")
    queue.put("runs", good, "cpu")
    setattr(Bad, where, fail)
    jobs_queue._complain.cache_clear()
    queue.tick()
    queue.tick()
    wait_for(lambda: status(good) == ["running"])
    assert [record.message for record in caplog.records if "broken" in record.message] != []
    assert len({record.message for record in caplog.records}) == len(caplog.records)


def test_what_cannot_be_told_counts_as_busy_and_is_left_alone(tmp_path, monkeypatch):
    queue, job, other = queue_of(tmp_path), make(tmp_path), make(tmp_path, "other")
    queue.put("runs", job, "cpu")
    queue.put("runs", other, "cpu")

    def is_alive(job: Job) -> bool:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as context:
        context.setattr(Job, "is_alive", is_alive)
        queue.tick()
    assert status(job, other) == ["queued", "queued"]
    Queue(queue.folder, ()).tick()
    assert len(list(queue.folder.glob("*.json"))) == 2, "of a kind that only others know"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"number": 1, "kind": "runs", "name": "../x", "device": "cpu", "arguments": []}',
        b'{"number": 7, "kind": "runs", "name": "x", "device": "cpu", "arguments": []}',
        b'{"number": 1, "kind": [], "name": "x", "device": "cpu", "arguments": []}',
        b'{"number": 1, "kind": "runs", "name": "x", "device": [], "arguments": []}',
        b'{"number": 1, "kind": "runs", "name": "x", "device": "cpu", "arguments": [1]}',
        b'{"number": [1], "kind": "runs", "name": "x", "device": "cpu", "arguments": []}',
        None,
    ],
)
def test_a_ticket_that_makes_no_sense_holds_up_nobody(tmp_path, content):
    queue, job = queue_of(tmp_path), make(tmp_path)
    queue.folder.mkdir()
    ticket = queue.folder / "00000001.json"
    if content is None:
        ticket.mkdir()
    else:
        ticket.write_bytes(content)
    queue.put("runs", job, "cpu")
    queue.tick()
    wait_for(lambda: status(job) == ["running"])


@pytest.mark.parametrize("number", ["9" * 250, "99999999"])
def test_a_number_that_no_ticket_of_ours_has_holds_up_nobody(tmp_path, number):
    queue, jobs = queue_of(tmp_path), [make(tmp_path, name) for name in ("a", "b")]
    queue.folder.mkdir()
    (queue.folder / f"{number}.json").write_text("{")
    for job in jobs:
        queue.put("runs", job, "cpu")
    assert [ticket.name for ticket in queue.tickets] == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"status": 5}', "is damaged: status"),
        ('{"updated": "now"}', "is damaged: updated"),
        ('{"message": "\\ud800"}', "is damaged"),
        ('{"status": "dreaming"}', "was written by a newer Cocktail"),
        ('{"colour": "red"}', "was written by a newer Cocktail"),
    ],
)
def test_a_state_that_cannot_be_read_says_why_and_is_not_queued(tmp_path, written, words):
    queue, job, sound = queue_of(tmp_path), make(tmp_path), make(tmp_path, "sound")
    queue.put("runs", job, "cpu")
    (job.folder / "state.json").write_text(written)
    assert job.state().status == "unreadable" and words in job.state().message
    with pytest.raises(TrainerError, match=words):
        queue.put("runs", job, "cpu")
    queue.put("runs", sound, "cpu")
    queue.tick()
    wait_for(lambda: status(sound) == ["running"])
    with pytest.raises(TrainerError, match=words):
        work(job, lambda progress: "")
    (job.folder / "state.json").unlink()
    assert status(job) == ["stopped"], "without it the job can be queued again"


def test_a_request_is_taken_once_and_nonsense_is_none(tmp_path):
    job, control = make(tmp_path), Control()
    job.request("stop")
    assert job.take_requests() == [{"command": "stop"}] and job.take_requests() == []
    with pytest.raises(TrainerError, match="Unknown command"):
        job.request("format the disk")
    for text in ("", "[]", "{}", '{"command": ["stop"]}', '{"command": "save"}'):
        (job.folder / "control.json").write_text(text)
        assert job.take_requests() == [] and not (job.folder / "control.json").exists()
    control.job = job
    assert not control.asked_to_stop()
    job.request("stop")
    assert control.asked_to_stop() and control.asked_to_stop()


def test_wishes_of_several_people_wait_together_and_a_stop_counts_for_more_than_a_pause(tmp_path):
    job, control = Pausable(make(tmp_path).folder), Control()
    control.job = job
    job.request("stop")
    job.request("pause")
    asked = json.loads((job.folder / "control.json").read_text())
    assert asked["command"] == "stop", "what a process of an older version reads"
    assert control.asked_to_stop() and control.stop and control.pause
    assert type(control.ending()) is Stopped
    (job.folder / "control.json").write_text('{"command": "pause", "time": 1.0}')
    assert job.take_requests() == [{"command": "pause", "time": 1.0}], "as it was written before"


def test_two_people_who_ask_for_different_pictures_both_get_them(tmp_path, monkeypatch):
    class Drawing(Job):
        commands = ("stop", "sample")

    job, control = Drawing(make(tmp_path).folder), Control()
    control.job = job
    for text in ("a circle", "a square", "a circle"):
        job.request("sample", prompts=[text])
    lock = Lock(job.folder / REQUESTS_LOCK)
    assert lock.take()
    monkeypatch.setattr(job_module, "HEAR_WAIT_S", 0.0)
    assert not control.asked_to_stop() and control.samples == [], "it works on meanwhile"
    lock.let_go()
    assert not control.asked_to_stop()
    assert control.samples == [("a square",), ("a circle",)]
    monkeypatch.setattr(job_module, "MOST_REQUESTS", 2)
    for text in ("a", "b"):
        job.request("sample", prompts=[text])
    with pytest.raises(Refused, match="not heard 2 requests"):
        job.request("sample", prompts=["c"])
    job.request("stop")
    assert control.asked_to_stop()


def test_a_paused_job_has_no_process_frees_its_device_and_goes_on_when_it_is_put_again(tmp_path):
    queue, other = queue_of(tmp_path), make(tmp_path, "other")
    job = Pausable(make(tmp_path).folder)
    queue.put("runs", job, "cpu")
    queue.put("runs", other, "cpu")
    queue.tick()
    wait_for(lambda: status(job) == ["running"])
    queue.pause("runs", job)
    queue.pause("runs", other)
    wait_for(lambda: not job.is_alive())
    for one in (job, other):
        assert one.state().rests and not one.state().at_work and one.state().can_go_on
    assert "Resume it" in job.state().message
    queue.tick()
    assert status(job, other) == ["paused", "paused"] and not list(queue.folder.glob("*.json"))
    queue.pause("runs", job)
    queue.put("runs", job, "cpu")
    assert status(job) == ["queued"]
    queue.tick()
    wait_for(lambda: status(job) == ["running"])
    assert not job.state().at_rest
    process.kill(job.folder)
    wait_for(lambda: status(job) == ["interrupted"])
    queue.stop("runs", other)
    assert status(other) == ["stopped"]


def test_a_pause_of_a_process_that_was_killed_reads_as_interrupted(tmp_path):
    job = make(tmp_path, status="paused", message="The disk is full")
    assert status(job) == ["interrupted"]
    job = make(tmp_path, "resting", status="paused", at_rest=True)
    assert status(job) == ["paused"]


def test_a_job_is_left_alone_only_while_nobody_has_it(tmp_path):
    queue, job = queue_of(tmp_path), make(tmp_path)
    with queue.alone("runs", job):
        assert status(job) == ["stopped"]
    queue.put("runs", job, "cpu")
    with pytest.raises(Refused, match="one is queued"), queue.alone("runs", job):
        pass
    queue.tick()
    wait_for(lambda: status(job) == ["running"])
    with pytest.raises(Refused, match="process is at work on one"), queue.alone("runs", job):
        pass


def test_a_stop_that_is_asked_for_while_the_process_still_starts_is_not_lost(tmp_path):
    def listen(progress: Work[State]) -> str:
        if progress.control.asked_to_stop():
            raise Stopped
        return "went on"

    job = make(tmp_path, status="preparing")
    job.request("stop")
    work(job, listen)
    assert status(job) == ["stopped"]
    job.request("stop")
    work(job, listen)
    assert status(job) == ["finished"], "started by hand, it minds no old request"


def test_a_state_of_many_megabytes_is_none(tmp_path):
    job = make(tmp_path)
    (job.folder / "state.json").write_text(json.dumps({"message": "a" * (17 << 20)}))
    assert status(job) == ["unreadable"] and "larger than 4 MB" in job.state().message


def test_a_job_ends_with_what_became_of_it(tmp_path):
    def fail(progress: Work[State]) -> str:
        raise TrainerError("no room")

    def break_down(progress: Work[State]) -> str:
        raise KeyError("x")

    job = make(tmp_path)
    assert work(job, fail) == 1 and job.state().message == "no room"
    assert work(job, break_down) == 1 and job.state().message == "KeyError: 'x'"
    assert status(job) == ["failed"]
    assert work(job, lambda progress: "well") == 0
    assert (job.state().status, job.state().message) == ("finished", "well")


def test_a_command_ends_with_the_call_that_follows_it(tmp_path):
    def command(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    heard, pids = [], []
    code = "import sys; print('a'); print('b'); print('x', file=sys.stderr); sys.exit(3)"
    assert process.follow(command(code), heard.append, None, pids.append) == (3, "x")
    assert heard == ["a", "b"] and len(pids) == 1

    def stop() -> None:
        if len(heard) > 2:
            raise GaveUp

    code = "import time; print('c', flush=True); time.sleep(100)"
    with pytest.raises(GaveUp):
        process.follow(command(code), heard.append, stop, pids.append)
    assert not Path(f"/proc/{pids[1]}").exists()
