"""How a training ends when it is interrupted: by a signal, too little memory, a missing package or
device, or a base that is another.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import signal
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cocktail.trainer import samples
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import sha256_file
from cocktail.trainer.identity import check_identity
from cocktail.trainer.jobs.control import Control
from cocktail.trainer.jobs.job import Paused, exclusive
from cocktail.trainer.journal import Journal
from cocktail.trainer.loop import (
    _begin,
    between_steps,
    make_up_for_what_was_due,
    train_epochs,
)
from cocktail.trainer.preparation import check_compiler, prepare
from cocktail.trainer.resume import Position, load_point
from cocktail.trainer.steering import obey
from cocktail.trainer.workers import Workers

from .held import hold, let_go
from .test_training import exit_status, same, wait_for, wait_for_step, weights


def test_a_signal_and_a_pause_save_and_end_the_run_after_its_step_and_it_goes_on_exactly(
    make_tiny_run, fork_training
):
    whole, stopped = (
        make_tiny_run("unasked", epochs=4, saving={"resume_minutes": 0.0, "every_steps": 3}),
        make_tiny_run("asked", epochs=4, saving={"resume_minutes": 0.0, "every_steps": 3}),
    )
    assert exit_status(fork_training(whole)) == 0
    saved = [checkpoint.step for checkpoint in whole.checkpoints()]
    assert saved == [3, 6, 9, 12], "also at the last step of an epoch"
    hold(stopped.folder, 2)
    process = fork_training(stopped)
    wait_for_step(stopped, 2, process)
    os.kill(process.pid, signal.SIGTERM)
    let_go(stopped.folder)
    assert exit_status(process) == 0
    assert stopped.state().status == "stopped"
    step = stopped.state().step
    stopped.request("stop")
    hold(stopped.folder, step + 1)
    process = fork_training(stopped)
    wait_for_step(stopped, step + 1, process)
    stopped.request("sample", prompts=["a red circle", "a <b>blue</b> square"])
    stopped.request("save")
    hold(stopped.folder, step + 2)
    wait_for(lambda: len(list(stopped.folder.glob("samples/*-own-*.png"))) == 2, process)
    assert [saved.step for saved in stopped.checkpoints()], "it was saved first"
    stopped.request("save")
    stopped.request("pause")
    let_go(stopped.folder)
    assert exit_status(process) == 0
    paused = stopped.state()
    assert (paused.status, paused.at_rest) == ("paused", True), "without a process, and not dead"
    assert stopped.checkpoints()[-1].step == paused.step
    assert exit_status(fork_training(stopped)) == 0, stopped.log_tail()
    assert stopped.state().status == "finished" and not stopped.state().at_rest
    starts = [line["step"] for line in stopped.metrics() if line["kind"] == "start"]
    assert starts == [0, step, paused.step] and step >= 2
    assert same(weights(whole), weights(stopped))


def test_too_little_memory_ends_with_settings_that_would_fit(make_tiny_run, fork_training):
    run = make_tiny_run("large-batch", resolution=512, bucket_step=64, batch_size=6)
    assert exit_status(fork_training(run, room_bytes=1_500_000_000)) == 1
    message = run.state().message
    assert run.state().status == "failed" and message.startswith("Out of memory."), run.log_tail()
    assert "These settings should fit: gradient checkpointing on" in message
    assert run.checkpoints() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "fp16"}, "Choose bf16 or fp32"),
        ({"logging": {"wandb": True}}, "the package wandb is not installed"),
        ({"compute": {"attention": "xformers"}}, "the package xformers is not installed"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_trained(
    make_tiny_run, fork_training, settings, words
):
    if "fp16" in settings.values():
        if torch.accelerator.is_available():
            pytest.skip("fp16 works on this device")
    elif importlib.util.find_spec(words.split()[2]) is not None:
        pytest.skip("the package is installed here")
    run = make_tiny_run("absent", **settings)
    assert exit_status(fork_training(run)) == 1
    assert run.state().status == "failed" and words in run.state().message
    assert not any(line["kind"] == "step" for line in run.metrics())


def test_the_training_itself_refuses_before_a_step(
    make_tiny_run, fork_training, tiny_base, tmp_path
):
    base = tmp_path / "base.safetensors"
    tensors = load_file(tiny_base)
    save_file(tensors, base)
    run = make_tiny_run("overwritten", base=base)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, base)
    assert exit_status(fork_training(run)) == 1
    assert run.state().status == "failed"
    assert run.base.sha256[:12] in run.state().message
    assert sha256_file(base)[:12] in run.state().message
    assert run.metrics() == []


def test_a_base_that_is_replaced_under_way_gets_into_no_checkpoint(
    make_tiny_run, fork_training, few_shapes, tiny_base, tmp_path
):
    base = tmp_path / "base.safetensors"
    tensors = load_file(tiny_base)
    save_file(tensors, base)
    often = replace(few_shapes, pairs=tuple(replace(p, weight=500.0) for p in few_shapes.pairs))
    seldom = {"resume_minutes": 0.0}
    run = make_tiny_run("replaced", dataset=often, base=base, saving=seldom)
    process = fork_training(run)
    wait_for_step(run, 1, process)
    base.touch()
    run.request("save")
    wait_for(run.checkpoints, process)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, base)
    run.request("save")
    assert exit_status(process) == 1
    state = run.state()
    assert state.status == "failed" and "base of the run replaced has changed" in state.message
    assert len(run.checkpoints()) == 1
    point, _ = load_point(run.folder / "resume")
    assert point.position == Position(0, state.step, state.step), "no step of the epoch is lost"


def test_a_run_whose_base_was_gone_saves_what_was_due_once_it_is_back(
    make_tiny_run, tiny_base, tmp_path, alone
):
    base, away = tmp_path / "base.safetensors", tmp_path / "away.safetensors"
    shutil.copyfile(tiny_base, base)
    saving = {"resume_minutes": 0.0, "every_steps": 2}
    run = make_tiny_run("gone", base=base, saving=saving, save_every_epochs=1, epochs=1)
    with exclusive(run) as lock, closing(Journal(run, lock)) as journal:
        training = prepare(run, journal, Workers(run.settings))
        training.base_seen = check_identity(run)
        base.rename(away)
        within, end = Position(0, 2, 2), Position(0, len(training.plan(0)), 3)
        for position, go_on in (
            (within, lambda: between_steps(training, epoch_ends=False)),
            (end, lambda: train_epochs(training)),
        ):
            training.position = position
            with pytest.raises(TrainerError, match=r"base\.safetensors in .* cannot be read"):
                go_on()
            assert load_point(run.folder / "resume")[0].position == position
        assert not run.checkpoints()
        away.rename(base)
        training.position = within
        make_up_for_what_was_due(training)
        training.position = end
        train_epochs(training)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2, 3]


def test_samples_that_the_end_of_a_run_breaks_off_are_drawn_or_said_to_be_left_out(
    make_tiny_run, alone, monkeypatch
):
    prompts = [{"prompt": word} for word in ("a", "b")]
    run = make_tiny_run("broken-off", epochs=1, samples={"every_epochs": 1, "prompts": prompts})
    drawn, ends = [], []

    def draw_one(training, vae, prompt):
        training.control.pause = [*drawn, prompt.prompt] == ends
        if training.control.ends:
            return None
        drawn.append(prompt.prompt)
        return Image.new("RGB", (8, 8))

    def end_at(*words):
        drawn.clear()
        ends[:] = words

    def pictures():
        return sorted(file.name for file in run.folder.glob("samples/*.png"))

    monkeypatch.setattr(samples, "_draw", draw_one)
    with exclusive(run) as lock, closing(Journal(run, lock)) as journal:
        training = prepare(run, journal, Workers(run.settings))
        training.control.samples = [("x", "y"), (), ("z",)]
        end_at("x", "y")
        with pytest.raises(Paused, match="Samples that were asked for are not drawn"):
            obey(training)
        assert (drawn, pictures()) == (["x"], ["e000-s000000-own-01.png"])
        assert run.metrics()[-1]["files"] == pictures()
        training.control = Control()
        end_at("a", "b")
        with pytest.raises(Paused) as paused:
            train_epochs(training)
        assert not str(paused.value), "nothing is left out for good"
        assert drawn == ["a"] and pictures()[1:] == ["e001-s000003-01.png"]
        assert [saved.step for saved in run.checkpoints()] == [3], "what is due is saved first"
        training = prepare(run, journal, Workers(run.settings))
        assert training.position == Position(1, 0, 3)
        end_at()
        _begin(training)
        _begin(training)
        assert drawn == ["a", "b"], "once"
    assert pictures()[1:] == ["e001-s000003-01.png", "e001-s000003-02.png"]


def test_a_run_whose_folder_is_deleted_ends_and_does_not_come_back(make_tiny_run, fork_training):
    run = make_tiny_run("deleted", epochs=40, saving={"resume_minutes": 0.0})
    process = fork_training(run)
    wait_for_step(run, 2, process)
    with (run.folder / "log.txt").open() as log:
        while run.folder.exists():  # it may write in the middle of the removal
            shutil.rmtree(run.folder, ignore_errors=True)
        assert exit_status(process) == 1
        said = log.read()
    assert "was removed or taken over by another process" in said
    assert "Traceback" not in said
    assert not run.folder.exists()


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrainerError, match=r"needs a C\+\+ compiler"):
        check_compiler(torch.device("cpu"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_run_by_hand_shows_a_bar(make_tiny_run, monkeypatch, by_hand):
    screen = Terminal() if by_hand else io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    journal = Journal(make_tiny_run("bar"))
    journal.note_speed(step=1, steps=9, loss=0.25, seconds=0.1)
    journal.close()
    shown = all(words in screen.getvalue() for words in ("bar:", "1/9", "loss=0.2500"))
    assert shown == by_hand
