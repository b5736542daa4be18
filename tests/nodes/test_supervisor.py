"""The thread that keeps the queue moving."""

from __future__ import annotations

import json
import threading

import pytest

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.journal import Journal
from cocktail.trainer.runs import State

from .run_folders import make_run


def test_what_is_queued_wakes_the_thread_that_starts_it(here, monkeypatch):
    from cocktail.nodes import supervisor

    turns = threading.Semaphore(0)
    ended = threading.Event()
    monkeypatch.setattr(supervisor, "INTERVAL_S", 3600.0)
    monkeypatch.setattr(supervisor, "_tick", turns.release)
    monkeypatch.setattr(supervisor, "watch", lambda: None)
    supervisor._queued.clear()
    thread = threading.Thread(target=supervisor._watch, args=(ended.is_set,), daemon=True)
    thread.start()
    assert turns.acquire(timeout=60)
    supervisor.queue_run(make_run(here))
    woken = turns.acquire(timeout=60)
    ended.set()
    supervisor._queued.set()
    thread.join(60)
    assert woken and not thread.is_alive()


def test_trouble_with_the_queue_is_told_once_and_does_not_end_the_thread(monkeypatch, caplog):
    from cocktail.nodes import supervisor

    turns = []

    def tick() -> None:
        turns.append(None)
        raise OSError("no queue here")

    monkeypatch.setattr(supervisor, "INTERVAL_S", 0.0)
    monkeypatch.setattr(supervisor, "_tick", tick)
    thread = threading.Thread(
        target=supervisor._watch, args=(lambda: len(turns) >= 4,), daemon=True
    )
    thread.start()
    thread.join(60)
    assert len(turns) == 4 and caplog.text.count("cannot process its job queue") == 1


def test_a_run_whose_process_was_killed_is_told_of_once(here, monkeypatch):
    from cocktail.nodes import supervisor

    told = []

    class Told:
        def __init__(self, run, file):
            self.run = run

        def tell(self, event, state):
            told.append((self.run.name, event, state.status))

        def close(self):
            pass

    monkeypatch.setattr(supervisor, "Notices", Told)
    for name, status in (("killed", "running"), ("stopped", "stopped"), ("done", "finished")):
        run = make_run(here, name)
        supervisor.jobs().put(supervisor.RUN, run, "cpu")
        run.write_state(State(status))
    for _ in range(2):
        supervisor.jobs().tick()
    assert told == [("killed", "interrupted", "interrupted")]


def test_a_training_for_the_cpu_is_not_started_where_it_would_take_a_gpu(here, monkeypatch):
    from cocktail.nodes import supervisor

    run, queue = make_run(here), supervisor.jobs()
    queue.put(supervisor.RUN, run, "cpu")
    assert queue.stands(supervisor.RUN, run).message == "Waits for its turn"
    monkeypatch.setattr(supervisor, "training_device", lambda: "cuda:GPU-a")
    queue.tick()
    assert "does not train on" in queue.stands(supervisor.RUN, run).message
    assert not run.is_alive() and not (run.folder / "log.txt").exists()
    assert queue.reach(supervisor.CAPTIONING, "cpu") == {}


def test_threads_of_a_run_on_a_cpu_sleep_sooner_unless_they_are_told_how_to_wait(monkeypatch):
    from cocktail.nodes import supervisor

    monkeypatch.setattr(supervisor, "training_device", lambda: "cpu")
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert supervisor._reach(supervisor.RUN, "cpu") == {"GOMP_SPINCOUNT": "20000"}
    assert supervisor._reach(supervisor.CAPTIONING, "cpu") == {}
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert supervisor._reach(supervisor.RUN, "cpu") == {}
    monkeypatch.setattr(supervisor, "training_device", lambda: "cuda:0")
    assert supervisor._reach(supervisor.RUN, "cpu") is None


def test_weights_and_biases_starts_only_with_the_owners_switch(here, monkeypatch):
    """Neither queued, nor by a process that was told where the owner's settings are."""
    from cocktail.nodes import supervisor
    from cocktail.nodes.host import names

    run, opened = make_run(here, logging={"wandb": True}), []
    monkeypatch.setattr("cocktail.trainer.journal._wandb", lambda run: opened.append(run.name))
    journal = Journal(run, settings_file=names.network_file())
    for start in (lambda: supervisor.queue_run(run), journal.start_wandb):
        with pytest.raises(TrainerError, match="has not allowed"):
            start()
    assert supervisor.jobs().stands(supervisor.RUN, run).status == "stopped" and not opened
    names.network_file().parent.mkdir(parents=True, exist_ok=True)
    names.network_file().write_text(json.dumps({"wandb": True}))
    supervisor.queue_run(run)
    journal.start_wandb()
    assert supervisor.jobs().stands(supervisor.RUN, run).status == "queued" and opened == ["one"]
    journal._wandb = None
    journal.close()
